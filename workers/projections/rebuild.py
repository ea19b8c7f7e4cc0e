"""Rebuilds: fill a new generation from position 0 while the current one serves queries, then promote it.

Promise: a killed rebuild resumes from its checkpoint. Refusal: a rebuild does not change the current generation.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

from adapters.log import Log
from domain.kernel.errors import EsError, OtherHistory
from domain.kernel.history import History
from domain.kernel.messages import Body
from domain.kernel.ports.read_model import Generation, GenerationState, ReadModel
from domain.kernel.projection import Projection
from workers.projections.filling import Filler, Filling
from workers.runtime.followers import Verification, history_after
from workers.runtime.last_error import LastError
from workers.runtime.loop import InternalError

REBUILD_BATCH = 5000
_REBUILD_PAUSE_S = 1.0
"""The wait before a rebuild resumes after an outage of a part; also the longest one between two tries to promote."""
_FIRST_PAUSE_S = 0.05


class Rebuild:
    def __init__(self, parts: Filling) -> None:
        self._parts = parts

    def run(
        self, stopped: Callable[[], bool], progressed: Callable[[], None] = lambda: None
    ) -> Generation | None:
        """Fill and promote a generation, and return it. Returns None if stopped, or if another worker is faster.

        `progressed` is called after each batch. Raises `OtherHistory` if the store was replaced meanwhile: the next run
        begins again.
        """
        parts = self._parts
        filler = Filler(parts, self._begun())
        verify = Verification(parts.store, filler.generation.history, time.monotonic())
        pause_s = _FIRST_PAUSE_S
        while not stopped():
            head = parts.store.head()
            events = list(
                parts.store.read_all(
                    filler.generation.checkpoint, REBUILD_BATCH, prefixes=parts.projection.prefixes
                )
            )
            # Fewer events than the limit: they are all up to the head, which was read before them.
            drained = len(events) < REBUILD_BATCH
            verify(filler.generation.history, time.monotonic())
            reached = history_after(filler.generation.history, events[-1:])
            if drained and head > reached.position:
                reached = History(head, reached.marks)
            if not filler.fill(events, reached):
                return None
            progressed()
            if drained and self._promoted(filler.generation):
                return filler.generation
            if (
                drained
            ):  # the current one is ahead, as a projector moves it: the longer, the rarer another try
                paused(pause_s, stopped)
                pause_s = min(2 * pause_s, _REBUILD_PAUSE_S)
        return None

    def _begun(self) -> Generation:
        """The building generation. An unfinished one of another history is replaced by a new one."""
        parts = self._parts
        generation = parts.read_model.begin_rebuild(parts.projection, now_us=parts.now_us())
        found = parts.verified(generation)
        if found.diverged:
            parts.tell_other_history(generation, found)
            generation = parts.read_model.begin_rebuild(
                parts.projection, now_us=parts.now_us(), instead_of=generation
            )
        parts.log.info("rebuilding", projection=generation.projection, generation=generation.number)
        return generation

    def _promoted(self, built: Generation) -> bool:
        """Promote the generation, also over a current one whose history the store does not have."""
        parts = self._parts
        if parts.verified(built).diverged:
            raise OtherHistory(built.checkpoint)
        promote = partial(parts.read_model.promote, parts.projection, built, now_us=parts.now_us())
        if not promote():
            # It is behind the current one. That one may be of a lost history, and then stays ahead for ever.
            current = parts.read_model.prepare(parts.projection, now_us=parts.now_us())
            if not parts.verified(current).diverged or not promote(other_history=True):
                return False
        parts.log.info("rebuilt", projection=built.projection, generation=built.number)
        return True


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
        self._lock = threading.Lock()
        self._errors = defaultdict[str, LastError](lambda: LastError(now_us))

    def last_error(self, projection: Projection) -> Body | None:
        """The last error of the projection's rebuild, until it makes progress."""
        return self._errors[projection.name].body

    def ensure(self, projection: Projection) -> None:
        """Start a rebuild of the projection, unless this worker runs one already. Any thread may call it."""
        with self._lock:
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
                paused(_REBUILD_PAUSE_S, self._stopped)
            except Exception as error:  # a bug: the next request for the rebuild resumes it
                last.happened(InternalError())
                self._log.error("rebuild-crashed", error, projection=projection.name)
                return

    def join(self) -> None:
        for thread in self._running.values():
            thread.join()


def paused(seconds: float, stopped: Callable[[], bool]) -> None:
    """Wait, but not longer than until `stopped()`."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s and not stopped():
        time.sleep(0.05)


def unfinished(read_model: ReadModel, projections: Sequence[Projection]) -> list[Projection]:
    """The projections with a rebuild that was interrupted."""
    return [
        projection
        for projection in projections
        if any(g.state is GenerationState.BUILDING for g in read_model.generations(projection))
    ]
