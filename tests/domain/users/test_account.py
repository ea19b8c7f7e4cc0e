"""User accounts: every path of `decide` and `evolve`, and the command that set the address."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.kernel.errors import InvalidInput
from domain.kernel.events import Event
from domain.kernel.personal import ERASED, Personal, Sealed
from domain.users.account import (
    EVENTS,
    INITIAL,
    USER,
    EmailChangeAbandoned,
    ErasureCompleted,
    RegistrationAbandoned,
    Status,
    User,
    UserDeleted,
    UserEmailChanged,
    UserErased,
    UserRegistered,
    UserRenamed,
    decide,
    email_command,
    evolve,
)
from domain.users.commands import (
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
from tests.support.spec import Aggregate

users = Aggregate(INITIAL, evolve, decide)

ID = 4242
RESERVATION, OTHER_RESERVATION = UUID(int=1), UUID(int=2)
ADA, GRACE = Personal("Ada"), Personal("Grace")
ADA_MAIL, GRACE_MAIL = Personal("ada@example.com"), Personal("grace@example.com")

registered = UserRegistered(ADA_MAIL, ADA)
renamed = UserRenamed(GRACE)
moved = UserEmailChanged(GRACE_MAIL)
deleted = UserDeleted()
erased = UserErased("Art. 17")
completed = ErasureCompleted()
registration_abandoned = RegistrationAbandoned(str(RESERVATION))
change_abandoned = EmailChangeAbandoned(str(RESERVATION))
other_abandoned = EmailChangeAbandoned(str(OTHER_RESERVATION))

register = RegisterUser(ID, ADA_MAIL, ADA, RESERVATION)
rename = RenameUser(ID, GRACE)
change_email = ChangeEmail(ID, GRACE_MAIL, RESERVATION)
delete = DeleteUser(ID)
erase = EraseUser(ID, "Art. 17")
complete = CompleteErasure(ID)
abandon = AbandonReservation(ID, RESERVATION)


# --- register --------------------------------------------------------------------------------


def test_a_registration_with_a_reservation_registers() -> None:
    # A retry does not come to `decide`: it is recognised by its command id.
    users.given().when(register).then(registered, again=ReservationLost())


def test_a_registration_without_a_reservation_must_reserve_first() -> None:
    users.given().when(RegisterUser(ID, ADA_MAIL, ADA)).then(ReservationLost())


@pytest.mark.parametrize(
    "past",
    [
        [registration_abandoned],
        [RegistrationAbandoned(str(OTHER_RESERVATION))],
        [registered],
        [registered, deleted],
        [registered, erased, completed],
    ],
    ids=["its reservation abandoned", "another abandoned", "registered", "deleted", "erased"],
)
def test_a_registration_on_a_stream_with_events_must_reserve_again(past: Sequence[Event]) -> None:
    users.given(*past).when(register).then(ReservationLost())


# --- rename ----------------------------------------------------------------------------------


def test_a_user_is_renamed() -> None:
    users.given(registered).when(rename).then(renamed)


def test_renaming_to_the_current_name_changes_nothing() -> None:
    users.given(registered, renamed).when(rename).then()


def test_a_user_is_renamed_back() -> None:
    users.given(registered, renamed).when(RenameUser(ID, ADA)).then(UserRenamed(ADA))


# --- change the e-mail address ---------------------------------------------------------------


def test_an_address_is_changed_to_a_reserved_one() -> None:
    users.given(registered).when(change_email).then(moved)


def test_a_change_to_the_current_address_changes_nothing_and_needs_no_reservation() -> None:
    users.given(registered, moved).when(ChangeEmail(ID, GRACE_MAIL)).then()
    users.given(registered).when(ChangeEmail(ID, ADA_MAIL, RESERVATION)).then()


def test_a_change_of_the_address_without_a_reservation_must_reserve_first() -> None:
    users.given(registered).when(ChangeEmail(ID, GRACE_MAIL)).then(ReservationLost())


def test_a_change_with_an_abandoned_reservation_must_reserve_again() -> None:
    users.given(registered, change_abandoned).when(change_email).then(ReservationLost())


def test_an_abandoned_reservation_does_not_affect_another_one() -> None:
    users.given(registered, other_abandoned).when(change_email).then(moved)


# --- delete ----------------------------------------------------------------------------------


def test_a_user_is_deleted() -> None:
    users.given(registered).when(delete).then(deleted)


def test_deleting_a_deleted_user_changes_nothing() -> None:
    users.given(registered, deleted).when(delete).then()


@pytest.mark.parametrize("command", [rename, change_email], ids=lambda command: command.wire)
def test_a_deleted_account_changes_no_more(command: UserCommand) -> None:
    users.given(registered, deleted).when(command).then(UserIsDeleted(ID))


# --- erase -----------------------------------------------------------------------------------


def test_a_user_is_erased_on_a_legal_basis() -> None:
    users.given(registered).when(erase).then(erased)


def test_a_deleted_user_can_be_erased() -> None:
    users.given(registered, deleted).when(erase).then(erased)


def test_an_erased_user_is_not_erased_again_on_another_basis() -> None:
    users.given(registered, erased).when(EraseUser(ID, "another basis")).then()
    users.given(registered, erased, completed).when(EraseUser(ID, "another basis")).then()


@pytest.mark.parametrize("command", [rename, change_email, delete], ids=lambda command: command.wire)
@pytest.mark.parametrize(
    "past", [[erased], [erased, completed], [deleted, erased]], ids=["begun", "done", "deleted"]
)
def test_an_erased_account_changes_no_more(past: Sequence[Event], command: UserCommand) -> None:
    users.given(registered, *past).when(command).then(UserIsErased(ID))


def test_an_erasure_is_completed_once() -> None:
    users.given(registered, erased).when(complete).then(completed)
    users.given(registered, erased, completed).when(complete).then()


@pytest.mark.parametrize("past", [[registered], [registered, deleted]], ids=["active", "deleted"])
def test_an_erasure_is_not_completed_before_it_is_decided(past: Sequence[Event]) -> None:
    # Otherwise a later erasure would count as completed before it began.
    users.given(*past).when(complete).then()


# --- abandon a reservation -------------------------------------------------------------------


def test_an_expired_registration_is_fenced() -> None:
    users.given().when(abandon).then(registration_abandoned)


def test_an_expired_change_of_the_address_is_fenced() -> None:
    users.given(registered).when(abandon).then(change_abandoned)


def test_each_reservation_has_its_own_fence() -> None:
    users.given(registered, other_abandoned).when(abandon).then(change_abandoned)


@pytest.mark.parametrize(
    "past", [[deleted], [erased], [erased, completed]], ids=["deleted", "erased", "completed"]
)
def test_a_closed_account_needs_no_fence(past: Sequence[Event]) -> None:
    users.given(registered, *past).when(abandon).then()


# --- missing users ---------------------------------------------------------------------------


@pytest.mark.parametrize("command", [rename, change_email, delete, erase, complete], ids=lambda c: c.wire)
@pytest.mark.parametrize("past", [[], [registration_abandoned]], ids=["never", "abandoned"])
def test_a_user_without_a_registration_is_not_found(past: Sequence[Event], command: UserCommand) -> None:
    users.given(*past).when(command).then(UserNotFound(ID))


# --- the state -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("past", "state"),
    [
        ([], User(Status.UNKNOWN, ERASED, ERASED)),
        ([registered], User(Status.ACTIVE, ADA_MAIL, ADA)),
        ([registered, renamed], User(Status.ACTIVE, ADA_MAIL, GRACE)),
        ([registered, moved], User(Status.ACTIVE, GRACE_MAIL, ADA)),
        ([registered, deleted], User(Status.DELETED, ADA_MAIL, ADA)),
        ([registered, erased], User(Status.ERASED, ERASED, ERASED)),
        ([registered, erased, completed], User(Status.ERASED, ERASED, ERASED, erasure_completed=True)),
        ([RegistrationAbandoned("r")], User(Status.UNKNOWN, ERASED, ERASED, abandoned=frozenset({"r"}))),
        (
            [registered, EmailChangeAbandoned("r"), EmailChangeAbandoned("s")],
            User(Status.ACTIVE, ADA_MAIL, ADA, abandoned=frozenset({"r", "s"})),
        ),
    ],
    ids=lambda value: "-".join(type(e).__name__ for e in value) if isinstance(value, list) else "state",
)
def test_the_state_is_the_fold_of_the_events(past: Sequence[Event], state: User) -> None:
    assert users.fold(past) == state


def test_an_event_of_another_aggregate_does_not_change_the_state() -> None:
    state = users.fold([registered])

    assert evolve(state, Event()) is state


def test_every_event_changes_the_state() -> None:
    samples = [renamed, moved, deleted, erased, completed, registration_abandoned, change_abandoned]
    before = users.fold([registered])

    changing = {type(event) for event in samples if evolve(before, event) != before}

    assert evolve(INITIAL, registered) != INITIAL
    assert changing | {UserRegistered} == set(EVENTS)


# --- the command that set the address --------------------------------------------------------

_A, _B, _C, _D = (UUID(int=number) for number in (10, 11, 12, 13))


@pytest.mark.parametrize(
    ("history", "command_id"),
    [
        ([], None),
        ([(registered, _A)], _A),
        ([(registered, _A), (renamed, _B)], _A),
        ([(registered, _A), (moved, _B)], _B),
        ([(registered, _A), (moved, _B), (moved, _C), (renamed, _D)], _C),
        ([(registered, _A), (EmailChangeAbandoned("r"), _B)], _A),
        ([(registered, _A), (moved, _B), (deleted, _C)], None),
        ([(registered, _A), (erased, _B)], None),
        ([(registered, _A), (erased, _B), (completed, _C)], None),
        ([(registered, _A), (deleted, _B), (erased, _C), (completed, _D)], None),
        ([(RegistrationAbandoned("r"), _A)], None),
        ([(UserRegistered(Sealed("x"), Sealed("y")), _A)], _A),
    ],
)
def test_the_valid_claim_is_that_of_the_command_that_set_the_address(
    history: list[tuple[Event, UUID]], command_id: UUID | None
) -> None:
    assert email_command(history) == command_id


# --- stream names ----------------------------------------------------------------------------


@given(st.integers(1, 2**63 - 1))
def test_a_stream_is_named_after_its_user(user_id: int) -> None:
    assert USER.stream_of(user_id) == f"user-{user_id}"
    assert USER.id_of(USER.stream_of(user_id)) == user_id


@pytest.mark.parametrize("stream", ["lane-7", "users-7", "7", "user-", "user-07"])
def test_a_stream_of_another_aggregate_is_refused(stream: str) -> None:
    with pytest.raises(InvalidInput, match=r"^stream "):
        USER.id_of(stream)
