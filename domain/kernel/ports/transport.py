"""The contracts of a service, of the transport that brings it requests, and of a caller, over any transport."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

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


@runtime_checkable
class StagedService(Service, Protocol):
    """A service whose work on a batch has two stages. `handle` is one after the other, then `settle`.

    While a batch is completed in one thread, the worker begins the next one in another. So the stages of two batches may
    interleave as those of two workers do; batches are completed in the order in which they were begun.
    """

    def begin(self, requests: Sequence[Request], /) -> Any:
        """The first stage. Raises as `handle`."""
        ...

    def complete(self, begun: Any, /) -> list[Reply]:
        """The second stage, with what `begin` returned: the replies. Raises as `handle`."""
        ...

    def settle(self) -> None:
        """Write what the stages left for the next batch: no request waits, or the worker ends. Raises as `handle`."""
        ...


class Delivery(Protocol):
    """A received request. The transport keeps the address for its reply in it."""

    request: Request

    @property
    def is_suspect(self) -> bool:
        """Whether a worker may have ended because of it. Then it is handled while nothing else is."""
        ...


class Server(Protocol):
    """The worker's side of a transport, for one role. Used by one thread, except for `wake`."""

    def receive(self, limit: int, wait_s: float) -> Iterable[Delivery]:
        """Receive up to `limit` requests, as soon as there are any; none after `wait_s` seconds."""
        ...

    def wake(self) -> None:
        """Let a `receive` that waits, or else the next one, return at once. Any thread may call it."""
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
        self,
        role: str,
        requests: Iterable[Question],
        *,
        timeout_s: float = 10.0,
        before_wait: Callable[[], None] = lambda: None,
    ) -> Iterator[Body | EsError]:
        """Send many requests and yield their replies, in order of the requests.

        At most 512 requests are in flight. `timeout_s` is for each request, from when it is first sent. A
        request without a reply yields `PartUnavailable` in its place. `before_wait` is called when all replies that
        have come were yielded: the caller may do there, once, what it put off for each of them.
        """
        ...

    def exchange(
        self, role: str, requests: Iterable[Question], *, timeout_s: float = 10.0
    ) -> Iterator[tuple[int, Body | EsError]]:
        """Send many requests and yield each reply as it arrives, with the number of its request, from 0.

        A request that is answered late delays no other reply. All else is as in `pipeline`.
        """
        ...

    def close(self) -> None:
        """Close all connections. Safe to call twice."""
        ...
