"""The projector: a follower that keeps the current generation of one projection up to date.

Promise: `reached` is never ahead of the rows. Refusal: it builds no generation; see `rebuild.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from domain.kernel.errors import EsError
from domain.kernel.events import Position, Recorded
from domain.kernel.ports.event_store import CaughtUp
from domain.kernel.ports.read_model import Generation
from workers.projections.filling import Filler, Filling
from workers.runtime.last_error import LastError

LIVE_BATCH = 512
_IDLE_SAVE_S = 1.0
"""The minimum interval between two saves of the checkpoint while only other streams grow: a save is a transaction."""


class Projector:
    def __init__(self, parts: Filling) -> None:
        self._parts = parts
        self.reached: Position = 0
        """The rows include every event up to here. It is ahead of the checkpoint while only other streams grow."""
        self.last_error = LastError(parts.now_us)

    def run(self, stopped: Callable[[], bool]) -> None:
        """Project until `stopped()`. Raises if a part fails; the next run resumes from the checkpoint."""
        try:
            while not stopped():
                generation = self._current()
                self._parts.log.info(
                    "projecting",
                    projection=generation.projection,
                    generation=generation.number,
                    position=generation.checkpoint,
                )
                self._follow(Filler(self._parts, generation), stopped)
        except EsError as error:
            self.last_error.happened(error)
            raise

    def _current(self) -> Generation:
        return self._parts.read_model.prepare(self._parts.projection, now_us=self._parts.now_us())

    def _follow(self, filler: Filler, stopped: Callable[[], bool]) -> None:
        """Fill the generation until it is replaced or another projector moves its checkpoint."""
        self.reached = filler.generation.checkpoint
        prefixes = self._parts.projection.prefixes
        live = self._parts.store.follow(self.reached, stopped=stopped, prefixes=prefixes)
        saved_at_s = time.monotonic()
        for events, caught_up in _batches(live, LIVE_BATCH):
            reached = caught_up.position if caught_up else events[-1].position
            is_ahead = reached > filler.generation.checkpoint
            if events or (is_ahead and time.monotonic() - saved_at_s > _IDLE_SAVE_S):
                if not filler.fill(events, reached):
                    return
                saved_at_s = time.monotonic()
            elif self._is_replaced(filler.generation):
                return
            self.reached = reached
            self.last_error.ended()

    def _is_replaced(self, generation: Generation) -> bool:
        """Whether a rebuild promoted another generation, or the read model lost its last commits in a crash."""
        stored = self._current()
        return stored.number != generation.number or stored.checkpoint < generation.checkpoint


def _batches(
    live: Iterator[Recorded | CaughtUp], size: int
) -> Iterator[tuple[list[Recorded], CaughtUp | None]]:
    """Divide events into batches of at most `size`. A batch also ends where the follower has caught up."""
    events: list[Recorded] = []
    for item in live:
        if isinstance(item, CaughtUp):
            yield events, item
            events = []
        else:
            events.append(item)
            if len(events) == size:
                yield events, None
                events = []
