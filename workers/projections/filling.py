"""Fill a generation of a projection, the current one or a new one: from events to stored rows.

Promise: a batch of events and its checkpoint are applied in one transaction, so no event is applied twice or skipped.
An event that cannot be applied is parked, and so are later events of its stream. Refusal: it decides, publishes and
opens nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from adapters.log import Log
from domain.kernel.errors import Damaged, EsError, InvalidInput, UnknownEventType
from domain.kernel.events import Event, Recorded
from domain.kernel.history import History, Mark, verified
from domain.kernel.ports.codec import Codec
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.read_model import Generation, Parked, ReadModel
from domain.kernel.projection import Delete, Key, Operation, Projection, Row, applied

_NOT_APPLICABLE = (UnknownEventType, Damaged, InvalidInput, ValueError, TypeError, KeyError)
"""Errors of codec and projection about one event."""
_NOT_STORABLE = (ValueError, TypeError, OverflowError)
"""Errors of a read model about the value of one event, such as a sum or a number beyond 64 bits."""


@dataclass(frozen=True)
class Filling:
    """The parts that fill a generation."""

    projection: Projection
    store: EventStore
    codec: Codec
    read_model: ReadModel
    now_us: Callable[[], int]
    log: Log


def is_of_other_history(generation: Generation, store: EventStore) -> bool:
    """Whether rows were filled from events that the store does not have: it was restored from an older copy, or swapped.

    `generation` was read before: in between the store only grows.
    """
    return verified(generation.history, store.fit, store.head()).diverged


class Applier:
    """Translates events into row operations. Parks events that it cannot apply, and later events of their streams."""

    def __init__(
        self,
        projection: Projection,
        codec: Codec,
        parked: Sequence[Parked],
        *,
        rows_of: Callable[[Sequence[Key]], Mapping[Key, Row]] = lambda _: {},
    ) -> None:
        """`parked` are the events that are parked already. `rows_of` reads rows for a projection that sees them."""
        self._projection = projection
        self._codec = codec
        self._parked_streams = {item.stream for item in parked}
        self._rows_of = rows_of

    def translate(self, events: Sequence[Recorded]) -> tuple[list[Operation], list[Parked]]:
        rows = self._rows_before(events) if self._projection.sees_rows else None
        operations: list[Operation] = []
        parked: list[Parked] = []
        for recorded in events:
            if recorded.stream in self._parked_streams:
                parked.append(Parked(recorded.position, recorded.stream, "behind a parked event"))
                continue
            try:
                event = self._codec.decode(recorded)
                if rows is None:
                    operations += self._projection.apply(recorded, event, None)
                else:
                    operations += self._apply_to(rows, recorded, event)
            except _NOT_APPLICABLE as error:
                # The text of an error of another program may quote the event: its type only.
                reason = str(error) if isinstance(error, EsError) else type(error).__name__
                parked.append(self.park(recorded, reason))
        return operations, parked

    def park(self, recorded: Recorded, reason: str) -> Parked:
        self._parked_streams.add(recorded.stream)
        return Parked(recorded.position, recorded.stream, reason)

    def _apply_to(self, rows: dict[Key, Row | None], recorded: Recorded, event: Event) -> Sequence[Operation]:
        key = self._projection.key_of(recorded, event)
        operations = self._projection.apply(recorded, event, None if key is None else rows.get(key))
        # After all operations of the event: a parked event has no effect.
        changed: dict[Key, Row | None] = {}
        for operation in operations:
            if operation.key in rows:
                before = changed.get(operation.key, rows[operation.key])
                changed[operation.key] = applied(before, operation)
        rows.update(changed)
        return operations

    def _rows_before(self, events: Sequence[Recorded]) -> dict[Key, Row | None]:
        """The rows that these events need, as stored. None stands for a missing row."""
        rows: dict[Key, Row | None] = {}
        for recorded in events:
            with suppress(*_NOT_APPLICABLE):  # such an event is parked when it is translated
                key = self._projection.key_of(recorded, self._codec.decode(recorded))
                if key is not None:
                    rows[Delete(key).key] = (
                        None  # an operation checks its key: no read model could look it up
                    )
        rows.update(self._rows_of([*rows]))
        return rows


class Filler:
    """Fills one generation. `generation` is its latest state."""

    def __init__(self, parts: Filling, generation: Generation) -> None:
        self.generation = generation
        self._parts = parts
        self._applier = self._new_applier()

    def fill(self, events: Sequence[Recorded], reached: History) -> bool:
        """Apply events and move the checkpoint to `reached`, the history with these events.

        Returns False if another filler moved the checkpoint first. The remaining events are not applied then.
        """
        operations, parked = self._applier.translate(events)
        try:
            return self._apply(operations, parked, len(events), reached)
        except _NOT_STORABLE as error:
            if not events:
                raise
            # Nothing was applied. A new applier forgets the streams that were parked while these events were
            # translated: the next attempt parks them again.
            self._applier = self._new_applier()
            if len(events) == 1:
                reason = str(error) if type(error) is ValueError else type(error).__name__
                return self._apply([], [self._applier.park(events[0], reason)], 1, reached)
        # Halve the batch until the event that cannot be stored is alone.
        half = len(events) // 2
        between = events[half - 1]
        half_way = self.generation.history.reach(Mark(between.position, between.event_id))
        return self.fill(events[:half], half_way) and self.fill(events[half:], reached)

    def _apply(
        self, operations: Sequence[Operation], parked: Sequence[Parked], events: int, reached: History
    ) -> bool:
        moved = self._parts.read_model.apply(
            self._parts.projection,
            self.generation,
            operations,
            reached=reached,
            events=events,
            parked=parked,
        )
        if moved is None:
            return False
        for item in parked:
            self._parts.log.warning("event-parked", position=item.position, reason=item.error)
        self.generation = moved
        return True

    def _new_applier(self) -> Applier:
        parked = self._parts.read_model.parked(self._parts.projection, self.generation)
        return Applier(self._parts.projection, self._parts.codec, parked, rows_of=self._rows_of)

    def _rows_of(self, keys: Sequence[Key]) -> Mapping[Key, Row]:
        # Before the transaction that applies: it fails if another filler has changed the rows since.
        projection = self._parts.projection
        rows = self._parts.read_model.rows(projection, keys=keys, generation=self.generation) if keys else []
        return {cast(Key, row.pop(projection.key)): row for row in rows}
