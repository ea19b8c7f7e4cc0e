"""Receive the messages of one role and settle them: the I/O thread's part of a RabbitMQ server.

Two threads share a server. Each has an object of its own, and `Handover` is all that passes between them:

    I/O thread: Consumer  ── Message ──►  Handover  ──►  worker thread: RabbitServer
                          ◄── Outcome ──            ◄──

Promise: a delivery tag is settled only on the channel that it came from, and only after its replies were
published. Refusal: nothing here reads a request or waits for work.
"""

from __future__ import annotations

import collections
import itertools
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from typing import Any
from uuid import UUID

import pika.exceptions  # type: ignore[import-untyped]

from adapters.rabbitmq.link import Link, Log
from adapters.rabbitmq.messages import (
    QUEUE_LIMIT_BYTES,
    ROLL_CALL,
    TIMEOUT_HEADER,
    Properties,
    can_be_answered,
    declare_dead_queue,
    declare_queue,
    declare_roll_call,
    declare_system,
    queue_of,
)
from domain.kernel.errors import EsError
from domain.kernel.messages import MAX_MESSAGE_BYTES, Body, to_json

PREFETCH_COUNT = 512
"""Unacknowledged messages of a worker: a whole batch, the next one, and requests answered with `LATER`."""
SUSPECT_AFTER = 3
"""A message that was redelivered this often may crash workers. From then on it is handled alone."""
_MESSAGE_LIMIT_BYTES = 2 * MAX_MESSAGE_BYTES
"""A larger message becomes a dead letter. Callers put more than one request in a message only if they are small."""
_ROOM_POLL_S = 0.01


# --- between the threads ---------------------------------------------------------------------


class Message:
    """A delivered message. The I/O thread makes it, then it belongs to the worker thread.

    Generation, tag and addresses never change, so the I/O thread may read them again in an outcome.
    """

    __slots__ = (
        "correlation_id",
        "expires_at",
        "generation",
        "has_bad_headers",
        "is_suspect",
        "is_undone",
        "raw",
        "reply_to",
        "tag",
        "unanswered",
    )

    def __init__(self, generation: int, tag: int, properties: Any, raw: bytes) -> None:
        self.generation = generation  # the number of the channel that delivered it
        self.tag = tag
        self.reply_to: str | None = properties.reply_to if can_be_answered(properties.reply_to) else None
        self.correlation_id: str | None = properties.correlation_id
        self.has_bad_headers: bool = properties.has_bad_headers
        self.is_suspect = (_number(properties, "x-delivery-count") or 0) >= SUSPECT_AFTER
        timeout_ms = _number(properties, TIMEOUT_HEADER)
        # Monotonic seconds: from then on the caller has stopped waiting.
        self.expires_at = math.inf if timeout_ms is None else time.monotonic() + timeout_ms / 1000
        # Changed by the worker thread:
        self.raw = raw
        self.unanswered = 0
        self.is_undone = False  # a part was unavailable, and no caller waits for the reply


def _number(properties: Any, header: str) -> int | None:
    value = (properties.headers or {}).get(header)
    return value if isinstance(value, int) else None


class Verdict(Enum):
    """What becomes of a message after the replies of an outcome were published."""

    UNFINISHED = "more replies follow"
    ACKNOWLEDGE = "done"
    REJECT = "it becomes a dead letter"


Outcome = tuple[Message, Sequence[bytes], Verdict]
"""A message, the bodies of replies to it, and its verdict."""


class Handover:
    """All that passes between the I/O thread and the worker thread of one server."""

    def __init__(self) -> None:
        # From the I/O thread. None only wakes the worker thread, so that it looks at the link.
        self.incoming: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        # From the worker thread, which wakes the link afterwards.
        self.outgoing: collections.deque[Outcome] = collections.deque()
        # Bytes of replies: those that the worker thread passed on, and those that the I/O thread has published.
        self.answered_bytes = self.sent_bytes = 0
        # Written by the I/O thread for each channel that it opens or loses. Messages of others are stale.
        self.generation = 0


# --- the I/O thread --------------------------------------------------------------------------


class Tags:
    """The unsettled delivery tags of one channel, in order of delivery."""

    def __init__(self) -> None:
        self._settled: dict[int, bool] = {}
        self._waiting = 0  # settled, but not yet acknowledged

    def add(self, tag: int) -> None:
        self._settled[tag] = False

    def settle(self, tag: int) -> None:
        self._settled[tag] = True
        self._waiting += 1

    def forget(self, tag: int) -> None:
        """Drop a rejected tag: no acknowledgement may name it."""
        del self._settled[tag]

    def take(self) -> list[tuple[int, bool]]:
        """The acknowledgements that are due, as (tag, multiple). Each settled tag is covered once.

        `multiple` covers every older tag, so it is used only if all of them are settled.
        """
        front = list(itertools.takewhile(self._settled.__getitem__, self._settled))
        for tag in front:
            del self._settled[tag]
        beyond: list[int] = []
        if self._waiting > len(front):  # an older one is still being worked on
            beyond = [tag for tag, settled in self._settled.items() if settled]
            for tag in beyond:
                del self._settled[tag]
        self._waiting = 0
        return [(tag, True) for tag in front[-1:]] + [(tag, False) for tag in beyond]


class Consumer:
    """Consumes the queue of a role over one link. Only `link` is for other threads."""

    def __init__(
        self,
        url: str,
        role: str,
        handover: Handover,
        *,
        log: Log,
        on_serving: Callable[[], None],
        on_away: Callable[[EsError], None],
        describe: Callable[[], Body],
        system_id: Callable[[], UUID | None],
    ) -> None:
        self._role = role
        self._handover = handover
        self._log = log
        self._on_serving = on_serving
        self._on_away = on_away
        self._describe = describe
        self._system_id = system_id
        self._channel: Any = None
        self._tags = Tags()
        self._consumer_tag = ""
        self._is_cancelled = False
        # During a memory alarm neither replies nor acknowledgements are sent. Reconnecting would not help, and
        # each time would count as a delivery, until sound requests became dead letters.
        self.link = Link(url, self, log=log, name=f"rabbitmq-{role}", waits_while_blocked=True)

    def opened(self, channel: Any) -> None:
        self._handover.generation += 1
        self._channel, self._tags = channel, Tags()
        self.pump()  # drop the replies of the last channel: they count until then
        # First of all: on a refusal the broker closes the channel, and no request of another system is taken.
        if (system_id := self._system_id()) is not None:
            declare_system(channel, system_id)
        declare_dead_queue(channel, self._role)
        # On a channel of its own, because a refusal closes it: the queue of an earlier version has no limit.
        channel.connection.channel(on_open_callback=partial(self._declare_queue, channel))

    def _declare_queue(self, channel: Any, trial: Any) -> None:
        trial.add_on_close_callback(partial(self._set_up, channel))
        declare_queue(trial, self._role, limit_bytes=QUEUE_LIMIT_BYTES, callback=lambda _: trial.close())

    def _set_up(self, channel: Any, _trial: Any, reason: BaseException) -> None:
        if not channel.is_open:
            return
        if isinstance(reason, pika.exceptions.ChannelClosedByBroker):
            limit_bytes = None if "x-max-length-bytes" in reason.reply_text else QUEUE_LIMIT_BYTES
            declare_queue(channel, self._role, limit_bytes=limit_bytes)  # refused too if more differs
        channel.basic_qos(prefetch_count=PREFETCH_COUNT)
        # The roll call before the role's queue: every worker that is counted as a consumer answers it.
        declare_roll_call(channel)
        channel.queue_declare("", exclusive=True, callback=partial(self._join_roll_call, channel))

    def _join_roll_call(self, channel: Any, declared: Any) -> None:
        channel.queue_bind(declared.method.queue, ROLL_CALL)
        channel.basic_consume(declared.method.queue, self._on_roll_call, auto_ack=True)
        if self._is_cancelled:
            self.link.settled()
        else:
            self._consumer_tag = channel.basic_consume(
                queue_of(self._role), self._on_message, callback=self._on_consuming
            )

    def _on_consuming(self, _: Any) -> None:
        self.link.settled()
        self._on_serving()

    def lost(self, error: EsError) -> None:
        self._handover.generation += 1
        self._channel = None
        self._handover.incoming.put(None)
        self._on_away(error)

    def _on_roll_call(self, channel: Any, method: Any, properties: Any, raw: bytes) -> None:
        if can_be_answered(properties.reply_to):
            channel.basic_publish("", properties.reply_to, to_json(self._describe()).encode())

    def _on_message(self, channel: Any, method: Any, properties: Any, raw: bytes) -> None:
        if len(raw) > _MESSAGE_LIMIT_BYTES:
            self._log.warning("message-rejected", size_bytes=len(raw))
            channel.basic_reject(method.delivery_tag, requeue=False)
            return
        self._tags.add(method.delivery_tag)
        message = Message(self._handover.generation, method.delivery_tag, properties, raw)
        if properties.reply_to and not message.reply_to:
            self._log.warning("reply-undeliverable", reason="reply_to is malformed")
        self._handover.incoming.put(message)

    def pump(self) -> None:
        outgoing = self._handover.outgoing
        while outgoing and self.link.has_room:
            message, bodies, verdict = outgoing.popleft()
            self._handover.sent_bytes += sum(map(len, bodies))
            # Compare first: on another channel the tag names another message, which would be lost for ever.
            if message.generation != self._handover.generation:
                continue
            # Replies before the acknowledgement: a crash between them sends a reply twice, never not at all.
            for body in bodies:
                self._channel.basic_publish(
                    "", message.reply_to, body, Properties(correlation_id=message.correlation_id)
                )
            if verdict is Verdict.REJECT:
                self._channel.basic_reject(message.tag, requeue=False)
                self._tags.forget(message.tag)
            elif verdict is Verdict.ACKNOWLEDGE:
                self._tags.settle(message.tag)
        for tag, multiple in self._tags.take():
            self._channel.basic_ack(tag, multiple)
        if outgoing:
            self.link.call_later(_ROOM_POLL_S, self.link.wake)

    def cancel(self, cancelled: threading.Event) -> None:
        """Stop consuming, then set the event. The messages that were delivered before are in the handover."""
        self._is_cancelled = True
        if self._channel is not None and self._channel.is_open and self._consumer_tag:
            self._channel.basic_cancel(self._consumer_tag, callback=lambda _: cancelled.set())
        else:
            cancelled.set()
