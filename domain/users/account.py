"""The aggregate of user accounts: register, rename, change the e-mail address, delete, erase.

Promise: the state of an account is the fold of its stream `user-<id>`. Refusal: it reads no clock, draws no random
number and knows no key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, ClassVar
from uuid import UUID

from domain.kernel.aggregate import Aggregate
from domain.kernel.errors import Refusal
from domain.kernel.events import Event
from domain.kernel.personal import ERASED, PersonalText
from domain.users.commands import (
    COMMANDS,
    AbandonReservation,
    ChangeEmail,
    CompleteErasure,
    DeleteUser,
    EraseUser,
    RegisterUser,
    RenameUser,
    UserCommand,
    basis_of_text,
)
from domain.users.errors import ReservationLost, UserIsDeleted, UserIsErased, UserNotFound

# --- events ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UserRegistered(Event):
    email: PersonalText
    name: PersonalText
    type: ClassVar[str] = "user-registered.v1"


@dataclass(frozen=True, slots=True)
class UserRenamed(Event):
    name: PersonalText
    type: ClassVar[str] = "user-renamed.v1"


@dataclass(frozen=True, slots=True)
class UserEmailChanged(Event):
    email: PersonalText
    type: ClassVar[str] = "user-email-changed.v1"


@dataclass(frozen=True, slots=True)
class UserDeleted(Event):
    """The account is closed. Its data stays until an erasure."""

    type: ClassVar[str] = "user-deleted.v1"


@dataclass(frozen=True, slots=True)
class UserErased(Event):
    """An erasure is decided. It fences the stream: concurrent appends conflict, later commands are refused.

    `basis` is a code of `BASES`, or `other` for a text of an earlier version.
    """

    basis: str
    type: ClassVar[str] = "user-erased.v2"


@dataclass(frozen=True, slots=True)
class ErasureCompleted(Event):
    """The data key is destroyed, the claims are released, and no dead letter holds data of the person.

    `letters` is the number of dead letters, or requests in them, that were removed for it.
    """

    letters: int
    type: ClassVar[str] = "erasure-completed.v2"


@dataclass(frozen=True, slots=True)
class RegistrationAbandoned(Event):
    """A fence: a late append of an expired registration conflicts. Its e-mail address is released afterwards."""

    reservation_id: str
    type: ClassVar[str] = "registration-abandoned.v1"


@dataclass(frozen=True, slots=True)
class EmailChangeAbandoned(Event):
    """A fence: a late append of an expired change conflicts. Its e-mail address is released afterwards."""

    reservation_id: str
    type: ClassVar[str] = "email-change-abandoned.v1"


EVENTS: tuple[type[Event], ...] = (
    UserRegistered,
    UserRenamed,
    UserEmailChanged,
    UserDeleted,
    UserErased,
    ErasureCompleted,
    RegistrationAbandoned,
    EmailChangeAbandoned,
)

ERASING = (UserErased.type, "user-erased.v1")
"""The types of the event that decides an erasure, of all versions."""

CLOSING = (UserDeleted.type, *ERASING)
"""The types of events after which an account has no e-mail address."""


def _user_erased_v1(data: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    # The basis was free text: what it said is not shown again.
    return UserErased.type, data | {"basis": basis_of_text(data["basis"])}


def _erasure_completed_v1(data: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    # Removed dead letters were not counted.
    return ErasureCompleted.type, data | {"letters": 0}


# --- state -----------------------------------------------------------------------------------


class Status(StrEnum):
    """The status of an account. Read models show the last three."""

    UNKNOWN = "unknown"  # without events, or with an abandoned registration
    ACTIVE = "active"
    DELETED = "deleted"
    ERASED = "erased"


@dataclass(frozen=True, slots=True)
class User:
    """The state that decisions need."""

    status: Status = Status.UNKNOWN
    email: PersonalText = ERASED
    name: PersonalText = ERASED
    erasure_completed: bool = False
    abandoned: frozenset[str] = frozenset()


INITIAL = User()


def evolve(user: User, event: Event) -> User:
    """Return the state after an event. An event that does not concern the state leaves it as it is."""
    match event:
        case UserRegistered(email=email, name=name):
            return replace(user, status=Status.ACTIVE, email=email, name=name)
        case UserRenamed(name=name):
            return replace(user, name=name)
        case UserEmailChanged(email=email):
            return replace(user, email=email)
        case UserDeleted():
            return replace(user, status=Status.DELETED)
        case UserErased():
            return replace(user, status=Status.ERASED, email=ERASED, name=ERASED)
        case ErasureCompleted():
            return replace(user, erasure_completed=True)
        case RegistrationAbandoned(reservation_id=abandoned) | EmailChangeAbandoned(reservation_id=abandoned):
            return replace(user, abandoned=user.abandoned | {abandoned})
    return user


# --- decisions -------------------------------------------------------------------------------


def decide(user: User, command: UserCommand) -> Sequence[Event] | Refusal | UserNotFound:
    """Return the events of a command, none if nothing has to change, or the error that refuses it."""
    match command:
        case RegisterUser():
            return _register(user, command)
        case AbandonReservation(reservation_id=reservation):
            return _abandon(user, str(reservation))
    if user.status is Status.UNKNOWN and not (isinstance(command, EraseUser) and command.is_known):
        return UserNotFound(command.user_id)
    match command:
        case EraseUser(basis=basis):
            return [] if user.status is Status.ERASED else [UserErased(basis)]
        case CompleteErasure(letters=letters):
            # Never before `UserErased`: the erasure that follows would count as completed already.
            is_decided = user.status is Status.ERASED
            return [ErasureCompleted(letters)] if is_decided and not user.erasure_completed else []
    if user.status is Status.ERASED:
        return UserIsErased(command.user_id)
    match command:
        case DeleteUser():
            return [] if user.status is Status.DELETED else [UserDeleted()]
    if user.status is Status.DELETED:
        return UserIsDeleted(command.user_id)
    match command:
        case RenameUser(name=name):
            return [] if name == user.name else [UserRenamed(name)]
        case ChangeEmail():
            return _change_email(user, command)


def _register(user: User, command: RegisterUser) -> Sequence[Event] | Refusal:
    # The id is new. If its stream has events, they come from an abandoned reservation: a retry of this command is
    # recognised by its command id before anything is decided.
    if user != INITIAL or command.reservation_id is None:
        return ReservationLost()
    return [UserRegistered(command.email, command.name)]


def _change_email(user: User, command: ChangeEmail) -> Sequence[Event] | Refusal:
    if command.email == user.email:
        return []
    if command.reservation_id is None or str(command.reservation_id) in user.abandoned:
        return ReservationLost()
    return [UserEmailChanged(command.email)]


def _abandon(user: User, reservation: str) -> Sequence[Event]:
    if reservation in user.abandoned:
        return []
    if user.status in (Status.DELETED, Status.ERASED):
        return []  # the end of the account is a fence: a late append conflicts and is then refused
    if user.status is Status.UNKNOWN:
        return [RegistrationAbandoned(reservation)]
    return [EmailChangeAbandoned(reservation)]


USER: Aggregate[User, UserCommand] = Aggregate(
    name="user",
    initial=INITIAL,
    evolve=evolve,
    decide=decide,
    events=EVENTS,
    commands=COMMANDS,
    is_person=True,
    upcasters={"user-erased.v1": _user_erased_v1, "erasure-completed.v1": _erasure_completed_v1},
)

# --- e-mail claims ---------------------------------------------------------------------------


def email_command(history: Sequence[tuple[Event, UUID]]) -> UUID | None:
    """The id of the command that set the account's current e-mail address; None if it has no address.

    `history` is the stream, each event with the id of its command. Its fields may be sealed. The claim of that
    command is the user's only valid one.
    """
    current: UUID | None = None
    for event, command_id in history:
        match event:
            case UserRegistered() | UserEmailChanged():
                current = command_id
            case UserDeleted() | UserErased():
                return None
    return current
