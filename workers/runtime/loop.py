"""The loop of every worker: receive a batch, handle it once, reply.

Promise: every received request gets one reply, also during a stop, and a request that fails does not fail the others of
its batch. Refusal: nothing is kept here; what has to survive a crash is in the stores.

If the parts are servers and a service has two stages, one batch is completed in a thread of its own while the loop receives
and begins the next one: most of the time of both is waiting for other machines. Over files it is computing, and two threads
of one interpreter would only take turns: a bulk was a third slower. A third batch is not received before the first is answered,
so no more than two are in memory, and callers wait as they did. Batches are completed in order, so the commands to a stream
keep theirs. A request that may have ended a worker is handled while no other batch is under way: it would take
that one's requests with it, and the broker counts their deliveries.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from adapters.log import Log
from domain.kernel.errors import Damaged, EsError, KeyUnavailable, OtherSystem, PartUnavailable, shortened
from domain.kernel.messages import Later, Reply, Request
from domain.kernel.ports.transport import Delivery, Server, Service, StagedService

BATCH_LIMIT = 256
IDLE_WAIT_S = 0.2
"""How long an idle worker waits for requests before it checks whether to stop."""
DRAIN_S = 5.0
_LATER_WAIT_S = 0.005
_GATHER_S = 0.002
"""While a batch is completed, the next one grows until no request has come for so long."""
_REOPEN_INTERVAL_S = 1.0
_UNAVAILABLE = (PartUnavailable.code, KeyUnavailable.code)
"""Codes, not classes: the error of another worker arrives as an `AnsweredError`."""


class InternalError(EsError):
    """A bug: handling the request raised an exception that is no `EsError`. The log holds the place."""

    hint = "`es logs` shows the place. A retry is safe, and fails again until the code is corrected."

    def __str__(self) -> str:
        return "a bug in the worker's code stopped this request"


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
            batches = _Batches(unopened, server, lambda _: None, log)
        retry_at_s = time.monotonic() + _REOPEN_INTERVAL_S
        while time.monotonic() < retry_at_s:
            if stopping():
                return unopened
            batches.turn(list(server.receive(BATCH_LIMIT, IDLE_WAIT_S)))


def serve(
    service: Service,
    server: Server,
    *,
    stopping: Callable[[], bool],
    log: Log,
    on_reply: Callable[[EsError | None], None] = lambda _: None,
    overlaps: bool = False,
) -> None:
    """Serve until `stopping()`; then answer the received requests, for at most 5 s, and return.

    `overlaps`: whether batches of a service with two stages overlap.

    `on_reply` is called after each batch: with a reply that says that a part is unavailable, or with None.
    """
    batches = _Batches(service, server, on_reply, log, overlaps=overlaps)
    try:
        waiting: list[Delivery] = []
        while not stopping():
            waiting = batches.turn([*waiting, *_received(server, batches, bool(waiting))])
        # In this order: refuse new requests, answer the received ones, close the connections.
        server.stop_listening()
        deadline = time.monotonic() + DRAIN_S
        while time.monotonic() < deadline:
            fresh = list(server.receive(BATCH_LIMIT, _LATER_WAIT_S))
            if not waiting and not fresh and not batches.is_busy:
                break
            waiting = batches.turn([*waiting, *fresh], is_last=True)
        batches.finish()
        batches.settle()
    finally:
        batches.close()
    server.close()


def _received(server: Server, batches: _Batches, is_waiting: bool) -> list[Delivery]:
    fresh = list(server.receive(BATCH_LIMIT, _LATER_WAIT_S if is_waiting else IDLE_WAIT_S))
    while batches.is_busy and 0 < len(fresh) < BATCH_LIMIT:
        more = list(server.receive(BATCH_LIMIT - len(fresh), _GATHER_S))
        if not more:
            break
        fresh += more
    return fresh


class _Batches:
    """Handles and answers batches, one after the other or overlapped."""

    def __init__(
        self,
        service: Service,
        server: Server,
        on_reply: Callable[[EsError | None], None],
        log: Log,
        *,
        overlaps: bool = False,
    ) -> None:
        self._service = service
        self._server = server
        self._on_reply = on_reply
        self._log = log
        self._staged = service if isinstance(service, StagedService) else None
        self._thread = ThreadPoolExecutor(1, "complete") if overlaps and self._staged else None
        self._running: tuple[list[Delivery], Future[list[Reply]]] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a batch is being completed, or was completed and has no replies yet."""
        return self._running is not None

    def turn(self, batch: list[Delivery], *, is_last: bool = False) -> list[Delivery]:
        """Handle one batch; return the requests to hand over again. `is_last`: without idle ones."""
        ready: list[Delivery] = []
        full: list[Delivery] = []  # their replies would only wait in memory, beside those that wait already
        for delivery in batch:
            if not self._server.is_gone(delivery):
                (full if self._server.is_full(delivery) else ready).append(delivery)
        is_idle = not ready and self._running is None
        if self._staged is None or self._thread is None:
            full += self._handled(ready, is_last=is_last) if ready else []
        elif ready:
            self._overlap(self._staged, self._thread, ready)
        elif self._running is not None and self._running[1].done():
            self.finish()
        if is_idle:  # not at the turn that only answered a batch: the next request may be on its way
            self.settle()
        return full

    def settle(self) -> None:
        """Write what the batches until now left."""
        try:
            if self._staged is not None:
                self._staged.settle()
        except EsError as error:  # at the next turn again
            self._on_reply(error)

    def _handled(self, ready: list[Delivery], *, is_last: bool) -> list[Delivery]:
        requests = [delivery.request for delivery in ready]
        staged = self._staged
        work = _begun(staged, requests) if staged else lambda: self._service.handle(requests)
        later = self._answer(ready, _handle(work, self._service, requests, self._log))
        return [delivery for delivery, reply in later if not (is_last and reply.is_idle)]

    def _overlap(self, service: StagedService, thread: ThreadPoolExecutor, ready: list[Delivery]) -> None:
        """Begin a batch, answer the one before, and complete this one in the thread."""
        requests = [delivery.request for delivery in ready]
        is_alone = any(delivery.is_suspect for delivery in ready)
        if is_alone:
            self.finish()
        complete = _begun(service, requests)
        self.finish()
        future = thread.submit(_handle, complete, service, requests, self._log)
        self._running = ready, future
        future.add_done_callback(lambda _: self._server.wake())
        if is_alone:
            self.finish()

    def finish(self) -> None:
        """Wait for the batch that is being completed, and answer it."""
        if self._running is not None:
            (ready, future), self._running = self._running, None
            self._answer(ready, future.result())

    def _answer(self, ready: list[Delivery], replies: list[Reply]) -> list[tuple[Delivery, Later]]:
        """Send the replies. Return the requests that have none yet."""
        unavailable = (r for r in replies if isinstance(r, EsError) and r.code in _UNAVAILABLE)
        self._on_reply(next(unavailable, None))
        pairs = list(zip(ready, replies, strict=True))
        self._server.answer([(delivery, reply) for delivery, reply in pairs if not isinstance(reply, Later)])
        return [(delivery, reply) for delivery, reply in pairs if isinstance(reply, Later)]

    def close(self) -> None:
        """Wait for the thread."""
        if self._thread is not None:
            self._thread.shutdown()


def _begun(service: StagedService, requests: list[Request]) -> Callable[[], list[Reply]]:
    """Run the first stage; return the second one."""
    try:
        begun = service.begin(requests)
    except Exception as error:
        failed = error  # handled in its turn, as an error of the second stage

        def fail() -> list[Reply]:
            raise failed

        return fail
    return lambda: service.complete(begun)


def _handle(
    work: Callable[[], list[Reply]], service: Service, requests: list[Request], log: Log
) -> list[Reply]:
    try:
        return work()
    except EsError as error:
        # A part is unavailable: the reply to every request. A retry is safe.
        log.error("batch-failed", error, requests=len(requests))
        return [error for _ in requests]
    except Exception as error:
        log.error("batch-crashed", error, requests=len(requests), kind=shortened(requests[0].kind, 100))
        if len(requests) == 1:
            return [InternalError()]
        # Retry each alone, which is safe because commands are idempotent: only the bad request fails.
        return [
            reply
            for request in requests
            for reply in _handle(lambda: service.handle([request]), service, [request], log)  # noqa: B023
        ]
