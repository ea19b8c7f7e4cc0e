"""The messages of a catch-up subscription, taken in batches from a bounded buffer that a thread fills.

Promise: a subscription that the server ends because it is slow goes on at once: the thread reads pages up to the end, and
subscribes again. Refusal: any other end of a subscription is a failure.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from adapters.eventstoredb.client import Client
from adapters.eventstoredb.deadline import Deadline
from adapters.eventstoredb.driver import DeadlineExceeded, failures
from adapters.eventstoredb.errors import PART
from adapters.eventstoredb.heads import Seen, caught_up_with
from adapters.eventstoredb.messages import ReadResponse, Selection, recorded
from adapters.eventstoredb.positions import Positions, record_at
from adapters.eventstoredb.reading import PAGE, page_after
from domain.kernel.errors import PartUnavailable, StoreBehind
from domain.kernel.events import BEGINNING, Position, Recorded

BUFFERED_EVENTS = 1000
"""The events that the thread reads ahead of the consumer, beside those that it took last."""
_JOIN_S = 0.2
_NO_POSITION = 1 << 63
"""Positions from here on are none: 24.2 to 24.10.4 send a checkpoint at 2^64-1 if no event has matched yet."""


@dataclass(frozen=True, slots=True)
class Examined:
    """The server has examined every event up to here, and maybe more."""

    position: Position


@dataclass(frozen=True, slots=True)
class Live:
    """Every wanted event up to `start`, the head when the subscription began, came before. Live events follow."""

    start: Seen


@dataclass(frozen=True, slots=True)
class Behind:
    """More stored events follow."""


Item = Recorded | Examined | Live | Behind


class Feed:
    def __init__(
        self,
        connect: Callable[[], Client],
        after: Position,
        selection: Selection,
        positions: Positions,
        *,
        within_s: float,
    ) -> None:
        """`within_s`: how long the start may take, and each page."""
        self.client: Client | None = None
        """The client of the subscription, once the server has confirmed it."""
        self._client: Client | None = None
        self._connect = connect
        self._at = after
        self._selection = selection
        self._positions = positions
        self._within_s = within_s
        self._changed = threading.Condition()
        self._items: list[Item] = []
        self._enough = 1  # the number of items that the consumer waits for
        self._is_woken = self._is_closing = False
        self._end: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="eventstoredb-subscription", daemon=True)
        self._thread.start()

    def take(self, wait_s: float, *, enough: int = 1) -> list[Item]:
        """All that has come, perhaps nothing. It waits for `enough` items, or until `wake`.

        Raises what ended the subscription once everything before it was taken.
        """
        with self._changed:
            self._enough = enough
            self._changed.wait_for(lambda: len(self._items) >= enough or self._end or self._is_woken, wait_s)
            items, self._items = self._items, []
            self._is_woken = False
            if items:
                self._changed.notify_all()  # there is room
            elif self._end is not None:
                raise self._end
            return items

    def wake(self) -> None:
        """End the wait of the consumer."""
        with self._changed:
            self._is_woken = True
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        if self._client is not None:
            self._client.close()
        self._thread.join(timeout=_JOIN_S)

    # --- the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        end: Exception = PartUnavailable(PART, "the subscription ended")
        try:
            self._client = client = self._connect()
            start = self._start(client)
            while not self._is_closing:
                try:
                    self._subscribe(client, start)
                    break
                except failures.ConsumerTooSlow:  # no outage: read on at once
                    self._put(Behind())
                    self._read_to_the_end(client)
        except Exception as error:
            end = error
        with self._changed:
            self._end = end
            self._changed.notify_all()
        if self._is_closing and self._client is not None:
            self._client.close()  # `close` may have come before the client

    def _start(self, client: Client) -> Seen:
        """Find the record where the subscription begins: the server accepts no other position. Returns the head."""
        deadline = Deadline.after(self._within_s, call_timeout_s=self._within_s)
        now_s = time.monotonic()
        head = caught_up_with(client.last(timeout_s=deadline.left_s()))
        # The last event may have been scavenged: the store ends with the server's own records then.
        if head.position < self._at and client.end(timeout_s=deadline.left_s()) < self._at:
            raise StoreBehind(head.position, self._at)
        self._at = self._positions.start(client, self._at, deadline)
        first = record_at(client, self._at, deadline)
        if first is not None and first.position > self._at > BEGINNING:
            # The record here was scavenged. Servers before 24.2 would leave out the next one in its place.
            self._put(self._selected(first))
        return Seen(head, now_s)

    def _subscribe(self, client: Client, start: Seen) -> None:
        for message in client.subscribe(self._at, self._selection):
            item = self._item(message, client, start)
            if item is not None and not self._put(item):
                return

    def _item(self, message: ReadResponse, client: Client, start: Seen) -> Item | None:
        match message.WhichOneof("content"):
            case "event":
                return self._selected(recorded(message.event))
            case "checkpoint" if message.checkpoint.commit_position < _NO_POSITION:
                self._at = max(self._at, message.checkpoint.commit_position)
                return Examined(self._at)
            case "confirmation":
                self.client = client
            case "caught_up":
                return Live(start)
            case "fell_behind":
                return Behind()
        return None

    def _read_to_the_end(self, client: Client) -> None:
        at_end = self._selection.is_empty
        while not at_end and not self._is_closing:
            deadline = Deadline.after(self._within_s, call_timeout_s=self._within_s)
            try:
                page, at_end = page_after(client, self._at, self._positions, self._selection, PAGE, deadline)
            except DeadlineExceeded:
                return  # wanted events are rare: the subscription finds them
            for event in page:
                self._put(self._selected(event))

    def _selected(self, event: Recorded) -> Item:
        self._at = event.position
        return event if self._selection.includes(event) else Examined(event.position)

    def _put(self, item: Item) -> bool:
        """Wait until there is room in the buffer. False if the subscription was closed first."""
        with self._changed:
            while len(self._items) >= BUFFERED_EVENTS and not self._is_closing:
                self._changed.wait()
            self._items.append(item)
            if len(self._items) >= self._enough:
                self._changed.notify_all()
            return not self._is_closing
