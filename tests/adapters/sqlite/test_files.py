"""The files of a SQLite database: removed, replaced, locked by another program, or of another database."""

from __future__ import annotations

from pathlib import Path

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


def test_two_waits_for_a_lock_end_before_a_caller_gives_up() -> None:
    assert 2 * sqlite.BUSY_TIMEOUT_MS / 1000 < TIMEOUT_S
