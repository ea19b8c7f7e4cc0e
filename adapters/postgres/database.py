"""Run units of work in one schema of PostgreSQL, each in its own transaction.

Promise: a unit is applied as a whole or not at all, and retried after a lost connection, a deadlock or a
concurrent change. Outages become errors of this project; a wrong statement raises the driver's error. Refusal:
once connected, no message of the server is passed on, because it may quote a value.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from psycopg import errors, sql
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from adapters.postgres.connection import (
    ANSWER_TIMEOUT_S,
    Connection,
    connect,
    parse_url,
    read_only,
    server_name,
)
from adapters.postgres.migrations import Migration, migrate
from domain.kernel.errors import Damaged, EsError, PartUnavailable

Name = str | tuple[str, ...]
"""An identifier, or one inside another: `("excluded", "size")`."""
T = TypeVar("T")

_SERVER_LATER_S = 1.0
"""The server ends work this much later than the program gives it up, so that the error names the silent server."""
WORK_TIMEOUT_S = 120.0
"""The maximum silence of the server during work without a waiting caller: migrations, rebuilds, VACUUM FULL."""
LOCK_TIMEOUT_MS = 3_000
TRIES = 10

# Set for a transaction and not for the session: a pooler passes the session on to other clients. Settings of the server,
# the database or the role must not end our work early, let the server continue after this program gave up, or read
# a null in an array as the text "NULL".
_SETTINGS = """SELECT set_config('lock_timeout', %s, true), set_config('statement_timeout', %s, true),
    set_config('idle_in_transaction_session_timeout', %s, true), set_config('array_nulls', 'on', true),
    set_config('synchronous_commit', """
# A commit survives a power cut. A server's stricter setting stays.
_DURABLE = (
    _SETTINGS
    + """CASE current_setting('synchronous_commit')
    WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, true)"""
)
_DERIVED = _SETTINGS + "'off', true)"
_ARRAY = re.compile(r"%b::(\w+\[\])")
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
# Prefixes of SQLSTATEs, see "PostgreSQL Error Codes" in its manual. A state that is named nowhere is a bug.
_CONNECTION_LOST = ("08", "25P03", "25P04", "57")
_ENDED_BY_A_SETTING = {
    "25P03": "idle_in_transaction_session_timeout",
    "25P04": "transaction_timeout",
    "57P05": "idle_session_timeout",
}
_SERVER_FAILED = ("40", "53", "55", "58", "XX")


_SYSTEM_ID = "SELECT id FROM {schema}.system"
_CLAIM_SYSTEM = """INSERT INTO {schema}.system AS present VALUES(true, %s)
    ON CONFLICT (only_one) DO UPDATE SET id = excluded.id WHERE present.id = %s"""


class ConcurrentChange(Exception):
    """Raised by a unit of work whose rows another transaction changed. It is rolled back and run again."""


class TableMissing(PartUnavailable):
    """A table does not exist: its generation was removed after its name was read."""


def migration_files(name: str) -> list[Path]:
    """The numbered files of a schema, in order."""
    return sorted(Path(__file__).with_name("schema").glob(f"{name}_*.sql"))


class Database:
    """One schema of one database, with one connection for each thread.

    `migrations` lead from nothing to the current schema; their number is its version. In files of them, and in the
    argument of `sql`, `{schema}` stands for the quoted name of the schema.
    """

    def __init__(
        self, url: str, *, part: str, migrations: Sequence[Migration], derived: bool = False
    ) -> None:
        """`derived` data can be computed again, so a crash of the server may lose its last commits."""
        self.part = part
        self._parameters, prefix = parse_url(url)
        self.schema = f"{prefix}_{part.replace(' ', '_')}"
        self._derived = derived
        self._connections: dict[threading.Thread, Connection] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._retrying = Retrying(
            stop=stop_after_attempt(TRIES),
            wait=wait_random_exponential(multiplier=0.002, max=0.25),
            retry=retry_if_exception(self._is_retryable),
            reraise=True,
        )
        self._run(lambda connection: self._migrate(connection, migrations), timeout_s=WORK_TIMEOUT_S)

    def _migrate(self, connection: Connection, migrations: Sequence[Migration]) -> None:
        settings = _DURABLE, _limits(WORK_TIMEOUT_S)
        version = migrate(connection, migrations, schema=self.schema, sql=self.sql, settings=settings)
        if version > len(migrations):
            raise self._unavailable(
                f"schema {self.schema} has version {version}, but this program supports {len(migrations)}",
                "A newer version of es wrote it: upgrade every worker.",
            )

    def sql(self, template: str, **names: Name | list[Name]) -> str:
        """A statement with its identifiers quoted; those of a list are separated by commas.

        The planner does not see how many values an array has that is given as `%b::type[]`, and looks them up one by one.
        For many values it would scan a table, until that has some hundred rows for each.
        """
        quoted = {
            key: ", ".join(map(_quoted, name if isinstance(name, list) else [name]))
            for key, name in names.items()
        }
        return _ARRAY.sub(r"(SELECT %b::\1)::\1", template.format(schema=_quoted(self.schema), **quoted))

    # --- work ----------------------------------------------------------------------------------

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run statements that change nothing, without a transaction: each sees the latest commit."""
        return self._run(work)

    def write(self, work: Callable[[Connection], T], *, durable: bool = False, pipelined: bool = True) -> T:
        """Run one transaction as a pipeline: all of it is sent together, and the program waits once, for the commit.

        A result that `work` fetches is one wait more. `work` may run several times, also after a commit whose reply was
        lost. With `durable` the commit survives a crash even if the data is derived. A COPY cannot be `pipelined`.
        """
        # Derived data is written by projectors, in batches of any size and without a waiting caller.
        timeout_s = WORK_TIMEOUT_S if self._derived else ANSWER_TIMEOUT_S
        settings = _DERIVED if self._derived and not durable else _DURABLE
        return self._run(
            lambda connection: _transaction(connection, work, settings, timeout_s, pipelined=pipelined),
            timeout_s=timeout_s,
        )

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """One transaction that reads: all of its statements see the same state. Nothing is retried."""
        with self.errors():
            connection = self._connection()
            connection.answer_timeout_s = WORK_TIMEOUT_S
            try:
                connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                connection.execute(_DERIVED, _limits(WORK_TIMEOUT_S))
                yield connection
            finally:
                with contextlib.suppress(psycopg.Error):  # the transaction ends with a lost connection
                    connection.rollback()

    def read_then_write(
        self, read: Callable[[Connection], tuple[T, Callable[[Connection], object] | None]]
    ) -> T:
        """Read as by `read`, then run the transaction that was decided, if any: a wait for each.

        If the rows have changed in between, the transaction divides by zero: then both run again.
        """

        def attempt(connection: Connection) -> T:
            result, work = read(connection)
            if work is not None:
                _transaction(connection, work, _DURABLE, ANSWER_TIMEOUT_S)
            return result

        return self._run(attempt)

    def _run(self, work: Callable[[Connection], T], *, timeout_s: float = ANSWER_TIMEOUT_S) -> T:
        with self.errors():
            result: T = self._retrying(self._try, work, timeout_s)
        return result

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Translate the errors of the driver."""
        try:
            yield
        except (psycopg.Error, ConcurrentChange) as error:
            if isinstance(error, errors.ReadOnlySqlTransaction):
                self._connection().close()  # the next call looks for the writable server again
            translated = self._translate(error)
            if translated is None:
                # Keep the type and the caller's frames only: the message may quote a value.
                raise type(error)() from None
            raise translated from error

    def _try(self, work: Callable[[Connection], T], timeout_s: float) -> T:
        connection = self._connection()
        connection.answer_timeout_s = timeout_s
        try:
            return work(connection)
        except psycopg.Error as error:
            if not connection.timed_out:
                raise _cause(error) from None
            # Do not retry: the caller has no time left.
            raise PartUnavailable(self.part, f"{self._server()}: no answer within {timeout_s:g} s") from error

    def _is_retryable(self, error: BaseException) -> bool:
        if isinstance(error, ConcurrentChange | errors.SerializationFailure | errors.DeadlockDetected):
            return True
        # After a lost connection the next try reconnects, or raises PartUnavailable.
        return self._lost_connection(error)

    def _lost_connection(self, error: BaseException) -> bool:
        connection = self._connections.get(threading.current_thread())
        if isinstance(error, errors.AdminShutdown | errors.CrashShutdown) and connection is not None:
            connection.close()  # the server has ended the session, but libpq may not have noticed yet
        return isinstance(error, psycopg.Error) and connection is not None and connection.closed

    def rewrite(self, table: str, *, lock_wait_ms: int) -> bool:
        """Copy the live rows of a table with a primary key into new files and remove the old ones.

        False if it stayed locked, or if a transaction could still see a dead row, which was copied as well. Rows of the
        table may be inserted and changed meanwhile, and none deleted.
        """
        name = self.sql("{table}", table=(self.schema, table))
        look = f"""SELECT t.relfilenode, i.reltuples, (SELECT count(*) FROM {name}) FROM pg_class t
            JOIN pg_index ON indrelid = t.oid AND indisprimary JOIN pg_class i ON i.oid = indexrelid
            WHERE t.oid = '{name}'::regclass"""

        def vacuum(connection: Connection) -> bool:
            with connection.pipeline():
                # For the session: VACUUM runs in no transaction.
                _limit_session(connection, lock_wait_ms, statement_ms=1000 * WORK_TIMEOUT_S)
                found = connection.execute(look)
            before, _, rows = found.fetchone() or (0, 0, 0)
            try:
                connection.execute(f"VACUUM FULL {name}")
            except errors.LockNotAvailable:
                return False
            finally:
                with (
                    contextlib.suppress(psycopg.Error),
                    connection.pipeline(),
                ):  # they end with a lost connection
                    connection.execute("RESET statement_timeout")
                    _limit_session(connection, LOCK_TIMEOUT_MS)
                    found = connection.execute(look)
            # Without the permission, VACUUM succeeds with a warning. The dead rows that it copied are counted in the index.
            after, written, _ = found.fetchone() or (before, 0, 0)
            return bool(after != before and written <= rows)

        return self._run(vacuum, timeout_s=WORK_TIMEOUT_S)

    # --- identity ------------------------------------------------------------------------------

    def system_id(self) -> UUID | None:
        """See `domain/kernel/ports/identity.py`."""
        found: UUID | None = self.read(lambda connection: one(connection, self.sql(_SYSTEM_ID)))
        return found

    def claim_system(self, system_id: UUID, *, instead_of: UUID | None) -> UUID:
        def claim(connection: Connection) -> None:
            connection.execute(self.sql(_CLAIM_SYSTEM), (system_id, instead_of))

        self.write(claim, durable=True)
        return self.system_id() or system_id

    # --- connections ---------------------------------------------------------------------------

    def _connection(self) -> Connection:
        """The connection of the calling thread, opened on first use and after it was lost."""
        connection = self._connections.get(threading.current_thread())
        if connection is not None and not connection.closed:
            return connection
        if self._closed:
            raise PartUnavailable(self.part, "it was closed")
        connection = connect(self._parameters, part=self.part)
        try:
            _limit_session(connection, LOCK_TIMEOUT_MS)
        except BaseException:
            connection.close()
            raise
        with self._lock:
            for thread in [t for t in self._connections if not t.is_alive()]:
                self._connections.pop(thread).close()  # a server allows few connections
            self._connections[threading.current_thread()] = connection
        return connection

    def _server(self) -> str:
        return server_name(self._parameters)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            connections, self._connections = self._connections, {}
        for connection in connections.values():
            with contextlib.suppress(
                psycopg.Error
            ):  # closing is not retried, and nothing is lost by its failure
                connection.close()

    # --- errors --------------------------------------------------------------------------------

    def _translate(self, error: psycopg.Error | ConcurrentChange) -> EsError | ValueError | None:
        """The error in this project's terms; None for a wrong statement, which is a bug and not an outage."""
        match error:
            case ConcurrentChange() | errors.SerializationFailure() | errors.DeadlockDetected():
                return self._unavailable(
                    f"{TRIES} tries conflicted with other transactions", "Retry the command."
                )
            case errors.NumericValueOutOfRange():
                return ValueError("a value does not fit its column")
            case errors.UntranslatableCharacter() | errors.CharacterNotInRepertoire():
                return ValueError("the encoding of the database has no such character")
            case errors.UndefinedTable():
                return TableMissing(self.part, f"{self._server()}: a table is missing")
            case errors.LockNotAvailable():
                return self._unavailable("stayed locked by another session", "Retry the command.")
            case errors.DiskFull():
                return self._unavailable("the disk is full", "Free disk space, then retry.")
            case errors.ReadOnlySqlTransaction():
                return read_only(self.part, self._parameters)
            case errors.InsufficientPrivilege():
                hint = f"Make this role the owner of the schema {self.schema}."
                return self._unavailable("not permitted", hint)
            case errors.DataCorrupted() | errors.IndexCorrupted():
                return Damaged(self.part, f"{self._server()} found a damaged page or index")
            case errors.QueryCanceled():
                return self._unavailable(
                    "a statement was cancelled", "Check the server's setting statement_timeout."
                )
        # An OperationalError without a state comes from the driver: a connection broke or was misused.
        state = error.sqlstate or ("08" if isinstance(error, psycopg.OperationalError) else "")
        if state in _ENDED_BY_A_SETTING:
            return self._unavailable(
                "the server ended the session", f"Check its setting {_ENDED_BY_A_SETTING[state]}."
            )
        if state.startswith(_CONNECTION_LOST):
            return self._unavailable("the connection was lost")
        if state.startswith(_SERVER_FAILED):
            return self._unavailable(type(error).__name__, "Read the server's log.")
        return None

    def _unavailable(self, reason: str, *hint: str) -> PartUnavailable:
        return PartUnavailable(self.part, f"{self._server()}: {reason}", *hint)


def _transaction(
    connection: Connection,
    work: Callable[[Connection], T],
    settings: str,
    timeout_s: float,
    *,
    pipelined: bool = True,
) -> T:
    try:
        with connection.pipeline() if pipelined else contextlib.nullcontext():
            connection.execute(_BEGIN)
            connection.execute(settings, _limits(timeout_s))
            result = work(connection)
            # The server skips it after a statement that failed.
            connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(psycopg.Error):  # the transaction ends with a lost connection
            connection.rollback()
        raise
    return result


def _cause(error: psycopg.Error) -> psycopg.Error | ConcurrentChange:
    """The error of the statement that failed: those after it in the pipeline report that they were skipped."""
    while isinstance(error, errors.PipelineAborted) and isinstance(error.__context__, psycopg.Error):
        error = error.__context__
    return ConcurrentChange() if isinstance(error, errors.DivisionByZero) else error


def _limit_session(connection: Connection, lock_wait_ms: int, *, statement_ms: float | None = None) -> None:
    """Limit the waits for locks, and replace the limit of the server, the database or the role for statements."""
    connection.execute("SELECT set_config('lock_timeout', %s, false)", (f"{lock_wait_ms}ms",))
    if statement_ms is not None:
        connection.execute("SELECT set_config('statement_timeout', %s, false)", (f"{statement_ms:.0f}ms",))


def _limits(timeout_s: float) -> tuple[str, str, str]:
    """The values of the time limits in `_SETTINGS`, for work that the program gives up after `timeout_s`."""
    ends = f"{1000 * (timeout_s + _SERVER_LATER_S):.0f}ms"
    return f"{LOCK_TIMEOUT_MS}ms", ends, ends


def one(connection: Connection, statement: str, *arguments: object) -> Any:
    """The only column of the first row; None without a row."""
    row = connection.execute(statement, arguments).fetchone()
    return None if row is None else row[0]


def _quoted(name: Name) -> str:
    return sql.Identifier(*([name] if isinstance(name, str) else name)).as_string()
