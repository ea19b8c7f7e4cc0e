"""Read the events of a rebuild in batches, and fill a generation up to a position.

Promise: a generation reaches exactly the given position. Refusal: it promotes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import takewhile

from domain.kernel.events import BEGINNING, Position, Recorded
from domain.kernel.history import History, Mark
from workers.projections.filling import Filler, Filling

REBUILD_BATCH = 10_000


class NextBatch:
    """Reads the events of a rebuild in batches, from a history on."""

    def __init__(self, parts: Filling, history: History, until: Position | None = None) -> None:
        """Without `until` they end at the head of the store."""
        self._store = parts.store
        self._prefixes = parts.projection.prefixes
        self._history = history
        self._until = until
        self._end: Position = BEGINNING
        self.is_last = False
        """Whether the last batch ended there."""

    def events(self) -> Iterator[Recorded]:
        """The next events. Fewer than the limit are all up to the end, which is read before them."""
        self._end = self._store.head() if self._until is None else self._until
        events = self._store.read_all(self._history.position, REBUILD_BATCH, prefixes=self._prefixes)
        return events if self._until is None else takewhile(lambda each: each.position <= self._end, events)

    def reached(self, events: Sequence[Recorded]) -> History:
        """The history with these events, after which the next batch begins."""
        self.is_last = len(events) < REBUILD_BATCH
        if events:
            self._history = self._history.reach(Mark(events[-1].position, events[-1].event_id))
        if self.is_last:
            self._history = replace(self._history, position=max(self._end, self._history.position))
        return self._history


def fill_to(
    parts: Filling,
    filler: Filler,
    until: Position,
    stopped: Callable[[], bool],
    progressed: Callable[[], None] = lambda: None,
) -> bool:
    """Fill a generation up to a position. False if stopped, or if another filler moved its checkpoint first."""
    batch = NextBatch(parts, filler.generation.history, until)
    while not stopped():
        if not filler.begin(batch.events(), batch.reached):
            return False
        progressed()
        if batch.is_last:
            return filler.finish()
    return False


def pause(seconds: float, stopped: Callable[[], bool]) -> None:
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s and not stopped():
        time.sleep(0.05)
