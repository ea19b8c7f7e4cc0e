"""Rebuilds: fill a new generation from position 0 while the current one serves queries, then promote it.

Promise: a killed rebuild resumes from its checkpoint. Refusal: a rebuild does not change the current generation.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor

from adapters.log import Log
from domain.kernel.errors import EsError, OtherHistory, PartUnavailable
from domain.kernel.events import Position
from domain.kernel.messages import Body
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.read_model import STORED_ALREADY, Generation, ReadModel, Report, Why
from domain.kernel.projection import Projection
from workers.projections.ahead import fill_ahead
from workers.projections.check import Check
from workers.projections.diff import asked, building, compare_asked, save_error
from workers.projections.errors import MoreParked
from workers.projections.filling import Filler, Filling, is_of_other_history
from workers.projections.next_batch import NextBatch, pause
from workers.projections.parked_events import ParkedEvents
from workers.runtime.last_error import LastError
from workers.runtime.loop import InternalError
from workers.runtime.queries import MAX_WHOLE

ABANDONED_S = 8.0
"""Work of other code without progress for so long is taken over, or cancelled if only that code can do it."""
_LOOK_PAUSE_S = 0.3
_REBUILD_PAUSE_S = 1.0
"""The wait before a rebuild resumes after an outage of a part."""
_CLEARED_AT_ONCE = 5_000
"""Rows. It takes some 15 ms."""
_PROMOTE_PAUSE_S = 0.1
"""The wait before a rebuild that is behind the current generation looks for further events."""


def begin_rebuild(
    projection: Projection,
    *,
    store: EventStore,
    read_model: ReadModel,
    now_us: int,
    why: Why = Why.REBUILD,
    code: str = "",
    replaces: bool = False,
) -> Generation:
    """The generation to fill: an unfinished one, or a new one.

    An unfinished one that was begun with another history than the store's is replaced, and so is a check of other code.
    Other work of other code is left to its worker, unless this `replaces` it.
    """
    begun = read_model.begin_rebuild(projection, now_us=now_us, why=why, code=code)
    if begun.why in STORED_ALREADY and why is not Why.OTHER_HISTORY:
        return begun
    is_of_other_code = begun.code != code and begun.why is Why.CHECK
    if replaces or is_of_other_code or is_of_other_history(begun, store):
        begun = read_model.begin_rebuild(
            projection,
            now_us=now_us,
            instead_of=begun,
            why=why if begun.why in STORED_ALREADY else begun.why,
            code=code,
        )
    return begun


def clear(read_model: ReadModel, stopped: Callable[[], bool]) -> None:
    """Free the space of removed generations. Other transactions write in between."""
    while read_model.clear(limit=_CLEARED_AT_ONCE) and not stopped():
        pass


def _can_go_on(unfinished: Generation, parts: Filling) -> bool:
    """Whether present code can go on to fill a generation with the events of the store."""
    is_of_this_code = unfinished.code == parts.code and _has_columns(unfinished, parts)
    return is_of_this_code and not is_of_other_history(unfinished, parts.store)


def _has_columns(unfinished: Generation, parts: Filling) -> bool:
    """Whether it has the columns of present code. Not if a worker of other code began it for this one."""
    columns = parts.read_model.columns(parts.projection, unfinished)
    return bool(unfinished.checkpoint) or columns == parts.projection.columns.keys()


class Rebuild:
    """Fills the building generation of a projection, and promotes it, or compares it if it is that of a check."""

    def __init__(self, parts: Filling) -> None:
        self._parts = parts

    def run(
        self,
        stopped: Callable[[], bool],
        progressed: Callable[[], None] = lambda: None,
        *,
        begins: Why | None = Why.REBUILD,
    ) -> Generation | None:
        """Fill a generation and end it, and return it. Returns None if stopped, or if another worker is faster.

        With `begins`, a reason, it begins one if none is unfinished. `progressed` is called after each batch. Raises OtherHistory
        if the store was replaced meanwhile: the next run starts over.
        """
        parts = self._parts
        generation = self._begun(begins, stopped)
        clear(parts.read_model, stopped)  # before it is filled: it uses this space
        if generation is None:
            return None
        parts.log.info(
            "rebuilding",
            projection=generation.projection,
            generation=generation.number,
            why=generation.why.value,
        )
        try:
            return self._run(generation, stopped, progressed)
        except PartUnavailable:
            stored = parts.read_model.generations(parts.projection)
            if any(each.number == generation.number for each in stored):
                raise
            return None  # it was cancelled and removed meanwhile

    def _run(
        self, generation: Generation, stopped: Callable[[], bool], progressed: Callable[[], None]
    ) -> Generation | None:
        parts = self._parts
        with ThreadPoolExecutor(1, f"rebuild-{generation.projection}-writer") as writer:
            filler = Filler(parts, generation, writer)
            if generation.why is Why.CHECK:
                ended = Check(parts, filler).run(stopped, progressed)
                if ended is not None or not self._is_of_other_history(self._current()):
                    return ended
                self._begun(Why.OTHER_HISTORY, stopped)  # a rebuild goes on where the check ended
            return self._fill(filler, stopped, progressed)

    def compare(self, stopped: Callable[[], bool]) -> None:
        """Make the comparisons of stored generations that were asked for."""
        compare_asked(self._parts, stopped)

    def _begun(self, why: Why | None, stopped: Callable[[], bool]) -> Generation | None:
        """The unfinished generation. Without one None, or with a reason a new one.

        Also None for one that a worker of other code fills.
        """
        parts = self._parts
        unfinished = building(parts.read_model, parts.projection)
        if unfinished is None and why is None:
            return None
        becomes_rebuild = unfinished is not None and unfinished.why is Why.CHECK and why is Why.OTHER_HISTORY
        if unfinished is not None and _can_go_on(unfinished, parts) and not becomes_rebuild:
            return unfinished
        if unfinished is not None and self._is_left_to_others(unfinished, why, stopped):
            return None
        if unfinished is not None and unfinished.why in STORED_ALREADY and why is None:
            # It must not be filled further. It stays what it was; the current generation is as good as before.
            parts.read_model.cancel(parts.projection, now_us=parts.now_us())
            parts.log.warning(
                "switch-cancelled", projection=unfinished.projection, generation=unfinished.number
            )
            return None
        return begin_rebuild(
            parts.projection,
            store=parts.store,
            read_model=parts.read_model,
            now_us=parts.now_us(),
            why=why or Why.REBUILD,
            code=parts.code,
            replaces=unfinished is not None and not becomes_rebuild,
        )

    def _is_left_to_others(
        self, unfinished: Generation, why: Why | None, stopped: Callable[[], bool]
    ) -> bool:
        """Whether a worker of other code carries on the work. Only its progress shows that. It waits some seconds."""
        parts = self._parts
        if unfinished.code == parts.code or self._is_of_other_history(unfinished):
            return False
        if unfinished.why is Why.CHECK:  # it may compare for minutes, without any progress
            return why is None
        end_s = time.monotonic() + ABANDONED_S
        while time.monotonic() < end_s and not stopped():
            if building(parts.read_model, parts.projection) != unfinished:
                return True
            pause(_LOOK_PAUSE_S, stopped)
        return stopped()

    def _current(self) -> Generation:
        parts = self._parts
        return parts.read_model.prepare(parts.projection, now_us=parts.now_us(), code=parts.code)

    def _is_of_other_history(self, generation: Generation) -> bool:
        return is_of_other_history(generation, self._parts.store)

    def _fill(
        self, filler: Filler, stopped: Callable[[], bool], progressed: Callable[[], None]
    ) -> Generation | None:
        """Fill and promote. A batch is read and translated while the one before is stored."""
        parts = self._parts
        if not fill_ahead(parts, filler, parts.store.head(), stopped, progressed):
            return None
        batch = NextBatch(parts, filler.generation.history)
        retried: set[Position] = set()
        rows: int | None = None
        while not stopped():
            before = filler.generation.events
            if not filler.begin(batch.events(), batch.reached):
                return None
            drained = batch.is_last
            if drained and not filler.finish():
                return None
            progressed()
            more = self._more_parked(filler.generation) if drained else set()
            if more - retried:
                retried |= more
                filler = filler.of(self._retry(filler.generation, more))
                batch = NextBatch(parts, filler.generation.history)
                continue
            if more and filler.generation.why in STORED_ALREADY:
                self._refuse(filler.generation, len(more))
                return None
            if drained and rows is None:
                # Once, and before the first attempt: it may take longer than the time between two events.
                rows = parts.read_model.count(parts.projection, limit=MAX_WHOLE, generation=filler.generation)
            if drained and self._promote(filler.generation, rows):
                built = filler.generation
                parts.log.info("rebuilt", projection=built.projection, generation=built.number)
                return built
            if drained and filler.generation.events == before:
                pause(_PROMOTE_PAUSE_S, stopped)  # otherwise it would ask for events all the time
        # The last batch may still be on its way; it is stored whole, or not at all.
        return None

    def _more_parked(self, built: Generation) -> set[Position]:
        """The positions of parked events that are in the rows of the current generation: with these it would be older."""
        model, projection = self._parts.read_model, self._parts.projection
        if not (parked := model.parked(projection, built)):
            return set()
        current = self._current()
        also = {each.position for each in model.parked(projection, current)}
        return {each.position for each in parked if each.position <= current.checkpoint} - also

    def _retry(self, built: Generation, positions: AbstractSet[Position]) -> Generation:
        """Apply parked events of a generation as far as the present code can. Returns the generation as it is then."""
        parts = self._parts
        parked = ParkedEvents(
            parts.projection,
            store=parts.store,
            codec=parts.codec,
            read_model=parts.read_model,
            now_us=parts.now_us,
            generation=built.number,
        )
        for stream, events in [*parked.streams.items()]:
            if any(each.position in positions for each in events):
                parked.retry(stream)
        return parked.generation

    def _refuse(self, built: Generation, events: int) -> None:
        """End a switch that would show older rows. Its caller reads the error in the report."""
        parts, current = self._parts, self._current()
        error = MoreParked(built, current.number, events)
        save_error(parts, Report(current.number, built.number, parts.now_us(), ""), error)
        parts.read_model.cancel(parts.projection, now_us=parts.now_us())
        parts.log.warning("switch-cancelled", projection=built.projection, generation=built.number)

    def _promote(self, built: Generation, rows: int | None) -> bool:
        """Make the generation current, unless it is behind one of the same history."""
        parts = self._parts
        if self._is_of_other_history(built):
            raise OtherHistory(built.checkpoint)
        is_lost = self._is_of_other_history(self._current())
        if built.checkpoint < self._current().checkpoint and not is_lost:
            return False
        return parts.read_model.promote(
            parts.projection, built, now_us=parts.now_us(), other_history=is_lost, rows=rows
        )


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
        self._asked_again: set[str] = set()
        self._starting = threading.Lock()  # queries and projectors ask for rebuilds
        self._errors = defaultdict[str, LastError](lambda: LastError(now_us))

    def last_error(self, projection: Projection) -> Body | None:
        """The last error of the projection's rebuild, until it makes progress."""
        return self._errors[projection.name].body

    def ensure(self, projection: Projection) -> None:
        """Replace rows of another history, unless this worker does so already: the unfinished rebuild, or a new one."""
        self._run_in_thread(projection, Why.OTHER_HISTORY)

    def resume(self, projection: Projection) -> None:
        """Run what is unfinished of the projection. Begins nothing."""
        self._run_in_thread(projection, None)

    def _run_in_thread(self, projection: Projection, begins: Why | None) -> None:
        with self._starting:
            if projection.name in self._running:
                # It may be about to end: then it looks once more.
                self._asked_again.add(projection.name)
                return
            name = f"rebuild-{projection.name}"
            thread = threading.Thread(target=self._run, args=(projection, begins), name=name)
            self._running[projection.name] = thread
            thread.start()

    def _run(self, projection: Projection, begins: Why | None) -> None:
        while True:
            self._run_once(projection, begins)
            with self._starting:
                if self._stopped() or projection.name not in self._asked_again:
                    self._asked_again.discard(projection.name)
                    del self._running[projection.name]
                    return
                self._asked_again.remove(projection.name)
            begins = None

    def _run_once(self, projection: Projection, begins: Why | None) -> None:
        last, name = self._errors[projection.name], f"rebuild-{projection.name}"

        def goes_on() -> None:
            last.ended()
            self._report(name, None)

        while not self._stopped():
            try:
                self._start(projection).run(self._stopped, goes_on, begins=begins)
                self._start(projection).compare(self._stopped)
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
        """Wait for the end of every rebuild."""
        with self._starting:
            running = [*self._running.values()]
        for thread in running:
            thread.join()


def unfinished(read_model: ReadModel, projections: Sequence[Projection]) -> list[Projection]:
    """The projections with a rebuild, a comparison or a removal that was interrupted."""
    is_left = read_model.clear(limit=0)
    return [each for each in projections if is_left or building(read_model, each) or asked(read_model, each)]
