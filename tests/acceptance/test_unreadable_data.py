"""Damage to one person's data hides nobody else's, and does not keep that person from being erased."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from uuid import uuid4

from adapters.wiring import open_store
from domain.kernel.events import EventData
from domain.kernel.ports.event_store import Appended
from tests.support.builders import append
from tests.support.postgres import execute
from tests.support.system import System


def _damage(system: System, part: str, statement: str) -> None:
    """Change one row of `vault` or `read_models`; the statement names tables without their schema, after `TABLE`."""
    if url := system.environment.get("ES_VAULT", ""):
        execute(url, statement.replace("TABLE ", f"{url.rpartition('schema=')[2]}_{part}."))
        return
    file = {"vault": "vault.db", "read_models": "read.db"}[part]
    with closing(sqlite3.connect(system.home / file)) as connection, connection:
        assert connection.execute(statement.replace("TABLE ", "")).rowcount == 1


def _store_damaged_event(system: System, user_id: str) -> None:
    event = EventData(uuid4(), "user-renamed.v1", b"\0", b"{}")
    with closing(open_store(system.settings.store)) as store:
        assert isinstance(append(store, f"user-{user_id}", 0, [event]), Appended)


def test_damage_of_one_person_hides_no_other_and_each_can_be_erased(running: System) -> None:
    key, value, event, sound = (running.create(f"{n}@example.com", f"Person {n}") for n in range(4))
    tail = running.es("events", "tail", "--from", "0", "--no-follow", "--json").ok().objects
    running.es("down").ok()
    zeros = "zeroblob(60)" if "ES_VAULT" not in running.environment else f"decode('{'00' * 60}', 'hex')"
    _damage(running, "vault", f"UPDATE TABLE data_keys SET wrapped = {zeros} WHERE subject = {key}")
    _damage(running, "read_models", f"UPDATE TABLE users_g1 SET name = 'es1:x' WHERE user_id = {value}")
    _store_damaged_event(running, event)
    running.es("up").ok()

    users = running.users()
    assert [user["status"] for user in users] == ["unreadable", "unreadable", "active", "active"]
    assert [user.get("unreadable") for user in users] == [
        {"email": "key-damaged", "name": "key-damaged"},
        {"name": "tampered"},
        None,
        None,
    ]
    assert users[1]["email"] == "1@example.com"
    shown = running.es("events", "tail", "--from", "0", "--no-follow", "--json").ok().objects
    assert [each for each in shown if "unreadable" not in each][: len(tail)] == tail
    assert [each["unreadable"] for each in shown if "unreadable" in each] == [{"data": "damaged"}]
    assert "unreadable: damaged" in running.es("streams", "read", f"user-{event}").ok().out
    for user_id in (key, value):
        assert user_id in running.es("users", "get", user_id).failed(5).out, "what can be read is printed"
    assert "unreadable: damaged" in running.es("users", "history", event).failed(5).out

    for user_id in (key, value, event):
        running.es("gdpr", "erase", user_id, "--yes").ok()
    assert [user["status"] for user in running.users()] == ["erased", "erased", "erased", "active"]
    assert running.get(sound)["name"] == "Person 3"
