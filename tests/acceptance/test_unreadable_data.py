"""Damage to one person's data hides nobody else's, and does not keep that person from being erased."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing

import pytest

from tests.support.system import System

pytestmark = pytest.mark.over("embedded", because="it damages the files of the embedded parts")


def _damage(system: System, file: str, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(system.home / file)) as connection, connection:
        assert connection.execute(statement, values).rowcount == 1


def test_damage_of_one_person_hides_no_other_and_each_can_be_erased(running: System) -> None:
    key, value, event, sound = (running.create(f"{n}@example.com", f"Person {n}") for n in range(4))
    tail = running.es("events", "tail", "--from", "0", "--no-follow", "--json").ok().objects
    running.es("down").ok()
    _damage(running, "vault.db", "UPDATE data_keys SET wrapped = zeroblob(60) WHERE subject = ?", int(key))
    _damage(running, "read.db", "UPDATE users_g1 SET name = 'es1:x' WHERE user_id = ?", int(value))
    _damage(
        running,
        "events.db",
        "INSERT INTO events(stream, version, event_id, type, recorded_at_us, data, metadata)"
        " VALUES(?, 1, ?, 'user-renamed.v1', 1, x'00', x'7b7d')",
        f"user-{event}",
        os.urandom(16),
    )
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
