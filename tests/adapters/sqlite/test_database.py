"""SQLite connections: durability, transactions, closing, and errors without values."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from adapters.log import describe
from adapters.sqlite.database import BUSY_TIMEOUT_MS, Database, sqlite_facts
from adapters.sqlite.event_store import SqliteStore
from domain.kernel.errors import Damaged, PartUnavailable
from domain.kernel.events import NO_STREAM
from domain.kernel.ports.event_store import Append
from tests.support.builders import a_stream, append, some_events
from tests.support.processes import locks, start_python
from tests.support.waiting import DEADLINE_S, eventually

CANARY = "canary_77aa"

needs_proc_locks = pytest.mark.skipif(not Path("/proc/locks").exists(), reason="needs /proc/locks")


def refused(database: Database) -> PartUnavailable:
    with pytest.raises(PartUnavailable) as raised, database.reading() as connection:
        connection.execute("SELECT 1")
    return raised.value


# --- durability ------------------------------------------------------------------------------


def test_every_connection_of_every_thread_is_opened_for_durability(database: Database) -> None:
    durable = {"journal_mode": "wal", "synchronous": 2, "secure_delete": 1, "busy_timeout": BUSY_TIMEOUT_MS}

    def pragmas() -> dict[str, object]:
        return {name: database.connection.pragma(name) for name in durable}

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(pragmas).result() == durable
    assert pragmas() == durable


def test_the_log_is_copied_after_many_commits_and_stays_short(database: Database) -> None:
    log = Path(f"{database.path}-wal")
    lengths = []
    for number in range(14):
        before = database.path.stat().st_size
        with database.writing() as connection:
            connection.execute("INSERT INTO notes(text) VALUES(?)", (f"{number}{'x' * 1_000_000}",))
        if database.path.stat().st_size > before:
            lengths.append(log.stat().st_size)

    assert len(lengths) == 1, "once for eight commits of 2 MB, which the text and its index have"
    assert 16_000_000 < lengths[0] <= log.stat().st_size < 20_000_000


def test_the_log_of_small_pages_is_as_long(schema: Path, tmp_path: Path) -> None:
    path = tmp_path / "small.db"
    with closing(Database(path, part="notes", migrations=[schema], page_bytes=1024)) as database:
        for number in range(9):
            with database.writing() as connection:
                connection.execute("INSERT INTO notes(text) VALUES(?)", (f"{number}{'x' * 1_000_000}",))

        assert 16_000_000 < Path(f"{path}-wal").stat().st_size < 20_000_000


def test_a_file_keeps_the_size_of_its_pages(schema: Path, tmp_path: Path) -> None:
    path, found = tmp_path / "notes.db", []
    for page_bytes in (4096, 1024):
        with closing(Database(path, part="notes", migrations=[schema], page_bytes=page_bytes)) as database:
            pragma = database.connection.pragma
            found.append((pragma("page_size"), pragma("wal_autocheckpoint"), pragma("journal_mode")))

    assert found == [(4096, 4096, "wal")] * 2


def test_each_thread_has_its_own_connection(database: Database) -> None:
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(lambda: database.connection).result()
        assert pool.submit(lambda: database.connection).result() is other

    assert database.connection is database.connection
    assert database.connection is not other


class _CountingFile(apsw.VFSFile):
    """Counts the syncs of the write-ahead log."""

    syncs = 0

    def xSync(self, flags: int) -> None:
        _CountingFile.syncs += 1
        super().xSync(flags)


class _CountingVFS(apsw.VFS):
    def __init__(self) -> None:
        self.base = apsw.vfs_names()[0]
        super().__init__("counting", self.base, makedefault=True)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        is_log = flags[0] & apsw.SQLITE_OPEN_WAL
        return (_CountingFile if is_log else apsw.VFSFile)(self.base, name, flags)


@pytest.fixture
def counted(path: Path) -> Iterator[SqliteStore]:
    """A store with one event, whose syncs are counted."""
    vfs = _CountingVFS()
    with closing(SqliteStore(path)) as store:
        append(store, "user-1", NO_STREAM, some_events(1))
        _CountingFile.syncs = 0
        yield store
    apsw.set_default_vfs(vfs.base)
    vfs.unregister()


def test_every_append_is_synced_to_disk(counted: SqliteStore) -> None:
    for version in range(5):
        append(counted, "user-1", version, some_events(1))

    assert _CountingFile.syncs >= 5


def test_a_batch_is_synced_to_disk_once(counted: SqliteStore) -> None:
    counted.append([Append(a_stream(), NO_STREAM, some_events(2)) for _ in range(100)])

    assert _CountingFile.syncs == 1, "group commit"


def test_the_library_has_the_fix_for_the_wal_reset() -> None:
    version, is_affected = sqlite_facts()

    assert version.startswith("SQLite 3.")
    assert not is_affected


# --- transactions ----------------------------------------------------------------------------


def test_an_exception_rolls_the_whole_transaction_back(database: Database) -> None:
    def fail_half_way() -> None:
        with database.writing() as connection:
            connection.execute("INSERT INTO notes(text) VALUES('half')")
            raise KeyError

    with pytest.raises(KeyError):
        fail_half_way()

    with database.writing() as connection:
        assert connection.execute("SELECT count(*) FROM notes").get == 0


def test_a_transaction_is_committed_when_it_ends(database: Database) -> None:
    with database.writing() as connection:
        connection.execute("INSERT INTO notes(text) VALUES('whole')")

    with closing(apsw.Connection(str(database.path))) as other:
        assert other.execute("SELECT text FROM notes").get == "whole"


# --- the locks of the process -----------------------------------------------------------------


def _connect_in_a_thread(path: Path) -> None:
    with closing(SqliteStore(path)) as store, ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: list(store.read_all(0, limit=1))).result()


def _append(path: Path) -> None:
    with closing(SqliteStore(path)) as store:
        append(store, a_stream(), NO_STREAM, some_events(1))


def _clean(path: Path) -> None:
    with closing(SqliteStore(path)) as store:
        store._database.rewrite()


def _be_refused(path: Path) -> None:
    with closing(apsw.Connection(str(path))) as other:
        other.pragma("user_version", 99)
    with pytest.raises(PartUnavailable, match="schema version 99"):
        SqliteStore(path)


@needs_proc_locks
@pytest.mark.parametrize("connect", [_connect_in_a_thread, _append, _clean, _be_refused])
def test_no_further_connection_drops_the_locks_of_the_process(
    path: Path, connect: Callable[[Path], None]
) -> None:
    with closing(SqliteStore(path)) as store:
        store.head()
        held = locks(path), locks(path.with_name("events.db-shm"))
        assert all(held), "SQLite holds a lock on both files while a connection is open"

        connect(path)

        assert (locks(path), locks(path.with_name("events.db-shm"))) == held


@needs_proc_locks
def test_another_program_that_comes_and_goes_leaves_the_log_in_place(path: Path) -> None:
    with closing(SqliteStore(path)) as store, ThreadPoolExecutor(1) as pool:
        pool.submit(store.head).result()
        append(store, "user-1", NO_STREAM, some_events(1))
        log = path.with_name("events.db-wal").stat().st_ino

        code = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM events').fetchone()"
        _, said = start_python(code, str(path)).communicate(timeout=DEADLINE_S)

        assert not said
        assert path.with_name("events.db-wal").stat().st_ino == log
        append(store, "user-2", NO_STREAM, some_events(1))
        assert [found.stream for found in store.read_all(0, 9)] == ["user-1", "user-2"]


# --- errors and closing ----------------------------------------------------------------------


def test_a_logged_error_shows_no_value(database: Database) -> None:
    logged: list[str] = []
    for statement, values in [
        ("INSERT INTO notes(text) VALUES(?), (?)", (CANARY, CANARY)),
        ("INSERT INTO notes(id, text) VALUES(?, 'x')", (CANARY,)),
        (f"SELECT {CANARY}(text) FROM notes", ()),
        (f"{CANARY} is no statement", ()),
    ]:
        with pytest.raises(apsw.Error) as raised, database.writing() as connection:
            connection.execute(statement, values)
        logged.append(json.dumps(describe(raised.value)))

    assert len(logged) == 4
    assert not [line for line in logged if CANARY in line]


def test_an_error_names_its_part_and_its_file(database: Database) -> None:
    database.close()

    error = refused(database)
    assert error.part == "notes"
    assert str(database.path) in error.reason


def test_a_closed_database_is_unavailable_in_every_thread(database: Database) -> None:
    closed, used = threading.Event(), threading.Event()

    def use_before_and_after() -> PartUnavailable:
        with database.reading() as connection:
            connection.execute("SELECT 1")
        used.set()
        closed.wait(DEADLINE_S)
        return refused(database)

    with ThreadPoolExecutor(2) as pool:
        old_thread = pool.submit(use_before_and_after)
        eventually(used.is_set, "the thread has used the database")
        database.close()
        closed.set()
        assert old_thread.result(timeout=DEADLINE_S)
    assert refused(database)
    assert database.close() is None  # type: ignore[func-returns-value]


@pytest.mark.parametrize(("derived", "cure"), [(False, "backup"), (True, "computed again")])
def test_a_damaged_file_is_told_with_its_cure(tmp_path: Path, derived: bool, cure: str) -> None:
    path = tmp_path / "parts.db"
    path.write_bytes(b"no database" * 500)

    with pytest.raises(Damaged) as raised:
        Database(path, part="parts", migrations=[], derived=derived)

    assert cure in raised.value.hint


def test_connections_of_threads_that_ended_are_closed_for_derived_data(tmp_path: Path) -> None:
    with closing(Database(tmp_path / "test.db", part="tests", migrations=[], derived=True)) as database:
        for _ in range(5):
            with ThreadPoolExecutor(1) as pool:
                pool.submit(lambda: database.connection.execute("SELECT 1").get).result()

        assert len(database._all) <= 3, "of this thread, of the last one, and of one that may just have ended"
