"""Open SQLite files. The only module that imports apsw.

Promise: every connection is opened alike, commits are durable unless the data is derived, and SQLite's errors
become errors of this project. Refusal: no file of a newer schema version is opened.

Danger: SQLite's locks are POSIX locks, and a process that closes any descriptor of a file loses all of its locks on
that file (sqlite.org, "How To Corrupt An SQLite Database File", 2.2). Another program then resets the write-ahead log
under a worker. So a file that a connection of this process may have open is never opened by anything but SQLite.

apsw ships its own current SQLite. SQLite 3.7.0 to 3.51.2 can corrupt a WAL database when a write and a
checkpoint coincide with a WAL reset (sqlite.org, release 3.51.3), and the system's library is often older.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from uuid import UUID

import apsw

from adapters.sqlite.files import create, inode_of, lock_holder, sync_directory
from domain.kernel.errors import Damaged, EsError, PartUnavailable

BUSY_TIMEOUT_MS = 3_500
"""How long a statement waits for another program's lock. A request may wait as long behind the one before it, and its
caller must still be told (8 s)."""
_SHORT_WAIT_MS = 100
"""A wait for another thread of this process up to which the whole time is left for other programs."""

_TRUNCATE_PATIENCE_S = 1.0
"""How long a truncation of the log waits for readers, without a lock that would stop writers."""
_TRUNCATE_WAIT_MS = 100
"""How long it may stop writers, once no reader needs the log."""

_LOG_BYTES = 1 << 24
"""At this length, 16 MB, a commit copies the log into the database: a page that many commits changed is copied once. With
pages of 4 KB a registration among 100,000 users then wrote 6.2 KB, and 9.6 KB with SQLite's 1,000 pages. A command waits for the copying."""

Connection = apsw.Connection
ConstraintError = apsw.ConstraintError

_TABLE = re.compile(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+)")
_SUFFIXES = ("", "-wal", "-shm")
"""Of the files of a database: the database, its write-ahead log, and the log's index."""
_CHECK_INTERVAL_S = 0.05
"""How long a reader may not notice that a file was removed. A writer looks before and after each transaction."""
_CREATING = threading.Lock()
"""Held from the creation of a file until its first connection is open."""


def migration_files(name: str) -> list[Path]:
    """The numbered files of a schema, in order."""
    return sorted(Path(__file__).with_name("schema").glob(f"{name}_*.sql"))


class Database:
    """One file, with one connection for each thread.

    `migrations` are the files that lead from nothing to the current schema; their number is its version.
    """

    def __init__(
        self,
        path: Path,
        *,
        part: str,
        migrations: Sequence[Path],
        functions: Mapping[str, Callable[[Connection], None]] = MappingProxyType({}),
        page_bytes: int = 4096,
        derived: bool = False,
        synchronous: str | None = None,
    ) -> None:
        """Open a file. A new one is created, and one of an earlier version is migrated, in one transaction.

        `functions` do what SQL cannot: a migration calls them by name, in its transaction. `page_bytes` are those of a
        new file; another keeps its own. `derived` data can be computed again, so a power cut may lose its last commits,
        unless `synchronous` says otherwise.
        """
        self.path = path
        self.part = part
        self._page_bytes = page_bytes
        self._derived = derived
        self._synchronous = synchronous or ("normal" if derived else "full")
        afresh = f"remove the files whose names begin with {path.name}, and run `es up`: the data is computed again."
        self._put_back = (
            f"Put it back where it was. Without it run `es down`, {afresh}"
            if derived
            else "Put it back where it was. Without it stop the workers (`es down`) and restore a backup."
        )
        self._replace = {"hint": f"Run `es down`, {afresh}"} if derived else {}
        """What to do about a damaged file: no backup holds derived data."""
        self._local = threading.local()
        self._all: list[tuple[threading.Thread, Connection]] = []
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        """Held while a thread of this process writes: SQLite would let the next one sleep for milliseconds, and look again."""
        self._closed = False
        self._inodes: dict[str, tuple[int, int]] = {}
        """Device and inode of each file, by name, since it was opened."""
        self._checked_at_s = 0.0
        try:
            with self.errors():
                with _CREATING:
                    self._refuse_log_without_database()
                    created = create(path)
                    connection = self._open()
                _use_wal(connection)
                self._prepare(connection, migrations, functions)
                if created:
                    sync_directory(path.parent)
                for suffix in _SUFFIXES:
                    with contextlib.suppress(FileNotFoundError):
                        self._inodes[f"{path}{suffix}"] = inode_of(f"{path}{suffix}")
        except BaseException:
            self.close()
            raise

    def _refuse_log_without_database(self) -> None:
        """A new database would take the changes in the log of another one for its own."""
        log = Path(f"{self.path}-wal")
        if log.exists() and not self.path.exists():
            raise PartUnavailable(
                self.part, f"{self.path} is missing, but its log {log.name} is there", self._put_back
            )

    def _prepare(
        self,
        connection: Connection,
        migrations: Sequence[Path],
        functions: Mapping[str, Callable[[Connection], None]],
    ) -> None:
        if connection.pragma("user_version") < len(migrations):
            for name, function in functions.items():
                connection.create_scalar_function(name, partial(function, connection), 0)
            self._migrate(connection, migrations)
        found = connection.pragma("user_version")
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
        wanted = [name for migration in migrations for name in _TABLE.findall(migration.read_text("utf-8"))]
        if found > len(migrations) and {*wanted[:1]} <= tables:
            raise PartUnavailable(
                self.part,
                f"{self.path} has schema version {found}, but this program supports {len(migrations)}",
                "A newer version of es wrote this file: upgrade es.",
            )
        if missing := {*wanted} - tables:
            what = ", ".join(sorted(missing))
            raise Damaged(self.part, f"{self.path} is another database: it has no table {what}")

    @staticmethod
    def _migrate(connection: Connection, migrations: Sequence[Path]) -> None:
        """Apply the migrations that are missing, in one transaction. A crash in it leaves the file as it was."""
        # IMMEDIATE: of several processes that do this at once, one migrates, and the others wait and find it done.
        connection.execute("BEGIN IMMEDIATE")
        try:
            for migration in migrations[connection.pragma("user_version") :]:
                for _ in connection.execute(migration.read_text("utf-8")):
                    pass
            connection.pragma("user_version", max(connection.pragma("user_version"), len(migrations)))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    @property
    def connection(self) -> Connection:
        """The connection of the calling thread."""
        connection: Connection | None = getattr(self._local, "connection", None)
        return connection if connection is not None else self._open()

    def _open(self) -> Connection:
        if self._closed:
            raise PartUnavailable(self.part, f"{self.path} was closed")
        connection = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READWRITE)
        with self._lock:
            # A rebuild or a comparison has threads of its own: their connections end with them. Others may read on in
            # another thread, as a subscription does.
            ended = [each for each in self._all if self._derived and not each[0].is_alive()]
            self._all = [each for each in self._all if each not in ended]
            self._all.append((threading.current_thread(), connection))
        _close(connection for _, connection in ended)
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        # These belong to a connection. FULL: a commit survives a power cut. secure_delete: freed space is zeroed.
        connection.pragma("synchronous", self._synchronous)
        connection.pragma("secure_delete", True)
        connection.pragma("page_size", self._page_bytes)  # a file that has pages ignores it
        connection.pragma("wal_autocheckpoint", _LOG_BYTES // connection.pragma("page_size"))
        self._local.connection = connection
        return connection

    def _check_files(self) -> None:
        """Raise if a file is no longer the one that was opened: what is written to it would be lost.

        It asks for the files by name, which opens none of them. Its cost is that of three system calls.
        """
        for name, inode in self._inodes.items():
            try:
                if inode_of(name) == inode:
                    continue
                what, hint = "was replaced", "Restart the workers: `es down`, then `es up`."
            except FileNotFoundError:
                what, hint = "was removed or moved away", self._put_back
            raise PartUnavailable(self.part, f"{name} {what} while it was in use", hint)
        self._checked_at_s = time.monotonic()

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        with self.errors():
            if time.monotonic() - self._checked_at_s > _CHECK_INTERVAL_S:
                self._check_files()
            yield self.connection

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """One transaction that reads: all of its statements see the same state."""
        with self.reading() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("COMMIT")

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """One durable transaction. It takes the write lock at once; any exception rolls it back."""
        with self.errors(), self._write_lock() as connection:
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # After a full disk or an I/O error SQLite has already rolled back.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            # After the commit: a file that was removed before it has not kept what was written.
            self._check_files()

    @contextlib.contextmanager
    def _write_lock(self) -> Iterator[Connection]:
        """A transaction that has begun. To wait for the threads of this process and for others takes `BUSY_TIMEOUT_MS` at most."""
        begun_s = time.monotonic()
        if not self._turn.acquire(timeout=BUSY_TIMEOUT_MS / 1000):
            raise apsw.BusyError
        try:
            self._check_files()
            connection = self.connection
            waited_ms = int((time.monotonic() - begun_s) * 1000)
            if waited_ms > _SHORT_WAIT_MS:
                connection.set_busy_timeout(max(BUSY_TIMEOUT_MS - waited_ms, 1))
            try:
                connection.execute("BEGIN IMMEDIATE")
            finally:
                if waited_ms > _SHORT_WAIT_MS:
                    connection.set_busy_timeout(BUSY_TIMEOUT_MS)
            yield connection
        finally:
            self._turn.release()

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Translate the errors of apsw and of the operating system."""
        try:
            yield
        except apsw.Error as error:
            translated = self._translate(error)
            if translated is None:
                raise
            raise translated from error
        except OSError as error:
            raise PartUnavailable(self.part, f"{self.path}: {error.strerror}") from error

    def _translate(self, error: apsw.Error) -> EsError | None:
        """The error in this project's terms; None for a wrong statement, which is a bug and not an outage."""
        where = str(self.path)
        match error:
            case apsw.FullError():
                return PartUnavailable(
                    self.part, f"the disk is full ({where})", "Free disk space, then retry."
                )
            case apsw.ReadOnlyError() | apsw.CantOpenError() | apsw.PermissionsError():
                return PartUnavailable(
                    self.part, f"{where} cannot be opened for writing", "Make it writable for this user."
                )
            case apsw.SQLError() if str(error).startswith(("no such column", "no such table")):
                return Damaged(self.part, f"{where} has another schema: {error}", **self._replace)
            case apsw.NotADBError() | apsw.CorruptError():
                return Damaged(self.part, f"{where} is not a sound SQLite database", **self._replace)
            case apsw.BusyError() | apsw.LockedError():
                holder = lock_holder(self.path)
                return PartUnavailable(
                    self.part,
                    f"{where} stayed locked for {BUSY_TIMEOUT_MS / 1000:g} s by {holder or 'another program'}",
                    "End that program or wait for it, then retry the command.",
                )
            case apsw.ConnectionClosedError():
                return PartUnavailable(self.part, f"{where} was closed")
            case apsw.IOError():
                return PartUnavailable(self.part, f"reading or writing {where} failed", "Check the disk.")
        return None

    # --- identity ------------------------------------------------------------------------------

    def system_id(self) -> UUID | None:
        """See `domain/kernel/ports/identity.py`."""
        with self.reading() as connection:
            return _system_id(connection)

    def claim_system(self, system_id: UUID, *, instead_of: UUID | None) -> UUID:
        with self.writing() as connection:
            present = _system_id(connection)
            if present is not None and present != instead_of:
                return present
            connection.execute(
                """INSERT INTO system(only_one, id) VALUES(1, ?)
                   ON CONFLICT(only_one) DO UPDATE SET id = excluded.id""",
                (system_id.bytes,),
            )
            return system_id

    # --- residue -------------------------------------------------------------------------------

    def rewrite(self) -> bool:
        """Remove every byte of deleted and overwritten rows from the files; False if a reader prevented it.

        `secure_delete` zeroes freed space, but rows that moved between pages leave copies in the gaps. Only
        VACUUM, which rewrites the file, removes those. The old pages stay in the write-ahead log until it is
        truncated. It costs as much as the file is large, under its lock: only a migration needs it.
        """
        with self.reading() as connection:
            connection.execute("VACUUM")
        return self.truncate_wal()

    def truncate_wal(self) -> bool:
        """Copy the write-ahead log into the database and truncate it; False if a reader prevented it."""
        with self.reading() as connection:
            give_up_at = time.monotonic() + _TRUNCATE_PATIENCE_S
            # Copying takes no lock of a writer. Truncation does, and keeps it while it waits for readers: it begins only
            # once no reader needs the log, and waits for a moment.
            while not (_copies_whole_log(connection) and _truncates_log(connection)):
                if time.monotonic() > give_up_at:
                    return False
                time.sleep(0.01)
            return True

    def close(self) -> None:
        with self._lock:
            self._closed = True
            connections, self._all = self._all, []
        _close(connection for _, connection in connections)


def _close(connections: Iterable[Connection]) -> None:
    for connection in connections:
        with contextlib.suppress(apsw.Error):  # it is not retried, and nothing is lost by its failure
            connection.close()


@contextlib.contextmanager
def checked_values() -> Iterator[None]:
    """Raise ValueError where a value does not fit its column: SQLite turns a sum beyond 64 bits into a real."""
    try:
        yield
    except apsw.ConstraintError as error:
        raise ValueError("a value does not fit its column") from error


def _system_id(connection: Connection) -> UUID | None:
    raw = connection.execute("SELECT id FROM system").get
    return None if raw is None else UUID(bytes=raw)


def _copies_whole_log(connection: Connection) -> bool:
    busy, frames, copied = next(iter(connection.execute("PRAGMA wal_checkpoint(PASSIVE)")))
    return not busy and frames == copied


def _truncates_log(connection: Connection) -> bool:
    connection.set_busy_timeout(_TRUNCATE_WAIT_MS)
    try:
        busy, _, _ = next(iter(connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")))
    finally:
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
    return not busy


def _use_wal(connection: Connection) -> None:
    """Switch to WAL mode. SQLite's busy timeout does not cover this statement while another process creates the file."""
    give_up_at = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.pragma("journal_mode", "wal")
            return
        except apsw.BusyError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.01)


def damage_of(path: Path) -> list[str]:
    """What SQLite finds wrong with pages, indexes, types and constraints of a file; empty if it is sound."""
    try:
        with contextlib.closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)) as connection:
            connection.set_busy_timeout(BUSY_TIMEOUT_MS)
            found: list[str] = [text for (text,) in connection.execute("PRAGMA integrity_check(20)")]
    except apsw.Error as error:
        return [f"{path}: {type(error).__name__}"]
    return [] if found == ["ok"] else [f"{path}: {line}" for text in found for line in text.splitlines()]


def sqlite_facts() -> tuple[str, bool]:
    """The version of the library, and whether that version can corrupt a WAL database (see above)."""
    version = apsw.sqlite_lib_version()
    return f"SQLite {version}", tuple(map(int, version.split("."))) < (3, 51, 3)
