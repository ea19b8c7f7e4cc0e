"""A stream as it was loaded to decide commands on it, and the events that were decided since.

Promise: a command is decided on the state after all events of the stream and after all events that were decided before
it. Each state is folded once, however many commands are decided. Refusal: nothing is stored here. The decided events
count as facts for the following commands only; if their append fails, drop the whole object.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Generic

from domain.kernel.aggregate import Aggregate, C, S
from domain.kernel.errors import (
    AnsweredError,
    ClaimLost,
    CommandIdReused,
    Damaged,
    EsError,
    Kind,
    PersonErased,
    PersonNotFound,
)
from domain.kernel.events import (
    BEGINNING,
    REMEMBERED,
    Event,
    EventData,
    Metadata,
    Position,
    Recorded,
    event_id,
    subjects_of,
)
from domain.kernel.kept_states import Known
from domain.kernel.orders import Done, Order, Outcome, digest_of
from domain.kernel.ports.codec import Codec, Keyring
from domain.kernel.system import CommandRemembered, ReservationAbandoned

_VERSION = attrgetter("version")
_OF_THE_KERNEL = (CommandRemembered.type, ReservationAbandoned.type)
"""Types of events that change no state of an aggregate."""
_LASTING = (Kind.REFUSED, Kind.INVALID, Kind.NOT_FOUND)
"""Kinds of errors that are answers of a rule. The others are about a part that may recover."""


@dataclass(frozen=True, slots=True)
class Decided:
    """The events of a command, and its outcome once they are stored."""

    events: list[EventData]
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class _DecidedBy:
    """A command that was decided since the stream was loaded. `version` is that of its last event."""

    version: int
    command: str
    digest: str
    named: Collection[int]
    """The persons that its last event names."""
    error: EsError | None


def remembered(error: EsError | None) -> CommandRemembered:
    """The event that keeps an answer: a refusal, or that nothing had to change."""
    wire = error.to_wire() if error else {"code": "", "kind": "", "message": "", "hint": ""}
    return CommandRemembered(**wire)


def remembered_error(codec: Codec, recorded: Recorded) -> EsError | None:
    """The refusal that an event keeps; None if nothing had to change."""
    event = codec.decode(recorded)
    assert isinstance(event, CommandRemembered)
    if not event.code:
        return None
    try:
        return AnsweredError(event.code, Kind(event.kind), event.message, event.hint)
    except ValueError as error:
        raise Damaged(
            "event store", f"event {recorded.version} of a stream names no kind of error"
        ) from error


class LoadedStream(Generic[S, C]):
    __slots__ = (
        "_aggregate",
        "_codec",
        "_damage",
        "_decided",
        "_decided_by",
        "_found",
        "_history",
        "_is_indexed",
        "_keyring",
        "_known",
        "_states",
        "_subjects",
        "_unreadable",
        "expected_version",
        "is_recent",
        "version",
    )

    def __init__(
        self,
        aggregate: Aggregate[S, C],
        codec: Codec,
        keyring: Keyring,
        *,
        known: Known[S],
        history: Sequence[Recorded],
        damage: Damaged | None = None,
        subjects: Collection[int] = (),
        is_recent: bool = False,
    ) -> None:
        """`history` are the events after the known ones; of a damaged stream, those that can be read.

        `subjects` are the persons that they name. `is_recent`: the events were remembered, and more may follow.
        """
        self._aggregate = aggregate
        self._codec = codec
        self._keyring = keyring
        self._known = known
        self._history = history
        self._damage = damage
        self._subjects = known.subjects.union(subjects)
        self._found: Mapping[int, Recorded] = {}
        self.is_recent = is_recent
        self._unreadable: tuple[int, EsError] | None = None
        """The last version with damaged metadata."""
        self._is_indexed = False
        self._states: dict[bool, tuple[S | EsError, int]] = {}
        """By `Order.reads`: the state and the number of decided events in it; the error if it cannot be folded."""
        self._decided: list[Event] = []
        self._decided_by: dict[int, _DecidedBy] = {}
        """What was decided, by command id."""
        self.expected_version = history[-1].version if history else known.version
        self.version = self.expected_version
        """The version of the stream once the decided events are stored."""

    # --- repeated commands ---------------------------------------------------------------------

    def repeated(self, orders: Sequence[Order[C]]) -> Collection[int]:
        """The versions of the first results of commands that are not in the history; `found` needs their events."""
        if not self._known.commands or self._damage is not None:
            return ()
        commands = self._commands()
        begin = self._history[0].version if self._history else self.version + 1
        versions = {commands.get(order.metadata.command_id.int, begin) for order in orders}
        return [version for version in versions if version < begin]

    def found(self, events: Mapping[int, Recorded]) -> None:
        """Take the events of repeated commands, by version."""
        self._found = events

    def _commands(self) -> dict[int, int]:
        if not self._is_indexed:
            self._is_indexed = True
            for recorded in self._history:
                try:
                    self._known.commands[self._codec.metadata(recorded).command_id.int] = recorded.version
                except Damaged as error:
                    self._unreadable = recorded.version, error
        return self._known.commands

    def _first_result(self, order: Order[C]) -> Outcome | None:
        if not self._decided_by and not self._history and not self._known.commands:
            return None
        command_id = order.metadata.command_id
        if command_id.int in self._decided_by:
            first = self._decided_by[command_id.int]
            if self._is_other(order, first.command, first.digest, first.named):
                return CommandIdReused(str(command_id))
            return first.error or Done(first.version, BEGINNING, is_repeat=True)
        version = self._commands().get(command_id.int, -1)
        if order.reads and self._unreadable is not None and version < self._unreadable[0]:
            raise self._unreadable[1]  # it may be the event of this command
        if version < 0:
            return None
        recorded = self._at(version)
        first_metadata = self._codec.metadata(recorded)
        named = self._codec.subjects(recorded) if order.people is None else ()
        if self._is_other(order, first_metadata.command, first_metadata.digest, named):
            return CommandIdReused(str(command_id))
        if recorded.type == CommandRemembered.type and (error := remembered_error(self._codec, recorded)):
            return error
        return Done(version, recorded.position, is_repeat=True)

    def _is_other(self, order: Order[C], command: str, digest: str, named: Collection[int]) -> bool:
        """Whether the first command with the order's id is another one. Its digest may not be known, or no more."""
        if command != order.metadata.command:
            return True
        own = digest_of(order, self._keyring, named) if digest else ""
        return bool(own) and own != digest

    def _at(self, version: int) -> Recorded:
        index = bisect_left(self._history, version, key=_VERSION)
        if index < len(self._history) and self._history[index].version == version:
            return self._history[index]
        if version not in self._found:
            raise Damaged("event store", f"event {version} of a stream is missing")
        return self._found[version]

    # --- decisions -----------------------------------------------------------------------------

    def decide(self, order: Order[C]) -> Decided | Outcome:
        """The events to append for a command with its outcome once they are stored, or its outcome.

        A `Done` with a version above `expected_version` has no position before the decided events are stored.
        """
        try:
            # A command that reads no data decides also on what is left of a truncated stream.
            if self._damage is not None and (order.reads or not self._history):
                raise self._damage
            first_result = self._first_result(order)
            if first_result is not None:
                return first_result
            if self._has_lost_claim(order):
                return ClaimLost()
            decided = order.verdict or self._aggregate.decide(
                self._state(order.person, reads=order.reads), order.command
            )
            decided = decided if isinstance(decided, EsError) else self._storable(decided)
            error = decided if isinstance(decided, EsError) else None
            if error is not None and self._damage is not None:
                return self._damage
            if isinstance(decided, EsError) or not decided:
                if not order.remembers or (error is not None and error.kind not in _LASTING):
                    return error or Done(self.version, self._position, is_unchanged=True)
                decided = [remembered(error)]
            is_unchanged = isinstance(decided[0], CommandRemembered)
            events = self._encoded(order, decided, error)
            return Decided(events, error or Done(self.version, BEGINNING, is_unchanged=is_unchanged))
        except EsError as error:  # of this command only: the others continue
            return error

    def _storable(self, decided: Sequence[Event]) -> Sequence[Event] | EsError:
        """The events; a refusal if a person that they name is erased, or is not known."""
        try:
            for event in decided:
                for person in subjects_of(event):
                    self._keyring.need(person)
        except (PersonErased, PersonNotFound) as error:
            return error
        return decided

    def _has_lost_claim(self, order: Order[C]) -> bool:
        """Whether another command may have the unique values of the order by now: see ADR 0018."""
        if order.held_at is not None and order.held_at != self.version:
            return True
        if not order.reservations:
            return False
        commands = self._commands()
        if self._unreadable is not None:
            raise self._unreadable[1]  # it may be the fence
        return any(id_.int in commands for id_ in order.reservations)

    @property
    def _position(self) -> Position:
        return self._history[-1].position if self._history else self._known.position

    def _encoded(self, order: Order[C], decided: Sequence[Event], error: EsError | None) -> list[EventData]:
        command_id = order.metadata.command_id
        named = subjects_of(decided[-1])
        digest = digest_of(order, self._keyring, named)
        metadata = order.metadata
        if digest:  # not by `replace`, which takes several times as long
            metadata = Metadata(
                command_id,
                metadata.command,
                metadata.correlation_id,
                metadata.causation_id,
                metadata.actor,
                digest,
            )
        is_answer = isinstance(decided[0], CommandRemembered)
        events = [
            self._codec.encode(
                event,
                event_id=event_id(command_id, index),
                subject=order.person,
                metadata=metadata,
                sealer=self._keyring,
            )
            for index, event in enumerate(decided, REMEMBERED if is_answer else 0)
        ]
        # From here on nothing fails: the following commands see these events.
        self._decided += () if is_answer else decided
        if people := {person for event in decided for person in subjects_of(event)}:
            self._subjects |= people
        self.version += len(events)
        self._decided_by[command_id.int] = _DecidedBy(self.version, metadata.command, digest, named, error)
        return events

    def _state(self, person: int | None, *, reads: bool) -> S:
        """The state. A command that reads no data gets one of outlines: nothing can be unreadable in it."""
        if reads not in self._states:
            try:
                self._states[reads] = self._folded(person, reads=reads), 0
            except EsError as error:
                self._states[reads] = error, 0
        state, count = self._states[reads]
        if isinstance(state, EsError):
            raise state
        if count < len(self._decided):
            for event in self._decided[count:]:
                state = self._aggregate.evolve(state, event)
            self._states[reads] = state, len(self._decided)
        return state

    def _folded(self, person: int | None, *, reads: bool) -> S:
        state, evolve = self._known.state, self._aggregate.evolve
        for recorded in self._history:
            if recorded.type in _OF_THE_KERNEL:
                continue
            if reads:
                state = evolve(state, self._codec.decode(recorded, subject=person, opener=self._keyring))
            elif (outline := self._codec.outline(recorded)) is not None:
                state = evolve(state, outline)
        return state

    # --- what to keep --------------------------------------------------------------------------

    @property
    def whole(self) -> Sequence[Recorded] | None:
        """The events from version 0 up to those that are decided; None if some of them were not read."""
        is_whole = self._damage is None and len(self._history) == self.expected_version + 1
        return self._history if is_whole else None

    def known(self, person: int | None) -> Known[S] | None:
        """What the events that were read tell, before anything is decided; None if some cannot be read."""
        if self._damage is not None:
            return None
        commands = self._commands()
        try:
            state = self._state(person, reads=True)
        except EsError:
            return None
        if self._unreadable is not None:
            return None
        last = self._history[-1].event_id if self._history else self._known.event_id
        return Known(state, commands, self.version, self._position, last, self._subjects)

    def known_after(self, person: int | None, last: EventData, position: Position) -> Known[S] | None:
        """The same after the decided events were stored, of which `last` is the last one, at `position`."""
        known = self.known(person)
        if known is None:
            return None
        known.commands.update({id_: first.version for id_, first in self._decided_by.items()})
        return replace(known, position=position, event_id=last.event_id)
