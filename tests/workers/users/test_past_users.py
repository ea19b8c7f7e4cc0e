"""Users as of a version or a time, folded from their streams without any projection."""

from __future__ import annotations

import pytest

from domain.kernel.errors import InvalidInput
from domain.users.errors import NotYetThen, UserNotFound
from tests.support.accounts import ADA, GRACE, change, delete, erase, rename
from tests.support.read_side import ReadSide

DAY_US = 86_400_000_000


@pytest.fixture
def life(read_side: ReadSide) -> int:
    """A user: registered on day 0, renamed on day 1, with a new address from day 2, deleted on day 3."""
    read_side.now_us = 0
    user_id = read_side.a_user(ADA)
    for command in (rename(user_id, "Countess"), change(user_id, GRACE), delete(user_id)):
        read_side.now_us += DAY_US
        read_side.done(command)
    return user_id


@pytest.mark.parametrize(
    ("version", "name", "email", "status"),
    [
        (0, "Some Body", ADA, "active"),
        (1, "Countess", ADA, "active"),
        (2, "Countess", GRACE, "active"),
        (3, "Countess", GRACE, "deleted"),
    ],
)
def test_a_user_is_shown_as_of_a_version(
    read_side: ReadSide, life: int, version: int, name: str, email: str, status: str
) -> None:
    shown = read_side.answer("users.get", user_id=str(life), version=version)

    fields = (shown["name"], shown["email"], shown["status"], shown["version"])
    assert fields == (name, email, status, version)
    assert shown["registered_at"] == "1970-01-01T00:00:00.000000Z"
    assert shown["updated_at"] == f"1970-01-0{version + 1}T00:00:00.000000Z"


@pytest.mark.parametrize(("days", "version"), [(0.0, 0), (0.5, 0), (1.0, 1), (2.9, 2), (3.0, 3), (99.0, 3)])
def test_a_user_is_shown_as_of_a_time(read_side: ReadSide, life: int, days: float, version: int) -> None:
    shown = read_side.answer("users.get", user_id=str(life), at_us=int(days * DAY_US))

    assert shown["version"] == version


def test_the_earlier_of_version_and_time_is_shown(read_side: ReadSide, life: int) -> None:
    for version, expected in ((3, 1), (0, 0)):
        shown = read_side.answer("users.get", user_id=str(life), version=version, at_us=DAY_US)
        assert shown["version"] == expected


def test_a_version_after_the_last_is_refused_with_the_last(read_side: ReadSide, life: int) -> None:
    assert read_side.ask("users.get", user_id=str(life), version=99) == NotYetThen(life, 3)
    assert read_side.ask("users.get", user_id=str(life), version=4) == NotYetThen(life, 3)


def test_a_user_does_not_exist_before_the_registration(read_side: ReadSide) -> None:
    user_id = read_side.a_user(ADA)

    assert read_side.ask("users.get", user_id=str(user_id), at_us=5) == NotYetThen(user_id, 0)
    assert read_side.ask("users.get", user_id="5", version=0) == UserNotFound(5)


@pytest.mark.parametrize("wrong", ["0", -1, 1.5, True, [0]])
@pytest.mark.parametrize("field", ["version", "at_us"])
def test_a_wrong_version_or_time_is_refused(
    read_side: ReadSide, life: int, field: str, wrong: object
) -> None:
    assert isinstance(read_side.ask("users.get", user_id=str(life), **{field: wrong}), InvalidInput)


def test_the_past_of_an_erased_user_is_blank(read_side: ReadSide) -> None:
    user_id = read_side.a_user(ADA)
    read_side.done(erase(user_id))

    # Before the key is destroyed and after it: `user-erased` is enough.
    for _ in range(2):
        shown = read_side.answer("users.get", user_id=str(user_id), version=0)
        assert (shown["email"], shown["name"], shown["status"]) == (None, None, "active")
        history = read_side.answer("users.history", user_id=str(user_id))["events"]
        assert history[0]["data"] == {"email": None, "name": None}
        read_side.vault.destroy_key(user_id, process="erasures", position=2)
