"""SQLite: what a file promises beyond the contract: durability, modes, full disks, damage, locks, and no edits by hand."""

from __future__ import annotations

import json
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from uuid import UUID, uuid4

import apsw
import pytest

from adapters.log import describe
from adapters.sqlite import database as sqlite
from adapters.sqlite.database import Database, sqlite_facts
from adapters.sqlite.event_store import SqliteStore
from domain.kernel.errors import Damaged, PartUnavailable
from domain.kernel.events import NO_STREAM, Recorded
from domain.kernel.ports.event_store import Append, Appended, CaughtUp
from tests.support.builders import (
    DEADLINE_S,
    a_stream,
    an_event,
    append,
    before,
    eventually,
    open_store,
    some_events,
    start_python,
    stored,
)

CANARY = "canary_77aa"
_SCHEMA = "CREATE TABLE IF NOT EXISTS notes(id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE) STRICT"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    with closing(SqliteStore(path)) as opened:
        yield opened


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(Database(tmp_path / "notes.db", part="notes", schema=_SCHEMA)) as opened:
        yield opened


@pytest.fixture
def by_hand(path: Path, store: SqliteStore) -> Iterator[apsw.Connection]:
    """Somebody who opens the file with another tool."""
    append(store, "user-1", NO_STREAM, some_events(3))
    with closing(apsw.Connection(str(path))) as connection:
        yield connection


def _count(store: SqliteStore) -> int:
    return len(list(store.read_all(0, 1_000_000)))


# --- events are never changed ----------------------------------------------------------------

_ROW = "(position, stream, version, event_id, type, recorded_at_us, data, metadata)"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET data = x'00' WHERE version = 1",
        "UPDATE events SET stream = 'user-2'",
        "UPDATE OR REPLACE events SET version = 0 WHERE version = 1",
        "DELETE FROM events WHERE version = 1",
        "DELETE FROM events",
        f"INSERT OR REPLACE INTO events{_ROW} SELECT position, stream, version, event_id, 'forged', 0, x'', x'' FROM events",
        f"REPLACE INTO events{_ROW} SELECT 99, stream, 99, event_id, 'forged', 0, x'', x'' FROM events WHERE version = 1",
        f"REPLACE INTO events{_ROW} SELECT 99, stream, version, zeroblob(16), 'forged', 0, x'', x'' FROM events WHERE version = 1",
        f"REPLACE INTO events{_ROW} SELECT position, 'other', 0, zeroblob(16), 'forged', 0, x'', x'' FROM events WHERE version = 1",
        f"INSERT INTO events{_ROW} SELECT position, stream, version, event_id, 'forged', 0, x'', x'' FROM events"
        " WHERE true ON CONFLICT(position) DO UPDATE SET type = 'forged'",
    ],
)
def test_no_statement_changes_or_removes_an_event(
    store: SqliteStore, by_hand: apsw.Connection, statement: str
) -> None:
    events = list(store.read_stream("user-1"))

    with pytest.raises(apsw.ConstraintError):
        by_hand.execute(statement)

    assert list(store.read_all(0, 100)) == events


def test_the_database_itself_holds_one_event_per_version_and_per_id(by_hand: apsw.Connection) -> None:
    for changed in ("'user-1', 0, zeroblob(16)", "'user-1', 9, event_id"):
        with pytest.raises(apsw.ConstraintError):
            by_hand.execute(
                "INSERT INTO events(stream, version, event_id, type, recorded_at_us, data, metadata)"
                f" SELECT {changed}, type, 0, data, metadata FROM events WHERE version = 0"
            )

    assert by_hand.execute("SELECT count(*) FROM events").get == 3


def test_a_position_is_never_used_again(by_hand: apsw.Connection) -> None:
    assert "AUTOINCREMENT" in by_hand.execute("SELECT sql FROM sqlite_schema WHERE name = 'events'").get


# --- durability ------------------------------------------------------------------------------


def _pragmas(database: Database) -> dict[str, object]:
    names = ("journal_mode", "synchronous", "secure_delete", "busy_timeout")
    return {name: database.connection.pragma(name) for name in names}


def test_every_connection_of_every_thread_is_opened_for_durability(database: Database) -> None:
    durable = {
        "journal_mode": "wal",
        "synchronous": 2,
        "secure_delete": 1,
        "busy_timeout": sqlite.BUSY_TIMEOUT_MS,
    }

    here = _pragmas(database)
    with ThreadPoolExecutor(1) as pool:
        in_a_thread = pool.submit(_pragmas, database).result()

    assert here == durable
    assert in_a_thread == durable


def test_each_thread_has_one_connection_of_its_own(database: Database) -> None:
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(lambda: database.connection).result()
        assert pool.submit(lambda: database.connection).result() is other

    assert database.connection is database.connection
    assert database.connection is not other


class _CountingFile(apsw.VFSFile):
    """Counts how often the write-ahead log is forced to the disk."""

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
def syncs() -> Iterator[type[_CountingFile]]:
    vfs = _CountingVFS()
    yield _CountingFile
    apsw.set_default_vfs(vfs.base)
    vfs.unregister()


def test_an_answered_append_was_forced_to_the_disk(syncs: type[_CountingFile], path: Path) -> None:
    with closing(SqliteStore(path)) as store:
        append(store, "user-1", NO_STREAM, some_events(1))
        before_appends = syncs.syncs

        for version in range(5):
            append(store, "user-1", version, some_events(1))

        assert syncs.syncs - before_appends >= 5


def test_a_batch_is_forced_to_the_disk_once(syncs: type[_CountingFile], path: Path) -> None:
    with closing(SqliteStore(path)) as store:
        append(store, "user-1", NO_STREAM, some_events(1))
        before_batch = syncs.syncs

        store.append([Append(a_stream(), NO_STREAM, some_events(2)) for _ in range(100)])

        assert syncs.syncs - before_batch == 1, "group commit is what makes the system fast"


def test_the_library_has_the_fix_for_the_wal_reset() -> None:
    version, is_affected = sqlite_facts()

    assert version.startswith("SQLite 3.")
    assert not is_affected


def test_the_files_are_for_their_owner_alone(store: SqliteStore, path: Path) -> None:
    append(store, "user-1", NO_STREAM, some_events(1))

    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}

    assert modes == {"events.db": 0o600, "events.db-wal": 0o600, "events.db-shm": 0o600}


# --- transactions ----------------------------------------------------------------------------


def test_an_exception_undoes_the_whole_transaction(database: Database) -> None:
    def fail_half_way() -> None:
        with database.writing() as connection:
            connection.execute("INSERT INTO notes(text) VALUES('half')")
            raise KeyError

    with pytest.raises(KeyError):
        fail_half_way()

    with database.writing() as connection:
        assert connection.execute("SELECT count(*) FROM notes").get == 0


def test_a_transaction_is_written_when_it_ends(database: Database) -> None:
    with database.writing() as connection:
        connection.execute("INSERT INTO notes(text) VALUES('whole')")

    with closing(apsw.Connection(str(database.path))) as other:
        assert other.execute("SELECT text FROM notes").get == "whole"


def test_an_error_undoes_the_batch_and_the_store_goes_on(store: SqliteStore) -> None:
    good, bad = a_stream(), an_event(data="text")  # type: ignore[arg-type]

    # A wrong statement or value is a bug, not an outage: it comes out as it is, and nobody is told to repeat it.
    with pytest.raises(apsw.ConstraintError):
        store.append([Append(good, NO_STREAM, some_events(2)), Append(a_stream(), NO_STREAM, [bad])])

    assert _count(store) == 0
    assert isinstance(append(store, good, NO_STREAM, some_events(1)), Appended)


def test_a_paused_consumer_does_not_hold_the_log_open(store: SqliteStore) -> None:
    append(store, "user-1", NO_STREAM, some_events(2500))
    reading = store.read_all(0, 2500)
    following = store.follow(0, stopped=before(DEADLINE_S))
    next(reading)
    next(following)

    assert store._database.truncate_wal()
    assert len(list(reading)) == 2499


def test_a_reader_in_the_way_of_cutting_the_log_is_told_of(
    store: SqliteStore, by_hand: apsw.Connection
) -> None:
    rows = by_hand.execute("SELECT * FROM events")
    next(rows)
    append(store, "user-1", 2, some_events(1))
    store._database.connection.set_busy_timeout(10)

    assert not store._database.truncate_wal()
    rows.close()
    assert store._database.truncate_wal()
    assert store._database.path.with_name("events.db-wal").stat().st_size == 0


def test_thousands_of_events_in_one_item_are_stored(store: SqliteStore) -> None:
    result = append(store, "user-1", NO_STREAM, some_events(40_000))

    assert isinstance(result, Appended)
    assert result.version == 39_999


# --- a full disk -----------------------------------------------------------------------------


def test_a_full_disk_is_unavailable_loses_nothing_and_goes_on_with_more_room(path: Path) -> None:
    kept: list[UUID] = []
    event = an_event(data=b'"%s"' % (b"x" * 1000))

    def append_for_ever() -> None:
        nonlocal event
        while True:
            append(store, "user-1", len(kept) - 1, [event])
            kept.append(event.event_id)
            event = an_event(data=event.data)

    with closing(SqliteStore(path, page_limit=40)) as store:
        with pytest.raises(PartUnavailable, match="the disk is full") as refused:
            append_for_ever()
        assert "disk space" in refused.value.hint
        assert len(kept) > 5
        assert [event.event_id for event in store.read_stream("user-1")] == kept, "nothing lost, no half item"
        with pytest.raises(PartUnavailable, match="the disk is full"):
            append(store, "user-2", NO_STREAM, [an_event(data=b"x" * 100_000)])

    with closing(SqliteStore(path, page_limit=400)) as store:
        result = append(store, "user-1", len(kept) - 1, [event])  # the one whose outcome was unknown

        assert isinstance(result, Appended)
        assert result.version == len(kept)
        assert [found.event_id for found in store.read_stream("user-1")] == [*kept, event.event_id]


def test_on_a_full_disk_a_batch_is_stored_whole_or_not_at_all(path: Path) -> None:
    with closing(SqliteStore(path, page_limit=40)) as store:
        append(store, "user-1", NO_STREAM, some_events(1))
        small = Append("user-2", NO_STREAM, some_events(1))
        large = Append("user-3", NO_STREAM, [an_event(data=b"x" * 500_000)])

        with pytest.raises(PartUnavailable, match="the disk is full"):
            store.append([small, large])

        assert _count(store) == 1
        assert store.append([small]) == [Appended(0, 2)]


def test_reading_still_works_on_a_full_disk(path: Path) -> None:
    with closing(SqliteStore(path, page_limit=40)) as store:
        append(store, "user-1", NO_STREAM, some_events(5))
        with pytest.raises(PartUnavailable):
            append(store, "user-1", 4, [an_event(data=b"x" * 500_000)])

        assert len(stored(store, "user-1")) == 5  # type: ignore[arg-type]
        items = store.follow(0, stopped=before(DEADLINE_S))
        assert isinstance([next(items) for _ in range(6)][-1], CaughtUp)


# --- files that can't be used ----------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [b"this is no database" * 100, bytes(8192), bytes(range(256)) * 32],
    ids=["text", "zeros", "bytes"],
)
def test_a_file_that_is_no_database_is_damaged_and_left_as_it_is(path: Path, content: bytes) -> None:
    path.write_bytes(content)

    with pytest.raises(Damaged) as refused:
        SqliteStore(path)

    assert str(path) in str(refused.value)
    assert path.read_bytes() == content


def _a_closed_store(path: Path) -> bytearray:
    with closing(SqliteStore(path)) as store:
        append(store, "user-1", NO_STREAM, [an_event(data=b"x" * 2000) for _ in range(200)])
    return bytearray(path.read_bytes())


def test_a_torn_database_is_damaged(path: Path) -> None:
    whole = _a_closed_store(path)
    path.write_bytes(whole[: len(whole) // 2])

    with pytest.raises(Damaged), closing(SqliteStore(path)) as store:
        _count(store)


def test_a_database_with_an_overwritten_page_is_damaged(path: Path) -> None:
    whole = _a_closed_store(path)
    for page in range(2, 30):  # the first page and the schema stay sound
        whole[page * 4096 : page * 4096 + 4096] = b"\xee" * 4096
    path.write_bytes(whole)

    with pytest.raises(Damaged), closing(SqliteStore(path)) as store:
        _count(store)


def test_a_missing_folder_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(PartUnavailable, match="No such file"):
        SqliteStore(tmp_path / "missing" / "events.db")


def test_a_folder_in_place_of_the_file_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(PartUnavailable, match="Is a directory"):
        SqliteStore(tmp_path)


_AS_NOBODY = """
import os, sys
from tests.support.builders import append, open_store, some_events
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
from domain.kernel.errors import PartUnavailable
try:
    append(open_store("sqlite:" + sys.argv[1]), "user-1", -1, some_events(1))
except PartUnavailable as error:
    print("unavailable:", error, "|", error.hint)
"""


@pytest.mark.parametrize("what", ["the folder", "the file"])
def test_a_place_that_cannot_be_written_is_unavailable(what: str) -> None:
    # Root may write anywhere, so a process without its rights does the opening.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.db"
        if what == "the file":
            SqliteStore(path).close()
            path.chmod(0o444)
        Path(folder).chmod(0o555)
        try:
            process = start_python(_AS_NOBODY, str(path))
            out, err = process.communicate(timeout=DEADLINE_S)
        finally:
            Path(folder).chmod(0o755)

    if "setuid" in err:
        pytest.skip("this container lets root give up no rights")
    assert err == ""
    assert out.startswith("unavailable: event store is unavailable:")


def test_a_store_that_turns_read_only_is_unavailable_and_still_read(store: SqliteStore) -> None:
    append(store, "user-1", NO_STREAM, some_events(2))
    store._database.connection.pragma("query_only", True)

    with pytest.raises(PartUnavailable, match="cannot be opened for writing") as refused:
        append(store, "user-1", 1, some_events(1))

    assert "writable" in refused.value.hint
    assert _count(store) == 2


def test_a_lock_that_is_never_let_go_is_unavailable(
    store: SqliteStore, by_hand: apsw.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    store._database.connection.set_busy_timeout(50)
    by_hand.execute("BEGIN IMMEDIATE")

    with pytest.raises(PartUnavailable, match="stayed locked"):
        append(store, "user-1", 2, some_events(1))

    by_hand.execute("ROLLBACK")
    assert isinstance(append(store, "user-1", 2, some_events(1)), Appended)


def test_a_lock_that_is_let_go_in_time_is_waited_for(store: SqliteStore, by_hand: apsw.Connection) -> None:
    by_hand.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(append, store, "user-1", 2, some_events(1))
        assert not waiting.done()
        by_hand.execute("COMMIT")

        assert isinstance(waiting.result(timeout=DEADLINE_S), Appended)


def test_reading_goes_on_while_another_writes(store: SqliteStore, by_hand: apsw.Connection) -> None:
    by_hand.execute("BEGIN IMMEDIATE")

    assert _count(store) == 3
    by_hand.execute("ROLLBACK")


def test_opening_waits_for_another_that_is_just_creating_the_file(path: Path) -> None:
    with closing(apsw.Connection(str(path))) as creating, ThreadPoolExecutor(1) as pool:
        creating.execute("BEGIN IMMEDIATE")
        opening = pool.submit(SqliteStore, path)
        with pytest.raises(TimeoutError):  # nothing yet, and no error either
            opening.result(timeout=0.2)
        creating.execute("COMMIT")

        with closing(opening.result(timeout=DEADLINE_S)) as store:
            assert store.head() == 0


_OPEN_AT_ONCE = """
import sys
import adapters.sqlite.event_store
from tests.support.builders import a_stream, append, open_store, some_events
print("ready", flush=True)
input()
store = open_store("sqlite:" + sys.argv[1])
print(append(store, a_stream(), -1, some_events(1)).version)
"""


def test_many_processes_create_one_store_at_once(tmp_path: Path) -> None:
    for attempt in range(3):
        path = tmp_path / f"{attempt}.db"
        processes = [start_python(_OPEN_AT_ONCE, str(path)) for _ in range(5)]
        _release(processes)

        answers = [process.communicate(timeout=DEADLINE_S) for process in processes]

        assert answers == [("0\n", "")] * 5
        with closing(SqliteStore(path)) as store:
            assert _count(store) == 5


def _release(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate(timeout=DEADLINE_S)[1]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


# --- time ---------------------------------------------------------------------------------------


def test_the_time_of_an_event_is_the_stores_clock(path: Path) -> None:
    with closing(SqliteStore(path, now_us=lambda: 1_767_225_600_123_456)) as store:
        append(store, "user-1", NO_STREAM, some_events(1))

        (event,) = store.read_stream("user-1")
        assert event.recorded_at_us == 1_767_225_600_123_456


# --- what errors tell ------------------------------------------------------------------------


def test_nothing_that_is_logged_of_an_error_quotes_a_value(database: Database) -> None:
    logged: list[str] = []
    for statement, values in [
        ("INSERT INTO notes(text) VALUES(?), (?)", (CANARY, CANARY)),
        ("INSERT INTO notes(id, text) VALUES(?, 'x')", (CANARY,)),
        (f"SELECT {CANARY} FROM notes", ()),
        (f"{CANARY} is no statement", ()),
    ]:
        with pytest.raises(apsw.Error) as refused, database.writing() as connection:
            connection.execute(statement, values)
        logged.append(json.dumps(describe(refused.value)))

    assert len(logged) == 4
    assert not [line for line in logged if CANARY in line]


def test_an_error_names_its_part_and_its_file(database: Database) -> None:
    database.close()

    with pytest.raises(PartUnavailable) as refused, database.reading() as connection:
        connection.execute("SELECT 1")

    assert refused.value.part == "notes"
    assert str(database.path) in refused.value.reason


def test_a_closed_database_is_unavailable_in_every_thread(database: Database) -> None:
    closed, used = threading.Event(), threading.Event()

    def use_before_and_after() -> str:
        with database.reading() as connection:
            connection.execute("SELECT 1")
        used.set()
        closed.wait(DEADLINE_S)
        with pytest.raises(PartUnavailable), database.reading() as connection:
            connection.execute("SELECT 1")
        return "refused"

    with ThreadPoolExecutor(2) as pool:
        old_thread = pool.submit(use_before_and_after)
        eventually(used.is_set, "the thread has used the database")
        database.close()
        closed.set()
        assert old_thread.result(timeout=DEADLINE_S) == "refused"
    with pytest.raises(PartUnavailable), database.reading() as connection:
        connection.execute("SELECT 1")
    assert database.close() is None


# --- speed that correctness relies on --------------------------------------------------------


def test_reading_by_prefix_and_by_stream_uses_an_index(store: SqliteStore, by_hand: apsw.Connection) -> None:
    for query in (
        "SELECT version FROM events WHERE stream = 'a' ORDER BY version DESC LIMIT 1",
        "SELECT * FROM events WHERE stream = 'a' AND version >= 0 ORDER BY version LIMIT 5",
        "SELECT * FROM events WHERE position > 5 ORDER BY position LIMIT 5",
        "SELECT 1 FROM events WHERE event_id IN (x'00', x'01') LIMIT 1",
    ):
        plan = " ".join(row[3] for row in by_hand.execute(f"EXPLAIN QUERY PLAN {query}"))
        assert "SEARCH events" in plan, query
        assert "TEMP B-TREE" not in plan, query


def test_the_url_opens_the_same_file(path: Path) -> None:
    event = an_event(event_id=uuid4())
    with closing(open_store(f"sqlite:{path}")) as store:
        append(store, "user-1", NO_STREAM, [event])

    with closing(SqliteStore(path)) as again:
        (found,) = again.read_stream("user-1")
        assert isinstance(found, Recorded)
        assert found.event_id == event.event_id
