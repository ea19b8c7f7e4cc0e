"""A relay and its surroundings: checkpoints in memory, a subscriber of the exchange, a proxy that hides confirmations."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from adapters.crypto.sealing import Keyring
from adapters.log import Log
from adapters.memory.event_store import MemoryStore
from adapters.rabbitmq.connection import open_channel
from adapters.rabbitmq.publisher import EXCHANGE
from adapters.wiring import open_codec
from domain.kernel.errors import PartUnavailable
from domain.kernel.events import NO_STREAM, Event, EventData, Position
from domain.users.account import UserRegistered
from tests.support.builders import DEADLINE_S, a_key, a_sample, append, eventually, metadata
from tests.support.servers import RabbitMQ
from workers.relay.process import Publisher, RelayProcess
from workers.relay.service import RelayService

SUBJECT = 7


class Checkpoints:
    """A checkpoint in memory, with the rules of the vault."""

    def __init__(self) -> None:
        self.position = Position(0)

    def checkpoint(self, process: str) -> Position:
        return self.position

    def save_checkpoint(self, process: str, position: Position) -> None:
        self.position = max(self.position, position)

    def rewind_checkpoint(self, process: str, position: Position) -> None:
        self.position = min(self.position, position)


class Relay:
    """A relay process over a store in memory."""

    def __init__(self, publisher: Publisher, log: Log) -> None:
        self.store = MemoryStore()
        self.checkpoints = Checkpoints()
        self._publisher = publisher
        self._log = log
        self.process = self.another()

    def another(self) -> RelayProcess:
        return RelayProcess(
            store=self.store,
            codec=open_codec(),
            checkpoints=self.checkpoints,
            publisher=self._publisher,
            log=self._log,
            monotonic_s=iter(range(0, 1 << 30, 2)).__next__,  # the checkpoint is saved each time
        )

    @property
    def positions(self) -> tuple[Position, Position]:
        """The reached position and the checkpoint."""
        return self.process.reached, self.checkpoints.position

    def store_events(self, count: int, stream: str = f"user-{SUBJECT}") -> list[str]:
        """Append events to a stream and return their ids."""
        events = [a_sealed_event() for _ in range(count)]
        version = max((recorded.version for recorded in self.store.read_stream(stream)), default=NO_STREAM)
        append(self.store, stream, version, events)
        return [str(event.event_id) for event in events]

    def service(self, process: RelayProcess | None = None) -> RelayService:
        return RelayService(store=self.store, process=process or self.process)

    def publish_all(self) -> None:
        """Run the process until it has reached the head."""
        relaying = Relaying(self.process)
        relaying.wait_for(self.store.head())
        relaying.stop()

    def recovers(self) -> bool:
        """Whether a run publishes every event now."""
        with suppress(PartUnavailable):
            self.publish_all()
        return self.process.reached == self.store.head()


class Relaying:
    """A relay process that runs in a thread."""

    def __init__(self, process: RelayProcess) -> None:
        self._process = process
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._run = self._pool.submit(process.run, self._stopping.is_set)

    @property
    def is_over(self) -> bool:
        return self._run.done()

    def wait_for(self, position: Position) -> None:
        eventually(lambda: self._process.reached >= position or self.is_over, f"the relay reaches {position}")

    def stop(self) -> None:
        """Stop it. Raises its error."""
        self._stopping.set()
        self._run.result(DEADLINE_S)
        self._pool.shutdown()


def a_sealed_event(event_class: type[Event] = UserRegistered) -> EventData:
    return open_codec().encode(
        a_sample(event_class),
        event_id=uuid4(),
        subject=SUBJECT,
        metadata=metadata(),
        sealer=Keyring({SUBJECT: a_key()}),
    )


# --- the broker ------------------------------------------------------------------------------


class Subscriber:
    """A durable queue of another program, bound to the exchange."""

    def __init__(self, url: str, pattern: str) -> None:
        self._url = url
        self._queue = f"test-subscriber-{uuid4().hex[:12]}"
        with open_channel(url) as channel:
            channel.exchange_declare(EXCHANGE, exchange_type="topic", durable=True)
            channel.queue_declare(self._queue, durable=True, arguments={"x-queue-type": "quorum"})
            channel.queue_bind(self._queue, EXCHANGE, pattern)

    def messages(self) -> list[tuple[Any, Any, bytes]]:
        """Method, properties and body of the messages since the last call."""
        arrived = []
        with open_channel(self._url) as channel:
            while (message := channel.basic_get(self._queue, auto_ack=True))[0] is not None:
                arrived.append(message)
        return arrived

    def ids(self) -> list[str]:
        return [properties.message_id for _, properties, _ in self.messages()]

    def close(self) -> None:
        with open_channel(self._url) as channel:
            channel.queue_delete(self._queue)


@contextmanager
def full_queue(rabbitmq: RabbitMQ, pattern: str) -> Iterator[None]:
    """A queue, bound to the exchange, that refuses to store more than one message."""
    name = f"test-full-{uuid4().hex[:12]}"
    with open_channel(rabbitmq.url) as channel:
        refusing = {"x-max-length": 1, "x-overflow": "reject-publish"}
        channel.queue_declare(name, durable=True, arguments=refusing)
        channel.queue_bind(name, EXCHANGE, pattern)
    try:
        yield
    finally:
        rabbitmq.delete_queues(name)


class Muffler:
    """A proxy in front of the broker that can drop everything the broker sends."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._broker = (parts.hostname, parts.port or 5672)
        self._listener = socket.create_server(("127.0.0.1", 0))
        credentials = parts.netloc.rpartition("@")[0]
        port = self._listener.getsockname()[1]
        self.url = parts._replace(netloc=f"{credentials}@127.0.0.1:{port}").geturl()
        self._is_muffled = threading.Event()
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def muffle(self) -> None:
        """Drop what the broker sends from now on, and pass on what the client sends."""
        self._is_muffled.set()

    def cut(self) -> None:
        """Break all connections, and pass everything on later ones."""
        ends, self._ends = self._ends, []
        for end in ends:
            _shut_down(end)
        self._is_muffled.clear()

    def close(self) -> None:
        _shut_down(self._listener)
        self._listener.close()
        self._threads[0].join()
        self.cut()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                client, _ = self._listener.accept()
                broker = socket.create_connection(self._broker)
                self._ends += [client, broker]
                for source, target, may_be_muffled in ((client, broker, False), (broker, client, True)):
                    pump = threading.Thread(target=self._pass_on, args=(source, target, may_be_muffled))
                    self._threads.append(pump)
                    pump.start()

    def _pass_on(self, source: socket.socket, target: socket.socket, may_be_muffled: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if not (may_be_muffled and self._is_muffled.is_set()):
                    target.sendall(data)
        _shut_down(target)


def _shut_down(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
