"""A PostgreSQL server for tests, and what other sessions of it may do meanwhile.

The server is that of `ES_TEST_PG_URL`, or a private one that is started in a temporary folder, or one on the default port
of localhost. Without any of them a test is skipped, or fails if `ES_TEST_REQUIRE` names postgres. A test
session creates one database, and a test has schemas of its own in it, or those of a vault that was emptied. Both are dropped.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest

from domain.kernel.errors import PartUnavailable
from tests.support.servers import START_S, Guarded, free_port, missing
from tests.support.waiting import eventually

if TYPE_CHECKING:
    import psycopg

HOW = "set ES_TEST_PG_URL, or install a PostgreSQL server (apt-get install postgresql)"
_USERS = (os.environ.get("PGUSER") or os.environ.get("USER") or "postgres", "postgres")


@pytest.fixture(scope="session")
def postgres_database() -> Iterator[str]:
    """The URL of a new database, dropped after the session."""
    with a_server(prefers_own=True) as server_url, a_database(server_url) as url:
        yield url


@pytest.fixture
def postgres_url(postgres_database: str) -> Iterator[str]:
    """The URL of a new vault and new read models, dropped after the test."""
    with own_schema(postgres_database) as url:
        yield url


@contextmanager
def own_schema(database: str) -> Iterator[str]:
    """The URL of a new vault and new read models in a database."""
    prefix = f"t{uuid4().hex[:12]}"
    try:
        yield with_option(database, f"schema={prefix}")
    finally:
        for part in ("vault", "read_models"):
            execute(database, f"DROP SCHEMA IF EXISTS {prefix}_{part} CASCADE")


@contextmanager
def a_database(server_url: str, options: str = "") -> Iterator[str]:
    """The URL of a new database, made with these options of CREATE DATABASE."""
    name = f"es_test_{uuid4().hex[:12]}"
    # Before the database is created: otherwise it may stay when this process is killed.
    drop = [sys.executable, "-c", _DROP, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"]
    with closing(Guarded(afterwards=[drop], environment={**os.environ, "ES_TEST_PG_URL": server_url})):
        execute(server_url, f"CREATE DATABASE {name} {options}")
        yield urlsplit(server_url)._replace(path=f"/{name}").geturl()


_DROP = """
import os, sys, psycopg
psycopg.connect(os.environ["ES_TEST_PG_URL"], autocommit=True).execute(sys.argv[1])
"""


def with_option(url: str, option: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{option}"


def execute(url: str, statement: str) -> list[tuple[object, ...]]:
    """The rows of one statement, on a new connection."""
    with closing(_connect(url, autocommit=True)) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def _connect(url: str, *, autocommit: bool = False) -> psycopg.Connection[tuple[object, ...]]:
    import psycopg

    return psycopg.connect(url.partition("schema=")[0].rstrip("?&"), autocommit=autocommit)


# --- other sessions --------------------------------------------------------------------------


@contextmanager
def locked(url: str, *statements: str, commit: bool = False) -> Iterator[None]:
    """An open transaction of another session that has run these statements."""
    with closing(_connect(url)) as other:
        for statement in statements:
            other.execute(statement)
        yield
        other.commit() if commit else other.rollback()


def _tables(url: str, part: str) -> tuple[str, list[object]]:
    """The schema of a part and its tables. A table comes after those that it refers to."""
    schema = parse_qs(urlsplit(url).query)["schema"][0] + f"_{part}"
    found = execute(
        url,
        f"""SELECT c.relname FROM pg_class c WHERE c.relnamespace = '{schema}'::regnamespace
            AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY c.oid""",
    )
    return schema, [name for (name,) in found]


def empty(url: str, part: str) -> None:
    """Delete all rows of a part, which is then as new."""
    schema, tables = _tables(url, part)
    deletions = [f"DELETE FROM {schema}.{name}" for name in reversed(tables) if name != "schema_version"]
    execute(url, "; ".join(deletions))


@contextmanager
def copied_tables(url: str, part: str) -> Iterator[Callable[[], object]]:
    """A copy of the tables of a `vault` or of `read_models`.

    The call puts it back in one transaction, as a restore beside running workers does.
    """
    schema, tables = _tables(url, part)
    copies = [f"CREATE TABLE {schema}_copy.{name} AS TABLE {schema}.{name}" for name in tables]
    execute(url, "; ".join([f"CREATE SCHEMA {schema}_copy", *copies]))
    try:
        emptied = "TRUNCATE " + ", ".join(f"{schema}.{name}" for name in tables)
        filled = [f"INSERT INTO {schema}.{name} SELECT * FROM {schema}_copy.{name}" for name in tables]
        yield lambda: execute(url, "; ".join([emptied, *filled]))
    finally:
        execute(url, f"DROP SCHEMA {schema}_copy CASCADE")


def is_waiting(url: str) -> bool:
    """Whether a session of the database waits for a lock."""
    waiting = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return bool(execute(url, waiting))


def kill_connections(url: str) -> int:
    """End every session of the program in this database, as a failover does; returns their number."""
    killed = execute(
        url,
        """SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
           WHERE datname = current_database() AND application_name = 'es' AND pid <> pg_backend_pid()""",
    )
    return len(killed)


def unavailable(call: Callable[[], object], reason: str | None = None) -> PartUnavailable:
    """The error of a call that must fail with it."""
    with pytest.raises(PartUnavailable, match=reason) as raised:
        call()
    return raised.value


# --- servers ---------------------------------------------------------------------------------


@contextmanager
def a_server(*, prefers_own: bool = False) -> Iterator[str]:
    """The URL of a server. A private one is faster and has no autovacuum, which holds up the removal of old keys."""
    if find_spec("psycopg") is None:
        missing("postgres", "the extra: pip install '.[postgres]'")
    url = os.environ.get("ES_TEST_PG_URL") or (None if prefers_own and _binaries() else _on_localhost())
    if url is not None:
        yield url
    else:
        with private_server(port=free_port()) as server:
            yield server.url


def _on_localhost() -> str | None:
    """The URL of a server on which a known user may create databases."""
    import psycopg

    for user in dict.fromkeys(_USERS):
        url = f"postgresql://{user}@127.0.0.1:5432/postgres"
        with suppress(psycopg.Error):
            may = "SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user"
            if execute(with_option(url, "connect_timeout=5"), may) == [(True,)]:
                return url
    return None


@dataclass(frozen=True)
class Server:
    """A private server, which a test may stop and start."""

    folder: Path
    binaries: Path
    port: int | None
    """On the loopback interface; without one it listens on a socket in its folder only."""

    @property
    def url(self) -> str:
        if self.port is not None:
            return f"postgresql://es@127.0.0.1:{self.port}/postgres"
        return f"postgresql://es@/postgres?host={self.folder}"

    @property
    def pid(self) -> int:
        return int((self.folder / "data" / "postmaster.pid").read_text().split()[0])

    def start(self) -> None:
        # Autovacuum is off: it would hide an incomplete purge.
        settings = {
            "listen_addresses": "''" if self.port is None else "127.0.0.1",
            "port": self.port or 5432,
            "unix_socket_directories": self.folder,
            "fsync": "off",
            "autovacuum": "off",
        }
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        self.run("pg_ctl", "-w", "-t", _START_S, "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        self.run(*_STOP)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Make it hang: the kernel keeps and accepts connections, and no process answers."""
        backends = execute(self.url, "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        pids = [self.pid, *(int(str(pid)) for (pid,) in backends)]
        for pid in pids:  # the postmaster first: it starts the others
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    @contextmanager
    def crashing(self) -> Iterator[None]:
        """Crash it at the end: commits that did not wait for the write-ahead log are lost."""
        (writer,) = self._log_writers()
        os.kill(writer, signal.SIGSTOP)  # otherwise it soon writes those commits too
        try:
            yield
        finally:
            os.kill(writer, signal.SIGKILL)  # the server drops its memory and recovers

        def is_back() -> bool:
            with suppress(psycopg.OperationalError):
                return self._log_writers() not in ([], [writer])
            return False

        import psycopg

        eventually(is_back, "the server recovers")

    def _log_writers(self) -> list[int]:
        find = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'"
        return [int(str(pid)) for (pid,) in execute(self.url, find)]

    def ensure_running(self) -> None:
        if not (self.folder / "data" / "postmaster.pid").exists():
            self.start()

    def run(self, program: str, *arguments: str) -> None:
        # Its output goes to a file: a daemon would keep a pipe open.
        with (self.folder / "output").open("w+") as output:
            done = subprocess.run(
                self.command(program, *arguments),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                user=_account(),
                cwd="/",
                check=False,
                start_new_session=True,  # Ctrl-C must not stop the clean-up of a fixture
            )
            output.seek(0)
            assert done.returncode == 0, output.read()

    def command(self, program: str, *arguments: str) -> list[str]:
        return [str(self.binaries / program), "-D", str(self.folder / "data"), *arguments]


_START_S = f"{START_S:.0f}"
_STOP = ("pg_ctl", "-w", "-m", "immediate", "stop")


def _account() -> str | None:
    """The account to run it: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    return next((user.pw_name for user in pwd.getpwall() if user.pw_name == "postgres"), "nobody")


@contextmanager
def private_server(port: int | None = None) -> Iterator[Server]:
    binaries = _binaries()
    if binaries is None:
        missing("postgres", HOW)
    folder = Path(
        tempfile.mkdtemp(prefix="es-pg-")
    )  # short: the path of a socket has at most about 100 bytes
    server = Server(folder, binaries, port)
    stop = ["sh", "-c", 'test ! -e "$0/postmaster.pid" || exec "$@"', str(folder / "data")]
    stop += server.command(*_STOP)  # only if it still runs
    with closing(Guarded(afterwards=[stop], user=_account(), folder=folder)):
        if account := _account():
            shutil.chown(folder, account)
        server.run("initdb", "--username=es", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C")
        server.start()
        yield server


def _binaries() -> Path | None:
    on_path = shutil.which("pg_ctl")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda p: int(p.parts[4]))
    found = [Path(on_path).resolve(), *debian] if on_path else debian
    return next((path.parent for path in reversed(found) if (path.parent / "initdb").exists()), None)
