"""A PostgreSQL server for tests: found or started, and left as it was.

Looked for in this order: `ES_TEST_PG_URL`; a server on the default port of localhost; installed binaries, of
which a private server is started in a temporary folder. Without any of them a test is skipped, or fails if
`ES_TEST_REQUIRE` names postgres. A test session makes a database of its own and each test its own schemas.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from tests.support.builders import eventually
from tests.support.servers import START_S, Guarded, missing

HOW = "set ES_TEST_PG_URL, or install a PostgreSQL server (apt-get install postgresql)"
_USERS = (os.environ.get("PGUSER") or os.environ.get("USER") or "postgres", "postgres")


@pytest.fixture(scope="session")
def postgres_database() -> Iterator[str]:
    """The URL of a new database, dropped after the session."""
    with _server() as server_url, a_database(server_url) as url:
        yield url


@pytest.fixture
def postgres_url(postgres_database: str) -> Iterator[str]:
    """The URL of a vault and read models that nobody has used, dropped after the test."""
    prefix = f"t{uuid4().hex[:12]}"
    yield with_option(postgres_database, f"schema={prefix}")
    for part in ("vault", "read_models"):
        execute(postgres_database, f"DROP SCHEMA IF EXISTS {prefix}_{part} CASCADE")


@contextmanager
def a_database(server_url: str) -> Iterator[str]:
    name = f"es_test_{uuid4().hex[:12]}"
    # Before the database is made, so that it is dropped whenever we are killed.
    drop = [sys.executable, "-c", _DROP, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"]
    with closing(Guarded(afterwards=[drop], environment={**os.environ, "ES_TEST_PG_URL": server_url})):
        execute(server_url, f"CREATE DATABASE {name}")
        yield urlsplit(server_url)._replace(path=f"/{name}").geturl()


_DROP = """
import os, sys, psycopg
psycopg.connect(os.environ["ES_TEST_PG_URL"], autocommit=True).execute(sys.argv[1])
"""


def with_option(url: str, option: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{option}"


def execute(url: str, statement: str) -> list[tuple[object, ...]]:
    """One statement on a connection of its own, past the adapters."""
    import psycopg

    with closing(psycopg.connect(url.partition("schema=")[0].rstrip("?&"), autocommit=True)) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


@contextmanager
def _server() -> Iterator[str]:
    if find_spec("psycopg") is None:
        missing("postgres", "the extra: pip install '.[postgres]'")
    url = os.environ.get("ES_TEST_PG_URL") or _on_localhost()
    if url is not None:
        yield url
    else:
        with private_server() as server:
            yield server.url


def _on_localhost() -> str | None:
    """A server on which we may make databases."""
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
    """A private server on a socket in its folder, which a test may stop and start as it likes."""

    folder: Path
    binaries: Path

    @property
    def url(self) -> str:
        return f"postgresql://es@/postgres?host={self.folder}"

    @property
    def pid(self) -> int:
        return int((self.folder / "data" / "postmaster.pid").read_text().split()[0])

    def start(self) -> None:
        # Its own vacuuming is off: it would hide what a purge leaves undone.
        settings = {
            "listen_addresses": "''",
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
        """Have it hang: connections stay, new ones are made by the kernel, and nobody answers."""
        backends = execute(self.url, "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        pids = [self.pid, *(int(str(pid)) for (pid,) in backends)]
        for pid in pids:  # the one that starts others first
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
        """Have it crash at the end, with the loss of every commit meanwhile that didn't wait for the log."""
        (writer,) = self._log_writers()
        os.kill(writer, signal.SIGSTOP)  # it would write what nobody waits for soon after
        try:
            yield
        finally:
            os.kill(writer, signal.SIGKILL)  # and the server throws its memory away and recovers

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
        # What it says goes to a file: a daemon would keep a pipe open.
        with (self.folder / "said").open("w+") as said:
            done = subprocess.run(
                self.command(program, *arguments),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                user=_account(),
                cwd="/",
                check=False,
                start_new_session=True,  # Ctrl-C must not stop what a fixture does at its end
            )
            said.seek(0)
            assert done.returncode == 0, said.read()

    def command(self, program: str, *arguments: str) -> list[str]:
        return [str(self.binaries / program), "-D", str(self.folder / "data"), *arguments]


_START_S = f"{START_S:.0f}"
_STOP = ("pg_ctl", "-w", "-m", "immediate", "stop")


def _account() -> str | None:
    """Whom to run it as: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    return next((user.pw_name for user in pwd.getpwall() if user.pw_name == "postgres"), "nobody")


@contextmanager
def private_server() -> Iterator[Server]:
    binaries = _binaries()
    if binaries is None:
        missing("postgres", HOW)
    folder = Path(tempfile.mkdtemp(prefix="es-pg-"))  # a short path: sockets allow some 100 bytes
    server = Server(folder, binaries)
    stop = ["sh", "-c", 'test ! -e "$0/postmaster.pid" || exec "$@"', str(folder / "data")]
    stop += server.command(*_STOP)  # unless it is stopped already
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
