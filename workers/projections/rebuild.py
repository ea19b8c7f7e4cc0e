"""The `projections` worker: keeps read models up to date, answers queries, rebuilds online.

Promise: a batch of events and its checkpoint are applied in one transaction, so nothing is applied twice
or skipped; readers see one whole generation. Refusal: nothing is decided, published or opened by
projecting; personal values are opened only to answer a query.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from adapters.log import Log
from domain.kernel.errors import EsError
from domain.kernel.ports.read_model import Generation, GenerationState, ReadModel
from domain.kernel.projection import Projection
from workers.projections.projector import Applier, Filling

REBUILD_BATCH = 5000
_REBUILD_PAUSE_S = 1.0
"""How long a rebuild waits for a part that is down before it looks again."""


class Rebuild(Filling):
    """Fills a new generation beside the live one and flips to it. Can be killed; running again resumes it."""

    def run(self, stopped: Callable[[], bool]) -> Generation | None:
        """Build and promote; the promoted generation, or None when stopped or overtaken by another worker."""
        generation = self._read_model.begin_rebuild(self._projection, now_us=self._now_us())
        self._log.info("rebuilding", projection=self._projection.name, generation=generation.number)
        applier = Applier(
            self._projection, self._codec, self._read_model.parked(self._projection, generation)
        )
        while not stopped():
            head = self._store.head()
            events = list(
                self._store.read_all(generation.checkpoint, REBUILD_BATCH, prefixes=self._projection.prefixes)
            )
            # Fewer than asked for: everything up to the head that was read before is in.
            drained = len(events) < REBUILD_BATCH
            last = events[-1].position if events else head
            reached = max(head, last) if drained else last
            operations, parked = applier.translate(events)
            moved = self._read_model.apply(
                self._projection,
                generation,
                operations,
                checkpoint=reached,
                events=len(events),
                parked=parked,
            )
            if moved is None:
                return None
            generation = moved
            if drained and self._read_model.promote(self._projection, generation, now_us=self._now_us()):
                self._log.info("rebuilt", projection=self._projection.name, generation=generation.number)
                return generation
        return None


class Rebuilds:
    """The rebuilds running in this worker, one thread each."""

    def __init__(self, start: Callable[[Projection], Rebuild], stopped: Callable[[], bool], log: Log) -> None:
        self._start = start
        self._stopped = stopped
        self._log = log
        self._running: dict[str, threading.Thread] = {}

    def ensure(self, projection: Projection) -> None:
        """Start a rebuild of the projection unless this worker is at one."""
        running = self._running.get(projection.name)
        if running is None or not running.is_alive():
            thread = threading.Thread(target=self._run, args=(projection,), name=f"rebuild-{projection.name}")
            self._running[projection.name] = thread
            thread.start()

    def _run(self, projection: Projection) -> None:
        while not self._stopped():
            try:
                self._start(projection).run(self._stopped)
                return
            except EsError as error:  # a part is down; what is filled stays, and it goes on from there
                self._log.error("rebuild-waits", error, projection=projection.name)
                self._pause()
            except Exception as error:  # a bug; whoever asks for the rebuild again starts it again
                self._log.error("rebuild-crashed", error, projection=projection.name)
                return

    def _pause(self) -> None:
        end_s = time.monotonic() + _REBUILD_PAUSE_S
        while time.monotonic() < end_s and not self._stopped():
            time.sleep(0.05)

    def join(self) -> None:
        for thread in self._running.values():
            thread.join()


def unfinished(read_model: ReadModel, projections: Sequence[Projection]) -> list[Projection]:
    """Projections whose rebuild was cut off."""
    return [
        projection
        for projection in projections
        if any(g.state is GenerationState.BUILDING for g in read_model.generations(projection))
    ]
