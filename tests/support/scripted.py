"""A scripted service behind a real transport, and callers of it: builders and fixtures for transport tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from adapters import wiring
from adapters.local.address import listen, socket_path
from adapters.local.caller import LocalCaller
from adapters.local.server import LocalServer
from adapters.log import open_log
from adapters.rabbitmq.caller import RabbitCaller
from adapters.settings import Settings
from domain.kernel.errors import EsError, PartUnavailable
from domain.kernel.messages import Body, Question, Reply, Request
from domain.kernel.ports.transport import Caller, Server
from tests.support.rabbitmq import ready_server
from tests.support.waiting import DEADLINE_S, eventually
from workers.runtime.loop import serve

ROLE = "echo"
SHORT_S = 0.2
"""A timeout that is meant to expire. Where a reply has to arrive before it, the test uses a `Clock`."""

Answer = Callable[[Request], Reply]


class Clock:
    """The time as callers see it: a hundredth as fast as real time, plus the time that a test lets pass.

    So a timeout expires when the test wants it to, however busy the machine is.
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


def echo(request: Request) -> Reply:
    return dict(request.body)


class Scripted:
    """A service that answers each request by a function and remembers every batch."""

    role = ROLE

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.batches: list[list[Body]] = []
        self._done: list[Body] = []

    def handle(self, batch: Sequence[Request]) -> list[Reply]:
        self.batches.append([request.body for request in batch])
        replies = [self._answer(request) for request in batch]
        self._done += [request.body for request in batch]
        return replies

    def close(self) -> None: ...

    @property
    def seen(self) -> list[Body]:
        return [body for batch in self.batches for body in batch]

    @property
    def numbers(self) -> list[Any]:
        """The number of each request that was handed over."""
        return [body.get("n") for body in self.seen]

    @property
    def effects(self) -> set[Any]:
        """The numbers of the requests that were handled without an error. A repetition changes nothing."""
        return {body.get("n") for body in self._done}


class Serving:
    """A worker's loop over a service, in a thread."""

    def __init__(self, service: Scripted, server: Server, log_file: Path) -> None:
        self.service = service
        self._stopping = threading.Event()
        log = open_log(f"test-{uuid4()}", log_file)
        self._pool = ThreadPoolExecutor(1)
        self.ended = self._pool.submit(serve, service, server, stopping=self._stopping.is_set, log=log)

    def begin_to_stop(self) -> None:
        self._stopping.set()

    def stop(self) -> None:
        """Stop the worker. Raises the error of a loop that crashed."""
        self.begin_to_stop()
        self.ended.result(DEADLINE_S)
        self._pool.shutdown()


class Gate:
    """An answer that waits until it is opened, as a worker does whose work takes long."""

    def __init__(self, answer: Answer = echo) -> None:
        self._answer = answer
        self._busy, self._open = threading.Event(), threading.Event()

    def __call__(self, request: Request) -> Reply:
        self._busy.set()
        assert self._open.wait(DEADLINE_S)
        return self._answer(request)

    def wait_until_busy(self) -> None:
        assert self._busy.wait(DEADLINE_S), "no request was handed over"

    def open(self) -> None:
        self._open.set()


@contextmanager
def serving(server: Server, log_file: Path, answer: Answer = echo) -> Iterator[Serving]:
    """A worker that answers by a function, until the end of the block."""
    worker = Serving(Scripted(answer), server, log_file)
    try:
        yield worker
    finally:
        worker.stop()


OpenServer = Callable[..., Any]
OpenCaller = Callable[[], Caller]
Serve = Callable[..., Serving]
SetWindow = Callable[[int], None]


@contextmanager
def background(work: Callable[..., Any], *arguments: Any, **options: Any) -> Iterator[Future[Any]]:
    """Call a function in another thread, until the end of the block at the latest."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(work, *arguments, **options)


def questions(count: int, **more: Any) -> list[Question]:
    return [("echo", {"n": number, **more}) for number in range(count)]


def numbers(replies: Iterable[Body | EsError]) -> list[Any]:
    """The number of each reply, or the type of an error in its place."""
    return [reply["n"] if isinstance(reply, dict) else type(reply).__name__ for reply in replies]


def time_out(caller: Caller, clock: Clock, serving: Serving, **body: Any) -> PartUnavailable:
    """Send a request, and let its time pass once the worker has it. Returns the error."""
    with background(caller.ask, ROLE, "echo", body, timeout_s=SHORT_S) as asking:
        eventually(lambda: body in serving.service.seen, "the worker has the request")
        clock.let_pass(SHORT_S)
        with pytest.raises(PartUnavailable) as raised:
            asking.result(DEADLINE_S)
    return raised.value


# --- fixtures, over the `broker_settings` of a conftest --------------------------------------


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    """The log of all workers of a test."""
    file = tmp_path / "worker.log"
    file.touch()
    return file


@pytest.fixture
def open_server(broker_settings: Settings, log_file: Path) -> Iterator[OpenServer]:
    """Opens the server of the role, as a worker does, once requests can reach it."""
    with ExitStack() as opened:

        def start(**options: Any) -> Server:
            if broker_settings.is_local:
                server: Server = LocalServer(listen(socket_path(broker_settings.run, ROLE)))
            else:
                log = open_log(f"link-{uuid4()}", log_file)
                server = ready_server(**{"url": broker_settings.broker, "role": ROLE, "log": log, **options})
            return opened.enter_context(closing(server))

        yield start


@pytest.fixture
def serve_by(open_server: OpenServer, log_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Starts a worker that answers by a function. It is stopped after the test, which fails if it crashed."""
    monkeypatch.setattr("workers.runtime.loop.IDLE_WAIT_S", 0.01)  # notice a stop early
    with ExitStack() as running:
        yield lambda answer=echo, **options: running.enter_context(
            serving(open_server(**options), log_file, answer)
        )


@pytest.fixture
def echoing(serve_by: Serve) -> Serving:
    """A worker that answers each request with its body."""
    return serve_by(echo)


@pytest.fixture
def open_caller(broker_settings: Settings) -> Iterator[OpenCaller]:
    """Opens a caller, as each `es` command does."""
    with ExitStack() as opened:
        yield lambda: opened.enter_context(closing(wiring.open_caller(broker_settings)))


@pytest.fixture
def caller(open_caller: OpenCaller) -> Caller:
    return open_caller()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("local.caller", "local.pipeline", "rabbitmq.pipeline", "rabbitmq.sender"):
        monkeypatch.setattr(f"adapters.{module}.time", clock)
    return clock


@pytest.fixture(autouse=True)
def long_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers wait long unless a test says otherwise: the speed of the machine is not part of the contract."""
    for method in (LocalCaller.ask, LocalCaller.pipeline, RabbitCaller.ask, RabbitCaller.pipeline):
        defaults: Any = method.__kwdefaults__
        monkeypatch.setitem(defaults, "timeout_s", DEADLINE_S)
    monkeypatch.setattr("adapters.rabbitmq.sender._FIRST_CONNECT_S", DEADLINE_S)
    monkeypatch.setattr("workers.runtime.loop.DRAIN_S", DEADLINE_S / 2)


@pytest.fixture
def set_window(monkeypatch: pytest.MonkeyPatch) -> SetWindow:
    """Sets how many requests of a pipeline may be in flight."""
    return lambda window: monkeypatch.setattr("adapters.pipeline.WINDOW", window)
