"""An erasure is final and completed exactly once, also when its worker is killed at any step."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from uuid import uuid4

import apsw
import pytest

from tests.support import effort
from tests.support.postgres import execute
from tests.support.processes import kill
from tests.support.runs import finish
from tests.support.system import System
from tests.support.waiting import DEADLINE_S, eventually


def _wrapped_key(system: System, user_id: str) -> bytes:
    """The user's wrapped data key, as the vault holds it."""
    url = system.settings.vault
    if url.startswith("postgresql:"):
        table = f"{url.rpartition('schema=')[2]}_vault.data_keys"
        ((wrapped,),) = execute(url, f"SELECT wrapped FROM {table} WHERE subject = {int(user_id)}")
    else:
        vault_path = str(system.home / "vault.db")
        with closing(apsw.Connection(vault_path, flags=apsw.SQLITE_OPEN_READONLY)) as vault:
            query = "SELECT wrapped FROM data_keys WHERE subject = ?"
            wrapped = vault.execute(query, (int(user_id),)).get
    assert isinstance(wrapped, bytes)
    return wrapped


def _bucket_keys(system: System) -> set[bytes]:
    """The wrapped bucket keys of a vault in SQLite."""
    with closing(apsw.Connection(str(system.home / "vault.db"))) as vault:
        return {wrapped for (wrapped,) in vault.execute("SELECT wrapped FROM bucket_keys")}


def _files_with(system: System, needle: bytes) -> list[str]:
    return [str(path) for path in system.home.rglob("*") if path.is_file() and needle in path.read_bytes()]


def _completions(system: System, user_id: str) -> int:
    return sum(event["stream"] == f"user-{user_id}" for event in system.events("erasure-completed"))


def _decided(system: System, user_id: str) -> None:
    """Wait until the erasure is stored."""
    second = ("streams", "read", f"user-{user_id}", "--from", "1")
    eventually(lambda: system.es(*second).code == 0, "the erasure is stored")


def test_an_erasure_without_yes_is_refused(shared: System) -> None:
    user_id = shared.create("careful@example.com", "Careful")
    assert "--yes" in shared.es("gdpr", "erase", user_id).failed(2).err
    assert shared.get(user_id)["status"] == "active"


def test_an_erased_user_is_shown_as_erased_with_null_fields(shared: System) -> None:
    user_id = shared.create("erased@example.com", "Erased Person")
    answer = shared.es("gdpr", "erase", user_id, "--yes", "--json").ok().object

    assert {"command_id", "user_id", "version", "position"} <= answer.keys()
    user = shared.get(user_id)
    assert (user["status"], user["email"], user["name"]) == ("erased", None, None)
    assert [u for u in shared.users() if u["user_id"] == user_id] == [user]
    assert "Erased Person" not in shared.es("users", "get", user_id).ok().out
    shared.es("users", "find", "--email", "erased@example.com").failed(3)


def test_the_history_and_old_versions_of_an_erased_user_are_null(shared: System) -> None:
    user_id = shared.create("history@example.com", "Old Name")
    shared.es("users", "rename", user_id, "New Name").ok()
    shared.es("users", "change-email", user_id, "history2@example.com").ok()
    shared.erase(user_id)

    history = shared.history(user_id)
    types = ["user-registered.v1", "user-renamed.v1", "user-email-changed.v1", "user-erased.v2"]
    assert [event["type"] for event in history] == [*types, "erasure-completed.v2"]
    fields = [{"email": None, "name": None}, {"name": None}, {"email": None}]
    assert [event["data"] for event in history[:3]] == fields
    for version in ("0", "1", "2", "3"):
        former = shared.get(user_id, "--version", version)
        assert (former["email"], former["name"]) == (None, None)


def test_commands_on_an_erased_user_are_refused_with_user_erased(shared: System) -> None:
    user_id = shared.create("refused@example.com", "Refused")
    shared.erase(user_id)

    for command in (
        ("rename", user_id, "X"),
        ("change-email", user_id, "x@example.com"),
        ("delete", user_id),
    ):
        assert shared.es("users", *command, "--json").refused("user-erased").out == ""
    heir = shared.create("x@example.com", "Heir")
    assert shared.find("x@example.com")["user_id"] == heir, "the address of the refused change is free"


def test_the_address_of_an_erased_user_is_free_for_a_new_user(shared: System) -> None:
    user_id = shared.create("reborn@example.com", "First Life")
    shared.erase(user_id)
    again = shared.create("reborn@example.com", "Second Life")

    assert again != user_id
    found = shared.find("reborn@example.com")
    assert (found["user_id"], found["name"]) == (again, "Second Life")


def test_erasing_twice_changes_nothing(shared: System) -> None:
    user_id, command_id = shared.create("twice@example.com", "Twice"), str(uuid4())
    erase = ("gdpr", "erase", user_id, "--yes", "--json")
    first = shared.es(*erase, "--command-id", command_id).ok().object
    history = shared.history(user_id)

    assert shared.es(*erase, "--command-id", command_id).ok().object == first
    shared.es(*erase).ok()
    assert shared.history(user_id) == history


def test_a_deleted_user_can_be_erased(shared: System) -> None:
    user_id = shared.create("deleted@example.com", "Deleted")
    shared.es("users", "delete", user_id).ok()
    assert shared.get(user_id)["name"] == "Deleted"
    shared.erase(user_id)
    assert (shared.get(user_id)["status"], shared.get(user_id)["name"]) == ("erased", None)


def test_a_create_repeated_after_the_erasure_restores_nothing(shared: System) -> None:
    create = ("users", "create", "--json", "--email", "back@example.com", "--name", "Back")
    command = (*create, "--command-id", str(uuid4()))
    first = shared.es(*command).ok().object
    shared.erase(first["user_id"])

    assert shared.es(*command).ok().object == first
    assert shared.get(first["user_id"])["status"] == "erased"
    shared.create("back@example.com", "The address is free")


@pytest.mark.over(
    "embedded", "rabbitmq", because="tests of PostgreSQL look for residue in the tables of its vault"
)
def test_an_erasure_destroys_the_key_in_every_file(running: System) -> None:
    user_id, other = running.create(), running.create("other@example.com", "Other")
    key, before = _wrapped_key(running, user_id), _bucket_keys(running)
    running.erase(user_id)

    assert _wrapped_key(running, user_id) == bytes(len(key))
    assert running.get(other)["name"] == "Other"
    running.es("down").ok()
    replaced = before - _bucket_keys(running)
    assert len(replaced) == 2, "that of the person's block and that of the address"
    assert _files_with(running, _wrapped_key(running, other)), "the search finds a living key"
    # Copies of the person's key may lie in the file, and nothing can open them.
    assert [_files_with(running, wrapped) for wrapped in replaced] == [[], []]


def test_a_rebuild_after_an_erasure_shows_the_same(running: System) -> None:
    ids = [running.create(f"u{n}@example.com", f"User {n}") for n in range(4)]
    running.erase(ids[1])
    running.es("users", "delete", ids[2]).ok()
    running.erase(ids[2])
    before = running.users()
    running.es("projections", "rebuild", "users").ok()

    assert running.users() == before
    assert [user["status"] for user in before] == ["active", "erased", "erased", "active"]
    assert [user["name"] for user in before] == ["User 0", None, None, "User 3"]
    assert all(generation["parked"] == 0 for generation in running.generations())


@pytest.mark.slow
def test_an_erasure_is_completed_once_at_whichever_step_it_is_killed(running: System) -> None:
    for moment in [0, 1, 2, 3] * effort.ERASURE_KILLS:
        user_id = running.create("again@example.com", f"Life {moment}")
        key = _wrapped_key(running, user_id)
        victim = running.pid_of("erasures")
        if moment == 0:
            kill([victim])  # before the erasure: the new worker starts from its checkpoint
        eraser = running.start("gdpr", "erase", user_id, "--yes", "--json")
        if moment == 1:
            _decided(running, user_id)
        elif moment == 2:
            eventually(lambda: _wrapped_key(running, user_id) != key, "the key is destroyed")  # noqa: B023
        else:
            eraser.wait(DEADLINE_S)
        kill([victim])

        ran = finish(eraser).without_traceback()
        if ran.code == 4:  # a worker that ends again and again is restarted after up to 10 s
            ran = running.retry("gdpr", "erase", user_id, "--yes", "--json")
        assert ran.ok().object["user_id"] == user_id
        assert _completions(running, user_id) == 1
        assert _wrapped_key(running, user_id) == bytes(len(key))
        assert running.get(user_id)["status"] == "erased"
        running.ready()


def test_an_erasure_is_completed_after_its_paused_worker_was_killed(running: System) -> None:
    user_id = running.create()
    key = _wrapped_key(running, user_id)
    paused = running.signal("erasures", signal.SIGSTOP)
    refused = running.es("gdpr", "erase", user_id, "--yes", "--json").refused("unconfirmed", 4)
    assert "it is stored" in refused.err
    assert "outcome is unknown" not in refused.err
    # From its event on, no query shows the data and no command changes it, although the key still exists.
    assert running.get(user_id)["status"] == "erased"
    running.es("users", "rename", user_id, "X").failed(1)
    assert _wrapped_key(running, user_id) == key
    os.kill(paused, signal.SIGKILL)

    running.retry("gdpr", "erase", user_id, "--yes")
    assert _completions(running, user_id) == 1
    assert _wrapped_key(running, user_id) == bytes(len(key))


def test_the_reason_of_an_erasure_is_a_code(shared: System) -> None:
    user_id = shared.create("reason@example.com", "Reason")

    refused = shared.es("gdpr", "erase", user_id, "--yes", "--basis", "Mrs Reason asked").failed(2)

    assert "must be one of gdpr-request, " in refused.err
    assert "Mrs Reason" not in refused.err
    shared.es("gdpr", "erase", user_id, "--yes", "--basis", "retention").ok()
    (erased,) = [event for event in shared.history(user_id) if event["type"] == "user-erased.v2"]
    assert erased["data"] == {"basis": "retention"}
