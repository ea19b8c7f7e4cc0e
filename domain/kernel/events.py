"""Events and their envelope: ids, metadata and place in the store.

An event is a frozen dataclass with a wire name that never changes: `type: ClassVar[str] = "user-registered.v1"`.
A new shape gets a new version and an upcaster.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, fields
from hashlib import sha256
from typing import Any, ClassVar, NamedTuple, get_type_hints
from uuid import UUID, uuid5

from domain.kernel.personal import (
    Erased,
    Personal,
    PersonalText,
    Sealed,
    Unreadable,
    readable,
    subject_fields,
)

NO_STREAM = -1
"""The expected version of a stream that must not exist. The first event of a stream has version 0."""

Position = int
"""The place of an event in the store's single commit order. 0 is before the first event; the order has gaps."""

BEGINNING: Position = 0


@dataclass(frozen=True)
class Event:
    """Base of all domain events."""

    type: ClassVar[str]


def personal_fields(event_class: type[Event]) -> tuple[str, ...]:
    """The names of the fields that hold personal data: those declared as `PersonalText`."""
    hints = get_type_hints(event_class)
    return tuple(field.name for field in fields(event_class) if hints[field.name] == PersonalText)


def subjects_of(event: Event) -> Set[int]:
    """The persons whose data an event holds, by the `Of` of its fields."""
    named = subject_fields(type(event))
    return {getattr(event, field) for field in named.values()} if named else _NO_ONE


_NO_ONE: frozenset[int] = frozenset()


def shown_fields(event: Event) -> dict[str, Any]:
    """The fields of an opened event as JSON values; erased and unreadable ones are None. Raises TypeError for a sealed field."""
    values = {field.name: getattr(event, field.name) for field in fields(event)}
    return {
        name: readable(value) if isinstance(value, Personal | Sealed | Erased | Unreadable) else value
        for name, value in values.items()
    }


@dataclass(frozen=True, slots=True)
class Metadata:
    """The cause of an event.

    `command_id` and `command` are the id and the wire name of its command. `correlation_id` is the same for all
    commands and events that follow from one request. `causation_id` is the command or event that directly caused
    this one. `actor` names the sender without personal data: `uid:1000`, `process:erasures`.
    `digest` tells whether a repeated command id came with the same input: see `orders.py`. Empty: not known.
    """

    command_id: UUID
    command: str
    correlation_id: UUID
    causation_id: UUID
    actor: str
    digest: str = ""


@dataclass(frozen=True, slots=True)
class EventData:
    """An event to be stored: JSON bytes, with sealed personal fields."""

    event_id: UUID
    type: str
    data: bytes
    metadata: bytes


class Recorded(NamedTuple):
    """A stored event. `version` counts from 0 in its stream; `recorded_at_us` is UTC microseconds since 1970.

    A named tuple, because a rebuild makes millions of them: it is made five times as fast as a frozen dataclass.
    """

    stream: str
    version: int
    position: Position
    recorded_at_us: int
    id_bytes: bytes
    type: str
    data: bytes
    metadata: bytes

    @property
    def event_id(self) -> UUID:
        """The event id. One of another length is damaged: its event must not hide the others of its page."""
        return UUID(bytes=self.id_bytes.ljust(16, b"\0")[:16])


REMEMBERED = -1
"""The index of the event that remembers a command's answer. A store would take an event with the id of another for a
retry of it, so a late append of the command must not have the id of its remembered refusal."""
_TIME_ORDERED = 7
_LOW_BITS = (1 << 62) - 1


def event_id(command_id: UUID, index: int) -> UUID:
    """The id of a command's event number `index`, from 0. A retry has the same ids, so a store recognises them.

    The event id of a time-ordered command id (version 7, RFC 9562) keeps its order: the time of the command id, and 62
    bits of a hash of the whole id and the index. Ids of another command have another hash, also if a caller made many in
    one fraction of a millisecond: a million ids with one time collide with a probability of 10^12 / 2^63, about one in
    ten million. A collision would be refused (`DuplicateEventId`), and another command id succeeds.

    An id of another version has no order to keep. Its event ids are what they always were: stores hold them.
    """
    if command_id.version != _TIME_ORDERED:
        return former_event_id(command_id, index)
    hashed = int.from_bytes(sha256(b"%s%d" % (command_id.bytes, index)).digest()[:8], "big")
    return UUID(int=command_id.int & ~_LOW_BITS | hashed & _LOW_BITS)


def former_event_id(command_id: UUID, index: int) -> UUID:
    """The event id that earlier versions derived from every command id."""
    return uuid5(command_id, str(index))
