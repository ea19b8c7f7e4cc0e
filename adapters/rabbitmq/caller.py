"""The caller over RabbitMQ: requests to `es.<role>`, replies by direct reply-to.

Promise: one connection, opened for the first request and kept. Refusal: a connection that failed for good is
not used again; the next request opens another, because an operator may have fixed the failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from adapters.pipeline import Arrived, only_reply
from adapters.rabbitmq.pipeline import RabbitPipeline
from adapters.rabbitmq.sender import Sender
from domain.kernel.errors import EsError
from domain.kernel.messages import Body, Question

_CLOSE_TIMEOUT_S = 1.0


class RabbitCaller:
    """A `Caller` over RabbitMQ."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._sender: Sender | None = None

    def ask(self, role: str, kind: str, body: Mapping[str, Any], *, timeout_s: float = 10.0) -> Body:
        return only_reply(self.pipeline(role, [(kind, body)], timeout_s=timeout_s))

    def pipeline(
        self,
        role: str,
        requests: Iterable[Question],
        *,
        timeout_s: float = 10.0,
        before_wait: Callable[[], None] = lambda: None,
    ) -> Iterator[Body | EsError]:
        return RabbitPipeline(self._open(), role, timeout_s).replies(requests, before_wait)

    def exchange(
        self, role: str, requests: Iterable[Question], *, timeout_s: float = 10.0
    ) -> Iterator[Arrived]:
        return RabbitPipeline(self._open(), role, timeout_s).exchange(requests)

    def _open(self) -> Sender:
        if self._sender is None or self._sender.link.failure is not None:
            self.close()
            self._sender = Sender(self._url)
        return self._sender

    def close(self) -> None:
        if self._sender is not None:
            # Briefly: every reply was received or given up, and a broker with an alarm does not answer.
            self._sender.link.close(wait_s=_CLOSE_TIMEOUT_S)
            self._sender = None
