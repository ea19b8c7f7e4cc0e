"""The users projection: from events to operations on rows, purely, and nothing is ever opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from uuid import uuid4

import pytest

from adapters.codec import JsonCodec
from domain.features import PROJECTIONS
from domain.kernel.events import Event, Recorded
from domain.kernel.personal import ERASED, Personal, PersonalText, Sealed
from domain.kernel.projection import Change, Operation, Put, Value
from domain.users.account import (
    EVENTS,
    EmailChangeAbandoned,
    ErasureCompleted,
    RegistrationAbandoned,
    UserDeleted,
    UserEmailChanged,
    UserErased,
    UserRegistered,
    UserRenamed,
    stream_of,
)
from domain.users.projection import Users
from tests.support.builders import a_sample
from workers.projections.projector import Applier

EMAIL, NAME = Sealed("es1:7:…:email"), Sealed("es1:7:…:name")
REGISTERED = UserRegistered(EMAIL, NAME)


def recorded(event: Event, *, user_id: int = 7, version: int = 0, at_us: int = 1000) -> Recorded:
    return Recorded(stream_of(user_id), version, 50 + version, at_us, uuid4(), event.type, b"{}", b"{}")


def projected(*events: Event) -> dict[str, Value]:
    """The row of user 7 after these events; each event a version and a microsecond later than the last."""
    row: dict[str, Value] = {}
    for version, event in enumerate(events):
        for operation in Users().apply(recorded(event, version=version, at_us=1000 + version), event):
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
        operations = Users().apply(recorded(sealed, user_id=42, version=3), sealed)
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
        Users().apply(recorded(event), event)


def test_a_whole_row_has_every_column_but_the_key() -> None:
    (put,) = Users().apply(recorded(REGISTERED), REGISTERED)

    assert isinstance(put, Put)
    assert set(put.row) == set(Users.columns)
    assert Users.key not in put.row


def test_projections_have_names_of_their_own_and_follow_streams() -> None:
    assert len({projection.name for projection in PROJECTIONS}) == len(PROJECTIONS)
    assert all(projection.prefixes for projection in PROJECTIONS)
    assert all(projection.name.isidentifier() for projection in PROJECTIONS), (
        "a name is part of a table's name"
    )


def test_projecting_twice_gives_the_same_operations() -> None:
    event = recorded(REGISTERED)

    assert Users().apply(event, REGISTERED) == Users().apply(event, REGISTERED)


# --- what can't be applied -------------------------------------------------------------------

_SOUND = b'{"email":"es1:a","name":"es1:b"}'


def _stored(type_: str, data: bytes, *, stream: str = "user-7", position: int = 1) -> Recorded:
    return Recorded(stream, position, position, 0, uuid4(), type_, data, b"{}")


def _translated(*events: Recorded) -> tuple[Sequence[Operation], list[tuple[int, str]]]:
    applier = Applier(Users(), JsonCodec(EVENTS), [])
    operations, parked = applier.translate(events)
    return operations, [(item.position, item.error) for item in parked]


@pytest.mark.parametrize(
    "poison",
    [
        _stored("user-registered.v1", b"not JSON"),
        _stored("user-registered.v1", b"\xff\xfe"),
        _stored("user-registered.v1", b"[]"),
        _stored("user-registered.v1", b"{}"),
        _stored("user-registered.v1", b'{"email":"a","name":"b","admin":true}'),
        _stored("user-registered.v1", b'{"email":5,"name":{}}'),
        _stored("user-registered.v1", b'{"email":["es1:a"],"name":"es1:b"}'),
        _stored("user-registered.v1", b'{"email":"\\ud800","name":"es1:b"}'),
        _stored("user-registered.v1", b'{"email":' + b"[" * 100_000),
        _stored("user-exploded.v9", b"{}"),
        _stored("user-registered.v1", _SOUND, stream="user-ada"),
        _stored("user-registered.v1", _SOUND, stream="user-"),
        _stored("user-registered.v1", _SOUND, stream=f"user-{1 << 63}"),
        _stored("user-registered.v1", _SOUND, stream="user-07"),
    ],
    ids=range(14),
)
def test_what_cannot_be_applied_is_parked_alone_and_never_reaches_a_database(poison: Recorded) -> None:
    sound = _stored("user-registered.v1", _SOUND, stream="user-8", position=2)

    operations, parked = _translated(poison, sound)

    assert [operation.key for operation in operations] == [8]
    assert [position for position, _ in parked] == [1]


def test_what_comes_behind_a_parked_event_is_parked_and_other_streams_go_on() -> None:
    operations, parked = _translated(
        _stored("user-registered.v1", _SOUND, position=1),
        _stored("user-exploded.v9", b"{}", position=2),
        _stored("user-deleted.v1", b"{}", position=3),
        _stored("user-registered.v1", _SOUND, stream="user-8", position=4),
        _stored("user-deleted.v1", b"{}", position=5),
    )

    assert [type(operation) for operation in operations] == [Put, Put]
    assert parked == [
        (2, "unknown event type 'user-exploded.v9'"),
        (3, "behind a parked event"),
        (5, "behind a parked event"),
    ]


def test_what_was_parked_before_is_remembered() -> None:
    _, first = Applier(Users(), JsonCodec(EVENTS), []).translate([_stored("user-exploded.v9", b"{}")])

    operations, parked = Applier(Users(), JsonCodec(EVENTS), first).translate(
        [_stored("user-deleted.v1", b"{}", position=2)]
    )

    assert operations == []
    assert [item.position for item in parked] == [2]


def test_the_reason_of_parking_does_not_quote_the_event() -> None:
    canary = b"canary-5f1d"
    for data in (canary, b'{"email":"' + canary, b'{"' + canary + b'":1,"email":"a","name":"b"}'):
        _, ((_, reason),) = _translated(_stored("user-registered.v1", data))
        assert "canary" not in reason


def test_a_change_of_a_user_that_is_not_there_is_harmless() -> None:
    operations, parked = _translated(_stored("user-deleted.v1", b"{}"))

    assert parked == []
    assert [type(operation) for operation in operations] == [Change]
