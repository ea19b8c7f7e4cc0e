"""Events and their envelope: ids, metadata and place in the store.

An event is a frozen dataclass with a wire name that never changes: `type: ClassVar[str] = "user-registered.v1"`.
A new shape gets a new version and an upcaster.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, get_type_hints
from uuid import UUID, uuid5

from domain.kernel.personal import Erased, Personal, PersonalText, Sealed, Unreadable, readable

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
    """

    command_id: UUID
    command: str
    correlation_id: UUID
    causation_id: UUID
    actor: str


@dataclass(frozen=True, slots=True)
class EventData:
    """An event to be stored: JSON bytes, with sealed personal fields."""

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
    """The id of a command's event number `index`, from 0. A retry has the same ids, so a store recognises them."""
    return uuid5(command_id, str(index))
