"""The `users` projection: every event changes the row of its user, and personal values stay sealed."""

from __future__ import annotations

from dataclasses import fields
from uuid import uuid4

import pytest

from domain.kernel.events import Event, Recorded
from domain.kernel.personal import ERASED, Personal, PersonalText, Sealed
from domain.kernel.projection import Change, Put, Row, Value, applied
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
    return Recorded(
        USER.stream_of(user_id), version, 50 + version, at_us, uuid4().bytes, event.type, b"{}", b"{}"
    )


def projected(*events: Event) -> dict[str, Value]:
    """The row of user 7 after these events, each a version and a microsecond after the one before."""
    row: Row | None = None
    for version, event in enumerate(events):
        for operation in Users().apply(recorded(event, version=version, at_us=1000 + version), event, None):
            assert operation.key == 7
            row = applied(row, operation)
    return dict(row or {})


def test_a_registration_inserts_a_row() -> None:
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
        (ErasureCompleted(0), {}),
        (EmailChangeAbandoned("r"), {}),
    ],
    ids=lambda value: getattr(value, "type", ""),
)
def test_an_event_changes_its_columns_and_the_version(event: Event, changed: dict[str, Value]) -> None:
    before = projected(REGISTERED)

    assert projected(REGISTERED, event) == {**before, **changed, "version": 1, "updated_at_us": 1001}


def test_the_time_of_the_registration_never_changes() -> None:
    row = projected(REGISTERED, UserRenamed(NAME), UserDeleted(), UserErased("x"), ErasureCompleted(0))

    assert (row["registered_at_us"], row["updated_at_us"], row["version"]) == (1000, 1004, 4)


def test_a_deleted_account_keeps_its_data_until_it_is_erased() -> None:
    assert projected(REGISTERED, UserDeleted())["email"] == EMAIL.text
    erased = projected(REGISTERED, UserDeleted(), UserErased("x"))
    assert (erased["email"], erased["name"]) == (None, None)


def test_an_abandoned_registration_inserts_no_row() -> None:
    assert projected(RegistrationAbandoned("r")) == {}


@pytest.mark.parametrize("event_class", EVENTS, ids=lambda event_class: event_class.type)
def test_every_event_changes_the_row_of_its_user_only(event_class: type[Event]) -> None:
    sample = a_sample(event_class)
    values = {field.name: getattr(sample, field.name) for field in fields(sample)}
    event = event_class(**{name: _sealed(value) for name, value in values.items()})

    (operation,) = Users().apply(recorded(event, user_id=42, version=3), event, None)

    assert isinstance(operation, Put | Change)
    columns = operation.row if isinstance(operation, Put) else operation.columns
    assert operation.key == 42
    assert columns["version"] == 3
    assert set(columns) <= set(Users.columns)


def _sealed(value: object) -> object:
    return Sealed("sealed") if isinstance(value, Personal) else value


@pytest.mark.parametrize("value", [Personal("Ada"), ERASED])
@pytest.mark.parametrize("make", [UserRenamed, UserEmailChanged, lambda value: UserRegistered(value, NAME)])
def test_a_value_that_is_not_sealed_is_refused(make: type[Event], value: PersonalText) -> None:
    event = make(value)  # type: ignore[call-arg]

    with pytest.raises(TypeError, match="sealed values only"):
        Users().apply(recorded(event), event, None)


def test_an_inserted_row_has_every_column_except_the_key() -> None:
    (put,) = Users().apply(recorded(REGISTERED), REGISTERED, None)

    assert isinstance(put, Put)
    assert set(put.row) == set(Users.columns)
    assert Users.key not in put.row


def test_projecting_twice_gives_the_same_operations() -> None:
    event = recorded(REGISTERED)

    assert Users().apply(event, REGISTERED, None) == Users().apply(event, REGISTERED, None)
