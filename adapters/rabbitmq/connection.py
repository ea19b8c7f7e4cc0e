"""Blocking use of RabbitMQ: open a channel for a short task, and ask the broker about itself.

Promise: a channel ends with its block, and only errors of this program leave it. Refusal: no connection is
kept; `link` keeps one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pika  # type: ignore[import-untyped]
import pika.exceptions  # type: ignore[import-untyped]
from pika.adapters.utils.connection_workflow import AMQPConnectorException  # type: ignore[import-untyped]

from adapters.rabbitmq.errors import NOT_FOUND, PART, translated
from adapters.rabbitmq.url import CONNECT_TIMEOUT_S, parameters_of
from domain.kernel.errors import PartUnavailable


@contextlib.contextmanager
def open_channel(url: str) -> Iterator[Any]:
    """Open a blocking channel with publisher confirms. Raises PartUnavailable or QueueMismatch."""
    parameters = parameters_of(url)
    for each in parameters:
        each.blocked_connection_timeout = min(each.blocked_connection_timeout, CONNECT_TIMEOUT_S)
    try:
        connection = pika.BlockingConnection(parameters)
        try:
            connection.add_on_connection_blocked_callback(_raise_blocked)
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


def _raise_blocked(*_: object) -> None:
    """Fail at once when the broker blocks the connection: no message would be sent until its alarm ends."""
    raise pika.exceptions.ConnectionBlockedTimeout


def depth_of(channel: Any, queue: str) -> tuple[int, int]:
    """The number of messages and of consumers of a queue; zeros if it does not exist."""
    found = _found(channel, queue)
    return (0, 0) if found is None else (found.message_count, found.consumer_count)


def exists(channel: Any, queue: str) -> bool:
    """Whether a queue exists. It is not declared."""
    return _found(channel, queue) is not None


def _found(channel: Any, queue: str) -> Any:
    """What the broker says about a queue; None if it does not exist."""
    probe = channel.connection.channel()  # a separate one: the broker closes it if the queue is missing
    try:
        answer = probe.queue_declare(queue, passive=True).method
    except pika.exceptions.ChannelClosedByBroker as error:
        if error.reply_code != NOT_FOUND:
            raise
        return None
    probe.close()
    return answer


def server_version(url: str) -> str:
    """The broker's name and version, once it has accepted a message. Raises PartUnavailable."""
    with open_channel(url) as channel:
        for _ in range(2):  # during an alarm it still accepts the first
            channel.basic_publish("", "es.doctor", b"")  # no such queue exists: the message is dropped
        properties = channel.connection._impl.server_properties  # pika has no public access to them
        return f"{properties.get('product', 'AMQP broker')} {properties.get('version', '(version unknown)')}"
