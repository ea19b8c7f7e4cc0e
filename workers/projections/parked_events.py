"""Parked events of a generation: listed by stream, retried, and dropped.

Promise: the parked events of a stream are applied in their order, each in one transaction with taking it off the list.
A projector, another retry or the end of a rebuild meanwhile makes the attempt begin again, so nothing is overtaken or
applied twice. Refusal: the checkpoint is not moved.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from domain.kernel.errors import Damaged, PartUnavailable
from domain.kernel.events import Position, Recorded
from domain.kernel.ports.codec import Codec
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.read_model import Generation, Parked, ReadModel
from domain.kernel.projection import Operation, Projection
from workers.projections.filling import BEHIND, NOT_STORABLE, Applier, not_storable, rows_by_key

_PATIENCE_S = 3.0
"""How long a change is attempted while a projector moves the checkpoint. It takes some milliseconds."""
_MISSING = "the event store does not have this event any more"


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of the parked events of a stream. `error` is that of the first one that is left, if one is."""

    stream: str
    applied: int
    left: int
    error: str | None


class _Try(NamedTuple):
    """The events of one attempt, in order; then those that are not attempted, the first with its error."""

    events: Sequence[Recorded]
    rest: Sequence[Parked]


class ParkedEvents:
    def __init__(
        self,
        projection: Projection,
        *,
        store: EventStore,
        codec: Codec,
        read_model: ReadModel,
        now_us: Callable[[], int],
        monotonic_s: Callable[[], float] = time.monotonic,
        generation: int | None = None,
        code: str = "",
    ) -> None:
        """They are those of the `generation` with this number, or of the current one.

        A retry records that the current one is filled by `code`.
        """
        self._code = code
        self._number = generation
        self.projection = projection
        self._store = store
        self._codec = codec
        self._read_model = read_model
        self._now_us = now_us
        self._monotonic_s = monotonic_s
        self._load()

    def _load(self) -> None:
        self.generation = self._stored()
        self._streams: dict[str, list[Parked]] = {}
        for parked in self._read_model.parked(self.projection, self.generation):
            self._streams.setdefault(parked.stream, []).append(parked)

    def _stored(self) -> Generation:
        if self._number is None:
            return self._read_model.prepare(self.projection, now_us=self._now_us())
        for each in self._read_model.generations(self.projection):
            if each.number == self._number:
                return each
        raise PartUnavailable(
            "read models", f"generation {self._number} of {self.projection.name} was removed"
        )

    @property
    def streams(self) -> Mapping[str, Sequence[Parked]]:
        """The parked events of each stream in order, by stream; the streams in order of their first parked event."""
        return self._streams

    def at(self, position: Position) -> Parked | None:
        found = (each for parked in self._streams.values() for each in parked if each.position == position)
        return next(found, None)

    def event(self, parked: Parked) -> Recorded | None:
        """The event as stored; None if the store does not have it any more."""
        for recorded in self._store.read_all(parked.position - 1, 1, prefixes=[parked.stream]):
            if (recorded.position, recorded.stream) == (parked.position, parked.stream):
                return recorded
        return None

    # --- retry -----------------------------------------------------------------------------------

    def retry(self, stream: str) -> Retried | None:
        """Apply the parked events of a stream until one cannot be applied. None if none is parked."""
        self._record_code()
        count = len(self._streams.get(stream, ()))
        end_s = self._monotonic_s() + _PATIENCE_S
        while parked := self._streams.get(stream):
            try:
                attempt = self._attempt(stream, parked)
            except Damaged as error:  # of this stream: others can be retried
                return Retried(stream, 0, len(parked), str(error))
            if self._apply(stream, attempt):
                left = self._streams.get(stream, [])
                return Retried(stream, max(count - len(left), 0), len(left), left[0].error if left else None)
            self._start_over(end_s)
        # Another retry has applied them, or a rebuild, since they were listed.
        return Retried(stream, 0, 0, None) if count else None

    def _record_code(self) -> None:
        found = self.generation
        if self._number is None and found.filled_by != self._code:
            self._read_model.adopt(self.projection, found, code=self._code, now_us=self._now_us())

    def _attempt(self, stream: str, parked: Sequence[Parked]) -> _Try:
        """The parked events as stored, up to one that the store has no more."""
        stored: dict[Position, Recorded] = {}
        for recorded in self._store.read_stream(stream, backwards=True):  # they are its last ones
            if recorded.position < parked[0].position:
                break
            stored[recorded.position] = recorded
        missing = next((n for n, each in enumerate(parked) if each.position not in stored), len(parked))
        return _Try(
            [stored[each.position] for each in parked[:missing]],
            [replace(each, error=BEHIND if n else _MISSING) for n, each in enumerate(parked[missing:])],
        )

    def _apply(self, stream: str, attempt: _Try) -> bool:
        """Apply the events of a stream in order. False if the generation was changed meanwhile: then start over."""
        applier = Applier(
            self.projection,
            self._codec,
            (),
            rows_of=lambda keys: rows_by_key(self._read_model, self.projection, self.generation, keys),
        )
        operations, again = applier.translate(attempt.events)
        rest = [*again, *(replace(each, error=BEHIND) for each in attempt.rest)] if again else attempt.rest
        try:
            return self._change(stream, operations, rest)
        except NOT_STORABLE as error:
            return self._apply_in_parts(stream, attempt, error)

    def _apply_in_parts(self, stream: str, attempt: _Try, error: Exception) -> bool:
        """Halve events of which one cannot be stored: those before it are applied, and it stays with the later ones."""
        events = attempt.events
        if len(events) == 1:
            failed = Parked(events[0].position, stream, not_storable(error))
            return self._change(stream, [], [failed, *(replace(each, error=BEHIND) for each in attempt.rest)])
        if not events:
            raise error
        half = len(events) // 2
        later = [Parked(each.position, stream, BEHIND) for each in events[half:]]
        if not self._apply(stream, _Try(events[:half], [*later, *attempt.rest])):
            return False
        if self._streams[stream][0].position != events[half].position:
            return True  # one of the first half failed
        return self._apply(stream, _Try(events[half:], attempt.rest))

    # --- drop ------------------------------------------------------------------------------------

    def drop(self, position: Position) -> Parked | None:
        """Take an event off the list without applying it. None if it is not parked. Later ones wait for a retry."""
        end_s = self._monotonic_s() + _PATIENCE_S
        while dropped := self.at(position):
            others = [each for each in self._streams[dropped.stream] if each.position != position]
            if others and others[0].position > position:
                others[0] = replace(others[0], error=f"behind event {position}, which was dropped")
            if self._change(dropped.stream, [], others):
                return dropped
            self._start_over(end_s)
        return None

    # --- the transaction -------------------------------------------------------------------------

    def _change(self, stream: str, operations: Sequence[Operation], left: Sequence[Parked]) -> bool:
        """Apply operations and leave only `left` of the stream parked. False if the generation was changed meanwhile."""
        before = self._streams[stream]
        kept = {each.position for each in left}
        changed = self._read_model.change_parked(
            self.projection,
            self.generation,
            operations,
            removed=[each.position for each in before if each.position not in kept],
            parked=[each for each in left if each not in before],
        )
        if changed is None:
            return False
        self.generation = changed
        if left:
            self._streams[stream] = [*left]
        else:
            del self._streams[stream]
        return True

    def _start_over(self, end_s: float) -> None:
        if self._monotonic_s() > end_s:
            raise Busy(self.projection.name)
        self._load()


class Busy(PartUnavailable):
    """A projector moved the checkpoint before each attempt."""

    def __init__(self, projection: str) -> None:
        super().__init__(
            f"the {projection} projection",
            "it applies new events so fast that no parked event could be changed in between",
            "Nothing was changed for these events. Retry when fewer commands come.",
        )
