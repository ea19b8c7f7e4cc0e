"""A command id names one command for ever: repeating it changes nothing and answers the same."""

from __future__ import annotations

from uuid import uuid4

from tests.acceptance.conftest import Ran, System, confirmed, errors, people


def _create(system: System, command_id: str, email: str, name: str = "Ada") -> Ran:
    return system.es(
        "users", "create", "--json", "--command-id", command_id, "--email", email, "--name", name
    )


def test_a_repeated_create_answers_the_same(shared: System) -> None:
    command_id = str(uuid4())
    first = _create(shared, command_id, "again@example.com").ok().object
    again = _create(shared, command_id, "again@example.com").ok().object

    assert first == again
    assert first["command_id"] == command_id
    assert len(shared.es("users", "history", first["user_id"], "--json").ok().objects) == 1


def test_a_create_repeated_after_the_address_changed_answers_as_the_first_time(shared: System) -> None:
    command_id = str(uuid4())
    first = _create(shared, command_id, "before@example.com").ok().object
    shared.es("users", "change-email", first["user_id"], "after@example.com").ok()

    assert _create(shared, command_id, "before@example.com").ok().object == first
    assert shared.get(first["user_id"])["email"] == "after@example.com"
    # The repetition must not have taken the old address again.
    assert shared.create("before@example.com", "Another") != first["user_id"]


def test_a_create_repeated_after_the_deletion_answers_as_the_first_time(shared: System) -> None:
    command_id = str(uuid4())
    first = _create(shared, command_id, "gone@example.com").ok().object
    shared.es("users", "delete", first["user_id"]).ok()

    assert _create(shared, command_id, "gone@example.com").ok().object == first
    assert shared.get(first["user_id"])["status"] == "deleted"
    heir = shared.create("gone@example.com", "Heir")
    # Also when somebody else has the address by now.
    assert _create(shared, command_id, "gone@example.com").ok().object == first
    assert shared.es("users", "find", "--email", "gone@example.com", "--json").ok().object["user_id"] == heir


def test_repeated_changes_answer_the_same_and_store_nothing_new(shared: System) -> None:
    user_id = shared.create("changes@example.com", "Changes")
    for arguments in (
        ("rename", user_id, "Other Name"),
        ("change-email", user_id, "changed@example.com"),
        ("delete", user_id),
    ):
        command_id = str(uuid4())
        first = shared.es("users", *arguments, "--json", "--command-id", command_id).ok().object
        again = shared.es("users", *arguments, "--json", "--command-id", command_id).ok().object
        assert first == again
    assert len(shared.es("users", "history", user_id, "--json").ok().objects) == 4


def test_a_rename_repeated_after_another_rename_does_not_bring_the_old_name_back(shared: System) -> None:
    user_id, command_id = shared.create("names@example.com", "Zero"), str(uuid4())
    first = shared.es("users", "rename", user_id, "One", "--json", "--command-id", command_id).ok().object
    shared.es("users", "rename", user_id, "Two").ok()

    assert (
        shared.es("users", "rename", user_id, "One", "--json", "--command-id", command_id).ok().object
        == first
    )
    assert shared.get(user_id)["name"] == "Two"


def test_a_command_id_of_another_command_is_refused_by_name(shared: System) -> None:
    user_id, command_id = shared.create("reuse@example.com", "Reuse"), str(uuid4())
    shared.es("users", "rename", user_id, "Renamed", "--command-id", command_id).ok()

    refused = shared.es("users", "delete", user_id, "--json", "--command-id", command_id)
    assert (refused.code, refused.error["code"]) == (1, "command-id-reused"), refused
    assert shared.get(user_id)["status"] == "active"


def test_a_create_with_the_command_id_of_another_create_does_not_make_a_second_user(shared: System) -> None:
    command_id = str(uuid4())
    first = _create(shared, command_id, "one-id@example.com").ok().object
    other = _create(shared, command_id, "other-id@example.com")

    if other.code == 0:
        assert other.object["user_id"] == first["user_id"]
    else:
        assert (other.code, other.error["code"]) == (1, "command-id-reused"), other
    assert shared.es("users", "find", "--email", "other-id@example.com").code == 3


def test_a_bulk_that_is_repeated_answers_the_same_line_by_line(shared: System) -> None:
    inputs = people(300, prefix="twice")
    first, again = (shared.bulk("create", inputs).ok().objects for _ in range(2))

    assert first == again
    assert [answer["command_id"] for answer in first] == [person["command_id"] for person in inputs]
    assert len(confirmed(first)) == 300


def test_the_same_line_twice_in_one_bulk_makes_one_user(shared: System) -> None:
    (person,) = people(1, prefix="double")
    answers = shared.bulk("create", [person, person, person]).ok().objects
    assert answers[0] == answers[1] == answers[2]


def test_of_two_lines_with_one_address_in_one_bulk_the_first_wins(shared: System) -> None:
    lines = [{"email": "rival@example.com", "name": f"Rival {number}"} for number in range(3)]
    ran = shared.bulk("create", lines)

    assert ran.code == 1
    assert "error" not in ran.objects[0]
    assert errors(ran.objects[1:]) == ["email-taken", "email-taken"]
