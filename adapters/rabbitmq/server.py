"""The answering end of RabbitMQ for one role: what competing workers consume from `es.<role>`.

A message holds one request `{"kind", "body"}`, a list of them, or `{"requests": […]}`; the answer is
`{"replies": [[index, {"ok"} or {"error"}], …]}` under the same correlation id. A message is acknowledged when
all its requests are answered, so a worker that dies leaves it to another.

Promise: a tag is settled only on the channel that it came from, and only after its replies went out.
Refusal: the thread that works never touches the connection, and a message that can't be read is never
guessed or tried again: it is rejected into the dead-letter queue.
"""

from __future__ import annotations

import collections
import itertools
import json
import math
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from adapters.rabbitmq.connection import (
    DELIVERY_LIMIT,
    PATIENCE_HEADER,
    ROLL_CALL,
    Link,
    Log,
    Properties,
    Silence,
    can_be_answered,
    declare_queues,
    declare_roll_call,
    queue_of,
)
from domain.kernel.errors import EsError, Kind, MessageTooLarge
from domain.kernel.messages import Body, Later, Reply, Request, to_json

PREFETCH_COUNT = 512
"""Messages that a worker holds unacknowledged: a whole batch, the next one, and requests that have to wait."""
MAX_REPLY_BYTES = 1 << 20
"""Of one reply, as over the local transport; and about what one message of replies holds."""
SUSPECT_AFTER = 3
"""A message delivered again this often may be what kills workers, and is handed over alone from then on."""
_CANCEL_TIMEOUT_S = 1.0


class Message:
    """A message that was delivered, and how many of its requests have no answer yet."""

    __slots__ = (
        "generation",
        "is_undone",
        "properties",
        "raw",
        "reply_to",
        "tag",
        "unanswered",
        "wanted_until",
    )

    def __init__(self, generation: int, tag: int, properties: Any, raw: bytes) -> None:
        self.generation = generation
        self.tag = tag
        self.properties = properties
        self.raw = raw
        self.reply_to = properties.reply_to if can_be_answered(properties.reply_to) else None
        self.unanswered = 0
        self.is_undone = False  # nobody waits for its answer, and a part was down
        patience_ms = self._header(PATIENCE_HEADER)
        self.wanted_until = math.inf if patience_ms is None else time.monotonic() + patience_ms / 1000

    @property
    def is_suspect(self) -> bool:
        return (self._header("x-delivery-count") or 0) >= SUSPECT_AFTER

    def _header(self, name: str) -> int | None:
        value = (self.properties.headers or {}).get(name)
        return value if isinstance(value, int) else None


class Delivery:
    """One request of a message. `was_begun` once the service has seen it."""

    __slots__ = ("index", "message", "request", "was_begun")

    def __init__(self, message: Message, index: int, request: Request) -> None:
        self.message = message
        self.index = index
        self.request = request
        self.was_begun = False


def parse_requests(raw: bytes) -> list[Request]:
    """The requests of a message. Raises ValueError or RecursionError when it is malformed."""
    value = json.loads(str(raw, "utf-8", "surrogatepass"))
    if isinstance(value, dict):
        value = value.get("requests", [value])
    if not isinstance(value, list) or not value:
        raise ValueError("neither a request nor a list of requests")
    requests = []
    for item in value:
        kind, body = (item.get("kind"), item.get("body", {})) if isinstance(item, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(body, dict):
            raise ValueError("not a request")
        requests.append(Request(kind, body))
    return requests


class Tags:
    """Unsettled delivery tags of one channel, in the order of delivery."""

    def __init__(self) -> None:
        self._settled: dict[int, bool] = {}
        self._waiting = 0  # settled, but not yet acknowledged

    def add(self, tag: int) -> None:
        self._settled[tag] = False

    def settle(self, tag: int) -> None:
        self._settled[tag] = True
        self._waiting += 1

    def forget(self, tag: int) -> None:
        """It was rejected, so no acknowledgement may name it."""
        del self._settled[tag]

    def take(self) -> list[tuple[int, bool]]:
        """What to acknowledge now, as (tag, multiple); each settled tag is covered exactly once.

        `multiple` covers everything older, so it is used only where everything older is settled.
        """
        front = list(itertools.takewhile(self._settled.__getitem__, self._settled))
        for tag in front:
            del self._settled[tag]
        beyond: list[int] = []
        if self._waiting > len(front):  # something older is still being worked on
            beyond = [tag for tag, settled in self._settled.items() if settled]
            for tag in beyond:
                del self._settled[tag]
        self._waiting = 0
        return [(tag, True) for tag in front[-1:]] + [(tag, False) for tag in beyond]


class RabbitServer:
    """Hands over whatever was delivered. `receive` and `answer` belong to one thread, the I/O to another."""

    def __init__(
        self,
        url: str,
        role: str,
        *,
        log: Log | None = None,
        on_serving: Callable[[], None] = lambda: None,
        on_away: Callable[[EsError], None] = lambda _: None,
        describe: Callable[[], Body] | None = None,
        prefetch_count: int = PREFETCH_COUNT,
        delivery_limit: int = DELIVERY_LIMIT,
    ) -> None:
        """`on_serving` and `on_away` are told, in the I/O thread, each time the broker is there or lost.

        `describe` tells, in the I/O thread too, how this worker is; without it nobody hears of it in a roll call.
        """
        self._role = role
        self._log = log or Silence()
        self._on_serving = on_serving
        self._on_away = on_away
        self._describe = describe
        self._prefetch_count = prefetch_count
        self._delivery_limit = delivery_limit
        # From the I/O thread to the worker; None wakes it to look at the link.
        self._incoming: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        # From the worker to the I/O thread: bodies of replies, and whether the message is settled; None is a reject.
        self._outgoing: collections.deque[tuple[Message, list[bytes] | None, bool]] = collections.deque()
        # Of the worker alone:
        self._ready: collections.deque[Delivery] = collections.deque()
        self._suspects: list[Message] = []
        # Of the I/O thread alone, but that the worker looks at the generation:
        self._generation = 0
        self._channel: Any = None
        self._tags = Tags()
        self._consumer = ""
        self._listening = True
        self._consuming = threading.Event()
        # Under a memory alarm neither replies nor acknowledgements get through. Connecting anew wouldn't help, and
        # would count as a delivery each time, until sound requests were dead letters.
        self._link = Link(url, self, log=self._log, name=f"rabbitmq-{role}", waits_while_blocked=True)
        self._is_started = False

    # --- for the worker ------------------------------------------------------------------------

    def receive(self, limit: int, wait_s: float) -> list[Delivery]:
        """Up to `limit` requests, as soon as there are any; an empty list after `wait_s` seconds.

        Raises `QueueMismatch` when the role's queue can't be declared: only a person can mend that.
        """
        self._start()
        self._raise_failure()
        if not self._ready:
            self._take(limit, 0 if self._suspects else wait_s)
            self._raise_failure()
        if not self._ready and self._suspects:
            # At random, because whatever is handed over before the one that kills has got away from it.
            chosen = random.randrange(len(self._suspects))  # noqa: S311
            self._unpack(self._suspects.pop(chosen))
        return [self._ready.popleft() for _ in range(min(limit, len(self._ready)))]

    def _start(self) -> None:
        """Consume from the first `receive` on. Not before: a worker that can't build its service, and is
        started again and again, would use up the deliveries of requests that it never looked at."""
        if not self._is_started:
            self._is_started = True
            self._link.start()

    def _raise_failure(self) -> None:
        if self._link.failure is not None:
            raise self._link.failure

    def _take(self, limit: int, wait_s: float) -> None:
        try:
            message = self._incoming.get(timeout=wait_s) if wait_s > 0 else self._incoming.get_nowait()
            while True:
                if message is not None and message.generation == self._generation:
                    if message.is_suspect:
                        self._suspects.append(message)
                    else:
                        self._unpack(message)
                if len(self._ready) >= limit:
                    return
                message = self._incoming.get_nowait()
        except queue.Empty:
            return

    def _unpack(self, message: Message) -> None:
        if message.generation != self._generation:
            return
        try:
            if message.properties.has_bad_headers:
                raise ValueError("how often it came back can't be told")
            requests = parse_requests(message.raw)
        except (ValueError, RecursionError):
            self._outgoing.append((message, None, True))
            self._link.wake()
            return
        message.raw = b""
        message.unanswered = len(requests)
        self._ready.extend(Delivery(message, index, request) for index, request in enumerate(requests))

    def answer(self, replies: Sequence[tuple[Delivery, Reply]]) -> None:
        """Send replies; a message whose last request this answers is acknowledged.

        What belongs to a channel that is gone is passed over: the broker delivers it again.
        """
        by_message: dict[Message, list[bytes]] = {}
        for delivery, reply in replies:
            assert not isinstance(reply, Later)
            if isinstance(reply, EsError) and reply.kind is Kind.UNAVAILABLE:
                delivery.message.is_undone |= not delivery.message.reply_to
            by_message.setdefault(delivery.message, []).append(_encode(delivery.index, reply))
        for message, parts in by_message.items():
            self._answered(message, len(parts), _bodies(parts) if message.reply_to else [])
        self._link.wake()

    def _answered(self, message: Message, count: int, bodies: list[bytes]) -> None:
        message.unanswered -= count
        if message.is_undone and message.unanswered == 0:
            # A retried dead letter, say. Nobody else would ever send it again: it goes back there.
            self._outgoing.append((message, None, True))
        else:
            self._outgoing.append((message, bodies, message.unanswered == 0))

    def is_gone(self, delivery: Delivery) -> bool:
        """Whether nobody waits for its answer from here any more.

        Either its channel is gone, and the broker delivers it again; or it was answered with `LATER` until its
        caller had certainly given up, and then it is done with. What was never begun is done all the same.
        """
        message = delivery.message
        if message.generation != self._generation:
            return True
        if not delivery.was_begun or time.monotonic() < message.wanted_until:
            delivery.was_begun = True
            return False
        self._answered(message, 1, [])
        self._link.wake()
        return True

    def wait_until_ready(self, wait_s: float) -> bool:
        """Whether requests reach this worker, as soon as they do; false after `wait_s` seconds."""
        self._start()
        return self._consuming.wait(wait_s) and self._link.failure is None

    def stop_listening(self) -> None:
        """Have nothing more delivered. When this returns, what was delivered is here to be received."""
        cancelled = threading.Event()
        self._link.call(lambda: self._cancel(cancelled))
        cancelled.wait(_CANCEL_TIMEOUT_S)

    def close(self) -> None:
        """Send and acknowledge what was answered; the broker gives the rest to somebody else."""
        self._link.close()

    # --- in the I/O thread ---------------------------------------------------------------------

    def opened(self, channel: Any) -> None:
        self._generation += 1
        self._channel, self._tags = channel, Tags()
        declare_queues(channel, self._role, delivery_limit=self._delivery_limit)
        channel.basic_qos(prefetch_count=self._prefetch_count)
        if self._describe is None:
            self._consume(channel)
        else:  # the roll call first: whoever is counted as a consumer answers it
            declare_roll_call(channel)
            channel.queue_declare("", exclusive=True, callback=partial(self._join_roll_call, channel))

    def _join_roll_call(self, channel: Any, declared: Any) -> None:
        channel.queue_bind(declared.method.queue, ROLL_CALL)
        channel.basic_consume(declared.method.queue, self._on_roll_call, auto_ack=True)
        self._consume(channel)

    def _consume(self, channel: Any) -> None:
        if self._listening:
            self._consumer = channel.basic_consume(
                queue_of(self._role), self._on_message, callback=self._on_consuming
            )
        else:
            self._link.settled()

    def lost(self, error: EsError) -> None:  # the link has logged it
        self._generation += 1
        self._channel = None
        self._consuming.clear()
        self._incoming.put(None)
        self._on_away(error)

    def _on_consuming(self, _: Any) -> None:
        self._link.settled()
        self._consuming.set()
        self._on_serving()

    def _on_roll_call(self, channel: Any, method: Any, properties: Any, raw: bytes) -> None:
        if self._describe is not None and can_be_answered(properties.reply_to):
            channel.basic_publish("", properties.reply_to, to_json(self._describe()).encode())

    def _on_message(self, channel: Any, method: Any, properties: Any, raw: bytes) -> None:
        self._tags.add(method.delivery_tag)
        message = Message(self._generation, method.delivery_tag, properties, raw)
        if properties.reply_to and not message.reply_to:
            self._log.warning("reply-undeliverable", reason="reply_to is malformed")
        self._incoming.put(message)

    def pump(self) -> None:
        while self._outgoing:
            message, bodies, settled = self._outgoing.popleft()
            # Tags of another channel are other messages': acknowledging one here would lose a message for ever.
            if message.generation != self._generation:
                continue
            if bodies is None:
                self._channel.basic_reject(message.tag, requeue=False)
                self._tags.forget(message.tag)
                continue
            # Replies before the acknowledgement: a crash between the two answers twice, never not at all.
            for body in bodies:
                self._channel.basic_publish(
                    "",
                    message.reply_to,
                    body,
                    Properties(correlation_id=message.properties.correlation_id),
                )
            if settled:
                self._tags.settle(message.tag)
        for tag, multiple in self._tags.take():
            self._channel.basic_ack(tag, multiple)

    def _cancel(self, cancelled: threading.Event) -> None:
        self._listening = False
        if self._channel is not None and self._channel.is_open and self._consumer:
            self._channel.basic_cancel(self._consumer, callback=lambda _: cancelled.set())
        else:
            cancelled.set()


def _encode(index: int, reply: Reply) -> bytes:
    answer = {"error": reply.to_wire()} if isinstance(reply, EsError) else {"ok": reply}
    raw = to_json([index, answer]).encode("utf-8", "surrogatepass")
    if len(raw) > MAX_REPLY_BYTES:
        return _encode(index, MessageTooLarge("the answer", MAX_REPLY_BYTES))
    return raw


def _bodies(parts: list[bytes]) -> list[bytes]:
    """Replies packed into as few messages as their size allows; the broker refuses messages of many megabytes."""
    groups: list[list[bytes]] = [[]]
    size = 0
    for part in parts:
        if size + len(part) > MAX_REPLY_BYTES and groups[-1]:
            groups.append([])
            size = 0
        groups[-1].append(part)
        size += len(part)
    return [b'{"replies":[' + b",".join(group) + b"]}" for group in groups]
