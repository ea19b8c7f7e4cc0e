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
import errno
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import UUID

import apsw

from domain.kernel.errors import Damaged, EsError, PartUnavailable

BUSY_TIMEOUT_MS = 3_500
"""How long a statement waits for another program's lock. A request may wait as long behind the one before it, and its
caller must still be told (8 s)."""

Connection = apsw.Connection

_TABLE = re.compile(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+)")
_SUFFIXES = ("", "-wal", "-shm")
"""Of the files of a database: the database, its write-ahead log, and the log's index."""

_CHECK_INTERVAL_S = 0.05
"""How long a reader may not notice that a file was removed. A writer looks before and after each transaction."""
_WRITER_BYTE = "120"
"""Where a writer locks the index of the log (WAL_WRITE_LOCK in SQLite's wal.c)."""

_CREATING = threading.Lock()
"""Held from the creation of a file until its first connection is open."""


def migration_files(name: str) -> list[Path]:
    """The numbered files of a schema, in order."""
    return sorted(Path(__file__).with_name("schema").glob(f"{name}_*.sql"))


class Database:
    """One file, with one connection for each thread.

    `migrations` are the files that lead from nothing to the current schema; their number is its version.
    """

    def __init__(self, path: Path, *, part: str, migrations: Sequence[Path], derived: bool = False) -> None:
        """Open a file. A new one is created, and one of an earlier version is migrated, in one transaction.

        `derived` data can be computed again, so a power cut may lose its last commits.
        """
        self.path = path
        self.part = part
        self._synchronous = "normal" if derived else "full"
        self._put_back = (
            "Put it back where it was. Without it stop the workers (`es down`) and restore a backup."
        )
        if derived:
            self._put_back = (
                "Put it back where it was. Without it run `es down`, remove the files whose names begin with"
                f" {path.name}, and run `es up`: the data is computed again."
            )
        self._local = threading.local()
        self._all: list[Connection] = []
        self._lock = threading.Lock()
        self._closed = False
        self._inodes: dict[str, tuple[int, int]] = {}
        """Device and inode of each file, by name, since it was opened."""
        self._checked_at_s = 0.0
        try:
            with self.errors():
                with _CREATING:
                    self._refuse_log_without_database()
                    created = _create(path)
                    connection = self._open()
                _use_wal(connection)
                self._prepare(connection, migrations)
                if created:
                    _sync_directory(path.parent)
                for suffix in _SUFFIXES:
                    with contextlib.suppress(FileNotFoundError):
                        self._inodes[f"{path}{suffix}"] = _inode(f"{path}{suffix}")
        except BaseException:
            self.close()
            raise

    def _refuse_log_without_database(self) -> None:
        """A new database would take the changes in the log of another one for its own."""
        log = Path(f"{self.path}-wal")
        if log.exists() and not self.path.exists():
            raise PartUnavailable(
                self.part,
                f"{self.path} is missing, but its log {log.name} is there",
                self._put_back,
            )

    def _prepare(self, connection: Connection, migrations: Sequence[Path]) -> None:
        if connection.pragma("user_version") < len(migrations):
            self._migrate(connection, migrations)
        found = connection.pragma("user_version")
        if found > len(migrations):
            raise PartUnavailable(
                self.part,
                f"{self.path} has schema version {found}, but this program supports {len(migrations)}",
                "A newer version of es wrote this file: upgrade es.",
            )
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
        wanted = [name for migration in migrations for name in _TABLE.findall(migration.read_text("utf-8"))]
        if missing := set(wanted) - tables:
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
            self._all.append(connection)
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        # These two belong to a connection. FULL: a commit survives a power cut. secure_delete: freed space is zeroed.
        connection.pragma("synchronous", self._synchronous)
        connection.pragma("secure_delete", True)
        self._local.connection = connection
        return connection

    def _check_files(self) -> None:
        """Raise if a file is no longer the one that was opened: what is written to it would be lost.

        It asks for the files by name, which opens none of them. Its cost is that of three system calls.
        """
        for name, inode in self._inodes.items():
            try:
                if _inode(name) == inode:
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
    def writing(self) -> Iterator[Connection]:
        """One durable transaction. It takes the write lock at once; any exception rolls it back."""
        with self.errors():
            self._check_files()
            connection = self.connection
            connection.execute("BEGIN IMMEDIATE")
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
            case apsw.NotADBError() | apsw.CorruptError():
                return Damaged(self.part, f"{where} is not a sound SQLite database")
            case apsw.BusyError() | apsw.LockedError():
                holder = _lock_holder(self.path)
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

    def remove_residue(self) -> bool:
        """Remove every byte of deleted and overwritten rows from the files; False if a reader prevented it.

        `secure_delete` zeroes freed space, but rows that moved between pages leave copies in the gaps. Only
        VACUUM, which rewrites the file, removes those. The old pages stay in the write-ahead log until it is
        truncated.
        """
        with self.reading() as connection:
            connection.execute("VACUUM")
        return self.truncate_wal()

    def truncate_wal(self) -> bool:
        """Copy the write-ahead log into the database and truncate it; False if a reader prevented it."""
        with self.reading() as connection:
            busy, _, _ = next(iter(connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")))
            return not busy

    def close(self) -> None:
        with self._lock:
            self._closed = True
            connections, self._all = self._all, []
        for connection in connections:
            with contextlib.suppress(
                apsw.Error
            ):  # closing is not retried, and nothing is lost by its failure
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


def _create(path: Path) -> bool:
    """Create a file as 0600 before SQLite does, because -wal and -shm take its mode; False if the file exists.

    O_EXCL fails without a descriptor, so no lock of an open connection is lost.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)) from None
        return False
    return True


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


def _inode(name: str) -> tuple[int, int]:
    found = os.stat(name)
    return found.st_dev, found.st_ino


def _lock_holder(path: Path) -> str | None:
    """The other process that may write to a database, as Linux tells; None if it does not tell."""
    with contextlib.suppress(OSError, ValueError):
        database, index = (str(os.stat(f"{path}{suffix}").st_ino) for suffix in ("", "-shm"))
        for line in Path("/proc/locks").read_text().splitlines():
            if "->" in line:
                continue  # a process that waits
            _, _, _, kind, pid, place, first, _ = line.split()
            inode = place.rpartition(":")[2]
            is_writer = inode == database or (inode == index and first == _WRITER_BYTE)
            if kind == "WRITE" and is_writer and int(pid) not in (os.getpid(), 0, -1):
                return f"process {pid} ({Path(f'/proc/{pid}/comm').read_text().strip()})"
    return None


def _sync_directory(directory: Path) -> None:
    """Sync a directory: a new file survives a power cut only once its entry is on disk."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


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
