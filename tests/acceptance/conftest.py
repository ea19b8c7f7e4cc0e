"""A whole system per test: the installed `es` as real processes, in a home of its own.

Promise: whatever a test does or however it fails, its processes are ended and its folder is removed.
Nothing here waits a fixed time: a condition is awaited, with a deadline that says what didn't happen.

The same tests run over different parts, by profile: `embedded` needs nothing, `rabbitmq` is RabbitMQ with
SQLite, `distributed` is RabbitMQ with PostgreSQL and the EventStoreDB test node. `--profile` chooses one, or
`all`. Without it every test that uses a system runs over `embedded` and `distributed`, the quick ones that
share a system over `rabbitmq` too. Two marks exempt a test, and both have to say why:

    @pytest.mark.over("embedded", because="it is about the vault's file")
    @pytest.mark.own_store("a fence stops the ids of the whole store")

Systems have a virtual host, a schema and a node of their own. With `--store-url URL` they use that store
instead, which holds the events of other tests and earlier runs. The people in it are strangers: their keys
lie in vaults that are gone. A system takes no notice of what was stored before it came (`System.came`), and
only one is up at a time, because every erasures worker of a store carries out all of its erasures.
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
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, uuid4, uuid5

import pytest

from adapters.local.address import is_served, socket_path
from adapters.rabbitmq.messages import dead_queue_of, queue_of
from adapters.settings import Settings, load_settings
from adapters.wiring import open_local_caller, open_store, open_vault, prepare_home, usual_roles
from domain.kernel.errors import PartUnavailable
from domain.kernel.ids import floor_id
from tests.support.builders import PROFILES
from tests.support.postgres import execute, with_option
from tests.support.servers import Guarded, RabbitMQ

ES = str(Path(sys.executable).with_name("es"))
"""The installed script, as a person types it."""
ROLES = ("ids", "users", "projections", "erasures")
EVERY_ROLE = (*ROLES, "relay")
DEADLINE_S = 240.0
"""Far longer than anything here takes: it ends a test that hangs, it measures nothing."""


def pytest_configure(config: pytest.Config) -> None:
    for mark in (
        "slow: takes several seconds; runs by default, `-m 'not slow'` leaves it out",
        "over(*profiles, because): an acceptance test that makes sense over these profiles alone",
        "own_store(because): an acceptance test that can't share its store with others, as --store-url wants",
    ):
        config.addinivalue_line("markers", mark)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Everything that uses a system runs over every profile and, if stores are named, over each of them."""
    if "profile" not in metafunc.fixturenames:
        return
    chosen = metafunc.config.getoption("--profile")
    named = metafunc.config.getoption("--store-url") or [None]
    metafunc.parametrize(
        "profile",
        [
            pytest.param(Profile(name, store), id=_profile_id(name, store), marks=marks)
            for name in _profiles(metafunc, chosen, has_store=named != [None])
            for store in named
            if (marks := _exempt(metafunc.definition, name, store)) == [] or chosen or store
        ],
        indirect=True,
        scope="module",
    )


def _profiles(metafunc: pytest.Metafunc, chosen: str | None, *, has_store: bool) -> Sequence[str]:
    if chosen is not None:
        return PROFILES if chosen == "all" else [chosen]
    if has_store:
        return ["embedded"]  # but for the store, which is named
    costly = {"system", "systems"} & set(metafunc.fixturenames) or metafunc.definition.get_closest_marker(
        "slow"
    )
    # Each part of the one left out is in another, and a run of everything has to end soon.
    return [name for name in PROFILES if not (costly and name == "rabbitmq")]


@dataclass(frozen=True)
class Profile:
    """The parts that a system runs over, and the store that --store-url names instead of the profile's own."""

    name: str
    store: str | None = None


def _profile_id(name: str, store: str | None) -> str:
    return name if store is None else f"{name}-{urlsplit(store).scheme}"


def _exempt(test: pytest.Item, name: str, store: str | None) -> list[pytest.MarkDecorator]:
    """Why a test doesn't run over a profile, as a mark that skips it. The reasons are the tests' own."""
    reasons = [
        f"{' or '.join(mark.args)} only: {mark.kwargs['because']}"
        for mark in test.iter_markers("over")
        if name not in mark.args
    ]
    if store is not None:
        reasons += [f"needs a store of its own: {mark.args[0]}" for mark in test.iter_markers("own_store")]
    if store is not None and hasattr(test.config, "workerinput"):
        reasons.append("one system at a time is up over a named store: run pytest without -n")
    if store == "memory:":
        reasons.append("the store in memory lives and dies with one process, by design")
    return [pytest.mark.skip(reason=reason) for reason in reasons[:1]]


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


@dataclass(frozen=True)
class Came:
    """When a system came to its store. What lies before is none of its business; in a store of its own, nothing."""

    position: int = 0
    user_id: int | None = None


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
        self.came = Came()
        self.environment = inherited | {
            "ES_HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(runtime),
            "NO_COLOR": "1",
            "TERM": "dumb",
            **(parts or {}),
        }
        self._clients: list[subprocess.Popen[bytes]] = []

    # --- parts ---------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        return load_settings(environment=self.environment)

    @property
    def since(self) -> str:
        """For `users list --after`: whoever came after this is no stranger."""
        return str(self.came.user_id or 1)

    @property
    def roles(self) -> Sequence[str]:
        """Those of its workers."""
        return [role.name for role in usual_roles(self.settings)]

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
        if self.came.position:
            self.caught_up()  # there may be much of it, and a test's first query would wait in vain
        return self

    def arrive(self) -> None:
        """Take no notice of what is stored by now."""
        with closing(open_store(self.settings.store)) as store:
            self.came = Came(store.head(), floor_id(time.time_ns() // 1000))

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
        return self.es("users", "list", "--json", "--limit", "1000000", "--after", self.since).ok().objects

    def registrations(self) -> list[dict[str, Any]]:
        """Every registration that the event store holds."""
        return self.events("user-registered")

    def events(self, type_: str = "") -> list[dict[str, Any]]:
        since = str(self.came.position)
        found = self.es("events", "tail", "--from", since, "--no-follow", "--json", "--type", type_)
        return found.ok().objects

    # --- workers -------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        return self.es("status", "--json").ok().object

    def supervised(self) -> list[dict[str, Any]]:
        """The workers as their supervisor has them; none without one. For waiting: it starts no process each time."""
        if not is_served(socket_path(self.settings.run, "supervisor")):
            return []
        with closing(open_local_caller(self.settings)) as caller:
            try:
                workers: list[dict[str, Any]] = caller.ask("supervisor", "supervisor.status", {})["workers"]
            except PartUnavailable:
                return []  # it was just going
        return workers

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
            workers = self.supervised()
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
    profile: Profile | str,
    request: pytest.FixtureRequest,
    *,
    broker: RabbitMQ | None = None,
    database: str | None = None,
) -> Iterator[System]:
    """A system over the parts of a profile, which are its own.

    `broker` and `database` are servers to use instead of the usual ones.
    """
    profile = Profile(profile) if isinstance(profile, str) else profile
    with ExitStack() as ending:
        root = new_root()
        ending.callback(shutil.rmtree, root, ignore_errors=True)
        parts = {}
        if profile.name != "embedded":
            vhost = own_vhost(broker) if broker else request.getfixturevalue("vhosts").one()
            parts["ES_BROKER"] = ending.enter_context(vhost).url
        if profile.name == "distributed":
            server = database or request.getfixturevalue("postgres_database")
            schema = ending.enter_context(own_schema(server))
            kek = root / "kek"
            kek.touch(0o600)
            kek.write_text(os.urandom(32).hex())
            parts |= {"ES_DATABASE": schema, "ES_VAULT": schema, "ES_KEK_FILE": str(kek)}
            if profile.store is None:
                parts["ES_STORE"] = ending.enter_context(own_node())
        made = System(root, parts=parts)
        ending.callback(made.close)
        if profile.store is not None:
            ending.enter_context(_among_strangers(made, profile.store))
        yield made


_UP: list[System] = []
"""The systems over named stores, the last made last. Only that one may be up."""


@contextmanager
def _among_strangers(system: System, store: str) -> Iterator[None]:
    """Have a system use a store that others have used, while none of them is up."""
    # Beside the people in it the product refuses to begin a vault, rightly: it would not know their keys.
    prepare_home(system.settings)
    open_vault(replace(system.settings, store=f"sqlite:{system.root / 'none.db'}")).close()
    system.environment["ES_STORE"] = store
    resting = [other for other in _UP if other.processes()]
    for other in resting:
        other.es("down").ok()
    _UP.append(system)
    try:
        system.arrive()
        yield
    finally:
        _UP.remove(system)
        system.es("down")
        for other in resting:
            other.arrive()
            other.up()


class Vhosts:
    """Virtual hosts for the systems of a session. They are used again: to make one takes seconds."""

    def __init__(self, server: RabbitMQ, ending: ExitStack) -> None:
        self._server = server
        self._ending = ending
        self._free = [server]

    @contextmanager
    def one(self) -> Iterator[RabbitMQ]:
        """A virtual host in which there are no queues."""
        chosen = self._free.pop() if self._free else self._ending.enter_context(own_vhost(self._server))
        yield chosen
        # Its workers are gone: the system is closed before what it was made of.
        chosen.delete_queues(*[name for role in EVERY_ROLE for name in (queue_of(role), dead_queue_of(role))])
        self._free.append(chosen)


@contextmanager
def own_vhost(server: RabbitMQ) -> Iterator[RabbitMQ]:
    """A new virtual host of a server, removed also when the session is killed."""
    name = f"es-test-{uuid4().hex[:12]}"
    removal = [*server.control, "--quiet", "delete_vhost", name]
    with closing(Guarded(afterwards=[removal], environment=server.environment)):
        server.ctl("add_vhost", name)
        user = urlsplit(server.url).username or "guest"
        server.ctl("set_permissions", "-p", name, user, ".*", ".*", ".*")
        yield replace(server, url=urlsplit(server.url)._replace(path=f"/{name}").geturl(), vhost=name)


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
    """The URL of an EventStoreDB test node in a process of its own: this one is often too busy to answer."""
    node = subprocess.Popen(
        [sys.executable, "-m", "tests.support.node"],
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
def vhosts(rabbitmq: RabbitMQ) -> Iterator[Vhosts]:
    with ExitStack() as ending:
        yield Vhosts(rabbitmq, ending)


@pytest.fixture(scope="module")
def profile(request: pytest.FixtureRequest) -> Profile:
    """Which parts the systems run over. Tests elsewhere, which aren't repeated over each, may use it too."""
    chosen = request.config.getoption("--profile")
    return getattr(request, "param", None) or Profile(chosen if chosen in PROFILES else "embedded")


@pytest.fixture
def system(profile: Profile, request: pytest.FixtureRequest) -> Iterator[System]:
    """A system of the test's own, nothing running yet."""
    with a_system(profile, request) as made:
        yield made


@pytest.fixture
def running(system: System) -> System:
    """A system of the test's own, workers ready."""
    return system.up()


@pytest.fixture(scope="module")
def shared(profile: Profile, request: pytest.FixtureRequest) -> Iterator[System]:
    """A running system for all tests of a module; each uses names of its own."""
    with a_system(profile, request) as made:
        yield made.up()


@pytest.fixture
def systems(profile: Profile, request: pytest.FixtureRequest) -> Iterator[Callable[[], System]]:
    """Makes any number of systems."""
    with ExitStack() as ending:
        yield lambda: ending.enter_context(a_system(profile, request))
