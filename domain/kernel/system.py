"""Events of the kernel itself, which any stream may hold or which have a stream of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar
from uuid import UUID

from domain.kernel.events import Event

SYSTEM_STREAM = "system"
ASSIGNMENTS = "created-"
"""The prefix of the streams that hold which instance a command created."""


def assignment_stream(aggregate: str, command_id: UUID) -> str:
    """The stream that holds the id of the instance of an aggregate that a command creates."""
    return f"{ASSIGNMENTS}{aggregate}-{command_id}"


@dataclass(frozen=True, slots=True)
class SystemClaimed(Event):
    """The store belongs to the system `system_id` (a UUID) from here on. The last one counts."""

    system_id: str
    type: ClassVar[str] = "system-claimed.v1"


@dataclass(frozen=True, slots=True)
class CommandRemembered(Event):
    """The command of this event was refused, or had nothing to change, and its sender relies on that answer.

    It changes no state. A repeat of the command gets the same answer for ever: the error, or without a `code` the
    version and position of this event. `kind` is that of the error.
    """

    code: str
    kind: str
    message: str
    hint: str
    type: ClassVar[str] = "command-remembered.v1"


@dataclass(frozen=True, slots=True)
class ReservationAbandoned(Event):
    """A fence: a late append under this reservation of a unique value conflicts. The value is released afterwards.

    It changes no state. The id of its command is the reservation id: so a stream knows it as it knows every command.
    """

    reservation_id: str
    type: ClassVar[str] = "reservation-abandoned.v1"


@dataclass(frozen=True, slots=True)
class IdAssigned(Event):
    """The command of this event creates the instance with this id, and no other one."""

    id: int
    type: ClassVar[str] = "id-assigned.v1"


EVENTS: tuple[type[Event], ...] = (SystemClaimed, CommandRemembered, ReservationAbandoned, IdAssigned)
