"""Publish requests and receive their replies: the I/O thread's part of a RabbitMQ caller.

Two threads share a caller. Each has an object of its own, and an `Outbox` per pipeline is all that passes:

    caller's thread: RabbitPipeline  ── unsent items ──►  Outbox  ──►  I/O thread: Sender
                                     ◄── items with replies ──    ◄──

Messages are persistent, mandatory and confirmed, and keep their id when they are sent again.

Promise: a reply is set once, on the request that it belongs to; every other message that arrives is dropped.
Refusal: a failed publish is never taken for "not done". It may have arrived, so it is sent again.
"""

from __future__ import annotations

import collections
import itertools
import math
import threading
import time
import uuid
from typing import Any

from adapters.rabbitmq.link import Link, Silence
from adapters.rabbitmq.messages import PERSISTENT, REPLY_QUEUE, TIMEOUT_HEADER, Properties, queue_of
from domain.kernel.errors import AnsweredError, EsError
from domain.kernel.messages import Body, parse_json

CHUNK_LIMIT = 128
"""Requests in one message: many for its cost, and few enough to be shared among workers."""
_CHUNK_BYTES = 1 << 18
_RESEND_DELAY_S = 0.1
_QUEUE_WAIT_S = 3.0
"""How long to wait for the queue of a role that does not exist yet: its workers may just be starting."""
_FIRST_CONNECT_S = 4.0
"""How long to wait for a broker that was never reached. After that, each request waits for its own timeout."""


# --- between the threads ---------------------------------------------------------------------


class Item:
    """A request until its reply was yielded. The I/O thread sets `envelope`, `raw` and `reply`."""

    __slots__ = ("deadline", "envelope", "number", "raw", "reply")

    def __init__(self, number: int, raw: bytes, deadline: float, reply: Body | EsError | None = None) -> None:
        self.number = number
        self.raw = raw
        self.deadline = deadline
        self.reply = reply
        self.envelope: Envelope | None = None


class Outbox:
    """The requests of one pipeline on their way to the I/O thread, and the notification of their replies."""

    def __init__(self, role: str, timeout_s: float) -> None:
        self.role = role
        self.timeout_s = timeout_s
        self.unsent: collections.deque[Item] = collections.deque()
        self.is_queued = False
        """Whether the I/O thread is going to look at `unsent`."""
        self.answered: list[Item] = []
        """Items whose reply was set and not yet taken, each once."""
        self.give_up_at = math.inf
        """The earliest time at which to stop waiting for a queue that does not exist yet."""
        self.changed = threading.Condition()
        """Guards the replies and `give_up_at`; notified when one is set, or when the wait has to end earlier."""

    def notify(self) -> None:
        with self.changed:
            self.changed.notify()


class Envelope:
    """The requests that travel in one message, and its progress. The I/O thread writes it."""

    __slots__ = (
        "body",
        "give_up_at",
        "id",
        "is_stored",
        "items",
        "outbox",
        "was_refused",
        "was_returned",
        "was_sent",
    )

    def __init__(self, outbox: Outbox, items: list[Item]) -> None:
        self.id = str(uuid.uuid4())
        self.outbox = outbox
        self.items = items
        self.body = b'{"requests":[' + b",".join(item.raw for item in items) + b"]}"
        self.was_sent = False  # from then on it may take effect, even if an error follows
        self.was_returned = False  # by the last attempt, because the queue does not exist
        self.was_refused = False  # by the last attempt, because the queue is full
        self.is_stored = False
        self.give_up_at = math.inf  # monotonic seconds; finite while the queue does not exist
        for item in items:
            item.envelope, item.raw = self, b""

    @property
    def is_wanted(self) -> bool:
        return any(item.reply is None for item in self.items)


# --- the I/O thread --------------------------------------------------------------------------


class Sender:
    """Sends for all pipelines of a caller over one link."""

    def __init__(self, url: str) -> None:
        # For any thread to read:
        self.trouble: EsError | None = None
        """Why there is no connection now; None while there is one."""
        self.connect_deadline = time.monotonic() + _FIRST_CONNECT_S
        """When to stop waiting for a broker that was never reached; infinite once it was."""
        # From any thread to the I/O thread:
        self._outboxes: collections.deque[Outbox] = collections.deque()  # those with unsent items
        # Of the I/O thread alone:
        self._channel: Any = None  # None until it is set up
        self._unanswered: dict[str, Envelope] = {}
        self._unconfirmed: dict[int, Envelope] = {}  # by publish number on this channel
        self._published = 0
        self.link = Link(url, self, log=Silence(), name="rabbitmq-caller")
        self.link.start()

    # --- for any thread ------------------------------------------------------------------------

    def send(self, outbox: Outbox) -> None:
        """Send the unsent items of an outbox."""
        self._outboxes.append(outbox)
        self.link.wake()

    def forget(self, envelope: Envelope) -> None:
        """Stop sending an envelope: no reply of it is wanted any more."""

        def drop() -> None:
            self._unanswered.pop(envelope.id, None)

        self.link.call(drop)

    # --- in the I/O thread ---------------------------------------------------------------------

    def opened(self, channel: Any) -> None:
        self._published = 0
        self._unconfirmed.clear()
        channel.confirm_delivery(self._on_confirm)
        channel.add_on_return_callback(self._on_return)
        channel.basic_consume(
            REPLY_QUEUE, self._on_reply, auto_ack=True, callback=lambda _: self._set_up(channel)
        )

    def _set_up(self, channel: Any) -> None:
        self._channel, self.connect_deadline, self.trouble = channel, math.inf, None
        self.link.settled()
        # It is unknown whether these arrived over the last connection: send them again under the same ids.
        for envelope in list(self._unanswered.values()):
            self._publish(envelope)
        self.pump()

    def lost(self, error: EsError) -> None:
        self._channel, self.trouble = None, error
        if self.link.failure is not None:
            for envelope in self._unanswered.values():
                envelope.outbox.notify()

    def pump(self) -> None:
        while self._channel is not None and self._outboxes:
            outbox = self._outboxes.popleft()
            outbox.is_queued = False  # before taking: otherwise an item added meanwhile would wait for ever
            while outbox.unsent:
                self._publish(Envelope(outbox, _chunk(outbox.unsent)))

    def _publish(self, envelope: Envelope) -> None:
        if not envelope.is_wanted:
            self._unanswered.pop(envelope.id, None)
            return
        self._unanswered[envelope.id] = envelope
        if self._channel is None:
            return  # it is sent when the next channel is set up
        envelope.was_sent = True
        envelope.was_returned = envelope.was_refused = envelope.is_stored = False
        self._published += 1
        self._unconfirmed[self._published] = envelope
        self._channel.basic_publish(
            "",
            queue_of(envelope.outbox.role),
            envelope.body,
            Properties(
                message_id=envelope.id,
                correlation_id=envelope.id,
                reply_to=REPLY_QUEUE,
                delivery_mode=PERSISTENT,
                content_type="application/json",
                headers={TIMEOUT_HEADER: round(envelope.outbox.timeout_s * 1000)},
            ),
            mandatory=True,
        )

    def _on_return(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        """The broker returned a message, because the role's queue does not exist."""
        if envelope := self._unanswered.get(properties.message_id):
            envelope.was_returned = True
            envelope.give_up_at = min(envelope.give_up_at, time.monotonic() + _QUEUE_WAIT_S)
            with envelope.outbox.changed:
                envelope.outbox.give_up_at = min(envelope.outbox.give_up_at, envelope.give_up_at)
                envelope.outbox.changed.notify()
            self._publish_later(envelope)

    def _on_confirm(self, frame: Any) -> None:
        tag, is_refused = frame.method.delivery_tag, frame.method.NAME == "Basic.Nack"
        tags = [tag]
        if frame.method.multiple:
            tags = list(itertools.takewhile(lambda earlier: earlier <= tag, self._unconfirmed))
        for envelope in filter(None, (self._unconfirmed.pop(each, None) for each in tags)):
            if envelope.was_returned:
                continue  # a returned message is confirmed too, though no queue has it
            envelope.is_stored, envelope.was_refused = not is_refused, is_refused
            envelope.give_up_at = math.inf
            if is_refused:
                self._publish_later(envelope)

    def _publish_later(self, envelope: Envelope) -> None:
        self.link.call_later(_RESEND_DELAY_S, lambda: self._publish(envelope))

    def _on_reply(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        envelope = self._unanswered.get(properties.correlation_id)
        if envelope is None:
            return  # too late, or the second reply to a message that was sent twice
        try:
            replies = [
                (envelope.items[index], _reply(answer)) for index, answer in parse_json(body)["replies"]
            ]
        except (ValueError, KeyError, TypeError, IndexError):
            return  # not a reply of a worker of this program; the request times out
        with envelope.outbox.changed:
            for item, reply in replies:
                if item.reply is None:
                    item.reply = reply
                    envelope.outbox.answered.append(item)
            envelope.outbox.changed.notify()
        if not envelope.is_wanted:
            del self._unanswered[envelope.id]


def _chunk(unsent: collections.deque[Item]) -> list[Item]:
    """Take the items of the next message: at least one, then as many as number and size allow."""
    chunk = [unsent.popleft()]
    size = len(chunk[0].raw)
    while unsent and len(chunk) < CHUNK_LIMIT and size + len(unsent[0].raw) <= _CHUNK_BYTES:
        chunk.append(unsent.popleft())
        size += len(chunk[-1].raw)
    return chunk


def _reply(answer: Any) -> Body | EsError:
    if "error" in answer:
        return AnsweredError.from_wire(answer["error"])
    body: Body = answer["ok"]
    return body
