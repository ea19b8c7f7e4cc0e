"""The event store in SQLite beyond its contract: unchangeable rows, locks, full disks and unusable files."""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from uuid import UUID

import apsw
import pytest

from adapters.sqlite import event_store
from adapters.sqlite.database import Database, migration_files
from adapters.sqlite.event_store import SqliteStore
from domain.kernel.errors import Damaged, PartUnavailable
from domain.kernel.events import NO_STREAM
from domain.kernel.ports.event_store import Append, Appended, CaughtUp, EventStore
from tests.support.builders import a_stream, an_event, append, some_events, stored
from tests.support.full_disk import limited
from tests.support.processes import start_python
from tests.support.together import run_together
from tests.support.waiting import DEADLINE_S, before


def count(store: EventStore) -> int:
    return len(list(store.read_all(0, 1_000_000)))


def test_a_program_that_does_not_read_short_events_refuses_the_file(tmp_path: Path) -> None:
    SqliteStore(tmp_path / "events.db").close()
    former = [file for file in migration_files("events") if file.name < "events_003.sql"]

    with pytest.raises(PartUnavailable, match="has schema version 3, but this program supports 2"):
        Database(tmp_path / "events.db", part="event store", migrations=former)


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
    store: SqliteStore, other: apsw.Connection, statement: str
) -> None:
    events = list(store.read_stream("user-1"))

    with pytest.raises(apsw.ConstraintError):
        other.execute(statement)

    assert list(store.read_all(0, 100)) == events


def test_the_table_allows_one_event_per_version_and_per_id(other: apsw.Connection) -> None:
    for changed in ("'user-1', 0, zeroblob(16)", "'user-1', 9, event_id"):
        with pytest.raises(apsw.ConstraintError):
            other.execute(
                "INSERT INTO events(stream, version, event_id, type, recorded_at_us, data, metadata)"
                f" SELECT {changed}, type, 0, data, metadata FROM events WHERE version = 0"
            )

    assert other.execute("SELECT count(*) FROM events").get == 3


def test_a_position_is_never_reused(other: apsw.Connection) -> None:
    assert "AUTOINCREMENT" in other.execute("SELECT sql FROM sqlite_schema WHERE name = 'events'").get


def test_a_wrong_value_rolls_the_batch_back_and_is_no_outage(store: SqliteStore) -> None:
    good, bad = a_stream(), an_event(data="text")  # type: ignore[arg-type]

    with pytest.raises(apsw.ConstraintError):
        store.append([Append(good, NO_STREAM, some_events(2)), Append(a_stream(), NO_STREAM, [bad])])

    assert count(store) == 0
    assert isinstance(append(store, good, NO_STREAM, some_events(1)), Appended)


def test_forty_thousand_events_in_one_item_are_stored(store: SqliteStore) -> None:
    result = append(store, "user-1", NO_STREAM, some_events(40_000))

    assert isinstance(result, Appended)
    assert result.version == 39_999


def test_the_time_of_an_event_is_that_of_the_stores_clock(path: Path) -> None:
    with closing(SqliteStore(path, now_us=lambda: 1_767_225_600_123_456)) as store:
        append(store, "user-1", NO_STREAM, some_events(1))

        (event,) = store.read_stream("user-1")
        assert event.recorded_at_us == 1_767_225_600_123_456


# --- the write-ahead log and locks -----------------------------------------------------------


def test_a_paused_consumer_does_not_prevent_truncation_of_the_log(store: SqliteStore) -> None:
    append(store, "user-1", NO_STREAM, some_events(2500))
    reading = store.read_all(0, 2500)
    following = store.follow(0, stopped=before(DEADLINE_S))
    next(reading)
    next(following)

    assert store._database.truncate_wal()
    assert len(list(reading)) == 2499


@pytest.mark.parametrize("wanted", [{"types": ["rare"]}, {"prefixes": ["rare"]}], ids=str)
def test_a_search_for_rare_events_can_be_stopped_and_holds_no_transaction(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, wanted: dict[str, list[str]]
) -> None:
    monkeypatch.setattr(event_store, "_WINDOW", 10)
    append(store, "user-1", NO_STREAM, some_events(500))
    asked: list[bool] = []

    def stopped() -> bool:
        asked.append(store._database.truncate_wal())
        return len(asked) > 20

    assert list(store.follow(0, stopped=stopped, **wanted)) == []
    assert len(asked) == 21
    assert all(asked)


def test_a_reader_that_prevents_truncation_of_the_log_is_reported(
    store: SqliteStore, other: apsw.Connection
) -> None:
    rows = other.execute("SELECT * FROM events")
    next(rows)
    append(store, "user-1", 2, some_events(1))

    assert not store._database.truncate_wal()
    rows.close()
    assert store._database.truncate_wal()
    assert store._database.path.with_name("events.db-wal").stat().st_size == 0


def test_a_truncation_that_waits_for_a_reader_stops_no_writer(
    store: SqliteStore, other: apsw.Connection, path: Path
) -> None:
    append(store, "user-1", NO_STREAM, some_events(2))
    rows = other.execute("SELECT * FROM events")
    next(rows)
    append(store, "user-1", 2, some_events(1))

    with ThreadPoolExecutor(1) as pool, closing(apsw.Connection(str(path))) as writer:
        waiting = pool.submit(store._database.truncate_wal)
        while not waiting.done():
            writer.execute("BEGIN IMMEDIATE")  # raises at once where the lock is held
            writer.execute("COMMIT")
        assert not waiting.result()


def test_a_lock_that_is_never_released_is_unavailable(store: SqliteStore, other: apsw.Connection) -> None:
    store._database.connection.set_busy_timeout(50)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(PartUnavailable, match="stayed locked"):
        append(store, "user-1", 2, some_events(1))

    other.execute("ROLLBACK")
    assert isinstance(append(store, "user-1", 2, some_events(1)), Appended)


def test_an_append_waits_for_a_lock_that_is_released_in_time(
    store: SqliteStore, other: apsw.Connection
) -> None:
    other.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(append, store, "user-1", 2, some_events(1))
        assert not waiting.done()
        other.execute("COMMIT")

        assert isinstance(waiting.result(timeout=DEADLINE_S), Appended)


def test_reading_works_while_another_process_writes(store: SqliteStore, other: apsw.Connection) -> None:
    other.execute("BEGIN IMMEDIATE")

    assert count(store) == 3
    other.execute("ROLLBACK")


def test_opening_waits_for_a_process_that_creates_the_file(path: Path) -> None:
    with closing(apsw.Connection(str(path))) as creating, ThreadPoolExecutor(1) as pool:
        creating.execute("BEGIN IMMEDIATE")
        opening = pool.submit(SqliteStore, path)
        with pytest.raises(TimeoutError):  # neither a store nor an error yet
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

        assert run_together(_OPEN_AT_ONCE, [[str(path)]] * 5) == ["0\n"] * 5

        with closing(SqliteStore(path)) as store:
            assert count(store) == 5


# --- a full disk -----------------------------------------------------------------------------


def test_a_full_disk_is_unavailable_and_loses_no_event(path: Path) -> None:
    kept: list[UUID] = []
    event = an_event(data=b'"%s"' % (b"x" * 1000))

    def append_for_ever() -> None:
        nonlocal event
        while True:
            append(store, "user-1", len(kept) - 1, [event])
            kept.append(event.event_id)
            event = an_event(data=event.data)

    with closing(limited(SqliteStore(path))) as store:
        with pytest.raises(PartUnavailable, match="the disk is full") as refused:
            append_for_ever()
        assert "disk space" in refused.value.hint
        assert len(kept) > 5
        assert [event.event_id for event in store.read_stream("user-1")] == kept, "nothing lost, no half item"
        with pytest.raises(PartUnavailable, match="the disk is full"):
            append(store, "user-2", NO_STREAM, [an_event(data=b"x" * 100_000)])

    with closing(limited(SqliteStore(path), 400)) as store:
        result = append(store, "user-1", len(kept) - 1, [event])  # the one whose outcome was unknown

        assert isinstance(result, Appended)
        assert result.version == len(kept)
        assert [found.event_id for found in store.read_stream("user-1")] == [*kept, event.event_id]


def test_on_a_full_disk_a_batch_is_stored_as_a_whole_or_not_at_all(path: Path) -> None:
    with closing(limited(SqliteStore(path))) as store:
        append(store, "user-1", NO_STREAM, some_events(1))
        small = Append("user-2", NO_STREAM, some_events(1))
        large = Append("user-3", NO_STREAM, [an_event(data=b"x" * 500_000)])

        with pytest.raises(PartUnavailable, match="the disk is full"):
            store.append([small, large])

        assert count(store) == 1
        assert store.append([small]) == [Appended(0, 2)]


def test_reading_works_on_a_full_disk(path: Path) -> None:
    with closing(limited(SqliteStore(path))) as store:
        append(store, "user-1", NO_STREAM, some_events(5))
        with pytest.raises(PartUnavailable):
            append(store, "user-1", 4, [an_event(data=b"x" * 500_000)])

        assert len(stored(store, "user-1")) == 5
        items = store.follow(0, stopped=before(DEADLINE_S))
        assert isinstance([next(items) for _ in range(6)][-1], CaughtUp)


# --- unusable files --------------------------------------------------------------------------


def test_the_files_of_a_store_are_readable_by_their_owner_only(store: SqliteStore, path: Path) -> None:
    append(store, "user-1", NO_STREAM, some_events(1))

    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}

    assert modes == {"events.db": 0o600, "events.db-wal": 0o600, "events.db-shm": 0o600}


@pytest.mark.parametrize(
    "content",
    [b"this is no database" * 100, bytes(8192), bytes(range(256)) * 32],
    ids=["text", "zeros", "bytes"],
)
def test_a_file_that_is_no_database_is_damaged_and_not_changed(path: Path, content: bytes) -> None:
    path.write_bytes(content)

    with pytest.raises(Damaged) as refused:
        SqliteStore(path)

    assert str(path) in str(refused.value)
    assert path.read_bytes() == content


def _torn(content: bytearray) -> bytearray:
    return content[: len(content) // 2]


def _overwritten(content: bytearray) -> bytearray:
    for page in range(2, 30):  # not the first page, nor the schema
        content[page * 4096 : page * 4096 + 4096] = b"\xee" * 4096
    return content


@pytest.mark.parametrize("damaged", [_torn, _overwritten])
def test_a_torn_or_overwritten_database_is_damaged(
    path: Path, damaged: Callable[[bytearray], bytearray]
) -> None:
    with closing(SqliteStore(path)) as store:
        append(store, "user-1", NO_STREAM, [an_event(data=b"x" * 2000) for _ in range(200)])
    path.write_bytes(damaged(bytearray(path.read_bytes())))

    with pytest.raises(Damaged), closing(SqliteStore(path)) as store:
        count(store)


@pytest.mark.parametrize(("place", "reason"), [("missing/events.db", "No such file"), ("", "Is a directory")])
def test_a_path_that_cannot_be_a_file_is_unavailable(tmp_path: Path, place: str, reason: str) -> None:
    with pytest.raises(PartUnavailable, match=reason):
        SqliteStore(tmp_path / place)


_AS_NOBODY = """
import os, sys
from pathlib import Path
from adapters.sqlite.event_store import SqliteStore
from domain.kernel.errors import PartUnavailable
from tests.support.builders import append, some_events
if os.geteuid() == 0:  # after all imports: another user may not read where Python is installed
    os.setgid(65534)
    os.setuid(65534)
try:
    append(SqliteStore(Path(sys.argv[1])), "user-1", -1, some_events(1))
except PartUnavailable as error:
    print("unavailable:", error, "|", error.hint)
"""


@pytest.mark.parametrize("what", ["the folder", "the file"])
def test_a_place_without_write_permission_is_unavailable(what: str) -> None:
    # Root may write anywhere, so a process without its rights opens the store.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.db"
        if what == "the file":
            SqliteStore(path).close()
            path.chmod(0o444)
        Path(folder).chmod(0o555)
        try:
            out, err = start_python(_AS_NOBODY, str(path)).communicate(timeout=DEADLINE_S)
        finally:
            Path(folder).chmod(0o755)

    if "setuid" in err:
        pytest.skip("this container lets root give up no rights")
    assert err == ""
    assert out.startswith("unavailable: event store is unavailable:")


def test_a_store_that_becomes_read_only_is_unavailable_and_can_be_read(store: SqliteStore) -> None:
    append(store, "user-1", NO_STREAM, some_events(2))
    store._database.connection.pragma("query_only", True)

    with pytest.raises(PartUnavailable, match="cannot be opened for writing") as refused:
        append(store, "user-1", 1, some_events(1))

    assert "writable" in refused.value.hint
    assert count(store) == 2


def test_a_damaged_event_id_hides_no_other_event(store: SqliteStore) -> None:
    append(store, "user-1", NO_STREAM, some_events(2))
    with store._database.writing() as connection:
        connection.execute(
            "INSERT INTO events(stream, version, event_id, type, recorded_at_us, data, metadata)"
            " VALUES('user-1', 2, x'00', 'happened.v1', 1, x'', x'')"
        )

    assert [recorded.version for recorded in store.read_stream("user-1")] == [0, 1, 2]
    assert len(list(store.read_all(0, 10))) == 3
