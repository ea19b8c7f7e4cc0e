"""User accounts: every path of `decide` and `evolve`, and what holds after any commands in any order."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from domain.kernel.errors import EsError, InvalidInput, Refusal
from domain.kernel.events import Event
from domain.kernel.personal import ERASED, Personal, Sealed
from domain.users.account import (
    CLOSING,
    ERASING,
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
erased = UserErased("gdpr-request")
completed = ErasureCompleted(3)
registration_abandoned = RegistrationAbandoned(str(RESERVATION))
change_abandoned = EmailChangeAbandoned(str(RESERVATION))
other_abandoned = EmailChangeAbandoned(str(OTHER_RESERVATION))

register = RegisterUser(ID, ADA_MAIL, ADA, RESERVATION)
rename = RenameUser(ID, GRACE)
change_email, unreserved = ChangeEmail(ID, GRACE_MAIL, RESERVATION), ChangeEmail(ID, GRACE_MAIL)
delete = DeleteUser(ID)
erase = EraseUser(ID, "gdpr-request")
complete = CompleteErasure(ID, 3)
abandon = AbandonReservation(ID, RESERVATION)


# --- decisions -------------------------------------------------------------------------------

Decided = tuple[list[Event], UserCommand, list[Event] | EsError]

DECISIONS: dict[str, Decided] = {
    # rename
    "a user is renamed": ([registered], rename, [renamed]),
    "a user is renamed back": ([registered, renamed], RenameUser(ID, ADA), [UserRenamed(ADA)]),
    "the current name changes nothing": ([registered, renamed], rename, []),
    # change the address
    "an address changes to a reserved one": ([registered], change_email, [moved]),
    "an address cannot change without a reservation": ([registered], unreserved, ReservationLost()),
    "the current address needs no reservation": ([registered, moved], unreserved, []),
    "the current address changes nothing": ([registered], ChangeEmail(ID, ADA_MAIL, RESERVATION), []),
    "an abandoned reservation is lost": ([registered, change_abandoned], change_email, ReservationLost()),
    "an abandoned reservation is not another": ([registered, other_abandoned], change_email, [moved]),
    # delete
    "a user is deleted": ([registered], delete, [deleted]),
    "a deleted user is not deleted again": ([registered, deleted], delete, []),
    "a deleted user is not renamed": ([registered, deleted], rename, UserIsDeleted(ID)),
    "a deleted user keeps its address": ([registered, deleted], change_email, UserIsDeleted(ID)),
    # erase
    "a user is erased on a legal basis": ([registered], erase, [erased]),
    "a deleted user can be erased": ([registered, deleted], erase, [erased]),
    "an erased user is not erased again": ([registered, erased], EraseUser(ID, "retention"), []),
    "a completed erasure is final": ([registered, erased, completed], EraseUser(ID, "retention"), []),
    "a person is erased whose events are gone": (
        [],
        EraseUser(ID, "retention", is_known=True),
        [UserErased("retention")],
    ),
    "such a person is not erased again": ([erased], EraseUser(ID, "retention", is_known=True), []),
    "an erasure is completed": ([registered, erased], complete, [completed]),
    "an erasure is completed once": ([registered, erased, completed], complete, []),
    # Otherwise a later erasure would count as completed before it began.
    "an active user has no erasure to complete": ([registered], complete, []),
    "a deleted user has no erasure to complete": ([registered, deleted], complete, []),
    # abandon a reservation
    "an expired registration is fenced": ([], abandon, [registration_abandoned]),
    "an expired change is fenced": ([registered], abandon, [change_abandoned]),
    "each reservation has its own fence": ([registered, other_abandoned], abandon, [change_abandoned]),
    "a deleted user needs no fence": ([registered, deleted], abandon, []),
    "an erased user needs no fence": ([registered, erased], abandon, []),
    "a completed erasure needs no fence": ([registered, erased, completed], abandon, []),
    # register
    "a user cannot register without a reservation": ([], RegisterUser(ID, ADA_MAIL, ADA), ReservationLost()),
}


@pytest.mark.parametrize("rule", DECISIONS)
def test_a_command_is_decided(rule: str) -> None:
    past, command, expected = DECISIONS[rule]
    outcome = [expected] if isinstance(expected, EsError) else expected

    users.given(*past).when(command).then(*outcome)


def test_a_registration_with_a_reservation_registers() -> None:
    # A retry does not come to `decide`: it is recognised by its command id.
    users.given().when(register).then(registered, again=ReservationLost())


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


@pytest.mark.parametrize("command", [rename, change_email, delete], ids=lambda command: command.wire)
@pytest.mark.parametrize(
    "past", [[erased], [erased, completed], [deleted, erased]], ids=["begun", "done", "deleted"]
)
def test_an_erased_account_changes_no_more(past: Sequence[Event], command: UserCommand) -> None:
    users.given(registered, *past).when(command).then(UserIsErased(ID))


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


def test_no_version_of_an_event_that_closes_an_account_is_forgotten() -> None:
    """Raw streams are compared with these types: an older version decides as much as the latest."""
    older = {name: upcast for name, upcast in USER.upcasters.items() if name.startswith("user-erased.")}

    assert set(ERASING) == {UserErased.type, *older}
    assert set(CLOSING) == {UserDeleted.type, *ERASING}


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


# --- properties ------------------------------------------------------------------------------

_personal = st.sampled_from([ADA, GRACE, ADA_MAIL, GRACE_MAIL, Sealed("es1:1:00:AA"), ERASED])
_reservations = st.sampled_from([RESERVATION, OTHER_RESERVATION])
_events: st.SearchStrategy[Event] = st.one_of(
    st.builds(UserRegistered, _personal, _personal),
    st.builds(UserRenamed, _personal),
    st.builds(UserEmailChanged, _personal),
    st.just(deleted),
    st.just(erased),
    st.just(completed),
    st.builds(RegistrationAbandoned, _reservations.map(str)),
    st.builds(EmailChangeAbandoned, _reservations.map(str)),
)
_id, _emails = st.just(ID), st.sampled_from([ADA_MAIL, GRACE_MAIL])
_commands: st.SearchStrategy[UserCommand] = st.one_of(
    st.builds(RegisterUser, _id, _emails, st.just(ADA), _reservations | st.none()),
    st.builds(RenameUser, _id, st.sampled_from([ADA, GRACE])),
    st.builds(ChangeEmail, _id, _emails, _reservations | st.none()),
    st.just(delete),
    st.just(erase),
    st.just(complete),
    st.builds(AbandonReservation, _id, _reservations),
)
_stories = st.lists(_commands, max_size=20).flatmap(
    lambda commands: st.sampled_from([commands, [register, *commands]])
)
"""Commands in any order. Half of the stories begin with a registration, otherwise little would happen."""


def decided(past: Sequence[Event], command: UserCommand) -> list[Event]:
    """The events of a command; none for a refusal."""
    decision = decide(users.fold(past), command)
    return [] if isinstance(decision, EsError) else list(decision)


def stream_of(commands: Sequence[UserCommand]) -> list[Event]:
    """The stream after these commands, each decided on the events of the earlier ones."""
    stream: list[Event] = []
    for command in commands:
        stream += decided(stream, command)
    return stream


@given(st.lists(_events, max_size=12), _commands)
def test_decide_returns_events_or_a_refusal_in_any_state(past: list[Event], command: UserCommand) -> None:
    decision = decide(users.fold(past), command)

    assert isinstance(decision, Refusal | UserNotFound) or all(type(event) in EVENTS for event in decision)


@given(_stories, _commands)
def test_a_repeated_command_has_no_second_effect(commands: list[UserCommand], command: UserCommand) -> None:
    past = stream_of(commands)

    assert decided([*past, *decided(past, command)], command) == []


@given(_stories)
@example([register, erase, abandon, complete, rename, delete, complete])
def test_only_its_completion_follows_an_erasure(commands: list[UserCommand]) -> None:
    stream = stream_of(commands)

    fences = [index for index, event in enumerate(stream) if isinstance(event, UserErased)]
    assert len(fences) <= 1
    if fences:
        assert stream[fences[0] + 1 :] in ([], [completed])
    else:
        assert completed not in stream, "no completion without an erasure"


@given(_stories)
def test_a_stream_begins_with_a_registration_or_was_abandoned(commands: list[UserCommand]) -> None:
    kinds = [type(event) for event in stream_of(commands)]

    assert kinds.count(UserRegistered) <= 1
    assert kinds.count(UserDeleted) <= 1
    if UserRegistered in kinds:
        assert kinds[0] is UserRegistered
    else:
        assert set(kinds) <= {RegistrationAbandoned}


@given(_stories)
def test_an_abandoned_reservation_is_never_used_afterwards(commands: list[UserCommand]) -> None:
    stream: list[Event] = []
    abandoned: set[str] = set()
    for command in commands:
        events = decided(stream, command)
        if events and isinstance(command, RegisterUser | ChangeEmail):
            assert str(command.reservation_id) not in abandoned
        abandoned |= {
            e.reservation_id for e in events if isinstance(e, RegistrationAbandoned | EmailChangeAbandoned)
        }
        stream += events


@given(_stories)
def test_an_erased_state_holds_no_personal_data(commands: list[UserCommand]) -> None:
    state = users.fold(stream_of([register, *commands, erase]))

    assert state.status is Status.ERASED
    assert (state.email, state.name) == (ERASED, ERASED)


@given(_stories)
def test_only_an_active_account_has_a_command_that_set_its_address(commands: list[UserCommand]) -> None:
    history: list[tuple[Event, UUID]] = []
    set_by: UUID | None = None
    for command in commands:
        command_id = uuid4()
        events = decided([event for event, _ in history], command)
        history += [(event, command_id) for event in events]
        if any(isinstance(event, UserRegistered | UserEmailChanged) for event in events):
            set_by = command_id

    is_active = users.fold([event for event, _ in history]).status is Status.ACTIVE
    assert email_command(history) == (set_by if is_active else None)
