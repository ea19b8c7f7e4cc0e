"""Rebuilds: fill a new generation from position 0 while the current one serves queries, then promote it.

Promise: a killed rebuild resumes from its checkpoint. Refusal: a rebuild does not change the current generation.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

from adapters.log import Log
from domain.kernel.errors import EsError, OtherHistory
from domain.kernel.history import Mark
from domain.kernel.messages import Body
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.read_model import Generation, GenerationState, ReadModel
from domain.kernel.projection import Projection
from workers.projections.filling import Filler, Filling, is_of_other_history
from workers.runtime.last_error import LastError
from workers.runtime.loop import InternalError

REBUILD_BATCH = 5000
_REBUILD_PAUSE_S = 1.0
"""The wait before a rebuild resumes after an outage of a part."""
_PROMOTE_PAUSE_S = 0.1
"""The wait before a rebuild that is behind the current generation looks for further events."""


def begin_rebuild(
    projection: Projection, *, store: EventStore, read_model: ReadModel, now_us: int
) -> Generation:
    """The generation to fill: an unfinished one, unless it is of another history than the store's; or a new one."""
    begun = read_model.begin_rebuild(projection, now_us=now_us)
    if is_of_other_history(begun, store):
        begun = read_model.begin_rebuild(projection, now_us=now_us, instead_of=begun)
    return begun


class Rebuild:
    def __init__(self, parts: Filling) -> None:
        self._parts = parts

    def run(
        self, stopped: Callable[[], bool], progressed: Callable[[], None] = lambda: None
    ) -> Generation | None:
        """Fill and promote a generation, and return it. Returns None if stopped, or if another worker is faster.

        `progressed` is called after each batch. Raises OtherHistory if the store was replaced meanwhile: the next run
        starts over.
        """
        parts = self._parts
        generation = begin_rebuild(
            parts.projection, store=parts.store, read_model=parts.read_model, now_us=parts.now_us()
        )
        parts.log.info("rebuilding", projection=generation.projection, generation=generation.number)
        filler = Filler(parts, generation)
        while not stopped():
            head = parts.store.head()
            events = list(
                parts.store.read_all(
                    filler.generation.checkpoint, REBUILD_BATCH, prefixes=parts.projection.prefixes
                )
            )
            # Fewer events than the limit: they are all up to the head, which was read before them.
            drained = len(events) < REBUILD_BATCH
            reached = filler.generation.history
            if events:
                reached = reached.reach(Mark(events[-1].position, events[-1].event_id))
            if drained:
                reached = replace(reached, position=max(head, reached.position))
            if not filler.fill(events, reached):
                return None
            progressed()
            if drained and self._promote(filler.generation):
                parts.log.info("rebuilt", projection=generation.projection, generation=generation.number)
                return filler.generation
            if drained:
                pause(_PROMOTE_PAUSE_S, stopped)  # otherwise it would ask for events all the time
        return None

    def _promote(self, built: Generation) -> bool:
        """Make the generation current, unless it is behind one of the same history."""
        parts = self._parts
        if is_of_other_history(built, parts.store):
            raise OtherHistory(built.checkpoint)
        current = parts.read_model.prepare(parts.projection, now_us=parts.now_us())
        return parts.read_model.promote(
            parts.projection,
            built,
            now_us=parts.now_us(),
            other_history=is_of_other_history(current, parts.store),
        )


def pause(seconds: float, stopped: Callable[[], bool]) -> None:
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s and not stopped():
        time.sleep(0.05)


class Rebuilds:
    """The running rebuilds of this worker, each in its own thread."""

    def __init__(
        self,
        start: Callable[[Projection], Rebuild],
        stopped: Callable[[], bool],
        *,
        log: Log,
        now_us: Callable[[], int],
        report: Callable[[str, EsError | None], None] = lambda *_: None,
    ) -> None:
        """`report` is called with the name of a rebuild and the error for which it waits, or None when it goes on."""
        self._start = start
        self._stopped = stopped
        self._log = log
        self._report = report
        self._running: dict[str, threading.Thread] = {}
        self._starting = threading.Lock()  # queries and projectors ask for rebuilds
        self._errors = defaultdict[str, LastError](lambda: LastError(now_us))

    def last_error(self, projection: Projection) -> Body | None:
        """The last error of the projection's rebuild, until it makes progress."""
        return self._errors[projection.name].body

    def ensure(self, projection: Projection) -> None:
        """Start a rebuild of the projection, unless this worker runs one already."""
        with self._starting:
            running = self._running.get(projection.name)
            if running is None or not running.is_alive():
                name = f"rebuild-{projection.name}"
                thread = threading.Thread(target=self._run, args=(projection,), name=name)
                self._running[projection.name] = thread
                thread.start()

    def _run(self, projection: Projection) -> None:
        last, name = self._errors[projection.name], f"rebuild-{projection.name}"

        def goes_on() -> None:
            last.ended()
            self._report(name, None)

        while not self._stopped():
            try:
                self._start(projection).run(self._stopped, goes_on)
                goes_on()
                return
            except EsError as error:  # a part is unavailable: resume later
                last.happened(error)
                self._report(name, error)
                self._log.error("rebuild-waits", error, projection=projection.name)
                pause(_REBUILD_PAUSE_S, self._stopped)
            except Exception as error:  # a bug: the next request for the rebuild resumes it
                last.happened(InternalError())
                self._log.error("rebuild-crashed", error, projection=projection.name)
                return

    def join(self) -> None:
        for thread in self._running.values():
            thread.join()


def unfinished(read_model: ReadModel, projections: Sequence[Projection]) -> list[Projection]:
    """The projections with a rebuild that was interrupted."""
    return [
        projection
        for projection in projections
        if any(g.state is GenerationState.BUILDING for g in read_model.generations(projection))
    ]
