"""RabbitMQ for the transport contract: `amqp:` in the list of brokers stands for it.

    BROKER_URLS = ["local:", "amqp:"]

and in `broker_settings`, with the fixture `rabbitmq` of tests/support/servers.py:

    url = stack.enter_context(rabbit_broker(request.getfixturevalue("rabbitmq"))) if … == "amqp:" else …
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from adapters.rabbitmq.connection import dead_queue_of, queue_of
from adapters.rabbitmq.server import RabbitServer
from tests.support.waiting import DEADLINE_S

if TYPE_CHECKING:
    from tests.support.servers import RabbitMQ


@contextmanager
def rabbit_broker(rabbitmq: RabbitMQ, roles: Sequence[str] = ("echo",)) -> Iterator[str]:
    """A broker's URL for one test. The roles' queues are removed after it, so that the next finds nobody."""
    yield rabbitmq.url
    for role in roles:
        rabbitmq.delete_queues(queue_of(role), dead_queue_of(role))


def ready_server(url: str, role: str) -> RabbitServer:
    """The answering end of a role once it consumes, as a socket is once it listens."""
    server = RabbitServer(url, role)
    assert server.wait_until_ready(DEADLINE_S)
    return server
