"""Publish events to the topic exchange `es.events`.

Promise: when `publish` returns, the broker has confirmed every message, and durable queues have it on disk.
Refusal: no queue is declared here; a subscriber declares and binds its own. One publisher is active at a
time, so that the events of a stream arrive in order.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from adapters.rabbitmq.errors import PART, ActiveElsewhere
from adapters.rabbitmq.link import Link, Log
from adapters.rabbitmq.messages import PERSISTENT, Properties, declare_system
from domain.kernel.errors import EsError, PartUnavailable

EXCHANGE = "es.events"
_ACTIVE_QUEUE = "es.relay.active"
"""Exclusive: the broker lets one connection own it, and deletes it when that connection ends."""
_CONFIRM_TIMEOUT_S = 10.0
_STANDBY_WAIT_S = 0.2


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message: its routing key, the id by which subscribers recognise a duplicate, and JSON bytes."""

    routing_key: str
    message_id: str
    body: bytes


class RabbitPublisher:
    """Publishes in batches. Belongs to one thread; see `_Broadcast` for the I/O thread's part."""

    def __init__(self, url: str, *, log: Log, system_id: UUID | None = None) -> None:
        """To the broker of another system than `system_id` nothing is published: `publish` raises ForeignPart."""
        self._url = url
        self._log = log
        self._system_id = system_id
        self._broadcast = _Broadcast(url, log, system_id)

    def wait_until_active(self, stopped: Callable[[], bool]) -> None:
        """Return when no other publisher is active, or when `stopped()`: to stand by is no failure.

        Raises `PartUnavailable` or `QueueMismatch` if the broker cannot be used.
        """
        self._reopen()
        self._broadcast.wait_until_active(stopped)

    def publish(self, batch: Sequence[Outgoing]) -> None:
        """Publish messages in order and wait until the broker has confirmed all of them.

        Raises `PartUnavailable` or `QueueMismatch` if that is uncertain. Publish the same batch again then:
        subscribers may receive duplicates.
        """
        self._reopen()
        self._broadcast.send(batch)

    def _reopen(self) -> None:
        """Reconnect after a failure that does not end by itself: an operator may have corrected it."""
        if self._broadcast.link.failure is not None:
            self._broadcast.link.close()
            self._broadcast = _Broadcast(self._url, self._log, self._system_id)

    def close(self) -> None:
        self._broadcast.link.close()


class _Broadcast:
    """One link and the batch that is being published over it."""

    def __init__(self, url: str, log: Log, system_id: UUID | None) -> None:
        self._system_id = system_id
        # Between the threads, guarded by `_changed`:
        self._changed = threading.Condition()
        self._unsent: Sequence[Outgoing] = ()
        self._unconfirmed: set[int] | None = None  # publish numbers on this channel; None: none was sent
        self._error: EsError | None = None
        self._is_active = False
        self._lost_by: EsError | None = None  # why the last connection ended
        # Of the I/O thread alone:
        self._channel: Any = None  # None until it is set up
        self._published = 0
        self.link = Link(url, self, log=log, name="rabbitmq-publisher")
        self.link.start()

    # --- for the publisher's thread ------------------------------------------------------------

    def wait_until_active(self, stopped: Callable[[], bool]) -> None:
        with self._changed:
            while not self._is_active and not stopped():
                error = self.link.failure or self._lost_by
                if error is not None and not isinstance(error, ActiveElsewhere):
                    raise error
                self._changed.wait(_STANDBY_WAIT_S)

    def send(self, batch: Sequence[Outgoing]) -> None:
        """Publish a batch and wait for its confirmation. Raises if it is uncertain."""
        deadline = time.monotonic() + _CONFIRM_TIMEOUT_S
        with self._changed:
            self._unsent, self._unconfirmed, self._error = batch, None, None
            self.link.wake()
            while self._error is None and self._unconfirmed != set():
                if self.link.failure is not None:
                    self._error = self.link.failure
                elif not self._changed.wait(deadline - time.monotonic()):
                    reason = f"it did not confirm events within {_CONFIRM_TIMEOUT_S:g} s"
                    self._error = PartUnavailable(PART, reason)
            self._unsent, self._unconfirmed = (), None
            if self._error is not None:
                raise self._error

    # --- in the I/O thread ---------------------------------------------------------------------

    def opened(self, channel: Any) -> None:
        if self._system_id is not None:
            declare_system(channel, self._system_id)
        channel.confirm_delivery(self._on_confirm)
        channel.queue_declare(_ACTIVE_QUEUE, exclusive=True)
        channel.exchange_declare(
            EXCHANGE, exchange_type="topic", durable=True, callback=lambda _: self._set_up(channel)
        )

    def _set_up(self, channel: Any) -> None:
        self._channel, self._published = channel, 0
        with self._changed:
            self._is_active, self._lost_by = True, None
            self._changed.notify()
        self.link.settled()
        self.pump()

    def lost(self, error: EsError) -> None:
        self._channel = None
        with self._changed:
            # Also for an attempt that failed: the follower that publishes has a back-off of its own.
            self._error = self._lost_by = error
            self._is_active = False
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
                mandatory=False,  # an event without a subscriber is dropped
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
