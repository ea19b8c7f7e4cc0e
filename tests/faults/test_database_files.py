"""Database files that an operator takes away, locks or damages: commands name the file, and recover with it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.processes import a_lock_on
from tests.support.system import System
from tests.support.waiting import eventually

GRACE = ("grace@example.com", "Grace", "--command-id", "6b8f8f5e-6d3c-4a4f-9a57-0d4b7d7c1a11")
"""A registration that can be repeated."""


@pytest.mark.parametrize("name", ["events.db", "vault.db"])
def test_a_command_fails_while_a_database_is_moved_away(running: System, name: str) -> None:
    running.create()
    file, elsewhere = running.home / name, running.root / "elsewhere"
    file.rename(elsewhere)

    ran = running.register(*GRACE).failed(4)
    assert f"{file} was removed or moved away" in ran.err
    assert running.es("doctor").without_traceback().code != 0

    elsewhere.rename(file)
    user_id = running.register(*GRACE).ok().out.strip()
    assert running.get(user_id)["email"] == "grace@example.com"
    running.es("doctor").ok()


def test_read_models_that_are_moved_away_are_named(running: System) -> None:
    user_id = running.create()
    running.caught_up()
    file, elsewhere = running.home / "read.db", running.root / "elsewhere"
    file.rename(elsewhere)

    def is_named() -> bool:
        ran = running.es("users", "get", user_id)
        return ran.code == 4 and f"{file} was removed" in ran.err

    eventually(is_named, "the missing file is named")
    elsewhere.rename(file)
    assert running.get(user_id)["name"] == "Ada Lovelace"


@pytest.mark.parametrize("name", ["events.db", "vault.db"])
def test_a_command_that_meets_a_lock_names_the_program_that_holds_it(running: System, name: str) -> None:
    running.create()
    with a_lock_on(running.home / name) as pid:
        ran = running.register(*GRACE).failed(4)

    assert f"{name} stayed locked" in ran.err
    if Path("/proc/locks").exists():
        assert f"process {pid} " in ran.err
    running.register(*GRACE).ok()


@pytest.mark.parametrize("name", ["events.db", "vault.db"])
def test_a_database_that_is_damaged_at_the_start_ends_commands_with_5(running: System, name: str) -> None:
    running.create()
    running.es("down").ok()
    file, copy = running.home / name, running.root / "copy"
    shutil.copy(file, copy)
    file.write_bytes(b"x" * 8192)

    assert f"{file} is not a sound SQLite database" in running.es("up").failed(5).err
    assert str(file) in running.register("grace@example.com", "Grace").failed(5).err

    shutil.copy(copy, file)
    eventually(
        lambda: running.register("grace@example.com", "Grace").code in (0, 1), "the restored file is used"
    )
