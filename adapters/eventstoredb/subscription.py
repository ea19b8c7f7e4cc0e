"""A follower: the events of a subscription, and `CaughtUp` where they end.

Promise: `CaughtUp` only after every wanted event up to its position was returned, and with the id of the event there.
Refusal: the server is asked for nothing while events come, and seldom while none come, see `heads.py`.

A server from 23.10 on says when a subscription has caught up. Of an older one, and of events that are not wanted, an
empty buffer proves nothing: then the head is read, and whether a wanted event up to the head has not come yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from adapters.eventstoredb.client import Client
from adapters.eventstoredb.deadline import Deadline
from adapters.eventstoredb.driver import DeadlineExceeded
from adapters.eventstoredb.errors import FAILURES, PART, fault_of
from adapters.eventstoredb.feed import BUFFERED_EVENTS, Behind, Examined, Feed, Item, Live
from adapters.eventstoredb.heads import Heads, Seen, caught_up_with
from adapters.eventstoredb.messages import Selection
from adapters.eventstoredb.positions import Positions
from adapters.eventstoredb.reading import PAGE, page_after
from domain.kernel.errors import EsError, PartUnavailable, StoreBehind
from domain.kernel.events import Position, Recorded
from domain.kernel.ports.event_store import CaughtUp

_COLLECT_S = 0.005
"""More events are probably coming: take them together."""
_LONGEST_S = 0.04
"""How long events may come without a `CaughtUp` in between, once the subscription is live."""
_UNCERTAIN_S = 0.05
_IDLE_S = 0.18
_READ_TIMEOUT_S = 0.2  # `follow` promises to check `stopped` this often, even if the server is silent


class Subscription:
    def __init__(
        self,
        connect: Callable[[], Client],
        after: Position,
        selection: Selection,
        positions: Positions,
        heads: Heads,
        *,
        stall_timeout_s: float,
    ) -> None:
        """`stall_timeout_s`: how long an owed event, the confirmation, or an answer may take."""
        self._selection = selection
        self._positions = positions
        self._heads = heads
        self._stall_timeout_s = stall_timeout_s
        self._returned = after  # the position of the last event that `take` returned
        self._examined = after
        self._caught_up: CaughtUp | None = None  # the last one
        self._caught_up_at_s = self._looked_at_s = float("-inf")
        self._fresh: Recorded | None = None  # the last event, if no `CaughtUp` has covered it
        self._fresh_since_s = 0.0
        self._is_live = self._is_flowing = False
        self._owed: Position | None = None
        self._waiting_since_s: float | None = time.monotonic()
        self._feed = Feed(connect, after, selection, positions, within_s=stall_timeout_s)
        heads.listen(self._feed.wake)

    def take(self) -> list[Recorded | CaughtUp]:
        """The next items, perhaps none. Returns within 0.2 s or so."""
        try:
            items = self._next_items()
            self._is_flowing = bool(items)
            taken: list[Recorded | CaughtUp] = []
            for item in items:
                self._accept(item, taken)
            if self._is_live and self._fresh is not None:
                now_s = time.monotonic()
                if not items or now_s - self._fresh_since_s > _LONGEST_S:
                    taken.append(self._catch_up(caught_up_with(self._fresh), now_s))
            elif not items or (self._is_live and not taken):
                taken.extend(self._look())
            return taken
        except EsError:
            raise
        except FAILURES as error:
            raise fault_of(error, is_cluster=True).error from error

    def close(self) -> None:
        self._heads.forget(self._feed.wake)
        self._feed.close()

    def _next_items(self) -> list[Item]:
        if self._is_flowing:
            return self._feed.take(_COLLECT_S, enough=BUFFERED_EVENTS // 2)
        if not self._is_live:
            return self._feed.take(_UNCERTAIN_S)
        # Not both in one call: a wait, and a question to a server that may not answer.
        is_due = self._owed is None and self._heads.is_due(time.monotonic())
        return self._feed.take(0 if is_due else _IDLE_S)

    def _accept(self, item: Item, taken: list[Recorded | CaughtUp]) -> None:
        self._waiting_since_s = None
        match item:
            case Recorded(position=position) if position > self._returned:
                if self._fresh is None:
                    self._fresh_since_s = time.monotonic()
                self._fresh = item
                self._returned = self._examined = position
                taken.append(item)
            case Examined(position=position):
                self._examined = max(self._examined, position)
            case Live(start=start):
                self._is_live = True
                self._heads.learn(start)
                last = caught_up_with(self._fresh)
                newer = last if last.position > start.head.position else start.head
                taken.append(self._catch_up(newer, start.at_s))
            case Behind():
                self._is_live = False
        if self._owed is not None and self._examined >= self._owed:
            self._owed = None

    def _catch_up(self, head: CaughtUp, at_s: float) -> CaughtUp:
        """The `CaughtUp` with a head that was read at `at_s`, or with the last event. It never goes back."""
        self._fresh, self._owed = None, None
        if self._caught_up is None or head.position > self._caught_up.position:
            self._caught_up, self._caught_up_at_s = head, at_s
        return self._caught_up

    # --- while no event comes ----------------------------------------------------------------

    def _look(self) -> list[CaughtUp]:
        """The last `CaughtUp`, or one at a newer head if there are only events that are not wanted up to it."""
        client, now_s = self._feed.client, time.monotonic()
        problem: Exception | None = None
        if client is None:
            problem = DeadlineExceeded("no confirmation")
        elif self._owed is not None:
            problem = PartUnavailable(PART, "the subscription has stalled")
        else:
            try:
                self._compare(client, self._seen(client, now_s))
            except DeadlineExceeded as error:
                problem = error
        if problem is None:
            self._waiting_since_s = None
        elif self._waiting_since_s is None:
            self._waiting_since_s = now_s
        elif now_s - self._waiting_since_s > self._stall_timeout_s:
            raise problem  # before, a silent server may be busy
        return [self._caught_up] if self._caught_up else []

    def _seen(self, client: Client, now_s: float) -> Seen:
        if self._heads.claim(now_s) or not self._is_live:
            self._heads.learn(Seen(caught_up_with(client.last(timeout_s=_READ_TIMEOUT_S)), now_s))
        return self._heads.seen

    def _compare(self, client: Client, seen: Seen) -> None:
        if seen.at_s <= self._looked_at_s:
            return
        head = seen.head
        if self._caught_up is None or head.position > self._caught_up.position:
            # The head before the owed events: events that are committed in between are not owed yet.
            self._owed = self._owed_event(client, head.position)
            if self._owed is None:
                self._is_live = True
                self._catch_up(head, seen.at_s)
        elif (
            head.position < self._caught_up.position
            and seen.at_s > self._caught_up_at_s
            # The last event may have been scavenged: the store ends with the server's own records then.
            and client.end(timeout_s=_READ_TIMEOUT_S) < self._caught_up.position
        ):
            raise StoreBehind(head.position, self._caught_up.position)
        self._looked_at_s = seen.at_s

    def _owed_event(self, client: Client, head: Position) -> Position | None:
        """The first wanted event up to the head that has not come yet."""
        deadline = Deadline.after(_READ_TIMEOUT_S, call_timeout_s=_READ_TIMEOUT_S)
        at, at_end = max(self._examined, self._caught_up.position if self._caught_up else 0), False
        while at < head and not at_end:
            page, at_end = page_after(client, at, self._positions, self._selection, PAGE, deadline)
            for event in page:
                if event.position <= head and self._selection.includes(event):
                    return event.position
            at = page[-1].position if page else at
        return None
