"""The `projections` worker: keeps read models up to date, answers queries, rebuilds online.

Promise: a batch of events and its checkpoint are applied in one transaction, so nothing is applied twice
or skipped; readers see one whole generation. Refusal: nothing is decided, published or opened by
projecting; personal values are opened only to answer a query.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from adapters.log import Log
from domain.kernel.errors import Damaged, EsError, InvalidInput, UnknownEventType
from domain.kernel.events import Position, Recorded
from domain.kernel.ports.codec import Codec
from domain.kernel.ports.event_store import CaughtUp, EventStore
from domain.kernel.ports.read_model import Generation, Parked, ReadModel
from domain.kernel.projection import Operation, Projection

LIVE_BATCH = 512
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


class Filling:
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


class Projector(Filling):
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
