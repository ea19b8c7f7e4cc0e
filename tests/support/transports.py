"""A transport under test: scripted services behind it, callers of it, and the time as callers see it."""

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

_METHODS = [
    getattr(each, name) for each in (LocalCaller, RabbitCaller) for name in ("ask", "pipeline", "exchange")
]

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


class Transport:
    """The transport of some settings. `close` stops the workers and closes the servers and callers opened here."""

    def __init__(self, settings: Settings, log_file: Path) -> None:
        self._settings = settings
        self._log_file = log_file
        self._opened = ExitStack()
        self.close = self._opened.close

    def server(self, **options: Any) -> Any:
        """Open the server of the role, as a worker does. Requests can reach it."""
        server: Server
        if self._settings.is_local:
            server = LocalServer(listen(socket_path(self._settings.run, ROLE)))
        else:
            log = open_log(f"link-{uuid4()}", self._log_file)
            server = ready_server(**{"url": self._settings.broker, "role": ROLE, "log": log, **options})
        return self._opened.enter_context(closing(server))

    def serve(self, answer: Answer = echo, **options: Any) -> Serving:
        """Start a worker that answers by a function. A crash of its loop fails the test."""
        return self._opened.enter_context(self.serving(self.server(**options), answer))

    @contextmanager
    def serving(self, server: Server, answer: Answer = echo) -> Iterator[Serving]:
        """A worker over a given server, until the end of the block."""
        worker = Serving(Scripted(answer), server, self._log_file)
        try:
            yield worker
        finally:
            worker.stop()

    def caller(self) -> Caller:
        """Open a caller, as each `es` command does."""
        return self._opened.enter_context(closing(wiring.open_caller(self._settings)))

    def log(self) -> str:
        """The log of all workers."""
        return self._log_file.read_text() if self._log_file.exists() else ""


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


def asked(caller: Caller, count: int, **options: Any) -> list[Any]:
    """Send requests with the numbers from 0 on in a pipeline. The numbers of their replies."""
    return numbers(caller.pipeline(ROLE, questions(count), **options))


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
def transport(
    broker_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Transport]:
    monkeypatch.setattr("workers.runtime.loop.IDLE_WAIT_S", 0.01)  # notice a stop early
    with closing(Transport(broker_settings, tmp_path / "worker.log")) as opened:
        yield opened


@pytest.fixture
def echoing(transport: Transport) -> Serving:
    """A worker that answers each request with its body."""
    return transport.serve()


@pytest.fixture
def caller(transport: Transport) -> Caller:
    return transport.caller()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("local.caller", "local.pipeline", "rabbitmq.pipeline", "rabbitmq.sender"):
        monkeypatch.setattr(f"adapters.{module}.time", clock)
    return clock


@pytest.fixture(autouse=True)
def long_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers wait long unless a test says otherwise: the speed of the machine is not part of the contract."""
    for method in _METHODS:
        defaults: Any = method.__kwdefaults__
        monkeypatch.setitem(defaults, "timeout_s", DEADLINE_S)
    monkeypatch.setattr("adapters.rabbitmq.sender._FIRST_CONNECT_S", DEADLINE_S)
    monkeypatch.setattr("workers.runtime.loop.DRAIN_S", DEADLINE_S / 2)
