"""The contracts of a service, of the transport that brings it requests, and of a caller, over any transport."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from domain.kernel.errors import EsError
from domain.kernel.messages import Body, Question, Reply, Request


class Service(Protocol):
    """The work of one role."""

    def handle(self, batch: Sequence[Request]) -> list[Reply]:
        """Handle a batch and return one reply per request, in order.

        An `EsError` is returned for its request, not raised. Durable work is done once for the whole batch.
        An exception is a bug or an outage: the worker then hands over the requests one by one, so that a bad
        one fails alone.
        """
        ...

    def close(self) -> None:
        """Release leases and close files. Called once, after the last reply was sent."""
        ...


class Delivery(Protocol):
    """A received request. The transport keeps the address for its reply in it."""

    request: Request


class Server(Protocol):
    """The worker's side of a transport, for one role. Used by one thread, which also does the work."""

    def receive(self, limit: int, wait_s: float) -> Iterable[Delivery]:
        """Receive up to `limit` requests, as soon as there are any; none after `wait_s` seconds."""
        ...

    def answer(self, replies: Sequence[tuple[Any, Reply]]) -> None:
        """Send replies to deliveries. Replies to disconnected callers are dropped.

        A caller that still needs its reply retries.
        """
        ...

    def is_gone(self, delivery: Any) -> bool:
        """Whether the caller has disconnected. If so, skip the request."""
        ...

    def is_full(self, delivery: Any) -> bool:
        """Whether too many bytes of replies wait to be sent. If so, keep the request for a later batch."""
        ...

    def stop_listening(self) -> None:
        """Accept no new requests. Received ones may still be answered."""
        ...

    def close(self) -> None:
        """Send what can be sent, then close all connections."""
        ...


class Caller(Protocol):
    """The caller's side of a transport. One caller belongs to one thread."""

    def ask(self, role: str, kind: str, body: Mapping[str, Any], *, timeout_s: float = 10.0) -> Body:
        """Send one request and return its reply. Raises the `EsError` that it was answered with.

        After a lost connection the request is sent again until `timeout_s` has passed. It may then take effect
        twice, so commands carry a command id. Raises `PartUnavailable` if no reply arrives in time.
        """
        ...

    def pipeline(
        self, role: str, requests: Iterable[Question], *, timeout_s: float = 10.0
    ) -> Iterator[Body | EsError]:
        """Send many requests and yield their replies, in order of the requests.

        At most 512 requests are in flight. `timeout_s` is for each request, from when it is first sent. A
        request without a reply yields `PartUnavailable` in its place.
        """
        ...

    def close(self) -> None:
        """Close all connections. Safe to call twice."""
        ...
