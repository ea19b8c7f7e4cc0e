"""The loop of every worker: receive a batch, handle it once, reply.

Promise: every received request gets one reply, also during a stop, and a request that fails does not fail the others of
its batch. Refusal: nothing is kept here; what has to survive a crash is in the stores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from adapters.log import Log
from domain.kernel.errors import Damaged, EsError, KeyUnavailable, OtherSystem, PartUnavailable, shortened
from domain.kernel.messages import Later, Reply, Request
from domain.kernel.ports.transport import Delivery, Server, Service

BATCH_LIMIT = 256
IDLE_WAIT_S = 0.1
"""How long an idle worker waits for requests before it checks whether to stop."""
DRAIN_S = 5.0
_LATER_WAIT_S = 0.005
_REOPEN_INTERVAL_S = 1.0
_UNAVAILABLE = (PartUnavailable.code, KeyUnavailable.code)
"""Codes, not classes: the error of another worker arrives as an `AnsweredError`."""


class InternalError(EsError):
    """A bug: handling the request raised an exception that is no `EsError`. The log holds the place."""

    code = "internal"


class _Unopened:
    """Answers every request with the error that keeps the service from being opened."""

    def __init__(self, missing: EsError) -> None:
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
    ends_with: tuple[type[EsError], ...] = (),
) -> Service:
    """Open a service, every second until its parts can be used. Meanwhile its requests are answered with the error.

    A damaged or foreign part is an error like a missing one: an operator may restore it while the worker runs. But the
    errors `ends_with` are raised at once, and no request is received.

    `on_missing` is called after each failed attempt. If `stopping()` comes first, the returned service answers every
    request with the error.
    """
    logged = ""
    while True:
        try:
            return open_service()
        except ends_with:
            raise
        except (PartUnavailable, KeyUnavailable, Damaged, OtherSystem) as error:
            if logged != str(error):  # once per outage, not every second
                log.error("cannot-open", error)
                logged = str(error)
            on_missing(error)
            unopened = _Unopened(error)
        retry_at_s = time.monotonic() + _REOPEN_INTERVAL_S
        while time.monotonic() < retry_at_s:
            if stopping():
                return unopened
            _turn(unopened, server, list(server.receive(BATCH_LIMIT, IDLE_WAIT_S)), lambda _: None, log)


def serve(
    service: Service,
    server: Server,
    *,
    stopping: Callable[[], bool],
    log: Log,
    on_reply: Callable[[EsError | None], None] = lambda _: None,
) -> None:
    """Serve until `stopping()`; then answer the received requests, for at most 5 s, and return.

    `on_reply` is called after each batch: with a reply that says that a part is unavailable, or with None.
    """
    waiting: list[Delivery] = []
    while not stopping():
        fresh = list(server.receive(BATCH_LIMIT, _LATER_WAIT_S if waiting else IDLE_WAIT_S))
        waiting = _turn(service, server, [*waiting, *fresh], on_reply, log)
    # In this order: refuse new requests, answer the received ones, close the connections.
    server.stop_listening()
    deadline = time.monotonic() + DRAIN_S
    while time.monotonic() < deadline:
        fresh = list(server.receive(BATCH_LIMIT, _LATER_WAIT_S))
        if not waiting and not fresh:
            break
        waiting = _turn(service, server, [*waiting, *fresh], on_reply, log, is_last=True)
    server.close()


def _turn(
    service: Service,
    server: Server,
    batch: list[Delivery],
    on_reply: Callable[[EsError | None], None],
    log: Log,
    *,
    is_last: bool = False,
) -> list[Delivery]:
    """Handle and answer one batch; return the requests to hand over again. `is_last`: without idle ones."""
    ready: list[Delivery] = []
    full: list[Delivery] = []  # their replies would only wait in memory, beside those that wait already
    for delivery in batch:
        if not server.is_gone(delivery):
            (full if server.is_full(delivery) else ready).append(delivery)
    if not ready:
        return full
    replies = _handle(service, [delivery.request for delivery in ready], log)
    unavailable = (reply for reply in replies if isinstance(reply, EsError) and reply.code in _UNAVAILABLE)
    on_reply(next(unavailable, None))
    pairs = list(zip(ready, replies, strict=True))
    server.answer([(delivery, reply) for delivery, reply in pairs if not isinstance(reply, Later)])
    later = [(delivery, reply) for delivery, reply in pairs if isinstance(reply, Later)]
    return full + [delivery for delivery, reply in later if not (is_last and reply.is_idle)]


def _handle(service: Service, requests: list[Request], log: Log) -> list[Reply]:
    try:
        return service.handle(requests)
    except EsError as error:
        # A part is unavailable: the reply to every request. A retry is safe.
        log.error("batch-failed", error, requests=len(requests))
        return [error for _ in requests]
    except Exception as error:
        log.error("batch-crashed", error, requests=len(requests), kind=shortened(requests[0].kind, 100))
        if len(requests) == 1:
            return [InternalError()]
        # Retry each alone, which is safe because commands are idempotent: only the bad request fails.
        return [reply for request in requests for reply in _handle(service, [request], log)]
