"""The projector: a follower that keeps the current generation of one projection up to date.

Promise: `reached` is never ahead of the rows. Rows of another history than the event store's are not extended: they are
rebuilt from the beginning. A generation that a worker of other code fills is left to it: see `_stand_by`. Refusal: it builds no generation; see `rebuild.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from domain.kernel.errors import EsError, OtherHistory, StoreBehind
from domain.kernel.events import Position, Recorded
from domain.kernel.ports.event_store import CaughtUp
from domain.kernel.ports.read_model import Generation, GenerationState, Why
from domain.kernel.projection import Projection
from workers.projections.errors import OtherColumns
from workers.projections.filling import Filler, Filling, is_of_other_history
from workers.projections.next_batch import pause
from workers.runtime.followers import Verification, reached_with
from workers.runtime.last_error import LastError
from workers.runtime.queries import OtherHistoryShown
from workers.runtime.shared_tail import SharedTail

LIVE_BATCH = 512
_IDLE_SAVE_S = 1.0
"""The minimum interval between two saves of the checkpoint while only other streams grow: a save is a transaction."""
_REBUILD_WAIT_S = 1.0
"""How long a projector waits for a rebuild before it asks for it again."""
_POLL_S = 0.05
ADOPT_S = 3.0
"""How long events wait for a worker of the code that fills a generation. Then the present code adopts it."""
_STAND_BY_PAUSE_S = 0.1
_LOOK_INTERVAL_S = 0.5
"""The minimum interval between two looks at the generations. One that was replaced takes no event, so this only delays
the work that another worker was asked for, and the next projection of rows that a crash of the read model lost."""


class Projector:
    def __init__(
        self,
        parts: Filling,
        ensure_rebuild: Callable[[Projection], None],
        tail: SharedTail | None = None,
        resume: Callable[[Projection], None] = lambda _: None,
        on_reached: Callable[[], None] = lambda: None,
    ) -> None:
        """`ensure_rebuild` starts a rebuild of the projection, unless it runs already. `tail` is that of all projectors.

        `resume` carries on work on another generation that a worker of other code was asked for. `on_reached` is called
        when `reached` may have grown.
        """
        self._on_reached = on_reached
        self._resume = resume
        self._seen: tuple[int, Why] | None = None
        """The work on another generation that was seen last."""
        self._parts = parts
        self._tail = tail or SharedTail(parts.store)
        self._ensure_rebuild = ensure_rebuild
        self.reached: Position | None = None
        """The rows include every event up to here. It is ahead of the checkpoint while only other streams grow.

        None before the rows were compared with the store, and while they are those of another history.
        """
        self.last_error = LastError(parts.now_us)

    def run(self, stopped: Callable[[], bool]) -> None:
        """Project until `stopped()`. Raises if a part fails; the next run resumes from the checkpoint."""
        same = other = 0  # the numbers of the generations of which the history is known
        verify: Verification | None = None
        try:
            while not stopped():
                generation = self._current()
                if verify is None or generation.number != same:
                    if is_of_other_history(generation, self._parts.store):
                        self._wait_for_rebuild(generation, stopped, is_news=generation.number != other)
                        other = generation.number
                        continue
                    same = generation.number
                    verify = None
                if generation.filled_by != self._parts.code:
                    self._stand_by(generation, stopped)
                    verify = None  # it was filled meanwhile
                    continue
                if verify is None:
                    verify = Verification(self._parts.store, generation.history, time.monotonic())
                self._parts.log.info(
                    "projecting",
                    projection=generation.projection,
                    generation=generation.number,
                    position=generation.checkpoint,
                )
                self._follow(Filler(self._parts, generation), verify, stopped)
        except EsError as error:
            if isinstance(error, OtherHistory | StoreBehind):
                self.reached = None  # at once: the next run, which compares all of it, may come seconds later
            self.last_error.happened(error)
            raise

    def _current(self) -> Generation:
        parts = self._parts
        return parts.read_model.prepare(parts.projection, now_us=parts.now_us(), code=parts.code)

    def _look(self) -> Generation:
        """The current generation. Carries on work that another worker was asked for and this code can do, once each."""
        parts = self._parts
        stored = parts.read_model.generations(parts.projection)
        begun = next((each for each in stored if each.state is GenerationState.BUILDING), None)
        work = None if begun is None else (begun.number, begun.why)
        if (
            begun is not None
            and work != self._seen
            and (begun.code == parts.code or begun.why is not Why.CHECK)
        ):
            self._resume(parts.projection)
        self._seen = work
        return (
            next((each for each in stored if each.state is GenerationState.CURRENT), None) or self._current()
        )

    def _stand_by(self, generation: Generation, stopped: Callable[[], bool]) -> None:
        """Let a worker of other code fill the generation. Returns when it was replaced or adopted.

        This code adopts it once events wait for which no other worker has come in seconds.
        """
        parts = self._parts
        place = {"projection": generation.projection, "generation": generation.number}
        if (
            not generation.filled_by
        ):  # by an earlier version, whose workers cannot open these read models any more
            self._adopt(generation)
            return
        parts.log.info("standing-by", **place, code=generation.code)
        reached = generation.checkpoint
        waits_at: tuple[Position, float] | None = None
        while not stopped():
            head, current = parts.store.head(), self._look()
            if (current.number, current.code) != (generation.number, generation.code):
                return
            events = parts.store.read_all(current.checkpoint, 1, prefixes=parts.projection.prefixes)
            is_complete = next(iter(events), None) is None
            reached = self.reached = max(reached, head if is_complete else current.checkpoint)
            self._on_reached()
            now_s = time.monotonic()
            if is_complete or waits_at is None or waits_at[0] != current.checkpoint:
                waits_at = (current.checkpoint, now_s)
                self.last_error.ended()
            elif now_s - waits_at[1] > ADOPT_S:
                self._adopt(current)
                return
            pause(_STAND_BY_PAUSE_S, stopped)

    def _adopt(self, current: Generation) -> None:
        """Record that this code fills the generation. Raises OtherColumns if it cannot."""
        parts = self._parts
        missing = parts.projection.columns.keys() - parts.read_model.columns(parts.projection, current)
        if missing:
            raise OtherColumns(current, missing)
        parts.read_model.adopt(parts.projection, current, code=parts.code, now_us=parts.now_us())
        parts.log.warning(
            "adopted", projection=current.projection, generation=current.number, code=current.code
        )

    def _wait_for_rebuild(self, lost: Generation, stopped: Callable[[], bool], *, is_news: bool) -> None:
        """Have a generation of another history replaced. Returns when it is, or after a second."""
        self.reached = None  # from now on no query shows its rows
        self.last_error.happened(OtherHistoryShown(lost.projection))
        if is_news:
            self._parts.log.warning(
                "other-history",
                projection=lost.projection,
                generation=lost.number,
                seen=lost.checkpoint,
                back_to=0,
            )
        # Each time: a rebuild ends without a result if that of another worker is faster, and that one may be killed.
        self._ensure_rebuild(self._parts.projection)
        end_s = time.monotonic() + _REBUILD_WAIT_S
        while time.monotonic() < end_s and not stopped() and self._current().number == lost.number:
            time.sleep(_POLL_S)

    def _follow(self, filler: Filler, verify: Verification, stopped: Callable[[], bool]) -> None:
        """Fill the generation until it is replaced or another projector moves its checkpoint."""
        history = filler.generation.history
        self.reached = history.position
        prefixes = self._parts.projection.prefixes
        live = self._tail.follow(self.reached, stopped=stopped, prefixes=prefixes)
        saved_at_s = looked_at_s = time.monotonic()
        for events, caught_up in _batches(live, LIVE_BATCH):
            now_s = time.monotonic()
            verify(history, now_s)
            reached = reached_with(history, [*events[-1:], *([caught_up] if caught_up else [])])
            is_ahead = reached != filler.generation.history
            if events or (is_ahead and now_s - saved_at_s > _IDLE_SAVE_S):
                if not filler.fill(events, reached) or filler.generation.filled_by != self._parts.code:
                    return
                saved_at_s = time.monotonic()
            if now_s - looked_at_s > _LOOK_INTERVAL_S:
                looked_at_s = now_s
                if self._is_replaced(filler.generation):
                    return
            history = reached
            self.reached = reached.position
            self.last_error.ended()
            self._on_reached()

    def _is_replaced(self, generation: Generation) -> bool:
        """Whether a rebuild promoted another generation, or the read model lost its last commits in a crash."""
        stored = self._look()
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
