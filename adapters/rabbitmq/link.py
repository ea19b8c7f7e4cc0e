"""Keep one connection to RabbitMQ open, in an I/O thread of its own.

The thread does nothing but talk to the broker, so heartbeats continue however long the work takes. A `Tenant`
decides what is declared, sent and received.

Promise: a lost connection is opened again with jittered back-off, and each attempt is logged. Refusal:
nothing is sent a second time here, because only the tenant knows which messages were answered.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any, Protocol

import pika  # type: ignore[import-untyped]
from pika.adapters.select_connection import IOLoop  # type: ignore[import-untyped]

from adapters.rabbitmq.errors import PART, ActiveElsewhere, QueueMismatch, translated
from adapters.rabbitmq.url import parameters_of
from domain.kernel.errors import EsError, OtherSystem, PartUnavailable

_FIRST_RETRY_S = 0.1
_LONGEST_RETRY_S = 5.0
_CLOSE_TIMEOUT_S = 5.0
_UNSENT_LIMIT_BYTES = 4 << 20


class Log(Protocol):
    """Where a link reports its losses and connections."""

    def info(self, action: str, **fields: object) -> None: ...
    def warning(self, action: str, **fields: object) -> None: ...
    def error(self, action: str, error: BaseException, **fields: object) -> None: ...


class Silence:
    """A log for a caller, which reports by the error of its request."""

    def info(self, action: str, **fields: object) -> None: ...
    def warning(self, action: str, **fields: object) -> None: ...
    def error(self, action: str, error: BaseException, **fields: object) -> None: ...


class Tenant(Protocol):
    """The user of a link. The I/O thread calls every method, so none may block. `channel` is pika's."""

    def opened(self, channel: Any) -> None:
        """Set up a new channel: declare, consume, send what may have been lost. Then call `Link.settled`."""
        ...

    def pump(self) -> None:
        """Send what is waiting. Called after `Link.wake`, and only while a channel is open."""
        ...

    def lost(self, error: EsError) -> None:
        """The channel and all its delivery tags are lost. Also called after a failed attempt to connect."""
        ...


class Link:
    """One connection with one channel, reconnected until it is closed."""

    def __init__(
        self, url: str, tenant: Tenant, *, log: Log, name: str, waits_while_blocked: bool = False
    ) -> None:
        """`waits_while_blocked`: keep the connection while an alarm of the broker blocks publishing."""
        self._parameters = parameters_of(url)
        if waits_while_blocked:
            for parameters in self._parameters:
                parameters.blocked_connection_timeout = None
        self._tenant = tenant
        self._log = log
        # Shared by all threads:
        self._loop = IOLoop()
        self._loop_lock = threading.Lock()  # otherwise `call` could meet a loop that has just been closed
        self._loop_is_open = True
        self._is_woken = False
        self.failure: EsError | None = None
        """Why the link will never reconnect; None while it may."""
        # Of the I/O thread alone:
        self._connection: Any = None
        self._channel: Any = None
        self._cause: BaseException | None = None  # why the channel was lost, if it was lost first
        self._is_declaring = False
        self._is_stopping = False
        self._attempt = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    # --- for any thread ------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Have the tenant's `pump` called soon. Several calls before that are one."""
        if not self._is_woken:
            self._is_woken = True
            self.call(self._pump)

    def call(self, action: Callable[[], None]) -> None:
        """Run actions in the I/O thread, in order of the calls. A closed link drops them."""
        with self._loop_lock:
            if self._loop_is_open:
                self._loop.add_callback_threadsafe(action)

    def close(self, *, wait_s: float = _CLOSE_TIMEOUT_S) -> None:
        """Send what is waiting, disconnect and end the thread. Returns after `wait_s` seconds at the latest."""
        self.call(self._shut)
        if self._thread.is_alive():
            self._thread.join(wait_s)

    # --- for the tenant, in the I/O thread -----------------------------------------------------

    def settled(self) -> None:
        """The tenant has set up its channel."""
        self._is_declaring = False
        self._attempt = 0
        self._log.info("broker-connected", broker=self._place())

    @property
    def has_room(self) -> bool:
        """Whether the broker has taken what was published, but for 4 MiB. True in the last `pump` before a stop."""
        if self._is_stopping or self._connection is None:
            return True
        return bool(self._connection._get_write_buffer_size() < _UNSENT_LIMIT_BYTES)

    def call_later(self, delay_s: float, action: Callable[[], None]) -> None:
        self._loop.call_later(delay_s, action)

    # --- in the I/O thread ---------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._connect()
            self._loop.start()
        except Exception as error:
            self._log.error("broker-thread-crashed", error)
        if not self._is_stopping and self.failure is None:
            # Set before the tenant is notified: otherwise a thread that waits for this link waits for ever.
            self.failure = PartUnavailable(PART, "its I/O thread crashed", "Look at `es logs`.")
        if self.failure is not None:
            self._tenant.lost(self.failure)
        with self._loop_lock:
            self._loop_is_open = False
            self._loop.close()

    def _current(self) -> Any:
        return self._parameters[self._attempt % len(self._parameters)]

    def _place(self) -> str:
        return f"{self._current().host}:{self._current().port}"

    def _connect(self) -> None:
        if self._is_stopping:
            return
        self._cause, self._is_declaring = None, True
        self._connection = pika.SelectConnection(
            self._current(),
            on_open_callback=lambda connection: connection.channel(on_open_callback=self._on_channel),
            on_open_error_callback=self._on_lost,
            on_close_callback=self._on_lost,
            custom_ioloop=self._loop,
        )

    def _on_channel(self, channel: Any) -> None:
        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_cancel_callback(self._on_cancelled)
        self._channel = channel
        self._tenant.opened(channel)

    def _on_cancelled(self, _: Any) -> None:
        """The queue was deleted or lost its leader: without a new consumer nothing would be delivered."""
        self._cause = PartUnavailable(PART, "the broker cancelled the consumer")
        if self._connection is not None and self._connection.is_open:
            self._connection.close()

    def _on_channel_closed(self, channel: Any, reason: BaseException) -> None:
        if channel is self._channel and self._connection.is_open:
            self._cause = reason
            self._connection.close()

    def _on_lost(self, connection: Any, reason: BaseException) -> None:
        if connection is not self._connection:
            return
        self._connection = self._channel = None
        if self._is_stopping:
            self._loop.stop()
            return
        error = self._cause or reason
        if not isinstance(error, EsError):
            error = translated(error, self._current(), declaring=self._is_declaring)
        if isinstance(error, QueueMismatch | OtherSystem):
            self.failure = error
            self._loop.stop()
            return
        delay_s = min(_LONGEST_RETRY_S, _FIRST_RETRY_S * 2 ** min(self._attempt, 10))
        delay_s *= random.uniform(0.5, 1.0)  # noqa: S311  # jitter, so that workers do not reconnect all at once
        self._attempt += 1
        if not isinstance(error, ActiveElsewhere):
            wait_ms = round(delay_s * 1000)
            self._log.warning("broker-lost", reason=str(error), attempt=self._attempt, retry_in_ms=wait_ms)
        elif self._attempt == 1:  # once, because a standby may wait for weeks
            self._log.info("standing-by", reason=str(error))
        self._tenant.lost(error)
        self._loop.call_later(delay_s, self._connect)

    def _pump(self) -> None:
        self._is_woken = False  # before the work: otherwise something added during it would wait for ever
        if self._channel is not None and self._channel.is_open:
            self._tenant.pump()

    def _shut(self) -> None:
        self._is_stopping = True
        if self._channel is not None and self._channel.is_open:
            self._tenant.pump()
        if self._connection is not None and self._connection.is_open:
            self._connection.close()
        else:
            self._loop.stop()
