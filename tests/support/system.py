"""A whole system for a test: the installed `es` as real processes, in a home of its own.

Promise: at the end of a test, also of a failed one, its processes are killed and its folder is removed.
Nothing here waits a fixed time: a test waits for a condition, with a deadline.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.local.caller import ask_once
from adapters.settings import Settings, load_settings
from adapters.wiring import open_caller, open_store, usual_roles
from domain.features import registry
from domain.kernel.errors import EsError
from domain.kernel.ids import floor_id
from tests.support.people import ndjson
from tests.support.processes import all_processes, kill
from tests.support.runs import ES, Bulk, Ran, finish
from tests.support.waiting import DEADLINE_S, eventually

ROLES = tuple(role.name for role in registry().roles if not (role.needs_broker or role.needs_process))
"""The roles of every profile without process managers."""


def new_root() -> Path:
    """A new folder with a short path: the paths of sockets are limited to about 100 bytes."""
    return Path(tempfile.mkdtemp(prefix="es-")).resolve()


@dataclass(frozen=True)
class Baseline:
    """What a store held before a system used it; nothing, unless the store is shared."""

    position: int = 0
    user_id: int = 1


class System:
    """One home and everything that runs in it."""

    def __init__(
        self, root: Path, *, home: Path | None = None, parts: Mapping[str, str] | None = None
    ) -> None:
        """`root` holds the home, and sockets whose paths would be too long in the home. It is removed at the end.

        `parts` are settings that name the parts; without them the system is embedded.
        """
        self.root = root
        self.home = home or root / "home"
        runtime = root / "rt"
        runtime.mkdir(mode=0o700, exist_ok=True)
        self.baseline = Baseline()
        # Of the surroundings nothing that changes `es`: pytest-xdist sets COLUMNS.
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ES_", "_ES_")) and name not in ("COLUMNS", "LINES")
        }
        self.environment = inherited | {
            "ES_HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(runtime),
            "NO_COLOR": "1",
            "TERM": "dumb",
            **(parts or {}),
        }
        self._clients: list[subprocess.Popen[bytes]] = []

    @property
    def settings(self) -> Settings:
        return load_settings(environment=self.environment)

    @property
    def since(self) -> str:
        """For `users list --after`: all users of this system have greater ids."""
        return str(self.baseline.user_id)

    @property
    def roles(self) -> Sequence[str]:
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
        return finish(process, given, deadline_s=deadline_s)

    def retry(self, *arguments: str) -> Ran:
        """Repeat a command while a part is unavailable, until it succeeds."""

        def succeeded() -> Ran | None:
            ran = self.es(*arguments).without_traceback()
            return None if ran.code == 4 else ran.ok()

        return eventually(succeeded, "the parts are available")

    def start(
        self,
        *arguments: str | bytes,
        stdin: Any = subprocess.DEVNULL,
        stdout: Any = subprocess.PIPE,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a command and leave it running. It is killed at the end of the test."""
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
        if self.baseline.position:
            self.caught_up()  # before the first query, which would time out beside many older events
        return self

    def take_baseline(self) -> None:
        """Ignore everything that is stored by now."""
        with closing(open_store(self.settings.store)) as store:
            self.baseline = Baseline(store.head(), floor_id(time.time_ns() // 1000))

    def create(self, email: str = "ada@example.com", name: str = "Ada Lovelace") -> str:
        """Register a user and return the id."""
        return self.register(email, name).ok().out.strip()

    def register(
        self,
        email: str | bytes = "ada@example.com",
        name: str | bytes = "Ada Lovelace",
        *options: str,
        environment: Mapping[str, str] | None = None,
    ) -> Ran:
        return self.es("users", "create", "--email", email, "--name", name, *options, environment=environment)

    def erase(self, user_id: str) -> None:
        self.es("gdpr", "erase", user_id, "--yes").ok()

    def misses(self, inputs: Sequence[Mapping[str, str]]) -> list[str]:
        """Create users and get each at once, without starting a process; the gets that failed."""
        missed = []
        with closing(open_caller(self.settings)) as creating, closing(open_caller(self.settings)) as getting:
            for person in inputs:
                fields = {"email": person["email"], "name": person["name"]}
                create = {"command_id": person["command_id"], "actor": "test", "input": fields}
                made = creating.ask("users", "users.create", create)
                try:
                    got = getting.ask("projections", "users.get", {"user_id": made["user_id"]})
                    assert got["email"] == person["email"], (made, got)
                except EsError as error:
                    missed.append(f"{person['email']}: {error}")
        return missed

    def bulk(self, command: str, inputs: Sequence[Mapping[str, Any]]) -> Ran:
        return self.es("users", command, "--from", "-", stdin=ndjson(inputs))

    def start_bulk(self, command: str, inputs: Sequence[Mapping[str, Any]]) -> Bulk:
        """Start a bulk and leave it running. It does not start workers."""
        return Bulk(self, command, inputs)

    # --- queries -------------------------------------------------------------------------------

    def get(self, user_id: str, *options: str) -> dict[str, Any]:
        return self.es("users", "get", user_id, "--json", *options).ok().object

    def find(self, email: str) -> dict[str, Any]:
        return self.es("users", "find", "--email", email, "--json").ok().object

    def history(self, user_id: str) -> list[dict[str, Any]]:
        return self.es("users", "history", user_id, "--json").ok().objects

    def users(self) -> list[dict[str, Any]]:
        """All users of the read model, once it holds everything that is stored by now."""
        self.caught_up()
        return self.es("users", "list", "--json", "--limit", "1000000", "--after", self.since).ok().objects

    def events(self, type_: str = "") -> list[dict[str, Any]]:
        since = str(self.baseline.position)
        return (
            self.es("events", "tail", "--from", since, "--no-follow", "--json", "--type", type_).ok().objects
        )

    def registrations(self) -> list[dict[str, Any]]:
        return self.events("user-registered")

    def registered(self) -> dict[str, str]:
        """The user id by command id, for every registration in the event store."""
        return {each["command_id"]: each["stream"].removeprefix("user-") for each in self.registrations()}

    def generations(self) -> list[dict[str, Any]]:
        """The generations of the projection `users`."""
        return self.es("projections", "status", "users", "--json").ok().objects

    def generation(self) -> dict[str, Any]:
        """The current one."""
        (current,) = [found for found in self.generations() if found["state"] == "current"]
        return current

    def queues(self) -> dict[str, dict[str, Any]]:
        """What the broker holds for each role."""
        return {queue["role"]: queue for queue in self.es("dead", "list", "--json").ok().objects}

    def log(self, role: str, *options: str) -> list[dict[str, Any]]:
        return self.es("logs", role, *options).ok().objects

    # --- workers -------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        ran = self.es("status", "--json")
        assert ran.code in (0, 1, 4), ran  # 1: something waits for an operator; 4: a worker does not work
        return ran.object

    def supervised(self) -> list[dict[str, Any]]:
        """The workers that the supervisor reports, read without starting a process; none without a supervisor."""
        try:
            status = ask_once(self.settings.run, "supervisor", "supervisor.status", {}, timeout_s=10.0)
        except OSError:
            return []
        workers: list[dict[str, Any]] = status["workers"]
        return workers

    def worker(self, role: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = [each for each in self.status()["workers"] if each["role"] == role]
        (worker,) = found
        return worker

    def last_error(self, role: str) -> str:
        """The last error that a worker reported; empty without one."""
        return str((self.worker(role)["last_error"] or {}).get("message", ""))

    def pid_of(self, role: str) -> int:
        """The process id of a role or of the supervisor, once it has one."""
        if role == "supervisor":
            return int(self.status()["pid"])
        return int(eventually(lambda: self.worker(role)["pid"], f"the {role} worker has a process"))

    def signal(self, role: str, number: signal.Signals) -> int:
        """Send a signal to a role's process and return its process id."""
        pid = self.pid_of(role)
        os.kill(pid, number)
        return pid

    def kill(self, role: str) -> None:
        """Kill a role's process, which may have ended already."""
        kill([self.pid_of(role)])

    def kill_everything(self) -> None:
        """Kill all workers and the supervisor, and wait for their end."""
        kill(self.processes())
        self.ended()

    @contextmanager
    def paused(self, role: str) -> Iterator[int]:
        """Suspend a role's process during the block; yields its process id."""
        pid = self.signal(role, signal.SIGSTOP)
        try:
            yield pid
        finally:
            os.kill(pid, signal.SIGCONT)

    def ready(self) -> System:
        """Wait until every worker is ready."""

        def all_ready() -> bool:
            workers = self.supervised()
            return bool(workers) and all(worker["state"] == "ready" for worker in workers)

        eventually(all_ready, "all workers are ready")
        return self

    def caught_up(self) -> None:
        """Wait until the read model holds everything that was stored before this call."""
        eventually(lambda: self.generation()["lag"] == 0, "the projection has caught up")

    def alone(self) -> None:
        """Wait until one supervisor and one worker of each role are left."""
        eventually(lambda: len(self.processes()) == 1 + len(self.roles), "one process of each kind is left")

    def ended(self) -> None:
        """Wait until no process of this home is left."""
        eventually(lambda: not self.processes(), "all processes have ended")

    def processes(self, role: str | None = None) -> list[int]:
        """The live workers and supervisors of this home, which is among their arguments; or the workers of a role."""
        return [
            pid
            for pid, arguments in all_processes()
            if {"--home", str(self.home)} <= set(arguments) and (role is None or role in arguments)
        ]

    def close(self) -> None:
        for client in self._clients:
            if client.poll() is None:
                client.kill()
            for pipe in (client.stdin, client.stdout, client.stderr):
                with suppress(OSError, ValueError):
                    pipe and pipe.close()
            client.wait()
        deadline_s = time.monotonic() + DEADLINE_S
        # Repeatedly: a supervisor may have been about to start one more.
        while (left := self.processes()) and time.monotonic() < deadline_s:
            kill(left)
            time.sleep(0.01)
        shutil.rmtree(self.root, ignore_errors=True)
