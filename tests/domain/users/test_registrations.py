"""The `registrations` projection: each user counts once, on the day of the id, under the status of the last event."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.kernel.events import Event, Recorded
from domain.kernel.ids import compose, floor_id, position_at
from domain.kernel.projection import Key, Row, applied
from domain.kernel.system import CommandRemembered
from domain.users.account import (
    ERASING,
    EVENTS,
    INITIAL,
    USER,
    RegistrationAbandoned,
    Status,
    UserDeleted,
    UserErased,
    UserRegistered,
    UserRenamed,
    evolve,
)
from domain.users.registrations import DAYS, REGISTRATIONS, STATUSES, day_of
from tests.support.builders import a_sample

DAY_US = 86_400_000_000
MORNING_US = int(datetime(2026, 3, 1, 8, tzinfo=UTC).timestamp()) * 1_000_000


def user(day: int, number: int = 0) -> int:
    return compose(position_at(MORNING_US + day * DAY_US), number)


def recorded(user_id: int, version: int, type_: str) -> Recorded:
    return Recorded(USER.stream_of(user_id), version, 1, MORNING_US, uuid4().bytes, type_, b"damaged", b"")


def projected(streams: Mapping[int, Sequence[str]]) -> dict[Key, Row]:
    """The rows after the events of these types, one stream after the other."""
    rows: dict[Key, Row] = {}
    for user_id, types in streams.items():
        for version, type_ in enumerate(types):
            event = recorded(user_id, version, type_)
            key = REGISTRATIONS.key_of(event, Event())
            for operation in REGISTRATIONS.apply(event, Event(), None if key is None else rows.get(key)):
                row = applied(rows.get(operation.key), operation)
                if row is None:
                    rows.pop(operation.key, None)
                else:
                    rows[operation.key] = row
    return rows


def counts(rows: dict[Key, Row]) -> dict[Key, tuple[object, ...]]:
    return {
        key: tuple(row[name] for name in STATUSES) for key, row in rows.items() if str(key).startswith(DAYS)
    }


REGISTERED, RENAMED, DELETED, ERASED = (
    each.type for each in (UserRegistered, UserRenamed, UserDeleted, UserErased)
)


def test_users_count_on_the_day_of_their_id() -> None:
    rows = projected({user(0): [REGISTERED], user(0, 1): [REGISTERED, RENAMED], user(1): [REGISTERED]})

    assert counts(rows) == {"2026-03-01": (2, 0, 0), "2026-03-02": (1, 0, 0)}
    assert len(rows) == 2, "an active user has no row"


@pytest.mark.parametrize(
    ("types", "counted"),
    [
        ([DELETED], (1, 1, 0)),
        ([ERASED], (1, 0, 1)),
        ([DELETED, ERASED], (1, 0, 1)),
        ([RENAMED, ERASING[1], "erasure-completed.v1"], (1, 0, 1)),
        ([ERASED, ERASED], (1, 0, 1)),
        ([DELETED, DELETED], (1, 1, 0)),
        ([ERASED, DELETED], (1, 0, 1)),
    ],
)
def test_a_closed_account_moves_to_its_last_status_once(types: list[str], counted: tuple[int, ...]) -> None:
    rows = projected({user(0): [REGISTERED], user(0, 1): [REGISTERED, *types]})

    assert counts(rows) == {"2026-03-01": counted}


@pytest.mark.parametrize("first", [RegistrationAbandoned.type, CommandRemembered.type, ERASED, "exploded.v9"])
def test_a_stream_without_a_registration_is_no_user(first: str) -> None:
    rows = projected({user(0): [REGISTERED], user(0, 1): [first, DELETED, ERASED, "erasure-completed.v2"]})

    assert counts(rows) == {"2026-03-01": (1, 0, 0)}


def test_an_answer_that_was_remembered_before_the_registration_does_not_hide_it() -> None:
    rows = projected({user(0): [CommandRemembered.type, REGISTERED, DELETED]})

    assert counts(rows) == {"2026-03-01": (0, 1, 0)}


@given(
    st.lists(st.tuples(st.integers(0, 3), st.lists(st.sampled_from([RENAMED, DELETED, ERASED]), max_size=4)))
)
def test_the_counts_are_those_of_the_folded_streams(lives: list[tuple[int, list[str]]]) -> None:
    streams = {user(day, number): [REGISTERED, *types] for number, (day, types) in enumerate(lives)}
    samples = {event.type: a_sample(event) for event in EVENTS}
    expected = Counter[tuple[str, str]]()
    for user_id, types in streams.items():
        state = INITIAL
        for type_ in types:
            if (
                state.status is not Status.ERASED
            ):  # nothing follows an erasure, whatever another program stores
                state = evolve(state, samples[type_])
        expected[day_of(user_id), state.status.value] += 1

    found = counts(projected(streams))

    assert {
        (str(day), status): number
        for day, numbers in found.items()
        for status, number in zip(STATUSES, numbers, strict=True)
        if number
    } == expected


def test_every_version_of_the_events_that_count_is_known() -> None:
    """A new version of one of them has to be added: it would not move a user."""
    bases = {type_.rpartition(".")[0] for type_ in (REGISTERED, DELETED, ERASED)}
    names = {event.type for event in EVENTS} | set(USER.upcasters)
    counting = {name for name in names if name.rpartition(".")[0] in bases}

    assert counting == {REGISTERED, DELETED, *ERASING}


def test_the_first_and_the_last_day_of_ids_are_days() -> None:
    assert day_of(1) == "2025-01-01"
    assert day_of((1 << 63) - 1) == "2094-09-07"
    assert day_of(floor_id(MORNING_US)) == "2026-03-01"
