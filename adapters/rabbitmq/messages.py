"""Names, declarations, formats and addresses of what this program keeps in RabbitMQ.

Promise: they are stable, because workers, callers and queues of different versions meet at one broker.
Refusal: nothing here opens a connection.
"""

from __future__ import annotations

import base64
import re
import struct
from typing import Any
from uuid import UUID

import pika  # type: ignore[import-untyped]

from domain.kernel.messages import parse_json

PERSISTENT = 2
REPLY_QUEUE = "amq.rabbitmq.reply-to"
ROLL_CALL = "es.workers"
"""A fanout exchange. Every worker of every role receives each message that is published to it."""
SYSTEM = "es.system"
"""The queue that marks the virtual host of a system."""
TIMEOUT_HEADER = "es-patience-ms"
"""How long the caller waits for its reply. A duration, because the clocks of machines differ."""

DELIVERY_LIMIT = 20
"""Redeliveries before a message becomes a dead letter. RabbitMQ 3.10 has no limit unless one is declared."""
QUEUE_LIMIT_BYTES = 256 << 20
"""Requests that wait in the queue of a role, in bytes. Beyond it the broker refuses more, and callers are told."""
_NO_LIMIT = 1_000_000
"""For dead letters: from RabbitMQ 4.0 on, looking at a message counts as a delivery."""


# --- queues ----------------------------------------------------------------------------------


def queue_of(role: str) -> str:
    return f"es.{role}"


def dead_queue_of(role: str) -> str:
    return f"es.{role}.dead"


def declare_dead_queue(channel: Any, role: str) -> None:
    """Declare a role's dead-letter queue: before the role's queue, which may need it as soon as it exists."""
    channel.queue_declare(
        dead_queue_of(role),
        durable=True,
        arguments={"x-queue-type": "quorum", "x-delivery-limit": _NO_LIMIT},
    )


def declare_queue(channel: Any, role: str, *, limit_bytes: int | None, **callback: Any) -> None:
    """Declare a role's queue. Those of earlier versions have no limit."""
    channel.queue_declare(
        queue_of(role),
        durable=True,
        arguments={
            "x-queue-type": "quorum",
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": dead_queue_of(role),
            # Both: otherwise a message may leave this queue before the dead-letter queue has stored it.
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
            **({} if limit_bytes is None else {"x-max-length-bytes": limit_bytes}),
        },
        **callback,
    )


def declare_system(channel: Any, system_id: UUID) -> None:
    """Declare the queue that says to which system the virtual host belongs. The broker refuses that of another one.

    Nothing is ever published to it: its routing key holds the id, because the broker compares that in each declaration.
    """
    channel.queue_declare(
        SYSTEM,
        durable=True,
        arguments={
            "x-queue-type": "quorum",  # the loss of a node must not block the others
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": str(system_id),
        },
    )


def declare_roll_call(channel: Any) -> None:
    channel.exchange_declare(ROLL_CALL, exchange_type="fanout", durable=True)


# --- messages --------------------------------------------------------------------------------


def requests_of(raw: bytes) -> list[dict[str, Any]]:
    """The requests in a message: one JSON object, a list of them, or `{"requests": […]}`.

    Raises ValueError if the message holds anything else, or no request.
    """
    value = parse_json(raw)
    if isinstance(value, dict):
        value = value.get("requests", [value])
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        raise ValueError("neither a request nor a list of requests")
    return value


class Properties(pika.BasicProperties):  # type: ignore[misc]
    """Message properties. Headers that pika cannot read, such as a time beyond year 9999, become empty.

    pika would close the connection instead, and every unacknowledged message would count one more delivery.
    """

    has_bad_headers = False

    def decode(self, encoded: bytes, offset: int = 0) -> Any:
        try:
            return super().decode(encoded, offset)
        except Exception:  # of any type: the broker accepts more than pika can read
            self.has_bad_headers = True
            return super().decode(_without_headers(encoded, offset))


def _without_headers(encoded: bytes, offset: int) -> bytes:
    """The same properties with an empty header table. Raises ValueError if they have no headers."""
    (flags,) = struct.unpack_from(">H", encoded, offset)
    if not flags & pika.BasicProperties.FLAG_HEADERS:
        raise ValueError("properties without headers are unreadable")
    start = offset + 2
    for before in (pika.BasicProperties.FLAG_CONTENT_TYPE, pika.BasicProperties.FLAG_CONTENT_ENCODING):
        if flags & before:
            start += 1 + encoded[start]
    (size,) = struct.unpack_from(">I", encoded, start)
    return encoded[offset:start] + bytes(4) + encoded[start + 4 + size :]


# The class that pika uses for every message that arrives. Each module that receives messages imports this one.
pika.spec.props[Properties.INDEX] = Properties


# --- reply addresses -------------------------------------------------------------------------

_DIRECT_REPLY = re.compile(rb"\x83(X(v..|w.).*.{12}|g([ds].|w.|v..).*.{9})", re.DOTALL)
"""An Erlang process in its external format: https://www.erlang.org/doc/apps/erts/erl_ext_dist.html"""


def can_be_answered(reply_to: Any) -> bool:
    """Whether it is safe to publish a reply to this address.

    A direct reply-to name contains an encoded process id. If a client publishes to a name without one, RabbitMQ
    3.10 closes the client's connection (error 541). A name that refers to a node which left the cluster also
    closes the connection; this function does not detect that case.
    """
    if not isinstance(reply_to, str) or not reply_to:
        return False
    if not reply_to.startswith(f"{REPLY_QUEUE}."):
        return True
    try:
        process = base64.b64decode(reply_to.removeprefix(f"{REPLY_QUEUE}.").partition(".")[0], validate=True)
    except ValueError:
        return False
    return _DIRECT_REPLY.fullmatch(process) is not None
