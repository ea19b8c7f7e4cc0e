"""The envelope: what is stored with every event, whatever the event says.

Domain events are frozen dataclasses with an explicit wire name that never changes:
`type: ClassVar[str] = "user-registered.v1"`. A new shape gets a new version and an upcaster.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, get_type_hints
from uuid import UUID, uuid5

from domain.kernel.personal import Erased, Personal, PersonalText, Sealed, readable

NO_STREAM = -1
"""Expected version of a stream that must not exist yet; the first event has version 0."""

Position = int
"""Place of an event in the store's single commit order. 0 is before the first event; opaque otherwise."""

BEGINNING: Position = 0


@dataclass(frozen=True)
class Event:
    """Base of all domain events."""

    type: ClassVar[str]


def personal_fields(event_class: type[Event]) -> tuple[str, ...]:
    """The fields that hold personal data: those declared as `PersonalText`."""
    hints = get_type_hints(event_class)
    return tuple(field.name for field in fields(event_class) if hints[field.name] == PersonalText)


def shown_fields(event: Event) -> dict[str, Any]:
    """An event's fields for showing: personal ones readable, or None once erased. None may be sealed."""
    values = {field.name: getattr(event, field.name) for field in fields(event)}
    return {
        name: readable(value) if isinstance(value, Personal | Sealed | Erased) else value
        for name, value in values.items()
    }


@dataclass(frozen=True, slots=True)
class Metadata:
    """Why an event exists. `command_id` makes repeats safe: the outcome of a command is in the stream.

    `correlation_id` is shared by everything that one request set in motion; `causation_id` is the
    command or event that directly caused this one. `actor` names who asked, without personal data
    (`uid:1000`, `process:erasures`). `command` is the wire name of the command.
    """

    command_id: UUID
    command: str
    correlation_id: UUID
    causation_id: UUID
    actor: str


@dataclass(frozen=True, slots=True)
class EventData:
    """An event ready to be stored: JSON bytes whose personal fields are sealed."""

    event_id: UUID
    type: str
    data: bytes
    metadata: bytes


@dataclass(frozen=True, slots=True)
class Recorded:
    """A stored event. `version` counts from 0 in its stream; `recorded_at_us` is UTC microseconds since 1970."""

    stream: str
    version: int
    position: Position
    recorded_at_us: int
    event_id: UUID
    type: str
    data: bytes
    metadata: bytes


def event_id(command_id: UUID, index: int) -> UUID:
    """The id of the `index`-th event of a command: the same on every retry, so a store can recognise it."""
    return uuid5(command_id, str(index))
