"""Translate errors of pika and of the network.

Promise: a caller gets an error of this program, with the reason and the next step. Refusal: an error never
holds a password or the text of a driver's exception.
"""

from __future__ import annotations

import logging
import re
import ssl
from typing import Any

import pika.exceptions  # type: ignore[import-untyped]

from adapters.rabbitmq.messages import SYSTEM
from domain.kernel.errors import EsError, ForeignPart, PartUnavailable

PART = "RabbitMQ"
NOT_FOUND = 404
_RESOURCE_LOCKED = 405
_PRECONDITION_FAILED = 406

# pika logs every error that it raises. Each is translated and reported once, so its log stays silent.
logging.getLogger("pika").setLevel(logging.CRITICAL + 1)


class ActiveElsewhere(PartUnavailable):
    """Another connection holds the exclusive queue: this one stands by, which is no outage."""


class QueueMismatch(EsError):
    """A queue or exchange exists with other arguments than this version declares. Retrying does not help."""

    reason: str
    code = "queue-mismatch"
    hint = (
        "Stop the workers and let the queue run empty (`es dead` for dead letters). Delete it with "
        "`rabbitmqctl delete_queue`, or an exchange in the management page. Then start the workers: they "
        "declare it."
    )

    def __str__(self) -> str:
        return f"RabbitMQ refused a declaration: {self.reason}"


_OTHER_ID = re.compile(rf"queue '{re.escape(SYSTEM)}'.*received '([^']*)' but current is '([^']*)'")
"""What RabbitMQ says about the marker of another system."""
_OTHER_BROKER = (
    "Correct `ES_BROKER` or `ES_STORE` (`es config show`), or give this system a virtual host of its own. If the other "
    f"system is gone, delete its marker: `rabbitmqctl delete_queue {SYSTEM}`, with the option `--vhost`."
)

_REASONS = {
    "ProbableAuthenticationError": "the user name or password was refused",
    "ProbableAccessDeniedError": "the virtual host is missing, or access to it was refused",
    "NackError": "the queue is full",
    "AMQPHeartbeatTimeout": "heartbeats are missing",
    "StreamLostError": "the connection was lost",
    "ConnectionBlockedTimeout": "it accepts no messages; check it for a memory or disk alarm",
    "ConnectionOpenAborted": "it accepted the connection, but did not reply",
    "AMQPConnectorSocketConnectError": "it cannot be reached",
    "AMQPConnectorStackTimeout": "it is too slow to answer",
}


def translated(error: BaseException, parameters: Any, *, declaring: bool) -> EsError:
    """The error of this program for one of pika or of the network.

    `parameters` are those of the connection. `declaring`: queues or exchanges were being declared.
    """
    cause = _innermost(error)
    place = f"{parameters.host}:{parameters.port}, virtual host {parameters.virtual_host!r}"
    code, text = getattr(cause, "reply_code", 0), getattr(cause, "reply_text", "")
    if code == _PRECONDITION_FAILED and declaring:
        marker = _OTHER_ID.search(text)
        return ForeignPart(PART, marker[2], marker[1], _OTHER_BROKER) if marker else QueueMismatch(text)
    if code == _RESOURCE_LOCKED:
        return ActiveElsewhere(PART, "another worker is the active one", "It takes over when that one ends.")
    if isinstance(cause, ssl.SSLError):
        return _tls_refusal(cause, place)
    if isinstance(cause, pika.exceptions.IncompatibleProtocolError):
        return _closed_early(cause, place, over_tls=parameters.ssl_options is not None)
    if isinstance(cause, OSError):
        text = cause.strerror
    text = text or _REASONS.get(type(cause).__name__) or type(cause).__name__
    return PartUnavailable(PART, f"{place}: {text}")


def _tls_refusal(error: ssl.SSLError, place: str) -> EsError:
    """This side refused the certificate of the broker, or found no TLS."""
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = f"its certificate is not accepted: {error.verify_message.rstrip('.')}"
        hint = (
            "Name the CA that signed it as `cafile=` in `ES_BROKER`, and use a host that the certificate names. "
            "Renew an expired certificate."
        )
    elif error.reason == "WRONG_VERSION_NUMBER":
        reason = "it does not speak TLS on this port"
        hint = "Name its TLS port (usually 5671), or use amqp://."
    else:
        reason, hint = f"no TLS connection: {error.reason or 'the handshake failed'}", _CLIENT_CERTIFICATE
    return PartUnavailable(PART, f"{place}: {reason}", hint)


def _closed_early(error: BaseException, place: str, *, over_tls: bool) -> EsError:
    """The broker closed the connection before it sent anything of AMQP.

    From TLS 1.3 on, a server checks the client's certificate after the client has finished its handshake.
    The alert with the reason may be in the text of the error, or lost with the connection.
    """
    if not over_tls:
        return PartUnavailable(
            PART,
            f"{place}: it closed the connection before it spoke AMQP",
            "If this is its TLS port, use amqps:// with `cafile=`. Otherwise look at the broker's log.",
        )
    alert = re.search(r"ALERT_([A-Z_]+)", str(error))
    why = f" ({alert[1].replace('_', ' ').lower()})" if alert else ""
    reason = f"it closed the connection after the TLS handshake; it may not accept our certificate{why}"
    return PartUnavailable(PART, f"{place}: {reason}", _CLIENT_CERTIFICATE)


_CLIENT_CERTIFICATE = (
    "Give a certificate that the broker accepts, and its key, as `certfile=` and `keyfile=` in `ES_BROKER`."
)


def _innermost(error: BaseException) -> BaseException:
    """The cause inside the wrappers that pika puts around a failed connection attempt."""
    wrapped = (getattr(error, "exception", None), *getattr(error, "exceptions", ()), *error.args[:1])
    for inner in wrapped:
        if isinstance(inner, BaseException):
            return _innermost(inner)
    return error
