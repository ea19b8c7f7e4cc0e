"""Events to the topic exchange `es.events`, for whoever outside wants to know.

Promise: when `publish` returns, the broker has every message, on disk wherever a durable queue is bound.
Refusal: no queue is declared here; whoever wants events declares and binds one. One publisher is active at
a time, so that the events of a stream come in order.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from adapters.rabbitmq.connection import PART, PERSISTENT, Link, Log, Properties, Silence
from domain.kernel.errors import EsError, PartUnavailable

EXCHANGE = "es.events"
_ACTIVE_QUEUE = "es.relay.active"
"""Exclusive: the broker lets one connection have it, and frees it when that is gone."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message: its routing key, the id under which it is recognised when it comes twice, and JSON bytes."""

    routing_key: str
    message_id: str
    body: bytes


class RabbitPublisher:
    """Used by one thread."""

    def __init__(self, url: str, *, log: Log | None = None) -> None:
        self._changed = threading.Condition()
        self._unsent: Sequence[Outgoing] = ()
        self._unconfirmed: set[int] | None = (
            None  # publish numbers of this channel; None: no batch on its way
        )
        self._error: EsError | None = None
        self._channel: Any = None  # of the I/O thread, once it is set up
        self._published = 0
        self._url = url
        self._log = log or Silence()
        self._link = self._connected()

    def _connected(self) -> Link:
        link = Link(self._url, self, log=self._log, name="rabbitmq-publisher")
        link.start()
        return link

    def publish(self, batch: Sequence[Outgoing], *, timeout_s: float = 10.0) -> None:
        """Publish in order and wait until the broker has confirmed all.

        Raises `PartUnavailable` when that isn't sure: publish the same again, whoever listens may see it twice.
        """
        deadline = time.monotonic() + timeout_s
        if self._link.failure is not None:  # what only a person could mend may have been mended since
            self._link.close()
            self._link = self._connected()
        with self._changed:
            self._unsent, self._unconfirmed, self._error = batch, None, None
            self._link.wake()
            while self._error is None and self._unconfirmed != set():
                if self._link.failure is not None:
                    self._error = self._link.failure
                elif not self._changed.wait(deadline - time.monotonic()):
                    self._error = PartUnavailable(PART, f"it did not confirm events within {timeout_s:g} s")
            self._unsent, self._unconfirmed = (), None
            if self._error is not None:
                raise self._error

    def close(self) -> None:
        self._link.close()

    # --- in the I/O thread ---------------------------------------------------------------------

    def opened(self, channel: Any) -> None:
        channel.confirm_delivery(self._on_confirm)
        channel.queue_declare(_ACTIVE_QUEUE, exclusive=True)
        channel.exchange_declare(
            EXCHANGE, exchange_type="topic", durable=True, callback=lambda _: self._set_up(channel)
        )

    def _set_up(self, channel: Any) -> None:
        self._channel, self._published = channel, 0
        self._link.settled()
        self.pump()

    def lost(self, error: EsError) -> None:
        self._channel = None
        with self._changed:
            # Also while waiting for a channel: the follower that publishes has a back-off of its own.
            self._error = error
            self._changed.notify()

    def pump(self) -> None:
        with self._changed:
            if self._channel is None or not self._unsent:
                return
            batch, self._unsent = self._unsent, ()
            self._unconfirmed = set(range(self._published + 1, self._published + len(batch) + 1))
            self._published += len(batch)
        for message in batch:
            self._channel.basic_publish(
                EXCHANGE,
                message.routing_key,
                message.body,
                Properties(
                    message_id=message.message_id,
                    type=message.routing_key,
                    delivery_mode=PERSISTENT,
                    content_type="application/json",
                ),
                # Not mandatory: events that nobody has bound a queue for are nobody's loss.
                mandatory=False,
            )

    def _on_confirm(self, frame: Any) -> None:
        tag = frame.method.delivery_tag
        with self._changed:
            if self._unconfirmed is None:
                return
            if frame.method.NAME == "Basic.Nack":
                self._error = PartUnavailable(PART, "it refused to store an event")
            if frame.method.multiple:
                self._unconfirmed = {number for number in self._unconfirmed if number > tag}
            else:
                self._unconfirmed.discard(tag)
            self._changed.notify()
