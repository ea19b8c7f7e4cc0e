"""Erasing a person: final, exactly once, whatever is killed around it."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from contextlib import closing, suppress
from uuid import uuid4

import pytest

from tests.acceptance.conftest import DEADLINE_S, System, wait_until
from tests.support.postgres import execute


def _wrapped_key(system: System, user_id: str) -> bytes:
    """The person's wrapped data key, as the vault holds it."""
    url = system.settings.vault
    if url.startswith("postgresql:"):
        table = f"{url.rpartition('schema=')[2]}_vault.data_keys"
        ((wrapped,),) = execute(url, f"SELECT wrapped FROM {table} WHERE subject = {int(user_id)}")
        assert isinstance(wrapped, bytes)
        return wrapped
    with closing(sqlite3.connect(f"file:{system.home / 'vault.db'}?mode=ro", uri=True)) as vault:
        (row,) = vault.execute("SELECT wrapped FROM data_keys WHERE subject = ?", (int(user_id),)).fetchall()
    key: bytes = row[0]
    return key


def _files_with(system: System, needle: bytes) -> list[str]:
    return [str(path) for path in system.home.rglob("*") if path.is_file() and needle in path.read_bytes()]


def _completions(system: System, user_id: str) -> int:
    return sum(event["stream"] == f"user-{user_id}" for event in system.events("erasure-completed"))


def test_an_erasure_is_never_begun_without_a_yes(shared: System) -> None:
    user_id = shared.create("careful@example.com", "Careful")
    ran = shared.es("gdpr", "erase", user_id).failed(2)
    assert "--yes" in ran.err
    assert shared.get(user_id)["status"] == "active"


def test_an_erased_user_is_shown_as_erased_with_null_fields(shared: System) -> None:
    user_id = shared.create("erased@example.com", "Erased Person")
    answer = shared.es("gdpr", "erase", user_id, "--yes", "--json").ok().object

    assert {"command_id", "user_id", "version", "position"} <= answer.keys()
    user = shared.get(user_id)
    assert (user["status"], user["email"], user["name"]) == ("erased", None, None)
    listed = [u for u in shared.users() if u["user_id"] == user_id]
    assert listed == [user]
    assert "Erased Person" not in shared.es("users", "get", user_id).ok().out
    shared.es("users", "find", "--email", "erased@example.com").failed(3)


def test_an_erased_users_history_and_former_versions_are_null(shared: System) -> None:
    user_id = shared.create("history@example.com", "Old Name")
    shared.es("users", "rename", user_id, "New Name").ok()
    shared.es("users", "change-email", user_id, "history2@example.com").ok()
    shared.es("gdpr", "erase", user_id, "--yes").ok()

    history = shared.es("users", "history", user_id, "--json").ok().objects
    types = ["user-registered.v1", "user-renamed.v1", "user-email-changed.v1", "user-erased.v1"]
    assert [event["type"] for event in history] == [*types, "erasure-completed.v1"]
    assert [event["data"] for event in history[:3]] == [
        {"email": None, "name": None},
        {"name": None},
        {"email": None},
    ]
    for version in ("0", "1", "2", "3"):
        former = shared.es("users", "get", user_id, "--version", version, "--json").ok().object
        assert (former["email"], former["name"]) == (None, None)


def test_commands_on_an_erased_user_are_refused_by_name(shared: System) -> None:
    user_id = shared.create("refused@example.com", "Refused")
    shared.es("gdpr", "erase", user_id, "--yes").ok()

    for command in (
        ("rename", user_id, "X"),
        ("change-email", user_id, "x@example.com"),
        ("delete", user_id),
    ):
        ran = shared.es("users", *command, "--json")
        assert (ran.code, ran.error["code"]) == (1, "user-erased"), ran
    shared.create("x@example.com", "The address of the refused change is free")


def test_the_address_of_an_erased_user_is_free_for_a_new_user(shared: System) -> None:
    user_id = shared.create("reborn@example.com", "First Life")
    shared.es("gdpr", "erase", user_id, "--yes").ok()
    again = shared.create("reborn@example.com", "Second Life")

    assert again != user_id
    found = shared.es("users", "find", "--email", "reborn@example.com", "--json").ok().object
    assert (found["user_id"], found["name"]) == (again, "Second Life")


def test_erasing_twice_changes_nothing(shared: System) -> None:
    user_id, command_id = shared.create("twice@example.com", "Twice"), str(uuid4())
    erase = ("gdpr", "erase", user_id, "--yes", "--json")
    first = shared.es(*erase, "--command-id", command_id).ok().object
    history = shared.es("users", "history", user_id, "--json").ok().objects

    assert shared.es(*erase, "--command-id", command_id).ok().object == first
    shared.es(*erase).ok()
    assert shared.es("users", "history", user_id, "--json").ok().objects == history


def test_a_deleted_user_can_be_erased(shared: System) -> None:
    user_id = shared.create("deleted@example.com", "Deleted")
    shared.es("users", "delete", user_id).ok()
    assert shared.get(user_id)["name"] == "Deleted"
    shared.es("gdpr", "erase", user_id, "--yes").ok()
    assert (shared.get(user_id)["status"], shared.get(user_id)["name"]) == ("erased", None)


def test_a_create_repeated_after_the_erasure_brings_nobody_back(shared: System) -> None:
    command = (
        "users",
        "create",
        "--email",
        "back@example.com",
        "--name",
        "Back",
        "--command-id",
        str(uuid4()),
    )
    first = shared.es(*command, "--json").ok().object
    shared.es("gdpr", "erase", first["user_id"], "--yes").ok()

    assert shared.es(*command, "--json").ok().object == first
    assert shared.get(first["user_id"])["status"] == "erased"
    shared.create("back@example.com", "The address is free")


@pytest.mark.over(
    "embedded", "rabbitmq", because="the vault's tables in PostgreSQL have tests of their residue"
)
def test_an_erasure_destroys_the_key_in_every_file(running: System) -> None:
    user_id, other = running.create(), running.create("other@example.com", "Other")
    key, kept = _wrapped_key(running, user_id), _wrapped_key(running, other)
    running.es("gdpr", "erase", user_id, "--yes").ok()

    assert _wrapped_key(running, user_id) == bytes(len(key))
    assert _wrapped_key(running, other) == kept
    running.es("down").ok()
    assert _files_with(running, kept), "the search finds a living key"
    assert _files_with(running, key) == []


def test_a_rebuild_after_an_erasure_shows_the_same(running: System) -> None:
    ids = [running.create(f"u{n}@example.com", f"User {n}") for n in range(4)]
    running.es("gdpr", "erase", ids[1], "--yes").ok()
    running.es("users", "delete", ids[2]).ok()
    running.es("gdpr", "erase", ids[2], "--yes").ok()
    before = running.users()
    running.es("projections", "rebuild", "users").ok()

    assert running.users() == before
    assert [user["status"] for user in before] == ["active", "erased", "erased", "active"]
    assert [user["name"] for user in before] == ["User 0", None, None, "User 3"]
    assert all(s["parked"] == 0 for s in running.es("projections", "status", "--json").ok().objects)


@pytest.mark.slow
def test_an_erasure_is_completed_exactly_once_whenever_its_worker_is_killed(running: System) -> None:
    for moment in range(4):
        user_id = running.create("again@example.com", f"Life {moment}")
        key = _wrapped_key(running, user_id)
        victim = running.pid_of("erasures")
        if moment == 0:
            os.kill(victim, signal.SIGKILL)  # before: it starts from its checkpoint
        eraser = running.start("gdpr", "erase", user_id, "--yes", "--json")
        if moment == 1:
            wait_until(
                lambda user_id=user_id: (
                    running.es("streams", "read", f"user-{user_id}", "--from", "1").code == 0
                ),
                "the erasure is decided",
            )
        elif moment == 2:
            wait_until(
                lambda user_id=user_id, key=key: _wrapped_key(running, user_id) != key, "the key is destroyed"
            )
        else:
            eraser.wait(DEADLINE_S)
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        out, err = eraser.communicate(timeout=DEADLINE_S)

        assert eraser.returncode == 0, err
        assert json.loads(out)["user_id"] == user_id
        assert _completions(running, user_id) == 1
        assert _wrapped_key(running, user_id) == bytes(len(key))
        assert running.get(user_id)["status"] == "erased"
        running.ready()


def test_an_erasure_decided_while_its_worker_stands_still_is_carried_out_later(running: System) -> None:
    user_id = running.create()
    key = _wrapped_key(running, user_id)
    stopped = running.signal("erasures", signal.SIGSTOP)
    eraser = running.start("gdpr", "erase", user_id, "--yes")
    wait_until(
        lambda: running.es("streams", "read", f"user-{user_id}", "--from", "1").code == 0,
        "the erasure is decided",
    )
    # Decided is decided: nobody sees the data any more, though the key still lives.
    assert running.get(user_id)["status"] == "erased"
    running.es("users", "rename", user_id, "X").failed(1)
    assert _wrapped_key(running, user_id) == key
    os.kill(stopped, signal.SIGKILL)

    eraser.communicate(timeout=DEADLINE_S)
    assert eraser.returncode == 0
    assert _completions(running, user_id) == 1
    assert _wrapped_key(running, user_id) == bytes(len(key))
