"""The requests of one `pipeline` or `exchange` call over RabbitMQ, as the caller's thread sees them.

Requests that are waiting at the same moment travel in one message; a single one is sent at once.

Promise: every request has a reply when its time is up; if it may have been sent, the outcome is called
unknown. Refusal: the connection is not touched here; see `sender`.
"""

from __future__ import annotations

import math
import time

from adapters.pipeline import Arrived, Pipeline
from adapters.rabbitmq.errors import PART
from adapters.rabbitmq.messages import queue_of
from adapters.rabbitmq.sender import Envelope, Item, Outbox, Sender
from domain.kernel.errors import EsError, InvalidInput, MessageTooLarge, PartUnavailable
from domain.kernel.messages import Question, encode


class RabbitPipeline(Pipeline):
    """Adds requests to an outbox and waits for their replies."""

    def __init__(self, sender: Sender, role: str, timeout_s: float) -> None:
        super().__init__()
        self._sender = sender
        self._outbox = Outbox(role, timeout_s)
        self._items: dict[
            int, Item
        ] = {}  # without a reply that was taken, by number, in order of their deadlines
        self._count = 0

    def add(self, question: Question) -> None:
        number, self._count = self._count, self._count + 1
        item = _item(number, question, time.monotonic() + self._outbox.timeout_s)
        with self._outbox.changed:
            self._items[number] = item
            if item.reply is not None:
                self._outbox.answered.append(item)
            if len(self._items) == 1 or item.reply is not None:
                self._outbox.changed.notify()
        if item.reply is None:
            self._outbox.unsent.append(item)
            if not self._outbox.is_queued:
                self._outbox.is_queued = True
                self._sender.send(self._outbox)

    def wake(self) -> None:
        self._outbox.notify()

    def next_replies(self) -> list[Arrived]:
        outbox, arrived = self._outbox, list[Arrived]()
        with outbox.changed:
            while True:
                for item in outbox.answered:
                    del self._items[item.number]
                    assert item.reply is not None
                    arrived.append((item.number, item.reply))
                outbox.answered.clear()
                if arrived or (self.is_fed and not self._items):
                    return arrived
                self._wait()

    def _wait(self) -> None:
        """Wait for a change, or give up the requests whose time is up."""
        if not self._items:
            self._outbox.changed.wait()
            return
        first = next(iter(self._items.values()))
        deadline = min(first.deadline, self._sender.connect_deadline, self._outbox.give_up_at)
        if (wait_s := deadline - time.monotonic()) > 0 and self._sender.link.failure is None:
            self._outbox.changed.wait(wait_s)
            return
        self._outbox.give_up_at = math.inf
        for item in self._items.values():
            if self._has_expired(item):
                self._give_up(item, self._why(item.envelope))
                self._outbox.answered.append(item)
            elif item.envelope is not None:
                self._outbox.give_up_at = min(self._outbox.give_up_at, item.envelope.give_up_at)

    def _has_expired(self, item: Item) -> bool:
        """Whether to stop waiting for a reply."""
        if self._sender.link.failure is not None:
            return True
        deadline = min(item.deadline, self._sender.connect_deadline)
        if item.envelope is not None:
            deadline = min(deadline, item.envelope.give_up_at)
        return deadline <= time.monotonic()

    def end(self) -> None:
        """Abandon the unanswered requests: do not resend them, and drop late replies."""
        with self._outbox.changed:
            for item in self._items.values():
                if item.reply is None:
                    self._give_up(item, PartUnavailable(PART, "the caller stopped waiting"))

    def _give_up(self, item: Item, error: EsError) -> None:
        item.reply = error
        if item.envelope is not None and not item.envelope.is_wanted:
            self._sender.forget(item.envelope)

    def _why(self, envelope: Envelope | None) -> EsError:
        """The error of a request whose time is up."""
        worker, timeout_s = f"the {self._outbox.role} worker", self._outbox.timeout_s
        if self._sender.link.failure is not None:
            return self._sender.link.failure
        if envelope is None or not envelope.was_sent:
            return self._sender.trouble or PartUnavailable(PART, f"no connection within {timeout_s:g} s")
        if envelope.give_up_at < math.inf:
            return PartUnavailable(
                worker,
                f"it is not running, and RabbitMQ has no queue {queue_of(self._outbox.role)} yet",
                "Start the workers with `es up`; a retry is safe.",
            )
        if envelope.was_refused:
            return PartUnavailable(
                worker,
                f"its queue {queue_of(self._outbox.role)} is full",
                "Retry later; a retry is safe. `es status` shows whether its workers keep up; add some with `es up --scale`.",
            )
        if envelope.is_stored:
            part, what = worker, "RabbitMQ has the request, but no reply arrived"
        else:
            why = self._sender.trouble or "it is connected; `es doctor` looks for an alarm"
            part, what = PART, f"no confirmation ({why})"
        return PartUnavailable(
            part,
            f"{what} within {timeout_s:g} s, so the outcome is unknown",
            "A retry is safe. See `es status` and `es logs`.",
        )


def _item(number: int, question: Question, deadline: float) -> Item:
    if isinstance(question, EsError):
        return Item(number, b"", deadline, question)
    kind, body = question
    try:
        return Item(number, encode({"kind": kind, "body": body}, "the request"), deadline)
    except (MessageTooLarge, InvalidInput) as error:
        return Item(number, b"", deadline, error)
