"""Fill a generation of a projection, the current one or a new one: from events to stored rows.

Promise: a batch of events and its checkpoint are applied in one transaction, so no event is applied twice or skipped.
An event that cannot be applied is parked, and so are later events of its stream. Refusal: it decides, publishes and
opens nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, cast

from adapters.log import Log
from domain.kernel.errors import Damaged, EsError, InvalidInput, UnknownEventType
from domain.kernel.events import Event, Recorded
from domain.kernel.history import History, Mark, verified
from domain.kernel.ports.codec import Codec
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.read_model import Generation, Parked, ReadModel
from domain.kernel.projection import Key, Merged, Operation, Projection, Row, applied, storable

_BUGS = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    NameError,
    RuntimeError,
    AssertionError,
)
"""What the code of another package raises for one event. It must not end the worker: the other projections need it."""
_NOT_APPLICABLE = (UnknownEventType, Damaged, InvalidInput, *_BUGS)
"""Errors of codec and projection about one event."""
NOT_STORABLE = (ValueError, TypeError, OverflowError, AttributeError)
"""Errors of a read model about the value of one event, such as a sum beyond 64 bits, or about what is no operation."""


BEHIND = "behind a parked event"
_UNDECODED = Event()


@dataclass(frozen=True)
class Filling:
    """The parts that fill a generation."""

    projection: Projection
    store: EventStore
    codec: Codec
    read_model: ReadModel
    now_us: Callable[[], int]
    log: Log
    code: str = ""
    """The behaviour of the projection, see `behaviour.py`."""
    home: Path | None = None
    """With it, another process reads and translates the events of a long rebuild: see `ahead.py`."""


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

    @property
    def has_parked(self) -> bool:
        return bool(self._parked_streams)

    def translate(self, events: Iterable[Recorded]) -> tuple[list[Operation], list[Parked]]:
        """The operations of events in order, and those to be parked. Takes the events one by one."""
        if self._projection.sees_rows:
            return self._translate_seeing([*events])
        operations: list[Operation] = []
        parked: list[Parked] = []
        apply, decoded, behind = self._projection.apply, self._decoded, self._parked_streams
        for recorded in events:
            if recorded.stream in behind:
                parked.append(_behind(recorded))
                continue
            try:
                operations += apply(recorded, decoded(recorded), None)
            except _NOT_APPLICABLE as error:
                parked.append(self.park(recorded, _reason(error)))
        return operations, parked

    def _translate_seeing(self, events: Sequence[Recorded]) -> tuple[list[Operation], list[Parked]]:
        """As `translate`, with one look at the stored rows for all events."""
        needs = [self._need(recorded) for recorded in events]
        found: dict[Key, Row | None] = dict.fromkeys(
            need.key for need in needs if isinstance(need, _Need) and need.key is not None
        )
        found.update(self._rows_of([*found]))
        operations: list[Operation] = []
        parked: list[Parked] = []
        for recorded, need in zip(events, needs, strict=True):
            if recorded.stream in self._parked_streams:
                parked.append(_behind(recorded))
                continue
            try:
                if isinstance(need, Exception):
                    raise need
                operations += self._apply_to(found, recorded, need)
            except _NOT_APPLICABLE as error:
                parked.append(self.park(recorded, _reason(error)))
        return operations, parked

    def park(self, recorded: Recorded, reason: str) -> Parked:
        self._parked_streams.add(recorded.stream)
        return Parked(recorded.position, recorded.stream, reason)

    def _decoded(self, recorded: Recorded) -> Event:
        return self._codec.decode(recorded) if self._projection.decodes else _UNDECODED

    def _need(self, recorded: Recorded) -> _Need | Exception:
        """The decoded event and the key of the row that it needs; or the error for which it is parked."""
        try:
            event = self._decoded(recorded)
            key = self._projection.key_of(recorded, event)
            # Checked: no read model could look another one up.
            return _Need(event, None if key is None else storable(key))
        except _NOT_APPLICABLE as error:
            return error

    def _apply_to(self, rows: dict[Key, Row | None], recorded: Recorded, need: _Need) -> Sequence[Operation]:
        row = None if need.key is None else rows[need.key]
        operations = self._projection.apply(recorded, need.event, row)
        # After all operations of the event: a parked event has no effect.
        changed: dict[Key, Row | None] = {}
        for operation in operations:
            if operation.key in rows:
                before = changed.get(operation.key, rows[operation.key])
                changed[operation.key] = applied(before, operation)
        rows.update(changed)
        return operations


class _Need(NamedTuple):
    """A decoded event, and the key of the row that its projection needs."""

    event: Event
    key: Key | None


def _behind(recorded: Recorded) -> Parked:
    return Parked(recorded.position, recorded.stream, BEHIND)


def not_storable(error: Exception) -> str:
    """Why an event is parked of which a value cannot be stored."""
    return str(error) if type(error) is ValueError else type(error).__name__


def rows_by_key(
    read_model: ReadModel, projection: Projection, generation: Generation, keys: Sequence[Key]
) -> Mapping[Key, Row]:
    rows = read_model.rows(projection, keys=keys, generation=generation) if keys else []
    return {cast(Key, row.pop(projection.key)): row for row in rows}


def _reason(error: Exception) -> str:
    """Why an event is parked. The text of an error of another program may quote the event: its type only."""
    return str(error) if isinstance(error, EsError) else type(error).__name__


@dataclass(frozen=True)
class _Batch:
    """Translated events, which one transaction stores. They are kept: if it fails, they are translated again."""

    events: Sequence[Recorded] | None
    """None if another process has read them."""
    count: int
    operations: Sequence[Operation] | Merged
    parked: Sequence[Parked]
    reached: History
    applier: Applier


class Filler:
    """Fills one generation. `generation` is its latest state.

    With a `writer`, a thread of its own, a batch is stored while the next one is translated.
    """

    def __init__(self, parts: Filling, generation: Generation, writer: Executor | None = None) -> None:
        self.generation = generation
        self._parts = parts
        self._writer = writer
        self._begun: tuple[_Batch, Future[Generation | None]] | None = None
        self._applier = self._new_applier()

    def of(self, generation: Generation) -> Filler:
        """A filler of the same parts for a generation that was changed meanwhile."""
        return Filler(self._parts, generation, self._writer)

    def fill(self, events: Iterable[Recorded], reached: History) -> bool:
        """Apply events and move the checkpoint to `reached`, the history with these events.

        Returns False if another filler moved the checkpoint first. The remaining events are not applied then.
        """
        return self.begin(events, lambda _: reached) and self.finish()

    def begin(self, events: Iterable[Recorded], reached: Callable[[Sequence[Recorded]], History]) -> bool:
        """As `fill`, but it returns while the batch is being stored. `reached` is told the events.

        The batch before is finished first: False is about that one.
        """
        taken: list[Recorded] = []
        operations, parked = self._applier.translate(_kept(events, taken))
        batch = _Batch(taken, len(taken), operations, parked, reached(taken), self._applier)
        if not self.finish():
            return False
        if batch.applier is not self._applier:  # since then other streams were parked
            operations, parked = self._applier.translate(taken)
            batch = replace(batch, operations=operations, parked=parked, applier=self._applier)
        self._begun = batch, self._stored(batch)
        return True

    def begin_rows(self, rows: Merged, events: int, last: Mark) -> bool:
        """As `begin`, for events that another process has translated. Begins nothing once an event is parked.

        Later events of its stream have to be parked too, and only this process knows that.
        """
        before = self.generation.history if self._begun is None else self._begun[0].reached
        if not self.finish():
            return False
        if not self.has_parked:
            batch = _Batch(None, events, rows, [], before.reach(last), self._applier)
            self._begun = batch, self._stored(batch)
        return True

    @property
    def has_parked(self) -> bool:
        """Whether an event of the generation is parked."""
        return self._applier.has_parked

    def finish(self) -> bool:
        """Wait until the batch that was begun is stored. False if another filler moved the checkpoint first."""
        if self._begun is None:
            return True
        (batch, storing), self._begun = self._begun, None
        try:
            moved = storing.result()
        except NOT_STORABLE as error:
            return self._fill_in_parts(batch, error)
        if moved is None:
            return False
        for item in batch.parked:
            self._parts.log.warning("event-parked", position=item.position, reason=item.error)
        self.generation = moved
        return True

    def _fill_in_parts(self, batch: _Batch, error: Exception) -> bool:
        """Halve a batch that could not be stored, until the event for which it failed is alone, and is parked."""
        reached = batch.reached
        events = self._read_again(batch) if batch.events is None else batch.events
        if not events:
            raise error
        # Nothing was applied. A new applier forgets the streams that were parked while these events were
        # translated: the next attempt parks them again.
        self._applier = self._new_applier()
        if len(events) == 1:
            parked = [self._applier.park(events[0], not_storable(error))]
            alone = replace(batch, operations=[], parked=parked, applier=self._applier)
            self._begun = alone, self._stored(alone)
            return self.finish()
        half = len(events) // 2
        between = events[half - 1]
        half_way = self.generation.history.reach(Mark(between.position, between.event_id))
        return self.fill(events[:half], half_way) and self.fill(events[half:], reached)

    def _read_again(self, batch: _Batch) -> Sequence[Recorded]:
        parts = self._parts
        prefixes = parts.projection.prefixes
        return [*parts.store.read_all(self.generation.checkpoint, batch.count, prefixes=prefixes)]

    def _stored(self, batch: _Batch) -> Future[Generation | None]:
        if self._writer is not None:
            return self._writer.submit(self._store, batch)
        stored: Future[Generation | None] = Future()
        try:
            stored.set_result(self._store(batch))
        except NOT_STORABLE as error:
            stored.set_exception(error)
        return stored

    def _store(self, batch: _Batch) -> Generation | None:
        return self._parts.read_model.apply(
            self._parts.projection,
            self.generation,
            batch.operations,
            reached=batch.reached,
            events=batch.count,
            parked=batch.parked,
        )

    def _new_applier(self) -> Applier:
        parked = self._parts.read_model.parked(self._parts.projection, self.generation)
        return Applier(self._parts.projection, self._parts.codec, parked, rows_of=self._rows_of)

    def _rows_of(self, keys: Sequence[Key]) -> Mapping[Key, Row]:
        # The rows with the batch before, and before the transaction that applies this one: that fails if another
        # filler has changed the rows since.
        if self._begun is not None:
            self._begun[1].exception()  # waits; `finish` raises it
        return rows_by_key(self._parts.read_model, self._parts.projection, self.generation, keys)


def _kept(events: Iterable[Recorded], taken: list[Recorded]) -> Iterator[Recorded]:
    """The events, each of which is added to `taken`."""
    for recorded in events:
        taken.append(recorded)
        yield recorded
