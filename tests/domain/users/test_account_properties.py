"""Properties of user accounts that hold after any commands in any order."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID, uuid4

from hypothesis import example, given
from hypothesis import strategies as st

from domain.kernel.errors import EsError, Refusal
from domain.kernel.events import Event
from domain.kernel.personal import ERASED, Personal, Sealed
from domain.users.account import (
    EVENTS,
    INITIAL,
    EmailChangeAbandoned,
    ErasureCompleted,
    RegistrationAbandoned,
    Status,
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
from domain.users.errors import UserNotFound
from tests.support.spec import Aggregate

users = Aggregate(INITIAL, evolve, decide)

ID = 4242
NAMES = Personal("Ada"), Personal("Grace")
EMAILS = Personal("ada@example.com"), Personal("grace@example.com")
RESERVATIONS = UUID(int=1), UUID(int=2)

register = RegisterUser(ID, EMAILS[0], NAMES[0], RESERVATIONS[0])
rename = RenameUser(ID, NAMES[1])
delete = DeleteUser(ID)
erase = EraseUser(ID, "Art. 17")
complete = CompleteErasure(ID)
abandon = AbandonReservation(ID, RESERVATIONS[0])

_personal = st.sampled_from([*NAMES, *EMAILS, Sealed("es1:1:00:AA"), ERASED])
_reservations = st.sampled_from(RESERVATIONS)
_events: st.SearchStrategy[Event] = st.one_of(
    st.builds(UserRegistered, _personal, _personal),
    st.builds(UserRenamed, _personal),
    st.builds(UserEmailChanged, _personal),
    st.just(UserDeleted()),
    st.just(UserErased("Art. 17")),
    st.just(ErasureCompleted()),
    st.builds(RegistrationAbandoned, _reservations.map(str)),
    st.builds(EmailChangeAbandoned, _reservations.map(str)),
)
_id, _emails = st.just(ID), st.sampled_from(EMAILS)
_commands: st.SearchStrategy[UserCommand] = st.one_of(
    st.builds(RegisterUser, _id, _emails, st.just(NAMES[0]), _reservations | st.none()),
    st.builds(RenameUser, _id, st.sampled_from(NAMES)),
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
        assert stream[fences[0] + 1 :] in ([], [ErasureCompleted()])
    else:
        assert ErasureCompleted() not in stream, "no completion without an erasure"


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
