"""Backups put back while no worker runs: from the first answer on, erased people are not shown, and others are."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from adapters.wiring import open_caller
from domain.kernel.errors import EsError
from tests.support.people import confirmed, people
from tests.support.profiles import a_system
from tests.support.system import System
from tests.support.waiting import eventually

MANY = 3000

pytestmark = pytest.mark.slow


def backup(system: System, *names: str) -> Path:
    """Copy parts of a stopped home."""
    folder = system.root / "backup"
    folder.mkdir()
    for name in names:
        shutil.copy(system.home / name, folder / name)
    return folder


def put_back(system: System, folder: Path) -> None:
    for file in folder.iterdir():
        for suffix in ("", "-wal", "-shm"):
            (system.home / (file.name + suffix)).unlink(missing_ok=True)
        shutil.copy(file, system.home / file.name)


def registered(system: System, prefix: str, count: int) -> set[str]:
    """Register users in one bulk; their ids."""
    return {*confirmed(system.bulk("create", people(count, prefix=prefix)).ok().objects).values()}


class Watcher:
    """Asks for one user again and again, from before the first worker runs."""

    def __init__(self, system: System, user_id: str) -> None:
        self._system = system
        self._user_id = user_id
        self._ended = threading.Event()
        self.answers: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.is_set():
            with closing(open_caller(self._system.settings)) as caller, suppress(EsError):
                while not self._ended.is_set():
                    answer = caller.ask("projections", "users.get", {"user_id": self._user_id})
                    self.answers.append(dict(answer))


@pytest.fixture
def system(request: pytest.FixtureRequest) -> Iterator[System]:
    with a_system("embedded", request) as made:
        yield made


def test_an_erased_user_is_never_shown_after_vault_and_rows_are_restored(system: System) -> None:
    system.up()
    user_id = system.create()
    assert system.get(user_id, "--fresh")["email"] == "ada@example.com"
    system.es("down").ok()
    copy = backup(system, "vault.db", "read.db")
    system.up()
    registered(system, "later", MANY)  # the rows need a while until they show the erasure
    system.erase(user_id)
    system.es("down").ok()
    put_back(system, copy)

    with Watcher(system, user_id) as watcher:
        system.up()
        eventually(lambda: len(watcher.answers) > 5, "answered")

    shown = {(answer["status"], answer["email"], answer["name"]) for answer in watcher.answers}
    assert shown == {("erased", None, None)}


def test_a_restored_store_shows_the_users_that_it_has_and_no_others(system: System) -> None:
    system.up()
    kept = registered(system, "kept", MANY)  # the rebuild takes a while
    system.es("down").ok()
    copy = backup(system, "events.db")  # the vault still opens the users of the lost history
    system.up()
    lost = registered(system, "lost", 20)
    assert {user["user_id"] for user in system.users()} == kept | lost
    system.es("down").ok()
    put_back(system, copy)

    with Watcher(system, min(lost)) as watcher:
        system.up()
        meanwhile = registered(system, "new", 60)
        assert {user["user_id"] for user in system.users()} == kept | meanwhile

    assert watcher.answers == [], "not shown, not even once"
    current = system.generation()
    assert (current["generation"], current["other_history"]) == (2, False)
