"""The RabbitMQ server of one role: receive requests from the queue `es.<role>` and reply to them.

A message holds one request `{"kind", "body"}`, a list of them, or `{"requests": […]}`. The reply is
`{"replies": [[index, {"ok"} or {"error"}], …]}` under the same correlation id. A message is acknowledged when
all its requests are answered, so the broker redelivers the messages of a worker that dies.

Promise: an unreadable message is rejected and becomes a dead letter. Refusal: this is the worker thread's
part, and it never touches the connection; see `consumer` for the I/O thread's part.
"""

from __future__ import annotations

import collections
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from uuid import UUID

from adapters.rabbitmq.consumer import Consumer, Handover, Message, Verdict
from adapters.rabbitmq.link import Log
from adapters.rabbitmq.messages import requests_of
from domain.kernel.errors import EsError, InvalidInput, Kind, MessageTooLarge
from domain.kernel.messages import MAX_MESSAGE_BYTES, Body, Later, Reply, Request, encode

_UNSENT_LIMIT_BYTES = 8 << 20
"""Replies that the broker has not taken. Beyond it no request is handled."""
_CANCEL_TIMEOUT_S = 1.0


class Delivery:
    """One request of a message. `was_begun` once the service has seen it."""

    __slots__ = ("index", "message", "request", "was_begun")

    def __init__(self, message: Message, index: int, request: Request) -> None:
        self.message = message
        self.index = index
        self.request = request
        self.was_begun = False

    @property
    def is_suspect(self) -> bool:
        return self.message.is_suspect


def parse_requests(raw: bytes) -> list[Request]:
    """The requests of a message. Raises ValueError if it is malformed."""
    requests = []
    for item in requests_of(raw):
        kind, body = item.get("kind"), item.get("body", {})
        if not isinstance(kind, str) or not isinstance(body, dict):
            raise ValueError("not a request")
        requests.append(Request(kind, body))
    return requests


class RabbitServer:
    """A `Server` over RabbitMQ. All methods but `wake` and all fields belong to one thread, the worker thread."""

    def __init__(
        self,
        url: str,
        role: str,
        *,
        log: Log,
        on_serving: Callable[[], None],
        on_away: Callable[[EsError], None],
        describe: Callable[[], Body],
        system_id: Callable[[], UUID | None] = lambda: None,
    ) -> None:
        """The I/O thread calls `on_serving` once requests can arrive, and `on_away` after the broker was lost.

        It also calls `describe`, for the state of this worker in a roll call, and with each connection `system_id`,
        for the id of the system that the broker has to belong to; None while it is unknown.
        """
        self._handover = Handover()
        self._consumer = Consumer(
            url,
            role,
            self._handover,
            log=log,
            on_serving=on_serving,
            on_away=on_away,
            describe=describe,
            system_id=system_id,
        )
        self._link = self._consumer.link
        self._ready: collections.deque[Delivery] = collections.deque()
        self._suspects: list[Message] = []
        self._is_started = False

    def receive(self, limit: int, wait_s: float) -> list[Delivery]:
        """Receive up to `limit` requests, as soon as there are any; none after `wait_s` seconds.

        Raises `QueueMismatch` if the role's queue cannot be declared, and `ForeignPart` if the broker belongs to another
        system: an operator must fix it.
        """
        self._start()
        self._raise_failure()
        if not self._ready:
            self._take(limit, 0 if self._suspects else wait_s)
            self._raise_failure()
        if not self._ready and self._suspects:
            # At random: a suspect that is always handled before the one that crashes is never acknowledged.
            chosen = random.randrange(len(self._suspects))  # noqa: S311
            self._unpack(self._suspects.pop(chosen))
        return [self._ready.popleft() for _ in range(min(limit, len(self._ready)))]

    def _start(self) -> None:
        """Consume from the first `receive` on.

        Not earlier: a worker that cannot open its service and is restarted again and again would use up the
        deliveries of requests that it never handled.
        """
        if not self._is_started:
            self._is_started = True
            self._link.start()

    def _raise_failure(self) -> None:
        if self._link.failure is not None:
            raise self._link.failure

    def _take(self, limit: int, wait_s: float) -> None:
        """Take messages until `limit` requests are ready or none is waiting. Suspects are set aside."""
        incoming = self._handover.incoming
        try:
            message = incoming.get(timeout=wait_s) if wait_s > 0 else incoming.get_nowait()
            while True:
                if message is not None and not self._is_stale(message):
                    if message.is_suspect:
                        self._suspects.append(message)
                    else:
                        self._unpack(message)
                if len(self._ready) >= limit:
                    return
                message = incoming.get_nowait()
        except queue.Empty:
            return

    def _is_stale(self, message: Message) -> bool:
        """Whether the channel of a message is lost. The broker delivers such a message again."""
        return message.generation != self._handover.generation

    def _unpack(self, message: Message) -> None:
        if self._is_stale(message):
            return
        try:
            if message.has_bad_headers:
                raise ValueError("the number of its deliveries is unknown")
            requests = parse_requests(message.raw)
        except ValueError:
            self._handover.outgoing.append((message, (), Verdict.REJECT))
            self._link.wake()
            return
        message.raw = b""
        message.unanswered = len(requests)
        self._ready.extend(Delivery(message, index, request) for index, request in enumerate(requests))

    def wake(self) -> None:
        """Let a `receive` that waits, or else the next one, return at once. Any thread may call it."""
        self._handover.incoming.put(None)

    def answer(self, replies: Sequence[tuple[Delivery, Reply]]) -> None:
        """Send replies. A message is acknowledged with the reply to its last request.

        Replies for a lost channel are dropped: the broker delivers the requests again.
        """
        by_message: dict[Message, list[bytes]] = {}
        for delivery, reply in replies:
            assert not isinstance(reply, Later)
            if isinstance(reply, EsError) and reply.kind is Kind.UNAVAILABLE:
                delivery.message.is_undone |= not delivery.message.reply_to
            by_message.setdefault(delivery.message, []).append(_encode(delivery.index, reply))
        for message, parts in by_message.items():
            self._hand_over(message, len(parts), _bodies(parts) if message.reply_to else [])
        self._link.wake()

    def _hand_over(self, message: Message, count: int, bodies: Sequence[bytes]) -> None:
        """Pass on the replies to `count` requests of a message, and its verdict."""
        message.unanswered -= count
        verdict = Verdict.UNFINISHED if message.unanswered else Verdict.ACKNOWLEDGE
        if message.is_undone and verdict is Verdict.ACKNOWLEDGE:
            # For example a retried dead letter. No caller would send it again, so it becomes one again.
            verdict, bodies = Verdict.REJECT, ()
        self._handover.answered_bytes += sum(map(len, bodies))
        self._handover.outgoing.append((message, bodies, verdict))

    def is_gone(self, delivery: Delivery) -> bool:
        """Whether no caller waits for this delivery any more.

        Either its channel is lost, and the broker delivers it again. Or it was answered with `LATER` until
        its caller timed out, and it is settled here. A request that was never begun is handled even so.
        """
        message = delivery.message
        if self._is_stale(message):
            return True
        if not delivery.was_begun or time.monotonic() < message.expires_at:
            delivery.was_begun = True
            return False
        self._hand_over(message, 1, ())
        self._link.wake()
        return True

    def is_full(self, delivery: Delivery) -> bool:
        """Whether the broker takes replies more slowly than they are made, for example during an alarm."""
        return self._handover.answered_bytes - self._handover.sent_bytes >= _UNSENT_LIMIT_BYTES

    def stop_listening(self) -> None:
        """Stop deliveries. Messages that were delivered before can be received once this returns."""
        cancelled = threading.Event()
        self._link.call(lambda: self._consumer.cancel(cancelled))
        cancelled.wait(_CANCEL_TIMEOUT_S)

    def close(self) -> None:
        """Send and acknowledge what was answered. The broker delivers the rest to another worker."""
        self._link.close()


def _encode(index: int, reply: Reply) -> bytes:
    answer = {"error": reply.to_wire()} if isinstance(reply, EsError) else {"ok": reply}
    try:
        return encode([index, answer], "the reply")
    except (MessageTooLarge, InvalidInput) as error:
        return _encode(index, error)


def _bodies(parts: list[bytes]) -> list[bytes]:
    """Pack replies into few messages of limited size: the broker refuses messages of many megabytes."""
    groups: list[list[bytes]] = [[]]
    size = 0
    for part in parts:
        if size + len(part) > MAX_MESSAGE_BYTES and groups[-1]:
            groups.append([])
            size = 0
        groups[-1].append(part)
        size += len(part)
    return [b'{"replies":[' + b",".join(group) + b"]}" for group in groups]
