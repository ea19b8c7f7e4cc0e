"""The ways in which a load process sends requests: the pipelined client, or a real `es` process for each.

Promise: each job is answered once, also at its timeout. Refusal: a sender never waits in `send`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from queue import SimpleQueue
from typing import Any

import es
from adapters.settings import Settings
from domain.features import registry
from domain.kernel.commands import Command, inputs_of, optional_inputs
from domain.kernel.errors import EXIT_CODES, Kind
from domain.kernel.messages import Body
from domain.users.commands import DEFAULT_BASIS
from es.client import CLASSES, Failure
from load.schedule import ACTOR, Failures, Job

Answered = Callable[[Job, Body | Failure], None]
_KINDS = {code: kind for kind, code in EXIT_CODES.items()}
_GRACE_S = 10.0


class ClientSender:
    """One client and one thread for each role; the client's own thread reads the jobs."""

    def __init__(
        self,
        settings: Settings,
        roles: Iterable[str],
        timeout_s: float,
        answered: Answered,
        failures: Failures,
    ) -> None:
        self._timeout_s = timeout_s
        self._failures = failures
        self._channels = {role: _Channel(settings, role, timeout_s, answered) for role in roles}
        self._threads = [
            threading.Thread(target=failures.guard, args=(channel.run,), name=role, daemon=True)
            for role, channel in self._channels.items()
        ]
        for thread in self._threads:
            thread.start()

    def send(self, job: Job) -> None:
        self._channels[job.prepared.operation.role].jobs.put(job)

    def close(self) -> None:
        """Wait for the replies, or for their timeouts."""
        for channel in self._channels.values():
            channel.jobs.put(None)
        for thread in self._threads:
            thread.join(self._timeout_s + _GRACE_S)
            if thread.is_alive() and self._failures.first is None:
                self._failures.note(TimeoutError(f"the requests to {thread.name} did not end"))


class _Channel:
    """The jobs of one role."""

    def __init__(self, settings: Settings, role: str, timeout_s: float, answered: Answered) -> None:
        self.jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._settings = settings
        self._role = role
        self._timeout_s = timeout_s
        self._answered = answered
        self._waiting: dict[int, Job] = {}

    def run(self) -> None:
        with es.Client(settings=self._settings, actor=ACTOR, timeout_s=self._timeout_s) as client:
            for number, reply in client.ask_many(self._questions(), role=self._role):
                self._answered(self._waiting.pop(number), reply)

    def _questions(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for number in count():
            job = self.jobs.get()
            if job is None:
                return
            self._waiting[number] = job
            yield job.prepared.operation.kind, job.body


class ProcessSender:
    """A process of `es` for each job, from a pool of as many threads as there are callers."""

    def __init__(
        self, settings: Settings, callers: int, timeout_s: float, answered: Answered, failures: Failures
    ) -> None:
        self._words = Words(settings.features)
        self._timeout_s = timeout_s
        self._answered = answered
        self._failures = failures
        self._pool = ThreadPoolExecutor(callers, "es")
        # It must measure the workers that run, not start others.
        self._environment = {**os.environ, **environment_of(settings), "ES_AUTOSTART": "0"}

    def send(self, job: Job) -> None:
        self._pool.submit(self._failures.guard, self._run, job)

    def _run(self, job: Job) -> None:
        words = [_program(), *self._words.of(job)]
        try:
            ended = subprocess.run(
                words,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self._timeout_s,
                start_new_session=True,  # a Ctrl-C at the terminal must not end it: its outcome is wanted
            )
        except subprocess.TimeoutExpired:
            late = f"no answer within {self._timeout_s:g} s, so the outcome is unknown"
            self._answered(job, es.Unavailable("unavailable", Kind.UNAVAILABLE, late, "A retry is safe."))
            return
        self._answered(job, reply_of(job, ended))

    def close(self) -> None:
        """Wait for the processes, or for their timeouts."""
        self._pool.shutdown()


def _program() -> str:
    """The `es` that is installed beside this Python, else that of the search path."""
    beside = os.path.join(os.path.dirname(sys.executable), "es")
    return beside if os.path.exists(beside) else "es"


def environment_of(settings: Settings) -> dict[str, str]:
    """The variables with which another process reads the same settings."""
    given = {
        f"ES_{name.upper()}": each.value
        for name, each in settings.origins.items()
        if each.source != "default"
    }
    return {**given, "ES_HOME": str(settings.home)}


class Words:
    """The words of the shell for a job."""

    def __init__(self, features: tuple[str, ...]) -> None:
        self._commands: dict[str, type[Command]] = {
            command.request: command
            for aggregate in registry(features).aggregates
            for command in aggregate.commands
            if command.request
        }

    def of(self, job: Job) -> list[str]:
        operation, given = job.prepared.operation, job.prepared.input
        match operation.kind:
            case "ids.next":
                return ["ids", "next", "--count", str(given["count"]), "--ranges", "--json"]
            case "users.get":
                return [
                    "users",
                    "get",
                    str(given["user_id"]),
                    "--after",
                    str(given["after_position"]),
                    "--json",
                ]
            case "users.find":
                return ["users", "find", "--email", given["email"], "--json"]
            case "users.list":
                return ["users", "list", "--after", given["after"], "--limit", str(given["limit"]), "--json"]
            case "users.erase":
                words = ["gdpr", "erase", given["user_id"], "--basis", given.get("basis", DEFAULT_BASIS)]
                words.append("--yes")
            case _:
                words = operation.kind.split(".")
                words += self._inputs(self._commands[operation.kind], given)
        command = self._commands[operation.kind]
        asks = ["--yes"] if command.question else []
        return [*words, *asks, "--command-id", str(job.command_id), "--json"]

    def _inputs(self, command: type[Command], given: Mapping[str, Any]) -> Sequence[str]:
        options: list[str] = []
        arguments: list[str] = []
        for name in inputs_of(command):
            if name in given and (command.creates or name in optional_inputs(command)):
                options += [f"--{name.replace('_', '-')}", str(given[name])]
            elif name in given:
                arguments.append(str(given[name]))
        return [*options, *arguments]


def reply_of(job: Job, ended: subprocess.CompletedProcess[bytes]) -> Body | Failure:
    """What a process of `es` printed, as a worker would have replied."""
    try:
        if ended.returncode == 0:
            lines = [json.loads(line) for line in ended.stdout.splitlines()]
            operation = job.prepared.operation
            if operation.role == "ids":
                return {"ranges": lines}
            return lines[-1] if operation.is_command else {"rows": lines}
        error = json.loads(ended.stderr.splitlines()[-1])["error"]
        kind = _KINDS.get(ended.returncode, Kind.UNAVAILABLE)
        return CLASSES[kind](error["code"], kind, error["message"], error["hint"])
    except (ValueError, IndexError, KeyError, TypeError):
        said = f"`es` ended with {ended.returncode} and no answer, so the outcome is unknown"
        return es.Unavailable("no-answer", Kind.UNAVAILABLE, said, "Run the command by hand.")
