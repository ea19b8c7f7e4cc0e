"""The `projections` worker: keeps read models up to date, answers queries, rebuilds online.

Promise: a batch of events and its checkpoint are applied in one transaction, so nothing is applied twice
or skipped; readers see one whole generation. Refusal: nothing is decided, published or opened by
projecting; personal values are opened only to answer a query.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

from adapters.log import Log
from domain.errors import Damaged, EsError, InvalidInput, UnknownEventType
from domain.events import Position, Recorded
from domain.ports import CaughtUp, Codec, EventStore, Generation, GenerationState, Parked, ReadModel
from domain.projections import Operation, Projection

LIVE_BATCH = 512
REBUILD_BATCH = 5000
_REBUILD_PAUSE_S = 1.0
"""How long a rebuild waits for a part that is down before it looks again."""
_IDLE_SAVE_S = 1.0
"""How often the checkpoint is stored while only other streams grow: not a durable write per idle moment."""


class Applier:
    """Turns a run of events into operations, parking what can't be applied and what comes behind it."""

    def __init__(self, projection: Projection, codec: Codec, parked: Sequence[Parked]) -> None:
        self._projection = projection
        self._codec = codec
        self._parked_streams = {item.stream for item in parked}

    def translate(self, events: Sequence[Recorded]) -> tuple[list[Operation], list[Parked]]:
        operations: list[Operation] = []
        parked: list[Parked] = []
        for recorded in events:
            if recorded.stream in self._parked_streams:
                parked.append(Parked(recorded.position, recorded.stream, "behind a parked event"))
                continue
            try:
                operations += self._projection.apply(recorded, self._codec.decode(recorded))
            except (UnknownEventType, Damaged, InvalidInput, ValueError, TypeError, KeyError) as error:
                # Only its name: the message may quote the event.
                reason = str(error) if isinstance(error, EsError) else type(error).__name__
                parked.append(Parked(recorded.position, recorded.stream, reason))
                self._parked_streams.add(recorded.stream)
        return operations, parked


class _Filling:
    """What filling a generation needs, be it the live one or a new one."""

    def __init__(
        self,
        projection: Projection,
        *,
        store: EventStore,
        codec: Codec,
        read_model: ReadModel,
        now_us: Callable[[], int],
        log: Log,
    ) -> None:
        self._projection = projection
        self._store = store
        self._codec = codec
        self._read_model = read_model
        self._now_us = now_us
        self._log = log


class Projector(_Filling):
    """Follows the store and fills the current generation of one projection."""

    reached: Position = 0
    """Everything up to here is in the rows. Ahead of the stored checkpoint while only other streams grow."""

    def run(self, stopped: Callable[[], bool]) -> None:
        """Project until `stopped()`. Raises when a part fails; running again continues from the checkpoint."""
        while not stopped():
            generation = self._read_model.prepare(self._projection, now_us=self._now_us())
            self._log.info(
                "projecting",
                projection=self._projection.name,
                generation=generation.number,
                position=generation.checkpoint,
            )
            self._follow(generation, stopped)

    def _follow(self, generation: Generation, stopped: Callable[[], bool]) -> None:
        """Until the generation is replaced or another projector was faster."""
        applier = Applier(
            self._projection, self._codec, self._read_model.parked(self._projection, generation)
        )
        self.reached = generation.checkpoint
        live = self._store.follow(generation.checkpoint, stopped=stopped, prefixes=self._projection.prefixes)
        saved_at_s = time.monotonic()
        for events, caught_up in _batches(live, LIVE_BATCH):
            reached = caught_up.position if caught_up else events[-1].position
            if events or (reached > generation.checkpoint and time.monotonic() - saved_at_s > _IDLE_SAVE_S):
                moved = self._apply(applier, generation, events, reached)
                if moved is None:
                    return
                generation, saved_at_s = moved, time.monotonic()
            elif self._replaced(generation):
                return
            self.reached = reached

    def _apply(
        self, applier: Applier, generation: Generation, events: Sequence[Recorded], reached: Position
    ) -> Generation | None:
        operations, parked = applier.translate(events)
        for item in parked:
            self._log.warning("event-parked", position=item.position, reason=item.error)
        return self._read_model.apply(
            self._projection,
            generation,
            operations,
            checkpoint=reached,
            events=len(events),
            parked=parked,
        )

    def _replaced(self, generation: Generation) -> bool:
        """While nothing happens: whether a rebuild has flipped the pointer, or the rows lost their last commits."""
        stored = self._read_model.prepare(self._projection, now_us=0)
        return stored.number != generation.number or stored.checkpoint < generation.checkpoint


def _batches(
    live: Iterator[Recorded | CaughtUp], size: int
) -> Iterator[tuple[list[Recorded], CaughtUp | None]]:
    """Events in runs of at most `size`, a run ending also where the follower has caught up."""
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


class Rebuild(_Filling):
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
