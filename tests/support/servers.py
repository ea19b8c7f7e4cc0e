"""Find the servers that some tests need, in this order:

1. `ES_TEST_AMQP_URL`, `ES_TEST_PG_URL`, `ES_TEST_ESDB_URL`
2. a server on the default port of this machine
3. an installed program: a private instance is started on free ports, in a temporary folder
4. otherwise the test is skipped with one line that says what to install. It fails if
   `ES_TEST_REQUIRE=rabbitmq,postgres` names the server.

tests/support/postgres.py finds PostgreSQL in the same way. EventStoreDB has no program to start: its adapter runs
against the test node in tests/support/node, and against a real server if there is one (`eventstoredb-server`). Both need
the extra `eventstoredb`: without it, what imports its libraries is skipped in the same way.

Each test session has a virtual host and a database of its own. tests/support/guard.py removes them and ends private
servers, even if the session is killed. tests/conftest.py imports the fixtures once: a second import would make
another fixture, with another virtual host or server.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import pytest

from adapters.rabbitmq.connection import open_channel
from adapters.rabbitmq.publisher import EXCHANGE
from domain.kernel.errors import PartUnavailable

START_S = 180.0
"""How long a server may take to start. A machine that runs tests is busy."""
SKIP_PREFIX = "needs "
_HOST = "127.0.0.1"
_PORTS = range(20_000, 32_000)
"""Below the ports that systems use for outgoing connections, which may be taken at any moment."""
_ATTEMPTS = 5


def missing(name: str, how: str) -> NoReturn:
    """Skip the test, or fail it if the server is required."""
    reason = f"{SKIP_PREFIX}{name}: {how}"
    if name in os.environ.get("ES_TEST_REQUIRE", "").replace(" ", "").split(","):
        pytest.fail(f"{reason} (ES_TEST_REQUIRE names it)", pytrace=False)
    pytest.skip(reason, allow_module_level=True)


class NeedsExtra(MetaPathFinder):
    """Skips what imports the libraries of the extra `eventstoredb`. It is asked last: only if they are missing."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name in ("esdbclient", "grpc"):
            missing("eventstoredb", "install the extra (pip install --editable '.[eventstoredb]')")


def fold_skips(reporter: Any) -> None:
    """Show one line for each missing server in the summary, however many tests need it."""
    for report in reporter.stats.get("skipped", ()):
        _, _, reason = report.longrepr
        if reason.startswith(f"Skipped: {SKIP_PREFIX}"):
            report.longrepr = (__file__, None, reason)


def free_port() -> int:
    """A port that is free now. It may be taken before it is used, so be ready to choose another."""
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((_HOST, port))
            return port


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((_HOST, port)) == 0


class Guarded:
    """A plan that tests/support/guard.py runs once this is closed, or its process has ended. See there for the fields."""

    def __init__(
        self,
        *,
        server: Sequence[str] = (),
        afterwards: Sequence[Sequence[str]] = (),
        environment: Mapping[str, str] = os.environ,
        user: str | None = None,
        folder: Path | None = None,
    ) -> None:
        self._folder = folder
        plan = {
            "server": server,
            "afterwards": afterwards,
            "environment": dict(environment),
            "user": user,
            "folder": str(folder) if folder else None,
        }
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("guard.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(plan) + "\n")
        self._process.stdin.flush()

    @property
    def has_ended(self) -> bool:
        """Whether the server ended without being asked to."""
        is_marked = self._folder is not None and (self._folder / "ended").exists()
        return is_marked or self._process.poll() is not None

    def said(self) -> str:
        """The end of the server's output."""
        assert self._folder is not None
        with contextlib.suppress(OSError):
            return (self._folder / "said").read_text(errors="replace")[-2000:]
        return ""

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(START_S) == 0, "the guard could not remove what this session made"


# --- RabbitMQ --------------------------------------------------------------------------------


@dataclass(frozen=True)
class RabbitMQ:
    """A virtual host of RabbitMQ. `control` is the command rabbitmqctl for it, or empty if it cannot be controlled.

    Only a private instance has `ending`, and may be killed.
    """

    url: str
    vhost: str
    control: Sequence[str]
    environment: Mapping[str, str]
    tls_port: int | None = None
    ending: contextlib.ExitStack | None = None

    def need_control(self) -> None:
        """Skip the test if the server cannot be controlled. Called before the work of the test."""
        if not self.control:
            missing("rabbitmq", _CONTROL)

    def ctl(self, *arguments: str) -> str:
        self.need_control()
        done = subprocess.run(
            [*self.control, *arguments],
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_S,
            start_new_session=True,  # otherwise Ctrl-C would stop the clean-up of a fixture
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def close_connections(self) -> None:
        """Close every connection of this virtual host, as an operator or a failing network does."""
        self.ctl("close_all_connections", "--vhost", self.vhost, "cut by a test")

    def pid(self) -> int:
        return int(self.ctl("eval", "os:getpid().").strip().strip('"'))

    def kill(self, pid: int) -> None:
        """Kill the server without time to save anything, as the kernel does when memory is short.

        Ask for `pid` beforehand: rabbitmqctl takes longer to start than much of what a test interrupts.
        """
        assert self.ending is not None
        os.kill(pid, signal.SIGKILL)
        port = urlsplit(self.url).port or 0
        while listens(port):
            time.sleep(0.02)

    def start_again(self) -> None:
        """Restart the server after `kill`, with what its files hold."""
        assert self.ending is not None
        folder = Path(tempfile.mkdtemp(dir=self.environment["HOME"]))
        program = str(Path(self.control[0]).with_name("rabbitmq-server"))
        again = Guarded(server=[program], environment=self.environment, folder=folder)
        self.ending.callback(again.close)
        deadline = time.monotonic() + START_S
        while not _connects(self.url):
            assert not again.has_ended, again.said()
            assert time.monotonic() < deadline, f"RabbitMQ did not start within {START_S:g} s"
            time.sleep(0.2)

    def delete_queues(self, *names: str) -> None:
        with open_channel(self.url) as channel:
            for name in names:
                channel.queue_delete(name)


_INSTALL = "install it (apt-get install rabbitmq-server) or set ES_TEST_AMQP_URL"
_CONTROL = (
    "let rabbitmqctl control the server of ES_TEST_AMQP_URL (root on its machine), "
    "or unset that and install one (apt-get install rabbitmq-server)"
)


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    """A virtual host of this session. Never stop the server: it may have other users."""
    with contextlib.ExitStack() as ending:
        yield _find_rabbitmq(ending)


@pytest.fixture(scope="session")
def private_rabbitmq() -> Iterator[RabbitMQ]:
    """A private instance, which may be stopped and started."""
    with started_rabbitmq() as server:
        yield server


@contextlib.contextmanager
def started_rabbitmq(tls: Mapping[str, object] | None = None) -> Iterator[RabbitMQ]:
    """A private instance, ended with the block. With `tls`, its ssl_options, it listens on a second port."""
    with contextlib.ExitStack() as ending:
        server = _start_rabbitmq(ending, tls)
        if server is None:
            missing("rabbitmq", "install the program (apt-get install rabbitmq-server)")
        yield server


def _find_rabbitmq(ending: contextlib.ExitStack) -> RabbitMQ:
    if url := os.environ.get("ES_TEST_AMQP_URL"):
        return _own_vhost(url, ending) or _given_vhost(url, ending)
    url = f"amqp://guest:guest@{_HOST}:5672/"
    # Only with a virtual host of this session: the default one may be in use for something else.
    if listens(5672) and _connects(url) and (found := _own_vhost(url, ending)):
        return found
    return _start_rabbitmq(ending) or missing("rabbitmq", _INSTALL)


def _own_vhost(url: str, ending: contextlib.ExitStack) -> RabbitMQ | None:
    """A virtual host that is removed at the end. None if rabbitmqctl does not control this server."""
    program = shutil.which("rabbitmqctl")
    parts = urlsplit(url)
    if program is None or os.geteuid() != 0 or parts.hostname not in ("localhost", _HOST, "::1"):
        return None
    name = f"es-test-{uuid4().hex[:12]}"
    own = RabbitMQ(urlunsplit(parts._replace(path=f"/{name}")), name, [program], os.environ)
    with contextlib.ExitStack() as undoing:
        undoing.callback(Guarded(afterwards=[[program, "--quiet", "delete_vhost", name]]).close)
        try:
            own.ctl("add_vhost", name)
            own.ctl("set_permissions", "-p", name, parts.username or "guest", ".*", ".*", ".*")
        except AssertionError:
            undoing.pop_all()  # there is nothing to remove; the guard ends with this process
            return None
        if not _connects(own.url):  # rabbitmqctl controls another server
            return None
        ending.push(undoing.pop_all())
    return own


def _given_vhost(url: str, ending: contextlib.ExitStack) -> RabbitMQ:
    """The virtual host that ES_TEST_AMQP_URL names, for one session at a time. Declarations of tests are removed."""
    if not _connects(url):
        pytest.fail("cannot connect to the server that ES_TEST_AMQP_URL names", pytrace=False)
    try:
        with contextlib.ExitStack() as locking:
            # No thread answers heartbeats on this connection meanwhile.
            unattended = f"{url}{'&' if '?' in url else '?'}heartbeat=0"
            locking.enter_context(open_channel(unattended)).queue_declare("es-test-session", exclusive=True)
            ending.push(locking.pop_all())
    except PartUnavailable:
        other_session = "another session uses its virtual host; run pytest without -n"
        missing("rabbitmq", f"{other_session}, or {_CONTROL}")
    try:
        with open_channel(url) as channel:
            channel.exchange_declare(EXCHANGE, passive=True)
    except PartUnavailable:
        ending.callback(_delete_exchange, url)
    return RabbitMQ(url, urlsplit(url).path.removeprefix("/") or "/", [], os.environ)


def _delete_exchange(url: str) -> None:
    with open_channel(url) as channel:
        channel.exchange_delete(EXCHANGE)


def _connects(url: str) -> bool:
    try:
        with open_channel(url):
            return True
    except PartUnavailable:
        return False


def _start_rabbitmq(ending: contextlib.ExitStack, tls: Mapping[str, object] | None = None) -> RabbitMQ | None:
    programs = _programs()
    if programs is None:
        return None
    for _ in range(_ATTEMPTS):
        with contextlib.ExitStack() as starting:
            server, guarded = _launch_rabbitmq(programs, tls)
            starting.callback(guarded.close)
            deadline = time.monotonic() + START_S
            while not guarded.has_ended:
                # By its own password: another server may have taken the port.
                if _connects(server.url):
                    ending.push(starting.pop_all())
                    return replace(server, ending=ending)
                assert time.monotonic() < deadline, f"RabbitMQ did not start within {START_S:g} s"
                time.sleep(0.2)
            said = guarded.said()  # most likely that one of the ports was taken
    raise AssertionError(f"RabbitMQ ended {_ATTEMPTS} times while it started: {said}")


def _programs() -> Path | None:
    """The folder of the programs. Those that Debian puts on the path run as the user rabbitmq only."""
    folders = [Path("/usr/lib/rabbitmq/bin"), *sorted(Path("/usr/lib/rabbitmq/lib").glob("*/sbin"))]
    if on_path := shutil.which("rabbitmq-server"):
        folders.insert(0, Path(on_path).resolve().parent)
    return next((folder for folder in folders if (folder / "rabbitmq-env").exists()), None)


def _launch_rabbitmq(programs: Path, tls: Mapping[str, object] | None) -> tuple[RabbitMQ, Guarded]:
    folder = Path(tempfile.mkdtemp(prefix="es-rabbitmq-"))
    port, password = free_port(), secrets.token_hex(8)
    lines = [f"listeners.tcp.1 = {_HOST}:{port}", f"default_pass = {password}"]
    tls_port = free_port() if tls else None
    if tls:
        lines += [f"listeners.ssl.1 = {_HOST}:{tls_port}"]
        lines += [f"ssl_options.{name} = {value}" for name, value in tls.items()]
    (folder / "env.conf").touch()
    (folder / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
    (folder / "enabled_plugins").write_text("[].\n")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),  # for the cookie that nodes and rabbitmqctl share
        "RABBITMQ_NODENAME": f"es-test-{uuid4().hex[:8]}@localhost",
        "RABBITMQ_CONF_ENV_FILE": str(folder / "env.conf"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_DIST_PORT": str(free_port()),
        # Each rabbitmqctl uses one of these ports, and many may run at once.
        "RABBITMQ_CTL_DIST_PORT_MIN": str(_PORTS.start),
        "RABBITMQ_CTL_DIST_PORT_MAX": str(_PORTS.stop),
        "ERL_EPMD_PORT": str(free_port()),
        "ERL_EPMD_ADDRESS": _HOST,
        "ERL_EPMD_RELAXED_COMMAND_CHECK": "true",  # it may be killed while nodes are registered
        "ERL_FLAGS": "-kernel inet_dist_use_interface {127,0,0,1}",
    }
    guarded = Guarded(
        server=[str(programs / "rabbitmq-server")],
        # The name server: the node starts it and does not end it.
        afterwards=[["sh", "-c", "epmd -port $ERL_EPMD_PORT -kill; true"]],
        environment=environment,
        folder=folder,
    )
    url = f"amqp://guest:{password}@{_HOST}:{port}/"
    return RabbitMQ(url, "/", [str(programs / "rabbitmqctl")], environment, tls_port), guarded


# --- EventStoreDB ----------------------------------------------------------------------------


def find_eventstoredb() -> str:
    """The URL of a real server. Its streams cannot be removed, so each test uses new names."""
    if url := os.environ.get("ES_TEST_ESDB_URL"):
        return url
    if listens(2113):
        return f"esdb://{_HOST}:2113?tls=false"
    return missing(
        "eventstoredb-server", "set ES_TEST_ESDB_URL=esdb://…, or run one on port 2113 without TLS"
    )
