"""A command id names one command for ever: a retry changes nothing and gets the same answer."""

from __future__ import annotations

from uuid import uuid4

import pytest

from tests.support.people import command_ids, confirmed, errors, people
from tests.support.runs import Ran
from tests.support.system import System


@pytest.fixture
def command_id() -> str:
    return str(uuid4())


def _create(system: System, command_id: str, email: str) -> Ran:
    return system.register(email, "Ada", "--json", "--command-id", command_id)


def _change(system: System, command_id: str, *words: str) -> Ran:
    return system.es("users", *words, "--json", "--command-id", command_id)


def test_a_repeated_create_answers_the_same(shared: System, command_id: str) -> None:
    first, again = (_create(shared, command_id, "again@example.com").ok().object for _ in range(2))

    assert first == again
    assert first["command_id"] == command_id
    assert len(shared.history(first["user_id"])) == 1


def test_a_create_repeated_after_an_email_change_answers_the_same(shared: System, command_id: str) -> None:
    first = _create(shared, command_id, "before@example.com").ok().object
    shared.es("users", "change-email", first["user_id"], "after@example.com").ok()

    assert _create(shared, command_id, "before@example.com").ok().object == first
    assert shared.get(first["user_id"])["email"] == "after@example.com"
    # The retry must not claim the old address.
    assert shared.create("before@example.com", "Another") != first["user_id"]


def test_a_create_repeated_after_the_deletion_answers_the_same(shared: System, command_id: str) -> None:
    first = _create(shared, command_id, "gone@example.com").ok().object
    shared.es("users", "delete", first["user_id"]).ok()

    assert _create(shared, command_id, "gone@example.com").ok().object == first
    assert shared.get(first["user_id"])["status"] == "deleted"
    heir = shared.create("gone@example.com", "Heir")
    # Also once another user has claimed the address.
    assert _create(shared, command_id, "gone@example.com").ok().object == first
    assert shared.find("gone@example.com")["user_id"] == heir


def test_repeated_changes_answer_the_same_and_store_nothing_new(shared: System) -> None:
    user_id = shared.create("changes@example.com", "Changes")
    for change in (("rename", "Other Name"), ("change-email", "changed@example.com"), ("delete",)):
        words = (str(uuid4()), change[0], user_id, *change[1:])
        first, again = (_change(shared, *words).ok().object for _ in range(2))
        assert first == again
    assert len(shared.history(user_id)) == 4


def test_a_rename_repeated_after_another_rename_does_not_undo_it(shared: System, command_id: str) -> None:
    user_id = shared.create("names@example.com", "Zero")
    first = _change(shared, command_id, "rename", user_id, "One").ok().object
    shared.es("users", "rename", user_id, "Two").ok()

    assert _change(shared, command_id, "rename", user_id, "One").ok().object == first
    assert shared.get(user_id)["name"] == "Two"


def test_a_command_id_of_another_command_is_refused(shared: System, command_id: str) -> None:
    user_id = shared.create("reuse@example.com", "Reuse")
    _change(shared, command_id, "rename", user_id, "Renamed").ok()

    _change(shared, command_id, "delete", user_id).refused("command-id-reused")
    assert shared.get(user_id)["status"] == "active"


def test_a_create_with_the_command_id_of_another_makes_no_user(shared: System, command_id: str) -> None:
    first = _create(shared, command_id, "one-id@example.com").ok().object
    other = _create(shared, command_id, "other-id@example.com")

    if other.code == 0:
        assert other.object["user_id"] == first["user_id"]
    else:
        other.refused("command-id-reused")
    assert shared.es("users", "find", "--email", "other-id@example.com").code == 3


def test_a_repeated_bulk_answers_the_same_line_by_line(shared: System) -> None:
    inputs = people(300, prefix="twice")
    first, again = (shared.bulk("create", inputs).ok().objects for _ in range(2))

    assert first == again
    assert command_ids(first) == command_ids(inputs)
    assert len(confirmed(first)) == 300


def test_the_same_line_three_times_in_one_bulk_makes_one_user(shared: System) -> None:
    (person,) = people(1, prefix="double")
    answers = shared.bulk("create", [person, person, person]).ok().objects
    assert answers[0] == answers[1] == answers[2]


def test_of_several_lines_with_one_address_the_first_wins(shared: System) -> None:
    ran = shared.bulk("create", [{"email": "rival@example.com", "name": f"Rival {n}"} for n in range(3)])

    assert ran.code == 1
    assert "error" not in ran.objects[0]
    assert errors(ran.objects[1:]) == ["email-taken", "email-taken"]
