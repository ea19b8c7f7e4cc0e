"""RabbitMQ for tests: servers that are ready, and the queues of a role as another program uses them.

In the list of brokers of the transport contract `amqp:` stands for it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

from adapters.rabbitmq.connection import depth_of, open_channel
from adapters.rabbitmq.link import Log, Silence
from adapters.rabbitmq.messages import (
    PERSISTENT,
    QUEUE_LIMIT_BYTES,
    SYSTEM,
    Properties,
    dead_queue_of,
    declare_dead_queue,
    declare_queue,
    queue_of,
)
from adapters.rabbitmq.server import RabbitServer
from domain.kernel.messages import Body
from tests.support.waiting import DEADLINE_S, eventually

if TYPE_CHECKING:
    from tests.support.servers import RabbitMQ


@contextmanager
def rabbit_broker(rabbitmq: RabbitMQ, roles: Sequence[str] = ("echo",)) -> Iterator[str]:
    """The broker's URL for one test. The queues of the roles are deleted after it."""
    yield rabbitmq.url
    rabbitmq.delete_queues(SYSTEM)
    for role in roles:
        rabbitmq.delete_queues(queue_of(role), dead_queue_of(role))


def rabbit_server(
    url: str,
    role: str,
    *,
    log: Log | None = None,
    on_serving: Callable[[], None] = lambda: None,
    describe: Callable[[], Body] = dict,
    system_id: Callable[[], UUID | None] = lambda: None,
) -> RabbitServer:
    """A server that consumes from its first `receive` on."""
    return RabbitServer(
        url,
        role,
        log=log or Silence(),
        on_serving=on_serving,
        on_away=lambda _: None,
        describe=describe,
        system_id=system_id,
    )


def ready_server(url: str, role: str, **options: Any) -> RabbitServer:
    """A server that consumes, as a socket accepts once it listens."""
    serving = threading.Event()
    server = rabbit_server(url, role, on_serving=serving.set, **options)
    server.receive(0, 0)
    assert serving.wait(DEADLINE_S), "the server does not consume"
    return server


def a_request(n: Any, **body: Any) -> bytes:
    """A message with one request, as another program may send it."""
    return json.dumps({"kind": "users.rename", "body": {"n": n, **body}}).encode()


def receive(server: RabbitServer, count: int) -> list[Any]:
    """Receive until there are `count` requests."""
    received: list[Any] = []

    def are_here() -> bool:
        received.extend(server.receive(count - len(received), 0.05))
        return len(received) == count

    eventually(are_here, f"{count} requests arrive")
    return received


class Role:
    """A role and its queues, as another program uses them."""

    def __init__(self, url: str, name: str) -> None:
        self.url = url
        self.name = name
        self.queue = queue_of(name)
        self.dead_queue = dead_queue_of(name)

    def declare(self, *, limit_bytes: int | None = QUEUE_LIMIT_BYTES) -> None:
        """Declare the queues, as a worker does that is stopped afterwards. Earlier versions declared no limit."""
        with open_channel(self.url) as channel:
            declare_dead_queue(channel, self.name)
            declare_queue(channel, self.name, limit_bytes=limit_bytes)

    def put(self, *bodies: bytes, **properties: Any) -> None:
        for body in bodies:
            self.publish(self.queue, body, Properties(**properties))

    def put_dead(self, *bodies: bytes, **properties: Any) -> None:
        for body in bodies:
            self.publish(self.dead_queue, body, Properties(**properties))

    def publish(self, queue: str, body: bytes, properties: Properties) -> None:
        with open_channel(self.url) as channel:
            channel.basic_publish("", queue, body, properties, mandatory=True)

    def put_dead_quickly(self, bodies: Iterable[bytes]) -> None:
        """Put many dead letters, without waiting for each."""
        with open_channel(self.url) as channel:
            quick = channel.connection.channel()
            for body in bodies:
                quick.basic_publish("", self.dead_queue, body, Properties(delivery_mode=PERSISTENT))
            quick.tx_select()
            quick.tx_commit()

    def depth(self) -> int:
        """How many messages are waiting for a worker."""
        with open_channel(self.url) as channel:
            return depth_of(channel, self.queue)[0]

    def waiting_properties(self) -> list[Any]:
        """The properties of the waiting messages, which stay in the queue."""
        with open_channel(self.url) as channel:
            found = []
            while (got := channel.basic_get(self.queue))[0] is not None:
                found.append(got[1])
            return found
