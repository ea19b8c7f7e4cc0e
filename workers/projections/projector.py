"""The projector: a follower that keeps the current generation of one projection up to date.

Promise: `reached` is never ahead of the rows, and rows of a lost history are not taken for true. Refusal: it builds no
generation; see `rebuild.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from domain.kernel.errors import EsError, OtherHistory, StoreBehind
from domain.kernel.events import Position, Recorded
from domain.kernel.ports.event_store import CaughtUp
from domain.kernel.ports.read_model import Generation
from domain.kernel.projection import Projection
from workers.projections.filling import Filler, Filling
from workers.runtime.followers import Verification, history_after
from workers.runtime.last_error import LastError

LIVE_BATCH = 512
_IDLE_SAVE_S = 1.0
"""The minimum interval between two saves of the checkpoint while only other streams grow: a save is a transaction."""
_REPLACED_WAIT_S = 1.0
"""How long the projector waits for a rebuild before it compares the rows with the store again."""
_POLL_S = 0.05

NOT_COMPARED = "its rows were not compared with the event store yet"
OTHER_HISTORY = "the event store was restored: the projection is being rebuilt"


class Projector:
    """Fills the current generation, if its rows are of the history that the store has.

    If not, the store was restored from an older copy, or is another one: rows may show users that no longer exist, and
    erased ones as active. It requests a rebuild and waits for it. Until then `doubt` says why no row may be shown, and
    queries wait, then fail with it: the caller can retry, which no caller can who was shown a wrong row. Rows of before
    the last common event are no better: nothing tells them from changed ones.
    """

    def __init__(self, parts: Filling, request_rebuild: Callable[[Projection], None]) -> None:
        self._parts = parts
        self._request_rebuild = request_rebuild
        self.reached: Position = 0
        """The rows include every event up to here. It is ahead of the checkpoint while only other streams grow."""
        self.doubt: str | None = NOT_COMPARED
        """Why the rows may not be those of the store; None once they were compared."""
        self.last_error = LastError(parts.now_us)

    def run(self, stopped: Callable[[], bool]) -> None:
        """Project until `stopped()`. Raises if a part fails; the next run resumes from the checkpoint."""
        told: Generation | None = None
        try:
            while not stopped():
                generation = self._current()
                found = self._parts.verified(generation)
                if not found.diverged:
                    self._follow(Filler(self._parts, generation), stopped)
                    continue
                self.doubt = OTHER_HISTORY
                if told is None or told.number != generation.number:
                    self._parts.tell_other_history(told := generation, found)
                self._request_rebuild(self._parts.projection)
                self._wait_until_replaced(generation, stopped)
        except EsError as error:
            if isinstance(error, OtherHistory | StoreBehind):
                self.doubt = OTHER_HISTORY  # the next run compares all of it
            self.last_error.happened(error)
            raise

    def _current(self) -> Generation:
        return self._parts.read_model.prepare(self._parts.projection, now_us=self._parts.now_us())

    def _follow(self, filler: Filler, stopped: Callable[[], bool]) -> None:
        """Fill the generation until it is replaced or another projector moves its checkpoint."""
        generation, history = filler.generation, filler.generation.history
        self._parts.log.info(
            "projecting",
            projection=generation.projection,
            generation=generation.number,
            position=generation.checkpoint,
        )
        self.reached = history.position
        self.doubt = None  # after `reached`: that of a lost history means nothing
        prefixes = self._parts.projection.prefixes
        live = self._parts.store.follow(self.reached, stopped=stopped, prefixes=prefixes)
        saved_at_s = time.monotonic()
        verify = Verification(self._parts.store, history, saved_at_s)
        for events, caught_up in _batches(live, LIVE_BATCH):
            verify(history, time.monotonic())
            history = history_after(history, [*events[-1:], *([caught_up] if caught_up else [])])
            is_ahead = history.position > filler.generation.checkpoint
            if events or (is_ahead and time.monotonic() - saved_at_s > _IDLE_SAVE_S):
                if not filler.fill(events, history):
                    return
                saved_at_s = time.monotonic()
            elif self._is_replaced(filler.generation):
                return
            self.reached = history.position
            self.last_error.ended()

    def _is_replaced(self, generation: Generation) -> bool:
        """Whether a rebuild promoted another generation, or the read model lost its last commits in a crash."""
        stored = self._current()
        return stored.number != generation.number or stored.checkpoint < generation.checkpoint

    def _wait_until_replaced(self, generation: Generation, stopped: Callable[[], bool]) -> None:
        end_s = time.monotonic() + _REPLACED_WAIT_S
        while time.monotonic() < end_s and not stopped() and not self._is_replaced(generation):
            time.sleep(_POLL_S)


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
