"""Finds the servers that some tests need, in this order:

1. `ES_TEST_AMQP_URL`, `ES_TEST_PG_URL`
2. a server on the default port of this machine
3. an installed program, of which a private instance is started on free ports in a temporary folder
4. else the test is skipped with one line that says how to have it, or, if `ES_TEST_REQUIRE=rabbitmq,postgres`
   names it, it fails

PostgreSQL is found in the same way by tests/contract/postgres_fixture.py. EventStoreDB has no package to
start: its adapter runs against the test node in tests/node, and against a real server by `--store-url esdb://…`.

Each test session gets a virtual host and a database of its own and removes them. The fixtures are used by
importing them: `from tests.servers import rabbitmq`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import pytest

from domain.errors import PartUnavailable

START_S = 60.0
SKIP_PREFIX = "needs "
_HOST = "127.0.0.1"


def missing(name: str, how: str) -> NoReturn:
    """Skip the test, or fail it where the server is required."""
    reason = f"{SKIP_PREFIX}{name}: {how}"
    if name in os.environ.get("ES_TEST_REQUIRE", "").split(","):
        pytest.fail(f"{reason} (ES_TEST_REQUIRE names it)", pytrace=False)
    pytest.skip(reason)


def write_summary(reporter: Any) -> None:
    """One line for each server that tests were skipped for. For `pytest_terminal_summary`."""
    reasons = {report.longrepr[2].removeprefix("Skipped: ") for report in reporter.stats.get("skipped", ())}
    for reason in sorted(reason for reason in reasons if reason.startswith(SKIP_PREFIX)):
        reporter.write_line(f"skipped: {reason}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((_HOST, port)) == 0


def _wait_until_listening(port: int, process: subprocess.Popen[bytes], what: str) -> None:
    deadline = time.monotonic() + START_S
    while not _listens(port):
        assert process.poll() is None, f"{what} ended with {process.returncode}"
        assert time.monotonic() < deadline, f"{what} did not start within {START_S} s"
        time.sleep(0.1)


def _with_path(url: str, path: str) -> str:
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc, f"/{path}", parts.query, ""))


# --- RabbitMQ --------------------------------------------------------------------------------


@dataclass(frozen=True)
class RabbitMQ:
    """A virtual host of RabbitMQ. `control` runs rabbitmqctl against it; empty where that is not possible."""

    url: str
    vhost: str
    control: Sequence[str]
    environment: Mapping[str, str]

    def ctl(self, *arguments: str) -> str:
        if not self.control:
            pytest.skip("needs rabbitmqctl with the rights to control this server")
        done = subprocess.run(
            [*self.control, *arguments],
            env=dict(self.environment),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def close_connections(self) -> None:
        """Cut every connection of this virtual host, as an operator or a failing network does."""
        self.ctl("close_all_connections", "--vhost", self.vhost, "cut by a test")

    def delete_queues(self, *names: str) -> None:
        from adapters.rabbitmq import open_channel

        with open_channel(self.url) as channel:
            for name in names:
                channel.queue_delete(name)


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    """A virtual host of this session's own; never stop this server, others may use it."""
    with contextlib.ExitStack() as ending:
        yield _own_vhost(_find_rabbitmq(ending), ending)


@pytest.fixture(scope="session")
def private_rabbitmq() -> Iterator[RabbitMQ]:
    """An instance that nobody else uses, so that it may be stopped and started."""
    with contextlib.ExitStack() as ending:
        server = _start_rabbitmq(ending)
        if server is None:
            missing("rabbitmq", "install the program (apt-get install rabbitmq-server)")
        yield _own_vhost(server, ending)


def _find_rabbitmq(ending: contextlib.ExitStack) -> RabbitMQ:
    control = [program] if (program := shutil.which("rabbitmqctl")) and os.geteuid() == 0 else []
    if url := os.environ.get("ES_TEST_AMQP_URL"):
        vhost = urlsplit(url).path.removeprefix("/") or "/"
        local = urlsplit(url).hostname in ("localhost", _HOST) and urlsplit(url).port in (None, 5672)
        return RabbitMQ(url, vhost, control if local and _answers(control) else [], os.environ)
    url = f"amqp://guest:guest@{_HOST}:5672/"
    if _listens(5672) and _connects(url):
        return RabbitMQ(url, "/", control if _answers(control) else [], os.environ)
    started = _start_rabbitmq(ending)
    if started is None:
        missing("rabbitmq", "install it (apt-get install rabbitmq-server) or set ES_TEST_AMQP_URL")
    return started


def _own_vhost(server: RabbitMQ, ending: contextlib.ExitStack) -> RabbitMQ:
    """The same server, in a virtual host that is removed at the end; the given one where we have no control."""
    if not server.control:
        return server
    name = f"es-test-{uuid4().hex[:12]}"
    server.ctl("add_vhost", name)
    ending.callback(server.ctl, "delete_vhost", name)
    user = urlsplit(server.url).username or "guest"
    server.ctl("set_permissions", "-p", name, user, ".*", ".*", ".*")
    return RabbitMQ(_with_path(server.url, name), name, server.control, server.environment)


def _connects(url: str) -> bool:
    from adapters.rabbitmq import open_channel

    try:
        with open_channel(url):
            return True
    except PartUnavailable:
        return False


def _answers(control: Sequence[str]) -> bool:
    """Whether rabbitmqctl is there and the node on this machine obeys it."""
    if not control:
        return False
    asked = subprocess.run([*control, "list_vhosts", "--quiet"], capture_output=True, timeout=60)
    return asked.returncode == 0


def _start_rabbitmq(ending: contextlib.ExitStack) -> RabbitMQ | None:
    # Not the wrapper on the path: that changes to the user of the packaged service.
    folders = [Path("/usr/lib/rabbitmq/bin"), *Path("/usr/lib/rabbitmq/lib").glob("*/sbin")]
    home = next((folder for folder in folders if (folder / "rabbitmq-server").exists()), None)
    if home is None:
        return None
    folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="es-rabbitmq-")))
    port, name_port = free_port(), free_port()
    (folder / "env.conf").touch()
    (folder / "rabbitmq.conf").write_text(f"listeners.tcp.1 = {_HOST}:{port}\n")
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
        "ERL_EPMD_PORT": str(name_port),
        "ERL_EPMD_ADDRESS": _HOST,
        "ERL_FLAGS": "-kernel inet_dist_use_interface {127,0,0,1}",
    }
    process = subprocess.Popen(
        [home / "rabbitmq-server"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    # Last of all the name server, which the node started and leaves behind.
    ending.callback(
        subprocess.run, ["epmd", "-port", str(name_port), "-kill"], env=environment, capture_output=True
    )
    ending.callback(_end, process)
    _wait_until_listening(port, process, "RabbitMQ")
    url = f"amqp://guest:guest@{_HOST}:{port}/"
    return RabbitMQ(url, "/", [str(home / "rabbitmqctl")], environment)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(START_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
