"""The loop of every worker: receive whatever is waiting, do the work once, reply.

Promise: every request that was received gets one reply, also while stopping, and a bad request fails
alone. Refusal: nothing is remembered here; what has to survive is in the stores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from adapters.log import Log
from domain.kernel.errors import EsError, KeyUnavailable, PartUnavailable
from domain.kernel.messages import Later, Reply, Request
from domain.kernel.ports.transport import Delivery, Server, Service

BATCH_LIMIT = 256
_IDLE_WAIT_S = 0.1
"""How long an idle worker waits before it looks whether it has to stop."""
_LATER_WAIT_S = 0.005
_DRAIN_S = 5.0
_OPEN_AGAIN_S = 1.0
_PART_IS_DOWN = (PartUnavailable.code, KeyUnavailable.code)
"""By code, because what another worker answered is told on as an `AnsweredError`."""


class InternalError(EsError):
    """A bug: the request made a worker fail in a way nobody designed. The log has the place."""

    code = "internal"


class _Unopened:
    """Stands in for a service that misses a part: that is its answer to everything."""

    role = ""

    def __init__(self, missing: PartUnavailable | KeyUnavailable) -> None:
        self._missing = missing

    def handle(self, batch: Sequence[Request]) -> list[Reply]:
        return [self._missing for _ in batch]

    def close(self) -> None:
        pass


def opened(
    open_service: Callable[[], Service],
    server: Server,
    *,
    stopping: Callable[[], bool],
    log: Log,
    on_missing: Callable[[EsError], None],
) -> Service:
    """The service as soon as its parts are there; until then requests are answered with what is missing.

    So nobody who asks has to guess, and nobody has to start the worker again. When `stopping()` comes first,
    it is a stand-in that goes on answering so.
    """
    logged = ""
    while True:
        try:
            return open_service()
        except (PartUnavailable, KeyUnavailable) as error:
            if logged != str(error):  # not every second for as long as an outage lasts
                log.error("cannot-open", error)
                logged = str(error)
            on_missing(error)
            stand_in = _Unopened(error)
        again_s = time.monotonic() + _OPEN_AGAIN_S
        while time.monotonic() < again_s:
            if stopping():
                return stand_in
            _turn(stand_in, server, list(server.receive(BATCH_LIMIT, _IDLE_WAIT_S)), lambda _: None, log)


def serve(
    service: Service,
    server: Server,
    *,
    stopping: Callable[[], bool],
    log: Log,
    on_trouble: Callable[[EsError], None] = lambda _: None,
) -> None:
    """Serve until `stopping()`; then answer what is here, for at most 5 s, and return.

    `on_trouble` is told of every answer that says that a part is down.
    """
    waiting: list[Delivery] = []
    while not stopping():
        fresh = list(server.receive(BATCH_LIMIT, _LATER_WAIT_S if waiting else _IDLE_WAIT_S))
        waiting = _turn(service, server, [*waiting, *fresh], on_trouble, log)
    # In this order: first nobody new, then everybody who is here, then the connections.
    server.stop_listening()
    deadline = time.monotonic() + _DRAIN_S
    while time.monotonic() < deadline:
        fresh = list(server.receive(BATCH_LIMIT, _LATER_WAIT_S))
        if not waiting and not fresh:
            break
        waiting = _turn(service, server, [*waiting, *fresh], on_trouble, log)
    server.close()


def _turn(
    service: Service, server: Server, batch: list[Delivery], on_trouble: Callable[[EsError], None], log: Log
) -> list[Delivery]:
    """Handle and answer one batch; return what is to be handed over again."""
    batch = [delivery for delivery in batch if not server.is_gone(delivery)]
    if not batch:
        return []
    replies = _handle(service, [delivery.request for delivery in batch], log)
    for reply in replies:
        if isinstance(reply, EsError) and reply.code in _PART_IS_DOWN:
            on_trouble(reply)
    pairs = list(zip(batch, replies, strict=True))
    server.answer([(delivery, reply) for delivery, reply in pairs if not isinstance(reply, Later)])
    return [delivery for delivery, reply in pairs if isinstance(reply, Later)]


def _handle(service: Service, requests: list[Request], log: Log) -> list[Reply]:
    try:
        return service.handle(requests)
    except EsError as error:
        # A part is down: that is everybody's answer, and it is safe to repeat.
        log.error("batch-failed", error, requests=len(requests))
        return [error for _ in requests]
    except Exception as error:
        log.error("batch-crashed", error, requests=len(requests), kind=requests[0].kind)
        if len(requests) == 1:
            return [InternalError()]
        # Commands are idempotent, so each may be tried again alone: the bad one fails without its neighbours.
        return [reply for request in requests for reply in _handle(service, [request], log)]
