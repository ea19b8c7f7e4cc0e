"""The one way to reach PostgreSQL, and the one place that knows psycopg.

Promise: a unit of work is carried out whole or not at all, and again when the connection was lost, a
deadlock broke it or somebody was faster; outages come out as errors of this project, wrong statements as the
driver's own. Refusal: no message of the server is passed on once connected (it may quote a value), and a
password never is.

PostgreSQL 14 or newer.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from domain.kernel.errors import Damaged, EsError, InvalidSetting, PartUnavailable

try:
    import psycopg
    from psycopg import errors, sql
    from psycopg.conninfo import conninfo_to_dict
except ImportError as error:
    raise PartUnavailable(
        "PostgreSQL", "its driver psycopg is not installed", "Install it: pip install 'es[postgres]'."
    ) from error

Name = str | tuple[str, ...]
"""An identifier, or one within another: `("excluded", "size")`."""
T = TypeVar("T")

# Whoever asks is told what is away before its own patience ends (8 s): a first command may use up the answer's
# time, and the next, which waited behind it, the connection's.
CONNECT_TIMEOUT_S = 3
ANSWER_TIMEOUT_S = 4.0
"""How long a server may say nothing while a command waits for it. Nothing else notices one that hangs: its
kernel goes on acknowledging packets and keepalives."""
WORK_TIMEOUT_S = 120.0
"""The same for what nobody waits for, and may be long: migrations, rebuilds, rewriting a table."""
LOCK_TIMEOUT_MS = 3_000
TRIES = 10

# Errors come translated. psycopg's own lines would repeat them as the server words them, with values.
logging.getLogger("psycopg").setLevel(logging.CRITICAL + 1)

# What the URL doesn't say. A peer that vanished without a word is noticed after some 15 s.
_DEFAULTS: dict[str, str | int] = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 15_000,  # ms
    "application_name": "es",
}


# For the transaction, and not for the session: a pooler hands a session on to other clients as it was left.
_SETTINGS = "SELECT set_config('lock_timeout', %s, true), set_config('synchronous_commit', "
# A commit survives a power cut. What a server has set stricter than that is left alone.
_DURABLE = (
    _SETTINGS
    + """CASE current_setting('synchronous_commit')
    WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, true)"""
)
_DERIVED = _SETTINGS + "'off', true)"
# Beginnings of SQLSTATEs, see "PostgreSQL Error Codes" in its manual: whatever else isn't named below is a bug.
_LOST = ("08", "25P03", "25P04", "57")
_TROUBLE = ("40", "53", "55", "58", "XX")
_URL = "the URL of PostgreSQL"
_PREFIX_OPTION = "schema="  # `?schema=NAME` keeps several systems apart in one database
# PostgreSQL cuts names at 63 bytes, and what is special in SQL or to the driver would be so inside of a name too.
_PREFIX = re.compile(r"(?!pg_)[A-Za-z0-9_-]{1,50}")


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that is given up when the server doesn't answer."""

    answer_timeout_s = ANSWER_TIMEOUT_S
    went_silent = False

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, self.answer_timeout_s if timeout is None else timeout)
        except errors._WaitTimeout:
            self.went_silent = True
            self.close()  # or the rollback would wait as long again
            raise


class Raced(Exception):
    """Raised by a unit of work that found itself overtaken: it is rolled back and done again."""


class TableGone(PartUnavailable):
    """A table isn't there any more: its generation was removed after somebody looked up its name."""


class Database:
    """One schema of one database, one connection per thread, all opened alike.

    `migrations` are the steps from nothing to the present schema; their number is its version. `{schema}` in a
    step and in what `sql` is given stands for the quoted name of the schema.
    """

    def __init__(self, url: str, *, part: str, migrations: Sequence[str], derived: bool = False) -> None:
        """`derived`: the content can be made again from elsewhere, so its last commits may be lost in a crash."""
        self.part = part
        self._parameters, prefix = _parse(url)
        self.schema = f"{prefix}_{part.replace(' ', '_')}"
        self._derived = derived
        self._connections: dict[threading.Thread, Connection] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._again = Retrying(
            stop=stop_after_attempt(TRIES),
            wait=wait_random_exponential(multiplier=0.002, max=0.25),
            retry=retry_if_exception(self._may_repeat),
            reraise=True,
        )
        self._run(lambda connection: self._migrate(connection, migrations), timeout_s=WORK_TIMEOUT_S)

    def sql(self, template: str, **names: Name | list[Name]) -> str:
        """A statement with its identifiers quoted; several stand in a list between commas."""
        quoted = {
            key: ", ".join(map(_quoted, name if isinstance(name, list) else [name]))
            for key, name in names.items()
        }
        return template.format(schema=_quoted(self.schema), **quoted)

    # --- work ----------------------------------------------------------------------------------

    def read(self, work: Callable[[Connection], T]) -> T:
        """Statements that change nothing, without a transaction around them: each sees what is committed then."""
        return self._run(work)

    def write(self, work: Callable[[Connection], T], *, durable: bool = False) -> T:
        """One transaction, sent as a pipeline: a result that nobody fetches costs no round trip.

        `work` may run several times and must be safe to repeat after a commit whose answer got lost. `durable`:
        it survives a crash even where the content is derived.
        """

        settings = _DERIVED if self._derived and not durable else _DURABLE

        def transaction(connection: Connection) -> T:
            with connection.pipeline(), connection.transaction():
                connection.execute(settings, (f"{LOCK_TIMEOUT_MS}ms",))
                return work(connection)

        # What is derived is written by projectors, in batches of any size.
        return self._run(transaction, timeout_s=WORK_TIMEOUT_S if self._derived else ANSWER_TIMEOUT_S)

    def _run(self, work: Callable[[Connection], T], *, timeout_s: float = ANSWER_TIMEOUT_S) -> T:
        try:
            result: T = self._again(self._once, work, timeout_s)
        except (psycopg.Error, Raced) as error:
            if isinstance(error, errors.ReadOnlySqlTransaction):
                self._connection().close()  # the next call asks anew for the server that writes
            translated = self._translate(error)
            if translated is None:
                # Its class, and who asked; the message may quote a value, and the frames are the driver's.
                raise type(error)() from None
            raise translated from error
        return result

    def _once(self, work: Callable[[Connection], T], timeout_s: float) -> T:
        connection = self._connection()
        connection.answer_timeout_s = timeout_s
        try:
            return work(connection)
        except psycopg.Error as error:
            if not connection.went_silent:
                raise
            # Not again: whoever waits has no time left for another try.
            raise PartUnavailable(self.part, f"{self._where()}: no answer within {timeout_s:g} s") from error

    def _may_repeat(self, error: BaseException) -> bool:
        if isinstance(error, Raced | errors.SerializationFailure | errors.DeadlockDetected):
            return True
        # Lost under our hands: the next try connects anew, and raises PartUnavailable if it can't.
        return self._lost(error)

    def _lost(self, error: BaseException) -> bool:
        connection = self._connections.get(threading.current_thread())
        if isinstance(error, errors.AdminShutdown | errors.CrashShutdown) and connection is not None:
            connection.close()  # the server has said good-bye, but libpq may not have seen the end yet
        return isinstance(error, psycopg.Error) and connection is not None and connection.closed

    def rewrite(self, table: str, *, lock_wait_ms: int) -> bool:
        """Write what lives in a table into new files and drop the old; False when it couldn't be had in time."""
        name = self.sql("{table}", table=(self.schema, table))
        filenode = "SELECT pg_relation_filenode(%s::regclass)"

        def vacuum(connection: Connection) -> bool:
            before = one(connection, filenode, name)
            _set_lock_timeout(connection, lock_wait_ms)
            try:
                connection.execute(f"VACUUM FULL {name}")
            except errors.LockNotAvailable:
                return False
            finally:
                with contextlib.suppress(psycopg.Error):  # a lost connection takes the setting with it
                    _set_lock_timeout(connection, LOCK_TIMEOUT_MS)
            # Without the right to do it VACUUM only warns.
            return bool(one(connection, filenode, name) != before)

        return self._run(vacuum, timeout_s=WORK_TIMEOUT_S)

    # --- connections ---------------------------------------------------------------------------

    def _connection(self) -> Connection:
        """This thread's connection, opened on first use and after it was lost."""
        connection = self._connections.get(threading.current_thread())
        if connection is not None and not connection.closed:
            return connection
        if self._closed:
            raise PartUnavailable(self.part, "it was closed")
        connection = self._connect()
        with self._lock:
            for thread in [t for t in self._connections if not t.is_alive()]:
                self._connections.pop(thread).close()  # a server has few connections to give
            self._connections[threading.current_thread()] = connection
        return connection

    def _connect(self) -> Connection:
        try:
            # Nothing prepared: behind a pooler of transactions the next statement meets another session.
            connection = Connection.connect(autocommit=True, prepare_threshold=None, **self._parameters)
        except psycopg.Error as error:
            raise PartUnavailable(self.part, f"{self._where()}: {self._why(error)}") from None
        connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        try:
            _set_lock_timeout(connection, LOCK_TIMEOUT_MS)
        except BaseException:
            connection.close()
            raise
        return connection

    def _where(self) -> str:
        return _where(self._parameters)

    def _why(self, error: psycopg.Error) -> str:
        """The reason in libpq's words, which is what an operator searches for: first line, last clause."""
        return str(error).partition("\n")[0].rpartition("failed: ")[2].removeprefix("FATAL:").strip()

    # --- errors --------------------------------------------------------------------------------

    def _translate(self, error: psycopg.Error | Raced) -> EsError | ValueError | None:
        """What happened, in this project's words; None for a wrong statement, which is a bug and no outage."""
        where = self._where()
        match error:
            case Raced() | errors.SerializationFailure() | errors.DeadlockDetected():
                return PartUnavailable(
                    self.part, f"{where}: overtaken {TRIES} times in a row", "Repeat the command."
                )
            case errors.NumericValueOutOfRange():
                return ValueError("a value does not fit its column")
            case errors.UndefinedTable():
                return TableGone(self.part, f"{where}: a table is missing")
            case errors.LockNotAvailable():
                return PartUnavailable(
                    self.part, f"{where}: stayed locked by somebody else", "Repeat the command."
                )
            case errors.DiskFull():
                return PartUnavailable(
                    self.part, f"{where}: the disk is full", "Free disk space, then repeat."
                )
            case errors.ReadOnlySqlTransaction():
                return _only_reads(self.part, where)
            case errors.InsufficientPrivilege():
                return PartUnavailable(
                    self.part, f"{where}: not permitted", f"Let this role own the schema {self.schema}."
                )
            case errors.DataCorrupted() | errors.IndexCorrupted():
                return Damaged(self.part, f"{where} found a damaged page or index")
            case errors.QueryCanceled():
                return PartUnavailable(
                    self.part,
                    f"{where}: a statement was cancelled",
                    "Look at the server's statement_timeout.",
                )
        # Without one the driver speaks for itself: a connection broke, or it was used in a wrong way.
        state = error.sqlstate or ("08" if isinstance(error, psycopg.OperationalError) else "")
        if state.startswith(_LOST):
            return PartUnavailable(self.part, f"{where}: the connection was lost")
        if state.startswith(_TROUBLE):
            return PartUnavailable(self.part, f"{where}: {type(error).__name__}", "Look at the server's log.")
        return None

    # --- schema --------------------------------------------------------------------------------

    def _migrate(self, connection: Connection, migrations: Sequence[str]) -> None:
        if self._version(connection) == len(migrations):
            return
        with connection.transaction():
            connection.execute(_DURABLE, (f"{LOCK_TIMEOUT_MS}ms",))
            # Several workers may start at once: one migrates, the others wait and find it done.
            connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended('es schema ' || %s, 0))", (self.schema,)
            )
            version = self._version(connection)
            if version == len(migrations):
                return
            if version > len(migrations):
                raise PartUnavailable(
                    self.part,
                    f"{self._where()}: schema {self.schema} has version {version}, this program {len(migrations)}",
                    "A newer version wrote it: upgrade every worker.",
                )
            if version == 0:
                connection.execute(self.sql("CREATE SCHEMA IF NOT EXISTS {schema}"))
                connection.execute(self.sql("CREATE TABLE {schema}.schema_version(version integer NOT NULL)"))
                connection.execute(self.sql("INSERT INTO {schema}.schema_version VALUES(0)"))
            for step in migrations[version:]:
                connection.execute(self.sql(step))
            connection.execute(
                self.sql("UPDATE {schema}.schema_version SET version = %s"), (len(migrations),)
            )

    def _version(self, connection: Connection) -> int:
        """How many migrations the schema has seen; 0 when it doesn't exist."""
        # Not to_regclass(): its cache may be older than the lock, and then what a rival made goes unseen.
        exists = "SELECT FROM pg_tables WHERE schemaname = %s AND tablename = 'schema_version'"
        if connection.execute(exists, (self.schema,)).fetchone() is None:
            return 0
        return int(one(connection, self.sql("SELECT version FROM {schema}.schema_version")))

    def close(self) -> None:
        with self._lock:
            self._closed = True
            connections, self._connections = self._connections, {}
        for connection in connections.values():
            with contextlib.suppress(psycopg.Error):  # a close can't be retried and nothing is lost by it
                connection.close()


def _set_lock_timeout(connection: Connection, lock_wait_ms: int) -> None:
    connection.execute("SELECT set_config('lock_timeout', %s, false)", (f"{lock_wait_ms}ms",))


def one(connection: Connection, statement: str, *arguments: object) -> Any:
    """The only column of the first row; None without a row."""
    row = connection.execute(statement, arguments).fetchone()
    return None if row is None else row[0]


def _quoted(name: Name) -> str:
    return sql.Identifier(*([name] if isinstance(name, str) else name)).as_string()


def _parse(url: str) -> tuple[dict[str, Any], str]:
    """The parameters of a URL and the prefix of the schemas. Raises InvalidSetting without repeating any of it."""
    address, _, query = url.partition("?")
    options = query.split("&") if query else []
    ours = [option for option in options if option.startswith(_PREFIX_OPTION)]
    theirs = "&".join(option for option in options if option not in ours)
    try:
        given = conninfo_to_dict(f"{address}?{theirs}" if theirs else address)
    except psycopg.Error:
        # Not even as the cause: libpq quotes the part that it stumbled over, which may be a password's.
        raise InvalidSetting(_URL, "cannot be read; percent-encode special characters") from None
    # An unescaped @ or / in a password makes the rest of it a host or a database, which messages show.
    if any("@" in str(given.get(name, "")) for name in ("host", "dbname")):
        raise InvalidSetting(_URL, "has a second @; percent-encode special characters")
    prefix = ours[-1].removeprefix(_PREFIX_OPTION) if ours else "es"
    if not _PREFIX.fullmatch(prefix):
        raise InvalidSetting(
            _URL, "has a schema= that isn't 1 to 50 letters, digits, _ or -, or that begins with pg_"
        )
    return {**_DEFAULTS, **given}, prefix


def _where(parameters: dict[str, Any]) -> str:
    host = parameters.get("host") or parameters.get("hostaddr") or "the local socket"
    port = parameters.get("port", "5432")
    return f"PostgreSQL at {host}:{port}, database {parameters.get('dbname', '(default)')}"


def _only_reads(part: str, where: str) -> PartUnavailable:
    return PartUnavailable(
        part,
        f"{where} is read-only",
        "It may be a standby: add target_session_attrs=read-write to the URL. A full disk does it too, in some clouds.",
    )


def server_facts(url: str, *, now_us: Callable[[], int]) -> tuple[str, int]:
    """The server's version, and how far its clock is ahead of `now_us`, in microseconds.

    Raises PartUnavailable when it can't be reached, or only reads: then nothing works that matters.
    """
    parameters, _ = _parse(url)
    try:
        with psycopg.connect(**parameters) as connection:
            before_us = now_us()
            row = connection.execute(
                """SELECT current_setting('server_version'), extract(epoch FROM clock_timestamp()) * 1000000,
                          current_setting('transaction_read_only')::boolean"""
            ).fetchone()
            after_us = now_us()
    except psycopg.Error as error:
        raise PartUnavailable("PostgreSQL", "it cannot be reached") from error
    version, server_us, only_reads = row or ("", after_us, False)
    if only_reads:
        raise _only_reads("PostgreSQL", _where(parameters))
    return f"PostgreSQL {version.split()[0]}", int(server_us) - (before_us + after_us) // 2
