"""A whole system per test: the installed `es` as real processes, in a home of its own.

Promise: whatever a test does or however it fails, its processes are ended and its folder is removed.
Nothing here waits a fixed time: a condition is awaited, with a deadline that says what didn't happen.

The same system runs over different parts, by profile: `embedded` needs nothing, `rabbitmq` is RabbitMQ with
SQLite, `distributed` is RabbitMQ with PostgreSQL and the EventStoreDB test node. Every system has a virtual
host, a schema and a node of its own, removed with it. `--profile` chooses for all tests but those of
test_everywhere.py, which run over all three.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, uuid4, uuid5

import pytest

from tests.contract.postgres_fixture import execute, with_option
from tests.servers import RabbitMQ

ES = str(Path(sys.executable).with_name("es"))
"""The installed script, as a person types it."""
ROLES = ("ids", "users", "projections", "erasures")
DEADLINE_S = 60.0
"""Far longer than anything here takes: it ends a test that hangs, it measures nothing."""
PROFILES = ("embedded", "rabbitmq", "distributed")
LOCAL_ONLY = {
    "test_bad_input.py": "what is wrong with a command is found before anything is sent",
    "test_cli_inprocess.py": "it stands in for the transport",
    "test_erasure.py": "it looks for keys and names in the files of the home",
    "test_first_use.py": "without a broker a first command starts the workers itself",
    "test_light_start.py": "it counts what a command loads with the default parts",
    "test_load_script.py": "it is about a script for one machine",
    "test_nothing_personal_on_disk.py": "it looks for personal data in the files of the home",
    "test_stack.py": "it is about the sockets of the home",
    "test_surroundings.py": "it is about folders, sockets and starting by itself",
}
"""Modules that make sense over the embedded parts alone, and why."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--profile",
        choices=PROFILES,
        help="run the acceptance tests over these parts; those that need the embedded ones are skipped",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "slow: takes several seconds; runs by default, `-m 'not slow'` leaves it out"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    if config.getoption("--profile", None) not in (None, "embedded"):
        for item in items:
            if reason := LOCAL_ONLY.get(item.path.name):
                item.add_marker(pytest.mark.skip(reason=f"embedded parts only: {reason}"))


def wait_until(condition: Callable[[], Any], what: str, *, deadline_s: float = DEADLINE_S) -> Any:
    """The first true answer of `condition`; fails with `what` when there is none in time."""
    deadline = time.monotonic() + deadline_s
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            pytest.fail(f"never happened: {what}")
        time.sleep(0.02)


@dataclass(frozen=True)
class Ran:
    """What one command did."""

    arguments: Sequence[str]
    code: int
    stdout: bytes
    stderr: bytes

    @property
    def out(self) -> str:
        return self.stdout.decode("utf-8", "replace")

    @property
    def err(self) -> str:
        return self.stderr.decode("utf-8", "replace")

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def objects(self) -> list[dict[str, Any]]:
        """NDJSON on standard output."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def object(self) -> dict[str, Any]:
        (only,) = self.objects
        return only

    @property
    def error(self) -> dict[str, Any]:
        """The error of a command with --json: one object on standard error, and no answer."""
        last = self.stderr.splitlines()[-1]
        value: dict[str, Any] = json.loads(last)["error"]
        assert set(value) == {"code", "message", "hint"}, value
        return value

    def ok(self) -> Ran:
        assert self.code == 0, self
        return self

    def failed(self, code: int) -> Ran:
        """It ended with this code, and said why in one line and what to do next in another."""
        assert self.code == code, self
        self.without_traceback()
        said = self.err.splitlines()
        assert [line for line in said if line.startswith("error: ")], self
        assert [line for line in said if line.startswith("  hint: ")], self
        assert len([line for line in said if not line.startswith("es: ")]) <= 3, self
        return self

    def without_traceback(self) -> Ran:
        """Every error is a designed one: no traceback, and no bug that was caught only at the very top."""
        for bug in ("Traceback", "the command line failed with", '"internal"'):
            assert bug not in self.err + self.out, self
        return self

    def __repr__(self) -> str:
        shown = [argument[:60] for argument in self.arguments]
        return f"es {' '.join(shown)}\n-> {self.code}\nstdout: {self.out[-3000:]}\nstderr: {self.err[-3000:]}"


class Bulk:
    """A bulk that is under way. Its answers go into a file, so that they can be looked at meanwhile."""

    def __init__(self, system: System, command: str, inputs: Iterable[Mapping[str, Any]]) -> None:
        folder = Path(tempfile.mkdtemp(dir=system.root))
        self._answers = folder / "answers.ndjson"
        (folder / "input.ndjson").write_bytes(ndjson(inputs))
        with self._answers.open("wb") as answers:
            self.process = system.start(
                *("users", command, "--from", str(folder / "input.ndjson")),
                stdout=answers,
                environment={"ES_AUTOSTART": "0"},
            )

    def answers(self) -> list[dict[str, Any]]:
        """The whole lines so far."""
        whole, _, _ = self._answers.read_bytes().rpartition(b"\n")
        return [json.loads(line) for line in whole.splitlines()]

    def reached(self, count: int) -> None:
        """Wait until so many lines are answered, or the bulk has ended."""
        wait_until(
            lambda: self._answers.read_bytes().count(b"\n") >= count or self.process.poll() is not None,
            f"{count} answers",
        )

    def end(self, deadline_s: float = DEADLINE_S) -> Ran:
        """Wait for its end."""
        try:
            _, err = self.process.communicate(timeout=deadline_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the bulk never ended; it has {len(self.answers())} answers")
        return Ran(("the bulk",), self.process.returncode, self._answers.read_bytes(), err)


class System:
    """One home and everything that runs in it."""

    def __init__(
        self, root: Path, *, home: Path | None = None, parts: Mapping[str, str] | None = None
    ) -> None:
        """`root` is removed in the end; the home is in it, and so are sockets that don't fit into the home.

        `parts` are settings that name what to run over; the embedded parts if there are none.
        """
        self.root = root
        self.home = home or root / "home"
        runtime = root / "rt"
        runtime.mkdir(mode=0o700, exist_ok=True)
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("ES_", "_ES_"))
        }
        self.environment = inherited | {
            "ES_HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(runtime),
            "NO_COLOR": "1",
            "TERM": "dumb",
            **(parts or {}),
        }
        self._clients: list[subprocess.Popen[bytes]] = []

    # --- commands ------------------------------------------------------------------------------

    def es(
        self,
        *arguments: str | bytes,
        stdin: bytes | str = b"",
        environment: Mapping[str, str] | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> Ran:
        """Run a command to its end."""
        given = stdin.encode() if isinstance(stdin, str) else stdin
        process = self.start(*arguments, stdin=subprocess.PIPE, environment=environment)
        try:
            out, err = process.communicate(given, timeout=deadline_s)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            pytest.fail(f"no end after {deadline_s:g} s: {Ran(_shown(arguments), -9, out, err)}")
        return Ran(_shown(arguments), process.returncode, out, err)

    def start(
        self,
        *arguments: str | bytes,
        stdin: Any = subprocess.DEVNULL,
        stdout: Any = subprocess.PIPE,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a command and leave it running; it is ended with the system."""
        process = subprocess.Popen(
            [ES, *arguments],
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            env={**self.environment, **(environment or {})},
        )
        self._clients.append(process)
        return process

    def up(self) -> System:
        self.es("up").ok()
        return self

    def create(self, email: str = "ada@example.com", name: str = "Ada Lovelace") -> str:
        """Register a user; the id."""
        return self.es("users", "create", "--email", email, "--name", name).ok().out.strip()

    def get(self, user_id: str) -> dict[str, Any]:
        return self.es("users", "get", user_id, "--json").ok().object

    def bulk(self, command: str, inputs: Iterable[Mapping[str, Any]]) -> Ran:
        return self.es("users", command, "--from", "-", stdin=ndjson(inputs))

    def start_bulk(self, command: str, inputs: Iterable[Mapping[str, Any]]) -> Bulk:
        """Start a bulk and leave it running; it starts no workers by itself."""
        return Bulk(self, command, inputs)

    def users(self) -> list[dict[str, Any]]:
        """Everybody, from the read model, once it holds all that is stored by now."""
        self.caught_up()
        return self.es("users", "list", "--json", "--limit", "1000000").ok().objects

    def registrations(self) -> list[dict[str, Any]]:
        """Every registration that the event store holds."""
        return self.events("user-registered")

    def events(self, type_: str) -> list[dict[str, Any]]:
        found = self.es("events", "tail", "--from", "0", "--no-follow", "--json", "--type", type_)
        return found.ok().objects

    # --- workers -------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        return self.es("status", "--json").ok().object

    def worker(self, role: str) -> dict[str, Any]:
        (found,) = [worker for worker in self.status()["workers"] if worker["role"] == role]
        return found

    def pid_of(self, role: str) -> int:
        """The process of a role, or of the supervisor, once it is there."""
        if role == "supervisor":
            return int(self.status()["pid"])
        return int(wait_until(lambda: self.worker(role)["pid"], f"the {role} worker has a process"))

    def signal(self, role: str, number: signal.Signals) -> int:
        """Send a signal to a role's process; its pid."""
        pid = self.pid_of(role)
        os.kill(pid, number)
        return pid

    def ready(self) -> System:
        """Wait until every worker is ready."""

        def all_ready() -> bool:
            workers = self.status()["workers"]
            return bool(workers) and all(worker["state"] == "ready" for worker in workers)

        wait_until(all_ready, "all workers are ready")
        return self

    def caught_up(self) -> None:
        """Wait until the read model holds everything that was stored before this call."""

        def lag() -> int:
            found = self.es("projections", "status", "--json").ok().objects
            return int(next(state for state in found if state["state"] == "current")["lag"])

        wait_until(lambda: lag() == 0, "the projection has caught up")

    def processes(self, role: str | None = None) -> list[int]:
        """The workers and supervisors of this home that are alive: those that name it in their arguments.

        With a role, only its workers.
        """
        return [
            pid
            for pid, arguments in _processes()
            if "--home" in arguments and str(self.home) in arguments and (role is None or role in arguments)
        ]

    def close(self) -> None:
        for client in self._clients:
            if client.poll() is None:
                client.kill()
            for pipe in (client.stdin, client.stdout, client.stderr):
                with suppress(OSError, ValueError):
                    pipe and pipe.close()
            client.wait()
        deadline = time.monotonic() + DEADLINE_S
        # Again and again: a supervisor may have been about to start one more.
        while (left := self.processes()) and time.monotonic() < deadline:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        shutil.rmtree(self.root, ignore_errors=True)


def _shown(arguments: Sequence[str | bytes]) -> list[str]:
    return [os.fsdecode(argument) for argument in arguments]


def _processes() -> Iterator[tuple[int, list[str]]]:
    if Path("/proc/self/cmdline").exists():
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with suppress(OSError):
                    arguments = (folder / "cmdline").read_bytes().split(b"\0")
                    if any(arguments):  # a zombie has none
                        yield int(folder.name), [os.fsdecode(argument) for argument in arguments]
        return
    listing = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=,args="], capture_output=True, text=True, check=True
    )
    for line in listing.stdout.splitlines():
        pid, _, arguments_text = line.strip().partition(" ")
        yield int(pid), arguments_text.split(" ")


# --- input ---------------------------------------------------------------------------------------


def ndjson(values: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def people(count: int, *, prefix: str = "u") -> list[dict[str, str]]:
    """Input for `create --from`, each with a command id that is the same every time."""
    return [
        {
            "email": f"{prefix}{number}@example.com",
            "name": f"User {prefix}{number}",
            "command_id": str(uuid5(NAMESPACE_URL, f"{prefix}{number}")),
        }
        for number in range(count)
    ]


def confirmed(answers: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Command id → user id of everything that was answered with success."""
    return {answer["command_id"]: answer["user_id"] for answer in answers if "error" not in answer}


def errors(answers: Iterable[Mapping[str, Any]]) -> list[str]:
    return [answer["error"]["code"] for answer in answers if "error" in answer]


def assert_exact(
    system: System, inputs: Sequence[Mapping[str, str]], first: Iterable[Mapping[str, Any]]
) -> None:
    """Repeat a bulk of creates: whatever its `first` answers were, each input then has exactly one effect."""
    first = list(first)
    assert [answer["command_id"] for answer in first] == [person["command_id"] for person in inputs]
    assert set(errors(first)) <= {"unavailable"}, set(errors(first))
    settled = confirmed(system.bulk("create", inputs).ok().objects)
    assert confirmed(first).items() <= settled.items()
    registered = {
        event["command_id"]: event["stream"].removeprefix("user-") for event in system.registrations()
    }
    assert registered == settled
    assert len(system.registrations()) == len(set(settled.values())) == len(inputs)
    shown = {user["user_id"]: (user["email"], user["name"]) for user in system.users()}
    assert shown == {settled[each["command_id"]]: (each["email"], each["name"]) for each in inputs}


# --- fixtures ------------------------------------------------------------------------------------


def new_root() -> Path:
    """A short path: sockets live in it, and their paths are limited to about 100 bytes."""
    return Path(tempfile.mkdtemp(prefix="es-")).resolve()


@contextmanager
def a_system(
    profile: str,
    request: pytest.FixtureRequest,
    *,
    broker: RabbitMQ | None = None,
    database: str | None = None,
) -> Iterator[System]:
    """A system over the parts of a profile, which are its own and end with it.

    `broker` and `database` are servers to use instead of the usual ones.
    """
    with ExitStack() as ending:
        root = new_root()
        ending.callback(shutil.rmtree, root, ignore_errors=True)
        parts = {}
        if profile != "embedded":
            parts["ES_BROKER"] = ending.enter_context(
                own_vhost(broker or request.getfixturevalue("rabbitmq"))
            ).url
        if profile == "distributed":
            server = database or request.getfixturevalue("postgres_database")
            schema = ending.enter_context(own_schema(server))
            kek = root / "kek"
            kek.touch(0o600)
            kek.write_text(os.urandom(32).hex())
            parts |= {"ES_DATABASE": schema, "ES_VAULT": schema, "ES_KEK_FILE": str(kek)}
            parts["ES_STORE"] = ending.enter_context(own_node())
        made = System(root, parts=parts)
        ending.callback(made.close)
        yield made


@contextmanager
def own_vhost(server: RabbitMQ) -> Iterator[RabbitMQ]:
    """A virtual host of a server that has no queues yet."""
    name = f"es-test-{uuid4().hex[:12]}"
    server.ctl("add_vhost", name)
    try:
        user = urlsplit(server.url).username or "guest"
        server.ctl("set_permissions", "-p", name, user, ".*", ".*", ".*")
        url = urlsplit(server.url)._replace(path=f"/{name}").geturl()
        yield RabbitMQ(url, name, server.control, server.environment)
    finally:
        server.ctl("delete_vhost", name)


@contextmanager
def own_schema(database: str) -> Iterator[str]:
    """The URL of a vault and read models that nobody has used."""
    prefix = f"t{uuid4().hex[:12]}"
    try:
        yield with_option(database, f"schema={prefix}")
    finally:
        for part in ("vault", "read_models"):
            execute(database, f"DROP SCHEMA IF EXISTS {prefix}_{part} CASCADE")


@contextmanager
def own_node() -> Iterator[str]:
    """The URL of an EventStoreDB test node in a process of its own."""
    node = subprocess.Popen(
        [sys.executable, "-m", "tests.node", "--port", "0"],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert node.stdout is not None
    try:
        with node.stdout:
            url = node.stdout.readline().decode().strip()
        assert url.startswith("esdb://"), f"the test node said {url!r}"
        yield url
    finally:
        node.kill()
        node.wait()


@pytest.fixture(scope="session")
def profile(request: pytest.FixtureRequest) -> str:
    """Which parts the systems run over."""
    return request.config.getoption("--profile", None) or "embedded"


@pytest.fixture
def system(profile: str, request: pytest.FixtureRequest) -> Iterator[System]:
    """A system of the test's own, nothing running yet."""
    with a_system(profile, request) as made:
        yield made


@pytest.fixture
def running(system: System) -> System:
    """A system of the test's own, workers ready."""
    return system.up()


@pytest.fixture(scope="module")
def shared(profile: str, request: pytest.FixtureRequest) -> Iterator[System]:
    """A running system for all tests of a module; each uses names of its own."""
    with a_system(profile, request) as made:
        yield made.up()


@pytest.fixture
def systems(profile: str, request: pytest.FixtureRequest) -> Iterator[Callable[[], System]]:
    """Makes any number of systems."""
    with ExitStack() as ending:
        yield lambda: ending.enter_context(a_system(profile, request))
