"""Positions of EventStoreDB are addresses of records, not numbers.

Promise: a read may begin at any number. Refusal: a failure of the server is not taken for an answer about a position:
it fails again at that position, and not at the beginning.
"""

from __future__ import annotations

import bisect
import threading

from adapters.eventstoredb.client import Client
from adapters.eventstoredb.deadline import Deadline
from adapters.eventstoredb.driver import NO_RECORD
from adapters.eventstoredb.messages import Selection
from domain.kernel.events import BEGINNING, Position, Recorded

_PAGE = 500
_REMEMBERED = 256


class NoRecordAt(LookupError):
    """A position is not the beginning of a record: the server cannot read from it."""


def record_at(client: Client, position: Position, deadline: Deadline) -> Recorded | None:
    """The first record at a position or after it, of any stream. Raises `NoRecordAt`."""
    for _ in range(2):
        try:
            return client.record_at(position, timeout_s=deadline.left_s())
        except NO_RECORD:
            client.record_at(BEGINNING, timeout_s=deadline.left_s())
    raise NoRecordAt(position)


class Positions:
    """Some positions of events that were read, to begin there. Thread-safe."""

    def __init__(self) -> None:
        self._known: list[Position] = []
        self._lock = threading.Lock()

    def start(self, client: Client, after: Position, deadline: Deadline) -> Position:
        """`after` if a read can begin there, else the position of the last event before it.

        The server has no search by number: this reads from the closest known position on. It remembers how far it
        came, so a retry goes on there when the deadline ends it.
        """
        if after <= BEGINNING:
            return BEGINNING
        try:
            record_at(client, after, deadline)
        except NoRecordAt:
            return self._last_before(client, after, deadline)
        return after

    def _last_before(self, client: Client, after: Position, deadline: Deadline) -> Position:
        at = self._closest(client, after, deadline)
        while True:
            page = list(client.all_events(at, Selection(), size=_PAGE, timeout_s=deadline.left_s()))
            before = [event.position for event in page if event.position <= after]
            at = before[-1] if before else at
            self._remember(at)
            if len(before) < _PAGE:
                return at

    def _closest(self, client: Client, after: Position, deadline: Deadline) -> Position:
        """The closest known position that the store still has: it may have been replaced."""
        while True:
            with self._lock:
                below = self._known[: bisect.bisect_right(self._known, after)]
            if not below:
                return BEGINNING
            try:
                record_at(client, below[-1], deadline)
            except NoRecordAt:
                with self._lock:
                    self._known.clear()
                continue
            return below[-1]

    def _remember(self, position: Position) -> None:
        with self._lock:
            if position not in self._known:
                bisect.insort(self._known, position)
            if len(self._known) > _REMEMBERED:
                del self._known[::2]
