"""Filling a generation of a projection, be it the live one or a new one: from events to stored rows.

Promise: a run of events and its checkpoint are applied in one transaction, so no event is applied twice or skipped. An
event that cannot be applied is parked, and so is what comes behind it in its stream. Refusal: nothing is decided,
published or opened by projecting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from adapters.log import Log
from domain.kernel.errors import Damaged, EsError, InvalidInput, UnknownEventType
from domain.kernel.events import Event, Position, Recorded
from domain.kernel.ports.codec import Codec
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.read_model import Generation, Parked, ReadModel
from domain.kernel.projection import Key, Operation, Projection, Row, Value, applied

_CANNOT_APPLY = (UnknownEventType, Damaged, InvalidInput, ValueError, TypeError, KeyError)
"""What an event raises that a projection cannot apply."""


@dataclass(frozen=True)
class Filling:
    """The parts that filling a generation needs."""

    projection: Projection
    store: EventStore
    codec: Codec
    read_model: ReadModel
    now_us: Callable[[], int]
    log: Log


class Applier:
    """Turns runs of events into operations on rows, and parks what cannot be applied with what comes behind it."""

    def __init__(
        self,
        projection: Projection,
        codec: Codec,
        parked: Sequence[Parked],
        *,
        rows_of: Callable[[Sequence[Key]], Mapping[Key, Row]] = lambda _: {},
    ) -> None:
        """`parked` is what is parked already. `rows_of` reads rows for a projection that sees them."""
        self._projection = projection
        self._codec = codec
        self._parked_streams = {item.stream for item in parked}
        self._rows_of = rows_of

    def translate(self, events: Sequence[Recorded]) -> tuple[list[Operation], list[Parked]]:
        rows = self._rows_before(events) if self._projection.sees_rows else {}
        operations: list[Operation] = []
        parked: list[Parked] = []
        for recorded in events:
            if recorded.stream in self._parked_streams:
                parked.append(Parked(recorded.position, recorded.stream, "behind a parked event"))
                continue
            try:
                operations += self._apply(recorded, self._codec.decode(recorded), rows)
            except _CANNOT_APPLY as error:
                # Of an error that is not ours only the name: its message may quote the event.
                reason = str(error) if isinstance(error, EsError) else type(error).__name__
                parked.append(Parked(recorded.position, recorded.stream, reason))
                self._parked_streams.add(recorded.stream)
        return operations, parked

    def _apply(self, recorded: Recorded, event: Event, rows: dict[Key, Row | None]) -> Sequence[Operation]:
        if not self._projection.sees_rows:
            return self._projection.apply(recorded, event, None)
        key = self._projection.key_of(recorded, event)
        operations = self._projection.apply(recorded, event, None if key is None else rows.get(key))
        # The rows change only when all operations fit: an event that is parked has no effect.
        changed: dict[Key, Row | None] = {}
        for operation in operations:
            if operation.key in rows:
                before = changed.get(operation.key, rows[operation.key])
                changed[operation.key] = applied(before, operation)
        rows.update(changed)
        return operations

    def _rows_before(self, events: Sequence[Recorded]) -> dict[Key, Row | None]:
        """The rows that a run of events is about, as they are before it; None for a row that there is not."""
        keys: set[Key] = set()
        for recorded in events:
            with suppress(*_CANNOT_APPLY):  # parked when its turn comes
                key = self._projection.key_of(recorded, self._codec.decode(recorded))
                keys |= set() if key is None else {key}
        return dict.fromkeys(keys, None) | dict(self._rows_of(sorted(keys, key=str)))


class Filler:
    """Fills one generation. `generation` is how far it is."""

    def __init__(self, parts: Filling, generation: Generation) -> None:
        self.generation = generation
        self._parts = parts
        self._applier = self._new_applier()

    def fill(self, events: Sequence[Recorded], reached: Position) -> bool:
        """Apply events and move the checkpoint to `reached`; False, and nothing applied, when another filler was faster."""
        operations, parked = self._applier.translate(events)
        try:
            return self._apply(operations, parked, len(events), reached)
        except ValueError:  # the rows refuse an operation, such as a sum beyond 64 bits; nothing was applied
            self._applier = self._new_applier()
            return self._fill_one_by_one(events, reached)

    def _fill_one_by_one(self, events: Sequence[Recorded], reached: Position) -> bool:
        """Park the events whose operations the rows refuse."""
        for recorded in events:
            operations, parked = self._applier.translate([recorded])
            try:
                is_applied = self._apply(operations, parked, 1, recorded.position)
            except ValueError as error:
                parked = [Parked(recorded.position, recorded.stream, str(error))]
                is_applied = self._apply([], parked, 1, recorded.position)
                self._applier = self._new_applier()
            if not is_applied:
                return False
        return self._apply([], [], 0, reached)

    def _apply(
        self, operations: Sequence[Operation], parked: Sequence[Parked], events: int, reached: Position
    ) -> bool:
        for item in parked:
            self._parts.log.warning("event-parked", position=item.position, reason=item.error)
        moved = self._parts.read_model.apply(
            self._parts.projection,
            self.generation,
            operations,
            checkpoint=reached,
            events=events,
            parked=parked,
        )
        if moved is not None:
            self.generation = moved
        return moved is not None

    def _new_applier(self) -> Applier:
        parked = self._parts.read_model.parked(self._parts.projection, self.generation)
        return Applier(self._parts.projection, self._parts.codec, parked, rows_of=self._rows_of)

    def _rows_of(self, keys: Sequence[Key]) -> Mapping[Key, Row]:
        # Outside of the transaction that applies: only one filler gets past the checkpoint, so the rows stay as read.
        projection = self._parts.projection
        rows = self._parts.read_model.rows(projection, keys=keys, generation=self.generation) if keys else []
        return {_key(row[projection.key]): row for row in rows}


def _key(value: Value) -> Key:
    assert value is not None
    return value
