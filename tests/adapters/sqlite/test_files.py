"""The files of a SQLite database: removed, replaced, locked by another program, or of another database."""

from __future__ import annotations

import threading
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from adapters.sqlite import database as sqlite
from adapters.sqlite.event_store import SqliteStore
from adapters.sqlite.read_model import SqliteReadModel
from adapters.sqlite.vault import SqliteVault
from cli.session import TIMEOUT_S
from domain.kernel.errors import Damaged
from domain.kernel.events import NO_STREAM
from domain.kernel.ports.event_store import Appended
from tests.support.builders import a_stream, append, some_events
from tests.support.postgres import unavailable
from tests.support.processes import a_lock_on
from tests.support.vaults import KEK
from tests.support.waiting import DEADLINE_S

FILES = ("events.db", "events.db-wal", "events.db-shm")


def write(store: SqliteStore) -> None:
    assert isinstance(append(store, a_stream(), NO_STREAM, some_events(1)), Appended)


@pytest.fixture(autouse=True)
def _readers_look_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_CHECK_INTERVAL_S", 0.0)


@pytest.mark.parametrize("name", FILES)
def test_a_removed_file_is_named_and_the_store_works_when_it_is_back(
    store: SqliteStore, path: Path, name: str
) -> None:
    write(store)
    file, elsewhere = path.with_name(name), path.with_name("elsewhere")
    file.rename(elsewhere)

    for call in (lambda: write(store), store.head):
        error = unavailable(call, "was removed or moved away")
        assert str(file) in error.reason
        assert "Put it back" in error.hint

    elsewhere.rename(file)
    write(store)
    assert store.head() == 2


@pytest.mark.parametrize("name", FILES)
def test_a_replaced_file_is_named_and_the_hint_says_to_restart(
    store: SqliteStore, path: Path, name: str
) -> None:
    write(store)
    path.with_name("copy").touch()
    path.with_name("copy").rename(path.with_name(name))

    assert "es down" in unavailable(lambda: write(store), f"{name} was replaced").hint


def test_a_commit_into_a_file_that_was_removed_meanwhile_is_not_confirmed(
    store: SqliteStore, path: Path
) -> None:
    def write_while_it_is_removed() -> None:
        with store._database.writing():
            path.rename(path.with_name("elsewhere"))

    assert "Put it back" in unavailable(write_while_it_is_removed, "was removed").hint


def test_no_new_database_is_made_beside_the_log_of_a_missing_one(store: SqliteStore, path: Path) -> None:
    write(store)
    path.rename(path.with_name("elsewhere"))

    assert "Put it back" in unavailable(lambda: SqliteStore(path), "its log events.db-wal is there").hint

    assert not path.exists()


def test_another_database_is_damaged_and_the_missing_table_is_named(tmp_path: Path) -> None:
    SqliteVault(tmp_path / "vault.db", kek=KEK).close()

    with pytest.raises(Damaged, match="no table events"):
        SqliteStore(tmp_path / "vault.db")
    with pytest.raises(Damaged, match=r"no table generation_phases, .*generations"):
        SqliteReadModel(tmp_path / "vault.db")


def test_the_program_that_holds_a_lock_is_named(store: SqliteStore, path: Path) -> None:
    store._database.connection.set_busy_timeout(50)
    with a_lock_on(path) as pid:
        error = unavailable(lambda: write(store), "stayed locked")

    if Path("/proc/locks").exists():
        assert f"by process {pid} (" in error.reason
    write(store)


def test_threads_that_write_one_file_take_turns(store: SqliteStore) -> None:
    written: list[str] = []
    looked_again = threading.Event()

    def retried(_: int) -> bool:
        looked_again.set()
        return True

    def write_second() -> None:
        store._database.connection.set_busy_handler(retried)
        with store._database.writing():
            written.append("second")

    with ThreadPoolExecutor(1) as pool:
        with store._database.writing():
            second = pool.submit(write_second)
            waits_in_sqlite = looked_again.wait(0.2)
            written.append("first")
        second.result(DEADLINE_S)

    assert written == ["first", "second"]
    assert not waits_in_sqlite, "SQLite would let it sleep for milliseconds, and look again"


def test_a_thread_waits_for_another_ones_lock_no_longer_than_for_a_programs(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_MS", 50)
    with store._database.writing(), ThreadPoolExecutor(1) as pool:
        refused = pool.submit(unavailable, lambda: write(store), "stayed locked")
        assert "another program" in refused.result(DEADLINE_S).reason


def test_behind_a_thread_that_waits_for_a_program_the_whole_wait_is_no_longer(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_MS", 1000)
    monkeypatch.setattr(sqlite, "_SHORT_WAIT_MS", -1)
    asked: list[int] = []

    class Noted:
        def __init__(self, connection: Any) -> None:
            self._connection = connection

        def set_busy_timeout(self, ms: int) -> None:
            asked.append(ms)
            self._connection.set_busy_timeout(ms)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._connection, name)

    now_s = [0.0]

    class HeldForAFifth:
        def acquire(self, *, timeout: float) -> bool:
            now_s[0] += timeout / 5
            return True

        def release(self) -> None: ...

    monkeypatch.setattr(store._database._local, "connection", Noted(store._database.connection))
    monkeypatch.setattr(store._database, "_turn", HeldForAFifth())
    monkeypatch.setattr(sqlite, "time", types.SimpleNamespace(monotonic=lambda: now_s[0]))

    write(store)

    assert asked == [800, 1000]


def test_two_waits_for_a_lock_end_before_a_caller_gives_up() -> None:
    assert 2 * sqlite.BUSY_TIMEOUT_MS / 1000 < TIMEOUT_S
