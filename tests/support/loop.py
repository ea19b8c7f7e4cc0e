"""A worker's loop over a server and a service that follow a script and record every call. Requests are numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from adapters.log import Log
from domain.kernel.errors import EsError
from domain.kernel.messages import Later, Reply, Request
from workers.runtime.loop import serve


class NumberedDelivery:
    def __init__(self, number: int, *, is_suspect: bool = False) -> None:
        self.number = number
        self.is_suspect = is_suspect
        self.request = Request("echo", {"n": number})


class ScriptedServer:
    """Delivers the numbers of one turn per call of `receive`, then nothing."""

    def __init__(self, *turns: Sequence[int]) -> None:
        self.turns = list(turns)
        self.calls: list[str] = []
        self.replies: dict[int, Reply] = {}
        self.waits_s: list[float] = []
        self.limits: set[int] = set()
        self.gone: set[int] = set()
        """The requests whose caller has disconnected."""
        self.suspects: set[int] = set()
        """The requests that may have ended a worker."""
        self.full: set[int] = set()
        """The requests whose caller does not read its replies."""

    def receive(self, limit: int, wait_s: float) -> list[NumberedDelivery]:
        self.limits.add(limit)
        self.waits_s.append(wait_s)
        numbers = self.turns.pop(0) if self.turns else ()
        return [NumberedDelivery(number, is_suspect=number in self.suspects) for number in numbers]

    def wake(self) -> None:
        """It never waits."""

    def answer(self, replies: Sequence[tuple[NumberedDelivery, Reply]]) -> None:
        for delivery, reply in replies:
            assert delivery.number not in self.replies, "one reply per request"
            assert not isinstance(reply, Later)
            self.replies[delivery.number] = reply
        self.calls.append(f"answer {[delivery.number for delivery, _ in replies]}")

    def is_gone(self, delivery: NumberedDelivery) -> bool:
        return delivery.number in self.gone

    def is_full(self, delivery: NumberedDelivery) -> bool:
        return delivery.number in self.full

    def stop_listening(self) -> None:
        self.calls.append("stop listening")

    def close(self) -> None:
        self.calls.append("close")


class ScriptedService:
    def __init__(self, reply: Callable[[Request], Reply]) -> None:
        self._reply = reply
        self.batches: list[list[int]] = []

    def handle(self, batch: Sequence[Request]) -> list[Reply]:
        self.batches.append([request.body["n"] for request in batch])
        return [self._reply(request) for request in batch]

    def close(self) -> None:
        raise AssertionError("the loop closes no service")


def echo(request: Request) -> Reply:
    return dict(request.body)


class ScriptedLoop:
    def __init__(self, log: Log) -> None:
        self._log = log
        self.server = ScriptedServer()
        self.service = ScriptedService(echo)
        self.reported: list[EsError | None] = []
        """What `on_reply` was called with."""

    def serve(self, *turns: Sequence[int], reply: Callable[[Request], Reply] = echo) -> None:
        """Serve every turn, then stop."""
        self.server.turns = list(turns)
        self.service = ScriptedService(reply)
        self.serve_until(lambda: not self.server.turns)

    def serve_until(self, stopping: Callable[[], bool]) -> None:
        serve(
            self.service,
            self.server,
            stopping=stopping,
            on_reply=self.reported.append,
            log=self._log,
        )
