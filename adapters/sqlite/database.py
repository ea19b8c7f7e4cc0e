"""The one way to open an SQLite file, and the one place that knows apsw.

apsw ships its own current SQLite: 3.7.0 to 3.51.2 can corrupt a WAL database when a write and a
checkpoint meet a WAL reset (sqlite.org, release 3.51.3), and the system's library is often older.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import apsw

from domain.kernel.errors import Damaged, EsError, PartUnavailable

BUSY_TIMEOUT_MS = 10_000
SCHEMA_VERSION = 1
"""Of every file; a later version brings the statements that lead there from an earlier one."""

Connection = apsw.Connection


class Database:
    """One file, one connection per thread, all opened alike. Errors come out as this project's own."""

    def __init__(
        self, path: Path, *, part: str, schema: str, derived: bool = False, page_limit: int | None = None
    ) -> None:
        """`derived`: the content can be made again from elsewhere, so its last commits may be lost in a power cut."""
        self.path = path
        self.part = part
        self._synchronous = "normal" if derived else "full"
        self._page_limit = page_limit
        self._local = threading.local()
        self._all: list[Connection] = []
        self._lock = threading.Lock()
        self._closed = False
        with self.errors():
            created = not path.exists()
            connection = self._open()
            _use_wal(connection)
            found = connection.pragma("user_version")
            if found > SCHEMA_VERSION:
                raise PartUnavailable(
                    part,
                    f"{path} has schema version {found}, this program knows {SCHEMA_VERSION}",
                    "A newer version of es wrote it: upgrade this one.",
                )
            if found < SCHEMA_VERSION:  # also of several processes at once: every statement is IF NOT EXISTS
                with connection:
                    for _ in connection.execute(schema):
                        pass
                    connection.pragma("user_version", SCHEMA_VERSION)
            if created:
                _sync_directory(path.parent)

    @property
    def connection(self) -> Connection:
        """This thread's connection."""
        connection: Connection | None = getattr(self._local, "connection", None)
        return connection if connection is not None else self._open()

    def _open(self) -> Connection:
        if self._closed:
            raise PartUnavailable(self.part, f"{self.path} was closed")
        # 0600 before SQLite creates it; its -wal and -shm take the mode of the database.
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = apsw.Connection(str(self.path))
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        # Both are per connection. FULL: a commit survives a power cut. secure_delete: overwritten data is zeroed.
        connection.pragma("synchronous", self._synchronous)
        connection.pragma("secure_delete", True)
        if self._page_limit is not None:
            connection.pragma("max_page_count", self._page_limit)
        with self._lock:
            self._all.append(connection)
        self._local.connection = connection
        return connection

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        with self.errors():
            yield self.connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """One durable transaction that takes the write lock at once; rolled back by any exception."""
        with self.errors():
            connection = self.connection
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # SQLite itself has already rolled back after a full disk or an I/O error.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
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
        """What happened, in this project's words; None for a wrong statement, which is a bug and no outage."""
        where = str(self.path)
        match error:
            case apsw.FullError():
                return PartUnavailable(
                    self.part, f"the disk is full ({where})", "Free disk space, then repeat."
                )
            case apsw.ReadOnlyError() | apsw.CantOpenError() | apsw.PermissionsError():
                return PartUnavailable(
                    self.part, f"{where} cannot be opened for writing", "Make it writable for this user."
                )
            case apsw.NotADBError() | apsw.CorruptError():
                return Damaged(self.part, f"{where} is not a sound SQLite database")
            case apsw.BusyError() | apsw.LockedError():
                return PartUnavailable(
                    self.part, f"{where} stayed locked for {BUSY_TIMEOUT_MS // 1000} s", "Repeat the command."
                )
            case apsw.ConnectionClosedError():
                return PartUnavailable(self.part, f"{where} was closed")
            case apsw.IOError():
                return PartUnavailable(self.part, f"reading or writing {where} failed", "Check the disk.")
        return None

    def remove_remains(self) -> bool:
        """Leave nothing of deleted and overwritten rows in the files; False when a reader prevented it.

        `secure_delete` zeroes what is freed, but moving rows between pages leaves copies in the gaps: only
        writing the whole file anew does not. The old pages are then in the log until that is cut.
        """
        with self.reading() as connection:
            connection.execute("VACUUM")
        return self.truncate_wal()

    def truncate_wal(self) -> bool:
        """Write the log back and cut it to nothing; False when a reader prevented it."""
        with self.reading() as connection:
            busy, _, _ = next(iter(connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")))
            return not busy

    def close(self) -> None:
        with self._lock:
            self._closed = True
            connections, self._all = self._all, []
        for connection in connections:
            with contextlib.suppress(apsw.Error):  # a close can't be retried and nothing is lost by it
                connection.close()


@contextlib.contextmanager
def checked_values() -> Iterator[None]:
    """Raise ValueError where a value does not fit its column: SQLite turns a sum beyond 64 bits into a real."""
    try:
        yield
    except apsw.ConstraintError as error:
        raise ValueError("a value does not fit its column") from error


def _use_wal(connection: Connection) -> None:
    """Unlike any other statement, changing the journal mode doesn't wait for whoever is creating the file."""
    give_up_at = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.pragma("journal_mode", "wal")
            return
        except apsw.BusyError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.01)


def _sync_directory(directory: Path) -> None:
    """A new file survives a power cut only once its directory entry is on disk."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sqlite_facts() -> tuple[str, bool]:
    """The library's version, and whether it is one that can corrupt a WAL database (see above)."""
    version = apsw.sqlite_lib_version()
    return f"SQLite {version}", tuple(map(int, version.split("."))) < (3, 51, 3)
