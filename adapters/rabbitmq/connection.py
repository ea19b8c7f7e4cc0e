"""Connections to RabbitMQ: the one module that knows pika.

A `Link` is one connection with one channel, owned by one I/O thread that does nothing but talk to the
broker: heartbeats go on however long the work takes. What goes over it is its tenant's business
(`rabbitmq_server`, `rabbitmq_caller`, `rabbitmq_publisher`).

Promise: a lost link comes back by itself, with jittered back-off, and each attempt is logged; no error of
pika leaves this module untranslated. Refusal: nothing is sent again here, because only the tenant knows
what was answered; and nobody waits in the I/O thread.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import random
import re
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import pika  # type: ignore[import-untyped]
import pika.exceptions  # type: ignore[import-untyped]
from pika.adapters.select_connection import IOLoop  # type: ignore[import-untyped]
from pika.adapters.utils.connection_workflow import AMQPConnectorException  # type: ignore[import-untyped]

from domain.kernel.errors import EsError, InvalidSetting, PartUnavailable

PART = "RabbitMQ"
PERSISTENT = 2
REPLY_QUEUE = "amq.rabbitmq.reply-to"
ROLL_CALL = "es.workers"
"""A fanout exchange: what is published to it reaches every worker of every role, wherever it runs."""
PATIENCE_HEADER = "es-patience-ms"
"""How long whoever asked waits for the answer. A duration, because clocks of machines differ."""

_HEARTBEAT_S = 30
_BLOCKED_TIMEOUT_S = 60
_CONNECT_TIMEOUT_S = 3
_RETRY_S = (0.1, 5.0)  # the first wait and the longest
_CLOSE_TIMEOUT_S = 5.0
_NOT_FOUND = 404
_PRECONDITION_FAILED = 406
_RESOURCE_LOCKED = 405

DELIVERY_LIMIT = 20
"""How often a message is delivered again before it is a dead letter. Without one, 3.10 tries for ever."""
_NO_LIMIT = 1_000_000
"""For dead letters: being looked at counts as a delivery from 4.0 on, and must not cost a message its life."""

# Errors come to callers translated, with what to do next. pika's own lines would only repeat them, unasked.
logging.getLogger("pika").setLevel(logging.CRITICAL + 1)


class Log(Protocol):
    """Where a link says what happens to it."""

    def info(self, action: str, **fields: object) -> None: ...
    def warning(self, action: str, **fields: object) -> None: ...
    def error(self, action: str, error: BaseException, **fields: object) -> None: ...


class Silence:
    """A log for short-lived callers, which answer with an error instead."""

    def info(self, action: str, **fields: object) -> None: ...
    def warning(self, action: str, **fields: object) -> None: ...
    def error(self, action: str, error: BaseException, **fields: object) -> None: ...


class QueueMismatch(EsError):
    """A queue or exchange exists with other arguments than this version declares. Trying again can't mend it."""

    reason: str
    code = "queue-mismatch"
    hint = (
        "Stop the workers, let the queue run empty (`es dead` for dead letters), delete it with "
        "`rabbitmqctl delete_queue` (an exchange: in the management page), and start the workers again: they declare "
        "it anew."
    )

    def __str__(self) -> str:
        return f"RabbitMQ refused a declaration: {self.reason}"


# --- names and arguments ---------------------------------------------------------------------


def queue_of(role: str) -> str:
    return f"es.{role}"


def dead_queue_of(role: str) -> str:
    return f"es.{role}.dead"


def declare_queues(channel: Any, role: str, *, delivery_limit: int = DELIVERY_LIMIT) -> None:
    """Declare a role's queue and its dead-letter queue, on a blocking channel or, unanswered, on any other."""
    # The dead-letter queue first: the other may need it as soon as it exists.
    channel.queue_declare(
        dead_queue_of(role),
        durable=True,
        arguments={"x-queue-type": "quorum", "x-delivery-limit": _NO_LIMIT},
    )
    channel.queue_declare(
        queue_of(role),
        durable=True,
        arguments={
            "x-queue-type": "quorum",
            "x-delivery-limit": delivery_limit,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": dead_queue_of(role),
            # Together: a dead letter leaves its queue only when the other has it, not "at most once".
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        },
    )


def declare_roll_call(channel: Any) -> None:
    channel.exchange_declare(ROLL_CALL, exchange_type="fanout", durable=True)


# --- properties ------------------------------------------------------------------------------


class Properties(pika.BasicProperties):  # type: ignore[misc]
    """Of a message. Headers that pika can't read, say a time beyond year 9999, cost nothing but themselves.

    Left to pika, they end the connection, and each message delivered over it has one more delivery on its account.
    """

    has_bad_headers = False

    def decode(self, encoded: bytes, offset: int = 0) -> Any:
        try:
            return super().decode(encoded, offset)
        except Exception:  # whatever it is: the broker takes more than pika can read
            self.has_bad_headers = True
            return super().decode(_without_headers(encoded, offset))


def _without_headers(encoded: bytes, offset: int) -> bytes:
    """The same properties with an empty table of headers. Raises ValueError when there are none to leave out."""
    (flags,) = struct.unpack_from(">H", encoded, offset)
    if not flags & pika.BasicProperties.FLAG_HEADERS:
        raise ValueError("properties without headers can't be read")
    start = offset + 2
    for before in (pika.BasicProperties.FLAG_CONTENT_TYPE, pika.BasicProperties.FLAG_CONTENT_ENCODING):
        if flags & before:
            start += 1 + encoded[start]
    (size,) = struct.unpack_from(">I", encoded, start)
    return encoded[offset:start] + bytes(4) + encoded[start + 4 + size :]


pika.spec.props[Properties.INDEX] = Properties  # what pika makes of each message that arrives


_DIRECT_REPLY = re.compile(rb"\x83(X(v..|w.).*.{12}|g([ds].|w.|v..).*.{9})", re.DOTALL)
"""An Erlang process in its external format: https://www.erlang.org/doc/apps/erts/erl_ext_dist.html"""


def can_be_answered(reply_to: Any) -> bool:
    """Whether an answer may be published to this. RabbitMQ 3.10 closes the connection (541) of whoever publishes
    to a name for direct replies that holds anything but a process. (Also to one of a node that left its cluster,
    which can't be told from here.)"""
    if not isinstance(reply_to, str) or not reply_to:
        return False
    if not reply_to.startswith(f"{REPLY_QUEUE}."):
        return True
    try:
        process = base64.b64decode(reply_to.removeprefix(f"{REPLY_QUEUE}.").partition(".")[0], validate=True)
    except ValueError:
        return False
    return _DIRECT_REPLY.fullmatch(process) is not None


# --- URLs ------------------------------------------------------------------------------------


def parameters_of(url: str) -> list[Any]:
    """What pika needs to connect, one item per host of `amqp(s)://user:password@host,host/vhost?…`.

    Query parameters: `cafile`, `certfile` and `keyfile` (amqps), and pika's own such as `heartbeat`
    (seconds). Raises InvalidSetting, which never repeats the URL: it may hold a password.
    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    files = {name: query.pop(name, None) for name in ("cafile", "certfile", "keyfile")}
    for name in query:
        if not hasattr(pika.URLParameters, f"_set_url_{name}") or name == "ssl_options":
            raise InvalidSetting("broker", f"has the unknown parameter {name!r}")
    if parts.scheme != "amqps" and any(files.values()):
        raise InvalidSetting("broker", "names certificates, which takes amqps://")
    query.setdefault("heartbeat", str(_HEARTBEAT_S))
    query.setdefault("blocked_connection_timeout", str(_BLOCKED_TIMEOUT_S))
    query.setdefault("socket_timeout", str(_CONNECT_TIMEOUT_S))
    query.setdefault("stack_timeout", str(_CONNECT_TIMEOUT_S))
    user, at, hosts = parts.netloc.rpartition("@")
    chosen = []
    for host in hosts.split(","):
        try:
            parameters = pika.URLParameters(
                urlunsplit((parts.scheme, user + at + host, parts.path, urlencode(query), ""))
            )
        except (ValueError, TypeError, AttributeError) as error:
            raise InvalidSetting("broker", "is not a usable amqp:// or amqps:// URL") from error
        if parts.scheme == "amqps":
            parameters.ssl_options = pika.SSLOptions(_tls(files), parameters.host)
        chosen.append(parameters)
    return chosen


def _tls(files: Mapping[str, str | None]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=files["cafile"])
        if files["certfile"]:
            context.load_cert_chain(files["certfile"], files["keyfile"])
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = (isinstance(error, OSError) and error.strerror) or "not a certificate or key"
        raise InvalidSetting(
            "broker", f"names a CA, certificate or key file that is unusable: {reason}"
        ) from error
    return context


# --- errors ----------------------------------------------------------------------------------

_REASONS = {
    "ProbableAuthenticationError": "it refuses this user name or password",
    "ProbableAccessDeniedError": "it refuses access to the virtual host, or there is no such one",
    "AMQPHeartbeatTimeout": "no heartbeat came",
    "StreamLostError": "the connection was lost",
    "ConnectionBlockedTimeout": "it takes no messages: look for a memory or disk alarm",
    "ConnectionOpenAborted": "it accepts the connection and says nothing",
    "AMQPConnectorSocketConnectError": "it can't be connected to",
    "AMQPConnectorStackTimeout": "it is too slow to answer",
}


def translated(error: BaseException, parameters: Any, *, declaring: bool = False) -> EsError:
    """What an error of pika or the network means here, when connected or connecting with these parameters."""
    cause, place = _innermost(error), f"{parameters.host}:{parameters.port}"
    code, text = getattr(cause, "reply_code", 0), getattr(cause, "reply_text", "")
    if code == _PRECONDITION_FAILED and declaring:
        return QueueMismatch(text)
    if code == _RESOURCE_LOCKED:
        return PartUnavailable(PART, "another worker holds what only one may hold")
    if isinstance(cause, ssl.SSLError):
        return _tls_refusal(cause, place)
    if isinstance(cause, pika.exceptions.IncompatibleProtocolError):
        return _hung_up(cause, place, over_tls=parameters.ssl_options is not None)
    if isinstance(cause, OSError):
        text = cause.strerror
    text = text or _REASONS.get(type(cause).__name__) or type(cause).__name__
    return PartUnavailable(PART, f"{place}: {text}")


def _tls_refusal(error: ssl.SSLError, place: str) -> EsError:
    """We refused the broker's certificate, or found no TLS at all."""
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = f"its certificate is not accepted: {error.verify_message.rstrip('.')}"
        hint = (
            "In the URL, `cafile=` has to name the CA that signed it, and the host has to be one that it is for. "
            "One that expired has to be renewed."
        )
    elif error.reason == "WRONG_VERSION_NUMBER":
        reason, hint = (
            "it does not speak TLS on this port",
            "Name its TLS port (usually 5671), or use amqp://.",
        )
    else:
        reason, hint = f"no TLS connection: {error.reason or 'the handshake failed'}", _CLIENT_CERTIFICATE
    return PartUnavailable(PART, f"{place}: {reason}", hint)


def _hung_up(error: BaseException, place: str, *, over_tls: bool) -> EsError:
    """The broker closed the connection before it said anything of AMQP.

    From TLS 1.3 on a client's certificate is looked at only after the client is done with its handshake. What
    was wrong with it may still come as an alert, in the text of the error, or be lost with the connection.
    """
    if not over_tls:
        return PartUnavailable(
            PART,
            f"{place}: it hung up before it said a word of AMQP",
            "If this is its TLS port, use amqps:// with `cafile=`; if not, look at the broker's log.",
        )
    alert = re.search(r"ALERT_([A-Z_]+)", str(error))
    why = f" ({alert[1].replace('_', ' ').lower()})" if alert else ""
    reason = f"it hung up after the TLS handshake; it may not accept our certificate{why}"
    return PartUnavailable(PART, f"{place}: {reason}", _CLIENT_CERTIFICATE)


_CLIENT_CERTIFICATE = (
    "Give a certificate that the broker accepts, and its key, as `certfile=` and `keyfile=` in the URL."
)


def _innermost(error: BaseException) -> BaseException:
    """The reason inside the wrappers that pika puts around a failed connection attempt."""
    wrapped = (getattr(error, "exception", None), *getattr(error, "exceptions", ()), *error.args[:1])
    for inner in wrapped:
        if isinstance(inner, BaseException):
            return _innermost(inner)
    return error


def _refuse(*_: object) -> None:
    """Called by pika when the broker blocks the connection. Nothing more goes out, so there is nothing to wait for."""
    raise pika.exceptions.ConnectionBlockedTimeout


@contextlib.contextmanager
def open_channel(url: str) -> Iterator[Any]:
    """A blocking channel with confirms, for a short piece of work that somebody waits for. Raises designed errors only."""
    parameters = parameters_of(url)
    for each in parameters:
        each.blocked_connection_timeout = min(each.blocked_connection_timeout, _CONNECT_TIMEOUT_S)
    try:
        connection = pika.BlockingConnection(parameters)
        try:
            connection.add_on_connection_blocked_callback(_refuse)
            channel = connection.channel()
            channel.confirm_delivery()
            yield channel
        finally:
            with contextlib.suppress(pika.exceptions.AMQPError):
                connection.close()
    except pika.exceptions.UnroutableError as error:
        raise PartUnavailable(PART, "the queue of this role does not exist") from error
    except (pika.exceptions.AMQPError, AMQPConnectorException, OSError) as error:
        raise translated(error, parameters[0], declaring=True) from error


def depth_of(channel: Any, queue: str) -> tuple[int, int]:
    """How many messages and consumers a queue has; none of either when it doesn't exist."""
    probe = channel.connection.channel()  # of its own: asking for a queue that isn't there closes it
    try:
        answer = probe.queue_declare(queue, passive=True).method
    except pika.exceptions.ChannelClosedByBroker as error:
        if error.reply_code != _NOT_FOUND:
            raise
        return 0, 0
    probe.close()
    return answer.message_count, answer.consumer_count


# --- the link --------------------------------------------------------------------------------


class Tenant(Protocol):
    """Who uses a link. All of this runs in the I/O thread and must not block. `channel` is pika's."""

    def opened(self, channel: Any) -> None:
        """A new channel: declare, consume, and send again what may have been lost. Then call `Link.settled`."""
        ...

    def pump(self) -> None:
        """Somebody called `Link.wake`: send what waits. Only called while a channel is open."""
        ...

    def lost(self, error: EsError) -> None:
        """The channel is gone, and with it every delivery tag. Also called for attempts that failed."""
        ...


class Link:
    """One connection with one channel, opened again whenever it is lost, until it is closed."""

    def __init__(
        self, url: str, tenant: Tenant, *, log: Log, name: str, waits_while_blocked: bool = False
    ) -> None:
        """`waits_while_blocked`: keep the connection for as long as an alarm of the broker keeps it from publishing."""
        self._parameters = parameters_of(url)
        if waits_while_blocked:
            for parameters in self._parameters:
                parameters.blocked_connection_timeout = None
        self._tenant = tenant
        self._log = log
        self._loop = IOLoop()
        self._loop_lock = threading.Lock()  # guards against waking a loop that is being taken down
        self._loop_open = True
        self._woken = False
        self._stopping = False
        # Known to the I/O thread alone:
        self._connection: Any = None
        self._channel: Any = None
        self._cause: BaseException | None = None  # why the channel went, if it went before the connection
        self._declaring = False
        self._attempt = 0
        self.failure: EsError | None = None
        """Why the link will never come back; None while it may."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Have the tenant's `pump` called soon. From any thread; many calls before the pump are one."""
        if not self._woken:
            self._woken = True
            self.call(self._pump)

    def call(self, action: Callable[[], None]) -> None:
        """Have something called in the I/O thread, in order of the calls. From any thread."""
        with self._loop_lock:
            if self._loop_open:
                self._loop.add_callback_threadsafe(action)

    def call_later(self, delay_s: float, action: Callable[[], None]) -> None:
        """From the I/O thread only."""
        self._loop.call_later(delay_s, action)

    def settled(self) -> None:
        """The tenant has set up its channel; from the I/O thread only."""
        self._declaring = False
        self._attempt = 0
        self._log.info("broker-connected", broker=self._place())

    def fault(self, reason: str) -> None:
        """Something that must not happen did: start over with a new connection. From the I/O thread only."""
        self._cause = PartUnavailable(PART, reason)
        if self._connection is not None and self._connection.is_open:
            self._connection.close()

    def close(self, *, wait_s: float = _CLOSE_TIMEOUT_S) -> None:
        """Say goodbye after everything that was handed over, and end the thread; don't wait longer than `wait_s`."""
        self.call(self._shut)
        if self._thread.is_alive():
            self._thread.join(wait_s)

    # --- in the I/O thread ---------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._connect()
            self._loop.start()
        except Exception as error:
            self._log.error("broker-thread-crashed", error)
        if not self._stopping and self.failure is None:
            # The loop ends only when it is told to. Whoever waits for this link must hear of it.
            self.failure = PartUnavailable(PART, "its I/O thread crashed", "Look at `es logs`.")
        if self.failure is not None:
            self._tenant.lost(self.failure)
        with self._loop_lock:
            self._loop_open = False
            self._loop.close()

    def _current(self) -> Any:
        return self._parameters[self._attempt % len(self._parameters)]

    def _place(self) -> str:
        return f"{self._current().host}:{self._current().port}"

    def _connect(self) -> None:
        if self._stopping:
            return
        self._cause, self._declaring = None, True
        self._connection = pika.SelectConnection(
            self._current(),
            on_open_callback=lambda connection: connection.channel(on_open_callback=self._on_channel),
            on_open_error_callback=self._on_lost,
            on_close_callback=self._on_lost,
            custom_ioloop=self._loop,
        )

    def _on_channel(self, channel: Any) -> None:
        channel.add_on_close_callback(self._on_channel_closed)
        # A cancel comes when the queue is deleted or its leader is lost: nothing would ever be delivered again.
        channel.add_on_cancel_callback(lambda _: self.fault("the broker cancelled the consumer"))
        self._channel = channel
        self._tenant.opened(channel)

    def _on_channel_closed(self, channel: Any, reason: BaseException) -> None:
        if channel is self._channel and self._connection.is_open:
            self._cause = reason
            self._connection.close()

    def _on_lost(self, connection: Any, reason: BaseException) -> None:
        if connection is not self._connection:
            return
        self._connection = self._channel = None
        if self._stopping:
            self._loop.stop()
            return
        cause = self._cause or reason
        error = (
            cause
            if isinstance(cause, EsError)
            else translated(cause, self._current(), declaring=self._declaring)
        )
        if isinstance(error, QueueMismatch):
            self.failure = error
            self._loop.stop()
            return
        delay_s = min(_RETRY_S[1], _RETRY_S[0] * 2 ** min(self._attempt, 10))
        delay_s *= random.uniform(0.5, 1.0)  # noqa: S311  # spreads the workers out; no secret
        self._attempt += 1
        self._log.warning(
            "broker-lost", reason=str(error), attempt=self._attempt, retry_in_ms=round(delay_s * 1000)
        )
        self._tenant.lost(error)
        self._loop.call_later(delay_s, self._connect)

    def _pump(self) -> None:
        self._woken = False  # before the work: whatever is handed over from here on wakes us again
        if self._channel is not None and self._channel.is_open:
            self._tenant.pump()

    def _shut(self) -> None:
        if self._channel is not None and self._channel.is_open:
            self._tenant.pump()
        self._stopping = True
        if self._connection is not None and self._connection.is_open:
            self._connection.close()
        else:
            self._loop.stop()


def server_version(url: str) -> str:
    """The broker's name and version, as it says itself, once it took a message. Raises PartUnavailable."""
    with open_channel(url) as channel:
        for _ in range(2):  # during an alarm it still takes the first
            channel.basic_publish("", "es.doctor", b"")  # there is no such queue, so it goes nowhere
        said = (
            channel.connection._impl.server_properties
        )  # pika keeps it to itself, and it is the only source
        return f"{said.get('product', 'AMQP broker')} {said.get('version', '(version unknown)')}"
