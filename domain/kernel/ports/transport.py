"""Requests, replies, and what a service and a caller promise each other, over any transport."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from domain.kernel.errors import EsError
from domain.kernel.messages import Body, Question, Reply, Request


class Service(Protocol):
    """What a worker does with whatever is waiting."""

    role: str

    def handle(self, batch: Sequence[Request]) -> list[Reply]:
        """One reply per request, in order. An `EsError` is returned for its request, not raised.

        Durable work is done once for the whole batch. What this raises is a bug or an outage: the runtime
        then hands the requests over one by one, so that a bad one fails alone.
        """
        ...

    def close(self) -> None:
        """Give back what is held (leases, files). Called once, after the last reply was sent."""
        ...


class Delivery(Protocol):
    """A received request; the transport keeps the way back in it."""

    request: Request


class Server(Protocol):
    """The answering end of a transport, for one role. Used by one thread, which also does the work."""

    def receive(self, limit: int, wait_s: float) -> Iterable[Delivery]:
        """Up to `limit` requests, as soon as there are any; none after `wait_s` seconds."""
        ...

    def answer(self, replies: Sequence[tuple[Any, Reply]]) -> None:
        """Send replies to deliveries. A caller that is gone is passed over: it asks again, or never wanted to know."""
        ...

    def is_gone(self, delivery: Any) -> bool:
        """Whether nobody can hear the answer any more, so that the work needn't begin."""
        ...

    def stop_listening(self) -> None:
        """Take nothing new; what was received may still be answered."""
        ...

    def close(self) -> None:
        """Send what can be sent, then let go of everything."""
        ...


class Caller(Protocol):
    """The asking end of a transport. One caller belongs to one thread."""

    def ask(self, role: str, kind: str, body: Mapping[str, Any], *, timeout_s: float = 10.0) -> Body:
        """The answer of one request; raises the `EsError` it was answered with.

        After a lost connection the request is sent again until the time is up, so it may be carried out
        twice: commands carry a command id. Raises `PartUnavailable` when nothing answered in time.
        """
        ...

    def pipeline(
        self,
        role: str,
        requests: Iterable[Question],
        *,
        window: int = 512,
        timeout_s: float = 10.0,
    ) -> Iterator[Body | EsError]:
        """The answers of many requests, in order of the requests, at most `window` in flight.

        `timeout_s` is for each request, from when it is first sent. A request that got no answer yields
        `PartUnavailable` in its place.
        """
        ...

    def close(self) -> None:
        """Let go of connections. Safe to call twice."""
        ...
