"""Finds the servers that some tests need, in this order:

1. `ES_TEST_AMQP_URL`, `ES_TEST_PG_URL`, `ES_TEST_ESDB_URL`
2. a server on the default port of this machine
3. an installed program, of which a private instance is started on free ports in a temporary folder
4. else the test is skipped with one line that says how to have it, or, if `ES_TEST_REQUIRE=rabbitmq,postgres`
   names it, it fails

PostgreSQL is found in the same way by tests/support/postgres.py. EventStoreDB has no package to
start: its adapter runs against the test node in tests/support/node, and against a real server where there is one.

Each test session gets a virtual host and a database of its own, and tests/support/guard.py removes them and ends the
private servers, even if the session is killed. tests/conftest.py imports the fixtures, once: each further import
into a module would make another fixture, with another virtual host or server.
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
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import pytest

from domain.kernel.errors import PartUnavailable

START_S = 180.0
"""How long a server may take to start. Machines that run tests are busy."""
SKIP_PREFIX = "needs "
_HOST = "127.0.0.1"
_PORTS = range(20_000, 32_000)
"""Below the ports that systems give to outgoing connections, which come and go at any moment."""
_ATTEMPTS = 5


def missing(name: str, how: str) -> NoReturn:
    """Skip the test, or fail it where the server is required."""
    reason = f"{SKIP_PREFIX}{name}: {how}"
    if name in os.environ.get("ES_TEST_REQUIRE", "").replace(" ", "").split(","):
        pytest.fail(f"{reason} (ES_TEST_REQUIRE names it)", pytrace=False)
    pytest.skip(reason)


def fold_skips(reporter: Any) -> None:
    """Let the summary have one line for each server that is missing, however many tests wanted it."""
    for report in reporter.stats.get("skipped", ()):
        _, _, reason = report.longrepr
        if reason.startswith(f"Skipped: {SKIP_PREFIX}"):
            report.longrepr = (__file__, None, reason)


def free_port() -> int:
    """A port that nobody listens on now. Somebody may take it before it is used: be ready to choose another."""
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
    """What tests/support/guard.py will do once this is closed, or its process is gone: see there for the fields."""

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
        """Whether the server ended by itself."""
        return self._process.poll() is not None or (self._folder is not None and self._ended.exists())

    @property
    def _ended(self) -> Path:
        assert self._folder is not None
        return self._folder / "ended"

    def said(self) -> str:
        """The last that the server said before anybody listened to its log."""
        assert self._folder is not None
        with contextlib.suppress(OSError):
            return (self._folder / "said").read_text(errors="replace")[-2000:]
        return ""

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(START_S) == 0, "something that a test session made was left behind"


# --- RabbitMQ --------------------------------------------------------------------------------


@dataclass(frozen=True)
class RabbitMQ:
    """A virtual host of RabbitMQ. `control` runs rabbitmqctl against it; empty where that is not possible.

    Only a private instance has `ending`, and may be killed.
    """

    url: str
    vhost: str
    control: Sequence[str]
    environment: Mapping[str, str]
    tls_port: int | None = None
    ending: contextlib.ExitStack | None = None

    def need_control(self) -> None:
        """For the beginning of a test that would otherwise find out in the middle of its work."""
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
            start_new_session=True,  # Ctrl-C must not stop what a fixture does at its end
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def close_connections(self) -> None:
        """Cut every connection of this virtual host, as an operator or a failing network does."""
        self.ctl("close_all_connections", "--vhost", self.vhost, "cut by a test")

    def pid(self) -> int:
        return int(self.ctl("eval", "os:getpid().").strip().strip('"'))

    def kill(self, pid: int) -> None:
        """End the server with no time to write anything down, as the kernel does when memory is short.

        `pid` is asked for beforehand: rabbitmqctl takes longer to start than much of what is to be interrupted.
        """
        assert self.ending is not None
        os.kill(pid, signal.SIGKILL)
        port = urlsplit(self.url).port or 0
        while listens(port):
            time.sleep(0.02)

    def start_again(self) -> None:
        """After `kill`: the same server, with what its files hold."""
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
        from adapters.rabbitmq.connection import open_channel

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
    """A virtual host of this session's own; never stop this server, others may use it."""
    with contextlib.ExitStack() as ending:
        yield _find_rabbitmq(ending)


@pytest.fixture(scope="session")
def private_rabbitmq() -> Iterator[RabbitMQ]:
    """An instance that nobody else uses, so that it may be stopped and started."""
    with started_rabbitmq() as server:
        yield server


@contextlib.contextmanager
def started_rabbitmq(tls: Mapping[str, object] | None = None) -> Iterator[RabbitMQ]:
    """A private instance, ended with the block; with `tls`, the server's ssl_options, it listens on a second port."""
    with contextlib.ExitStack() as ending:
        server = _start_rabbitmq(ending, tls)
        if server is None:
            missing("rabbitmq", "install the program (apt-get install rabbitmq-server)")
        yield server


def _find_rabbitmq(ending: contextlib.ExitStack) -> RabbitMQ:
    if url := os.environ.get("ES_TEST_AMQP_URL"):
        return _own_vhost(url, ending) or _given_vhost(url, ending)
    url = f"amqp://guest:guest@{_HOST}:5672/"
    # Without a virtual host of our own not this one: somebody may be using it for something else.
    if listens(5672) and _connects(url) and (found := _own_vhost(url, ending)):
        return found
    return _start_rabbitmq(ending) or missing("rabbitmq", _INSTALL)


def _own_vhost(url: str, ending: contextlib.ExitStack) -> RabbitMQ | None:
    """A virtual host that is removed at the end; None where rabbitmqctl has no power over this server."""
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
            undoing.pop_all()  # there is nothing to remove; the guard ends with us
            return None
        if not _connects(own.url):  # it is another server that rabbitmqctl controls
            return None
        ending.push(undoing.pop_all())
    return own


def _given_vhost(url: str, ending: contextlib.ExitStack) -> RabbitMQ:
    """The virtual host that ES_TEST_AMQP_URL names, for one session at a time; what tests declare is removed."""
    from adapters.rabbitmq.connection import open_channel
    from adapters.rabbitmq.publisher import EXCHANGE

    if not _connects(url):
        pytest.fail("ES_TEST_AMQP_URL names a server that can't be reached, or not like this", pytrace=False)
    try:
        with contextlib.ExitStack() as locking:
            # Nothing serves this connection meanwhile, so there are no heartbeats.
            unattended = f"{url}{'&' if '?' in url else '?'}heartbeat=0"
            locking.enter_context(open_channel(unattended)).queue_declare("es-test-session", exclusive=True)
            ending.push(locking.pop_all())
    except PartUnavailable:
        missing(
            "rabbitmq", f"another session is using its virtual host; run pytest without -n, or {_CONTROL}"
        )
    with contextlib.suppress(PartUnavailable):
        with open_channel(url) as channel:
            channel.exchange_declare(EXCHANGE, passive=True)
        return RabbitMQ(url, urlsplit(url).path.removeprefix("/") or "/", [], os.environ)
    ending.callback(_delete_exchange, url, EXCHANGE)
    return RabbitMQ(url, urlsplit(url).path.removeprefix("/") or "/", [], os.environ)


def _delete_exchange(url: str, name: str) -> None:
    from adapters.rabbitmq.connection import open_channel

    with open_channel(url) as channel:
        channel.exchange_delete(name)


def _connects(url: str) -> bool:
    from adapters.rabbitmq.connection import open_channel

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
                # Its password is its own, so nobody else who may have taken the port is mistaken for it.
                if _connects(server.url):
                    ending.push(starting.pop_all())
                    return replace(server, ending=ending)
                assert time.monotonic() < deadline, f"RabbitMQ did not start within {START_S:g} s"
                time.sleep(0.2)
            said = guarded.said()  # most likely that somebody was faster at one of the ports
    raise AssertionError(f"RabbitMQ ended {_ATTEMPTS} times while it started: {said}")


def _programs() -> Path | None:
    """Where the programs are that run as anybody; what Debian has on the path insists on a user of its own."""
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
        "HOME": str(folder),  # the cookie that nodes and rabbitmqctl share is made here
        "RABBITMQ_NODENAME": f"es-test-{uuid4().hex[:8]}@localhost",
        "RABBITMQ_CONF_ENV_FILE": str(folder / "env.conf"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_DIST_PORT": str(free_port()),
        # rabbitmqctl takes one of these, and many of them may run at once.
        "RABBITMQ_CTL_DIST_PORT_MIN": str(_PORTS.start),
        "RABBITMQ_CTL_DIST_PORT_MAX": str(_PORTS.stop),
        "ERL_EPMD_PORT": str(free_port()),
        "ERL_EPMD_ADDRESS": _HOST,
        "ERL_EPMD_RELAXED_COMMAND_CHECK": "true",  # it may be ended whatever it still knows
        "ERL_FLAGS": "-kernel inet_dist_use_interface {127,0,0,1}",
    }
    guarded = Guarded(
        server=[str(programs / "rabbitmq-server")],
        # The name server, which the node started and leaves behind.
        afterwards=[["sh", "-c", "epmd -port $ERL_EPMD_PORT -kill; true"]],
        environment=environment,
        folder=folder,
    )
    url = f"amqp://guest:{password}@{_HOST}:{port}/"
    return RabbitMQ(url, "/", [str(programs / "rabbitmqctl")], environment, tls_port), guarded


# --- EventStoreDB ----------------------------------------------------------------------------


def find_eventstoredb() -> str:
    """The URL of a real server. Nothing of it can be removed again: streams have names that are never used twice."""
    if url := os.environ.get("ES_TEST_ESDB_URL"):
        return url
    if listens(2113):
        return f"esdb://{_HOST}:2113?tls=false"
    return missing("eventstoredb", "set ES_TEST_ESDB_URL=esdb://…, or run one on port 2113 without TLS")
