"""One home has one supervisor, which every command finds, and which ends with its home."""

from __future__ import annotations

import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from adapters.local.address import socket_path
from tests.support.processes import kill
from tests.support.runs import finish
from tests.support.system import System, new_root
from tests.support.waiting import eventually

pytestmark = pytest.mark.over("embedded", because="the supervisor is the same in every profile")


def _remove_sockets(home: Path) -> None:
    for path in (home / "run").glob("*.sock"):
        path.unlink(missing_ok=True)


def _remove_run(home: Path) -> None:
    shutil.rmtree(home / "run")


def _replace_sockets(home: Path) -> None:
    for path in list((home / "run").glob("*.sock")):
        path.unlink(missing_ok=True)
        # The supervisor may be as fast.
        with socket.socket(socket.AF_UNIX) as other, suppress(OSError):
            other.bind(str(path))


@pytest.mark.parametrize("harm", [_remove_sockets, _remove_run, _replace_sockets])
def test_a_supervisor_is_found_and_listens_without_its_files(
    running: System, harm: Callable[[Path], None]
) -> None:
    pid = running.pid_of("supervisor")
    running.environment["ES_AUTOSTART"] = "0"

    harm(running.home)
    assert running.status()["pid"] == pid
    harm(running.home)
    assert running.es("up", "--json").ok().object["pid"] == pid
    harm(running.home)
    running.retry("ids", "next")
    harm(running.home)
    assert running.es("down", "--json").ok().object["stopped"] is True

    assert running.processes() == []


def _elsewhere(system: System) -> dict[str, str]:
    other = system.root / "other"
    other.mkdir(mode=0o700, exist_ok=True)
    return {"XDG_RUNTIME_DIR": str(other)}


@pytest.fixture
def long() -> Iterator[System]:
    """A running system whose sockets are not in its home, because its path is too long."""
    root = new_root()
    with closing(System(root, home=root / ("p" * 120) / "home")) as made:
        yield made.up()


def test_a_home_with_a_long_path_has_one_supervisor_in_every_session(long: System) -> None:
    pid = long.pid_of("supervisor")

    for command in ("status", "up"):
        assert long.es(command, "--json", environment=_elsewhere(long)).ok().object["pid"] == pid
    shutil.rmtree(long.root / "rt")  # as at the end of the session that started it
    long.register(environment=_elsewhere(long)).ok()
    long.es("down", environment=_elsewhere(long)).ok()

    assert long.processes() == []
    assert not socket_path(long.settings.run, "users").parent.exists()


def test_a_copied_home_does_not_use_the_sockets_of_the_other_one(long: System) -> None:
    user_id = long.create()
    shutil.copytree(
        long.home,
        long.home.with_name("copy"),
        symlinks=True,
        ignore=shutil.ignore_patterns("*.db*", "secrets"),
    )

    long.es("--home", str(long.home.with_name("copy")), "users", "get", user_id).failed(3)
    long.es("--home", str(long.home.with_name("copy")), "down").ok()

    assert long.get(user_id)["name"] == "Ada Lovelace"


def test_workers_end_with_a_removed_home_and_one_supervisor_serves_the_next(running: System) -> None:
    before = running.processes()
    shutil.rmtree(running.home)

    assert running.es("users", "list").ok().out == ""

    running.alone()
    assert not set(before) & set(running.processes())


def test_workers_end_with_a_moved_home_and_log_why(running: System) -> None:
    user_id = running.create()
    moved = running.home.rename(running.root / "moved")

    running.ended()
    assert not running.home.exists(), "nothing was made at the old path"
    log = running.es("--home", str(moved), "logs", "supervisor").ok().objects
    assert {"home-lost", "stopped"} <= {line["action"] for line in log}, log
    moved.rename(running.home)
    assert running.up().get(user_id)["name"] == "Ada Lovelace"


def test_a_worker_in_the_foreground_ends_with_its_socket_and_says_why(system: System) -> None:
    worker = system.start("workers", "run", "ids")
    path = system.home / "run" / "ids.sock"
    eventually(path.exists, "the worker listens")
    assert "foreground" not in system.es("down").failed(4).out, "it is told, not stopped"
    path.unlink()

    ran = finish(worker)
    assert (ran.code, str(path) in ran.err) == (4, True), ran


def test_a_worker_over_a_broker_ends_with_its_home_and_says_why(system: System) -> None:
    worker = system.start("workers", "run", "ids", environment={"ES_BROKER": "amqp://127.0.0.1:1/"})
    eventually((system.home / "log").exists, "the worker has opened its home")
    system.home.rename(system.root / "moved")

    ran = finish(worker)
    assert (ran.code, f"{system.home} was moved or removed" in ran.err) == (4, True), ran


@contextmanager
def _full_backlog(path: Path) -> Iterator[None]:
    """Fill the queue of connections that a suspended process has not accepted."""
    with ExitStack() as connections:
        while True:
            connection = connections.enter_context(socket.socket(socket.AF_UNIX))
            connection.setblocking(False)
            if connection.connect_ex(str(path)) != 0:
                break
        yield


def test_a_suspended_supervisor_with_a_full_backlog_is_named(running: System) -> None:
    pid = running.pid_of("supervisor")
    with running.paused("supervisor"), _full_backlog(running.home / "run" / "supervisor.sock"):
        for command in [running.start(command) for command in ("status", "up", "down")]:
            assert f"process {pid}" in finish(command).failed(4).err


def test_the_next_start_logs_that_the_supervisor_was_killed(running: System) -> None:
    pid = running.signal("supervisor", signal.SIGKILL)
    running.ended()
    running.up()

    assert [
        line["pid"] for line in running.log("supervisor") if line["action"] == "supervisor-was-killed"
    ] == [pid]
    assert "supervisor-ended" in [line["action"] for line in running.log("users")]


def test_idle_connections_do_not_keep_a_worker_from_being_started(running: System) -> None:
    resource = pytest.importorskip("resource")
    supervisor, path = running.pid_of("supervisor"), running.home / "run" / "supervisor.sock"
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (40, 40))
    with ExitStack() as connections:
        for _ in range(60):
            connections.enter_context(socket.socket(socket.AF_UNIX)).connect(str(path))
        kill([running.processes("users")[0]])

        eventually(lambda: running.worker("users")["restarts"] == 1, "it was restarted")
        running.ready()
    assert running.pid_of("supervisor") == supervisor
