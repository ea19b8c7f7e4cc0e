"""One catch-up subscription, with a client and a thread of its own.

Promise: `CaughtUp` only after every wanted event up to its position was returned. Refusal: the end of a
subscription is a failure, because esdbclient ends it without an error when it loses the connection.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from esdbclient import RecordedEvent
from esdbclient.exceptions import DeadlineExceeded

from adapters.eventstoredb.client import Client, recorded
from adapters.eventstoredb.deadline import Deadline
from adapters.eventstoredb.errors import FAILURES, PART, fault_of
from adapters.eventstoredb.positions import Positions
from domain.kernel.errors import EsError, PartUnavailable, StoreBehind
from domain.kernel.events import BEGINNING, Position, Recorded
from domain.kernel.ports.event_store import CaughtUp

BUFFERED_EVENTS = 1000
"""The events that the thread reads ahead of the consumer."""
_BUSY_WAIT_S = 0.002  # more events are probably coming: do not read the head after each of them
_OWED_WAIT_S = 0.02
_IDLE_WAIT_S = 0.1
_PROBE_TIMEOUT_S = 0.2  # `follow` promises to check `stopped` this often, even if the server is silent
_NO_POSITION = 1 << 63
"""Positions from here on are none: 24.2 to 24.10.4 send a checkpoint at 2^64-1 if no event has matched yet."""


class Subscription:
    """The thread only fills a bounded queue, so the consumer never blocks for long.

    An empty queue does not prove that no event is on its way. So before a `CaughtUp` the head is read, and then
    whether a wanted event up to the head has not come yet.
    """

    def __init__(
        self,
        connect: Callable[[], Client],
        after: Position,
        prefixes: Sequence[str] | None,
        positions: Positions,
        *,
        stall_timeout_s: float,
    ) -> None:
        """`stall_timeout_s`: how long an owed event, or the confirmation, may take."""
        self._connect = connect
        self._prefixes = prefixes
        self._positions = positions
        self._stall_timeout_s = stall_timeout_s
        self._after = after
        self._returned = after  # the position of the last event that `next` returned
        self._examined = after  # the server has examined every event up to here, and maybe more
        self._caught_up: CaughtUp | None = None  # the last one
        self._wait_s = 0.0
        self._silent_since_s = time.monotonic()
        self._queue: queue.Queue[RecordedEvent | Exception | None] = queue.Queue(BUFFERED_EVENTS)
        self._closing = threading.Event()
        self._client: Client | None = None
        self._is_confirmed = False
        self._thread = threading.Thread(target=self._feed, name="eventstoredb-subscription", daemon=True)
        self._thread.start()

    def next(self) -> Recorded | CaughtUp | None:
        """The next item; None if there is none yet. Returns within 0.2 s or so."""
        try:
            item = self._queue.get(timeout=self._wait_s) if self._wait_s else self._queue.get_nowait()
        except queue.Empty:
            return self._check_head()
        if item is None:
            raise PartUnavailable(PART, "the subscription ended")
        if isinstance(item, Exception):
            self._fail(item)
        self._wait_s = _BUSY_WAIT_S
        self._silent_since_s = time.monotonic()
        position = item.commit_position or 0
        if position < _NO_POSITION:
            self._examined = max(self._examined, position)
        if item.is_checkpoint or position <= self._returned:
            return None
        self._returned = position
        return None if item.is_system_event else recorded(item)

    def close(self) -> None:
        self._closing.set()
        if self._client is not None:
            self._client.close()
        self._thread.join(timeout=_IDLE_WAIT_S * 2)

    # --- the consumer's thread ---------------------------------------------------------------

    def _check_head(self) -> CaughtUp | None:
        client, is_confirmed = self._client, self._is_confirmed
        try:
            if client is None or not is_confirmed:
                self._wait_s = _OWED_WAIT_S
                raise DeadlineExceeded("no confirmation")
            caught_up = self._caught_up_with(client)
        except DeadlineExceeded as error:
            # A silent server may be busy. After the timeout it counts as unavailable.
            if self._is_stalled():
                self._fail(error)
            return self._caught_up
        except FAILURES as error:
            self._fail(error)
        if caught_up is None:
            self._wait_s = _OWED_WAIT_S
            if self._is_stalled():
                raise PartUnavailable(PART, "the subscription has stalled")
            return None
        self._wait_s = _IDLE_WAIT_S
        self._silent_since_s = time.monotonic()
        self._caught_up = caught_up
        return caught_up

    def _caught_up_with(self, client: Client) -> CaughtUp | None:
        """The head if every wanted event up to it was returned, else None."""
        # The head before the owed events: events that are committed in between are not owed yet.
        last = client.last(timeout_s=_PROBE_TIMEOUT_S)
        head = CaughtUp(last.position, last.event_id) if last else CaughtUp(BEGINNING, None)
        if head.position < self._returned:
            raise StoreBehind(head.position, self._returned)
        before = BEGINNING if self._caught_up is None else self._caught_up.position
        if head.position > max(self._returned, before):
            start = max(self._examined, before)
            wanted = client.all_events(start, self._prefixes, size=2, timeout_s=_PROBE_TIMEOUT_S)
            if any(self._returned < event.position <= head.position for event in wanted):
                return None
        return head

    def _is_stalled(self) -> bool:
        return time.monotonic() - self._silent_since_s > self._stall_timeout_s

    def _fail(self, error: Exception) -> NoReturn:
        raise error if isinstance(error, EsError) else fault_of(error, is_cluster=True).error from error

    # --- the subscription's thread -----------------------------------------------------------

    def _feed(self) -> None:
        end: Exception | None = None
        try:
            self._client = client = self._connect()
            if self._closing.is_set():
                return
            start = self._start(client)
            events = client.subscribe(start, self._prefixes)
            self._examined = start
            self._is_confirmed = True
            for event in events:
                if not self._put(event):
                    return
        except Exception as error:
            end = error
        self._put(end)

    def _start(self, client: Client) -> Position:
        """Where the subscription begins: the server accepts the position of a record only."""
        within_s = self._stall_timeout_s
        deadline = Deadline.after(within_s, call_timeout_s=within_s)
        last = client.last(timeout_s=deadline.left_s())
        head = last.position if last else BEGINNING
        if head < self._after:
            raise StoreBehind(head, self._after)
        return self._positions.start(client, self._after, deadline)

    def _put(self, item: RecordedEvent | Exception | None) -> bool:
        """Wait until there is room in the queue. False if the subscription was closed first."""
        while not self._closing.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=_IDLE_WAIT_S)
                return True
        return False
