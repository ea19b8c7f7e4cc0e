"""User accounts: register, rename, change the e-mail address, delete, erase.

Promise: an account's whole life is the fold of its stream `user-<id>`. Personal data of a person is
only ever in that stream. Refusal: nothing here reads a clock, draws a number or knows a key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import ClassVar
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
    """The account is closed. Its data is kept until an erasure."""

    type: ClassVar[str] = "user-deleted.v1"


@dataclass(frozen=True, slots=True)
class UserErased(Event):
    """The fence of an erasure: every concurrent or later command on this stream conflicts and is refused."""

    basis: str
    type: ClassVar[str] = "user-erased.v1"


@dataclass(frozen=True, slots=True)
class ErasureCompleted(Event):
    """The key is destroyed and the claims are released."""

    type: ClassVar[str] = "erasure-completed.v1"


@dataclass(frozen=True, slots=True)
class RegistrationAbandoned(Event):
    """The fence before an expired registration's e-mail is freed: its late append must conflict."""

    reservation_id: str
    type: ClassVar[str] = "registration-abandoned.v1"


@dataclass(frozen=True, slots=True)
class EmailChangeAbandoned(Event):
    """The fence before an expired change's e-mail is freed: its late append must conflict."""

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


# --- state -----------------------------------------------------------------------------------


class Status(StrEnum):
    """What an account can be; the last three are also what a read model shows."""

    UNKNOWN = "unknown"  # no event yet, or a registration that was abandoned
    ACTIVE = "active"
    DELETED = "deleted"
    ERASED = "erased"


@dataclass(frozen=True, slots=True)
class User:
    """The state that decisions need, and no more."""

    status: Status = Status.UNKNOWN
    email: PersonalText = ERASED
    name: PersonalText = ERASED
    erasure_completed: bool = False
    abandoned: frozenset[str] = frozenset()


INITIAL = User()


def evolve(user: User, event: Event) -> User:
    """The next state. Total: an event that doesn't concern the state leaves it as it is."""
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
        case RegistrationAbandoned(reservation_id=lost) | EmailChangeAbandoned(reservation_id=lost):
            return replace(user, abandoned=user.abandoned | {lost})
    return user


# --- decisions -------------------------------------------------------------------------------


def decide(user: User, command: UserCommand) -> Sequence[Event] | Refusal | UserNotFound:
    """What happens, or which rule forbids it. No event means: it is so already."""
    match command:
        case RegisterUser():
            return _register(user, command)
        case AbandonReservation(reservation_id=reservation):
            return _abandon(user, str(reservation))
    if user.status is Status.UNKNOWN:
        return UserNotFound(command.user_id)
    match command:
        case EraseUser(basis=basis):
            return [] if user.status is Status.ERASED else [UserErased(basis)]
        case CompleteErasure():
            # Only what was begun is completed: a completion without its fence would hide a later erasure.
            begun = user.status is Status.ERASED
            return [ErasureCompleted()] if begun and not user.erasure_completed else []
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
    # The stream is new by construction. It can hold something only after an abandoned reservation,
    # or when this very command ran before, and that is recognised by its id before anything is decided.
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
        return []  # the end of the account is fence enough: a late append conflicts or is refused
    if user.status is Status.UNKNOWN:
        return [RegistrationAbandoned(reservation)]
    return [EmailChangeAbandoned(reservation)]


USER: Aggregate[User, UserCommand] = Aggregate(
    name="user", initial=INITIAL, evolve=evolve, decide=decide, events=EVENTS, commands=COMMANDS
)

# --- e-mail claims ---------------------------------------------------------------------------


def email_command(history: Sequence[tuple[Event, UUID]]) -> UUID | None:
    """The command that gave the account its present address; None when it has none any more.

    `history` is the stream, each event with the id of its command; sealed fields may stay sealed.
    The claim of that command is the one to keep, every other claim of the person is to be released.
    """
    current: UUID | None = None
    for event, command_id in history:
        match event:
            case UserRegistered() | UserEmailChanged():
                current = command_id
            case UserDeleted() | UserErased():
                return None
    return current
