"""A scripted service behind a real transport, and an asking end: what transport tests stand on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from adapters.local.caller import LocalCaller
from adapters.log import open_log
from adapters.rabbitmq.caller import RabbitCaller
from domain.kernel.errors import EsError
from domain.kernel.messages import Body, Question, Reply, Request
from domain.kernel.ports.transport import Caller
from tests.support.waiting import DEADLINE_S
from workers.runtime.loop import Server, serve

ROLE = "echo"
SHORT_S = 0.2
"""A timeout that nobody is expected to keep. Where an answer has to come first, it goes by a `Clock`."""


class Clock:
    """The time as askers see it: a hundredth as fast as ours, until a test lets some of it pass.

    What takes a busy machine seconds takes no time here, so a time-out comes where the test wants it.
    """

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._passed_s = 0.0

    def monotonic(self) -> float:
        return self._began_s + self._passed_s + (time.monotonic() - self._began_s) / 100

    def sleep(self, duration_s: float) -> None:
        time.sleep(duration_s)

    def let_pass(self, duration_s: float) -> None:
        self._passed_s += duration_s


class Scripted:
    """A service that answers each request by a function and remembers every batch."""

    role = ROLE

    def __init__(self, answer: Callable[[Request], Reply]) -> None:
        self._answer = answer
        self.batches: list[list[Body]] = []
        self.closed = 0

    def handle(self, batch: Sequence[Request]) -> list[Reply]:
        self.batches.append([request.body for request in batch])
        return [self._answer(request) for request in batch]

    def close(self) -> None:
        self.closed += 1

    @property
    def seen(self) -> list[Body]:
        return [body for batch in self.batches for body in batch]


def echo(request: Request) -> Reply:
    return dict(request.body)


class Serving:
    """A worker's loop over a service, in a thread."""

    def __init__(self, service: Scripted, server: Server, log_file: Path) -> None:
        self.service = service
        self._stopping = threading.Event()
        log = open_log(f"test-{id(self)}", log_file)
        self._pool = ThreadPoolExecutor(1)
        self._ended = self._pool.submit(serve, service, server, stopping=self._stopping.is_set, log=log)

    def begin_to_stop(self) -> None:
        self._stopping.set()

    def stop(self) -> None:
        self._stopping.set()
        self._ended.result(DEADLINE_S)  # a crash of the loop comes out here
        self._pool.shutdown()


Serve = Callable[[Callable[[Request], Reply]], Serving]
OpenCaller = Callable[[], Caller]


@pytest.fixture
def serve_by(
    open_server: Callable[[str], Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Serve]:
    """Starts a worker that answers by a function; stopped after the test, and a crash of it fails the test."""
    monkeypatch.setattr("workers.runtime.loop.IDLE_WAIT_S", 0.01)  # how soon it notices that it is to stop
    running: list[Serving] = []

    def start(answer: Callable[[Request], Reply]) -> Serving:
        running.append(Serving(Scripted(answer), open_server(ROLE), tmp_path / "worker.log"))
        return running[-1]

    yield start
    for serving in running:
        serving.stop()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("adapters.local.caller", "adapters.rabbitmq.caller"):
        monkeypatch.setattr(f"{module}.time", clock)
    return clock


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Askers wait long unless a test says otherwise: how busy the machine is, is no part of the contract."""
    for method in (LocalCaller.ask, LocalCaller.pipeline, RabbitCaller.ask, RabbitCaller.pipeline):
        defaults: Any = method.__kwdefaults__
        monkeypatch.setitem(defaults, "timeout_s", DEADLINE_S)
    monkeypatch.setattr("adapters.rabbitmq.caller._FIRST_CONNECT_S", DEADLINE_S)
    monkeypatch.setattr("workers.runtime.loop.DRAIN_S", DEADLINE_S / 2)


@pytest.fixture
def caller(open_caller: OpenCaller) -> Caller:
    return open_caller()


def questions(count: int, **more: Any) -> list[Question]:
    return [("echo", {"n": number, **more}) for number in range(count)]


def numbers(replies: Sequence[Body | EsError] | Iterator[Body | EsError]) -> list[Any]:
    """Each reply's number; an error's type in its place."""
    return [reply["n"] if isinstance(reply, dict) else type(reply).__name__ for reply in replies]
