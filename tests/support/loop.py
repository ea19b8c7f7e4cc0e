"""A server and a service of a worker's loop that follow a script and record every call. Requests are numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from domain.kernel.messages import Later, Reply, Request


class NumberedDelivery:
    def __init__(self, number: int) -> None:
        self.number = number
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

    def is_exhausted(self) -> bool:
        return not self.turns

    def receive(self, limit: int, wait_s: float) -> list[NumberedDelivery]:
        self.limits.add(limit)
        self.waits_s.append(wait_s)
        return [NumberedDelivery(number) for number in (self.turns.pop(0) if self.turns else ())]

    def answer(self, replies: Sequence[tuple[NumberedDelivery, Reply]]) -> None:
        for delivery, reply in replies:
            assert delivery.number not in self.replies, "one reply per request"
            assert not isinstance(reply, Later)
            self.replies[delivery.number] = reply
        self.calls.append(f"answer {[delivery.number for delivery, _ in replies]}")

    def is_gone(self, delivery: NumberedDelivery) -> bool:
        return delivery.number in self.gone

    def stop_listening(self) -> None:
        self.calls.append("stop listening")

    def close(self) -> None:
        self.calls.append("close")


class ScriptedService:
    role = "echo"

    def __init__(self, reply: Callable[[Request], Reply] = lambda request: dict(request.body)) -> None:
        self._reply = reply
        self.batches: list[list[int]] = []

    def handle(self, batch: Sequence[Request]) -> list[Reply]:
        self.batches.append([request.body["n"] for request in batch])
        return [self._reply(request) for request in batch]

    def close(self) -> None:
        raise AssertionError("the loop closes no service")
