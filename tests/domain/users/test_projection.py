"""The users projection: from events to operations on rows, purely, and nothing is ever opened."""

from __future__ import annotations

from dataclasses import fields
from uuid import uuid4

import pytest

from domain.features import registry
from domain.kernel.events import Event, Recorded
from domain.kernel.personal import ERASED, Personal, PersonalText, Sealed
from domain.kernel.projection import Put, Value
from domain.users.account import (
    EVENTS,
    USER,
    EmailChangeAbandoned,
    ErasureCompleted,
    RegistrationAbandoned,
    UserDeleted,
    UserEmailChanged,
    UserErased,
    UserRegistered,
    UserRenamed,
)
from domain.users.projection import Users
from tests.support.builders import a_sample

EMAIL, NAME = Sealed("es1:7:…:email"), Sealed("es1:7:…:name")
REGISTERED = UserRegistered(EMAIL, NAME)


def recorded(event: Event, *, user_id: int = 7, version: int = 0, at_us: int = 1000) -> Recorded:
    return Recorded(USER.stream_of(user_id), version, 50 + version, at_us, uuid4(), event.type, b"{}", b"{}")


def projected(*events: Event) -> dict[str, Value]:
    """The row of user 7 after these events; each event a version and a microsecond later than the last."""
    row: dict[str, Value] = {}
    for version, event in enumerate(events):
        for operation in Users().apply(recorded(event, version=version, at_us=1000 + version), event, None):
            assert operation.key == 7
            if isinstance(operation, Put):
                row = dict(operation.row)
            elif row:
                row.update(operation.columns)
    return row


def test_a_registration_makes_a_whole_row() -> None:
    assert projected(REGISTERED) == {
        "email": EMAIL.text,
        "name": NAME.text,
        "status": "active",
        "version": 0,
        "registered_at_us": 1000,
        "updated_at_us": 1000,
    }


@pytest.mark.parametrize(
    ("event", "changed"),
    [
        (UserRenamed(Sealed("new")), {"name": "new"}),
        (UserEmailChanged(Sealed("new")), {"email": "new"}),
        (UserDeleted(), {"status": "deleted"}),
        (UserErased("art. 17"), {"status": "erased", "email": None, "name": None}),
        (ErasureCompleted(), {}),
        (EmailChangeAbandoned("r"), {}),
    ],
    ids=lambda value: getattr(value, "type", ""),
)
def test_an_event_changes_its_columns_and_the_version(event: Event, changed: dict[str, Value]) -> None:
    before = projected(REGISTERED)

    assert projected(REGISTERED, event) == {**before, **changed, "version": 1, "updated_at_us": 1001}


def test_the_time_of_registration_stays() -> None:
    row = projected(REGISTERED, UserRenamed(NAME), UserDeleted(), UserErased("x"), ErasureCompleted())

    assert (row["registered_at_us"], row["updated_at_us"], row["version"]) == (1000, 1004, 4)


def test_a_deleted_account_keeps_its_data_until_it_is_erased() -> None:
    assert projected(REGISTERED, UserDeleted())["email"] == EMAIL.text
    erased = projected(REGISTERED, UserDeleted(), UserErased("x"))
    assert (erased["email"], erased["name"]) == (None, None)


def test_a_registration_that_was_given_up_makes_no_row() -> None:
    assert projected(RegistrationAbandoned("r")) == {}


def test_every_event_of_a_user_is_projected_to_the_row_of_its_user() -> None:
    for event_class in EVENTS:
        event = a_sample(event_class)
        sealed = event_class(**{name: _sealed(getattr(event, name)) for name in _names(event)})
        operations = Users().apply(recorded(sealed, user_id=42, version=3), sealed, None)
        assert [operation.key for operation in operations] == [42]
        (operation,) = operations
        columns = operation.row if isinstance(operation, Put) else operation.columns
        assert columns["version"] == 3
        assert set(columns) <= set(Users.columns)


def _names(event: Event) -> list[str]:
    return [field.name for field in fields(event)]


def _sealed(value: object) -> object:
    return Sealed("sealed") if isinstance(value, Personal) else value


@pytest.mark.parametrize("value", [Personal("Ada"), ERASED])
@pytest.mark.parametrize("make", [UserRenamed, UserEmailChanged, lambda value: UserRegistered(value, NAME)])
def test_a_value_that_is_not_sealed_is_refused(make: type[Event], value: PersonalText) -> None:
    event = make(value)  # type: ignore[call-arg]

    with pytest.raises(TypeError, match="sealed values only"):
        Users().apply(recorded(event), event, None)


def test_a_whole_row_has_every_column_but_the_key() -> None:
    (put,) = Users().apply(recorded(REGISTERED), REGISTERED, None)

    assert isinstance(put, Put)
    assert set(put.row) == set(Users.columns)
    assert Users.key not in put.row


def test_projections_have_names_of_their_own_and_follow_streams() -> None:
    projections = registry().projections
    assert len({projection.name for projection in projections}) == len(projections)
    assert all(projection.prefixes for projection in projections)
    assert all(projection.name.isidentifier() for projection in projections), (
        "a name is part of a table's name"
    )


def test_projecting_twice_gives_the_same_operations() -> None:
    event = recorded(REGISTERED)

    assert Users().apply(event, REGISTERED, None) == Users().apply(event, REGISTERED, None)
