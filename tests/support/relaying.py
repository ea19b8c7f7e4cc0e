"""A relay and its surroundings: checkpoints in memory, a subscriber of the exchange."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

from adapters.crypto.sealing import Keyring
from adapters.log import Log
from adapters.memory.event_store import MemoryStore
from adapters.rabbitmq.connection import open_channel
from adapters.rabbitmq.publisher import EXCHANGE
from adapters.wiring import open_codec
from domain.kernel.errors import PartUnavailable
from domain.kernel.events import BEGINNING, NO_STREAM, Event, EventData, Position
from domain.kernel.history import History
from domain.users.account import UserRegistered
from tests.support.builders import a_key, a_sample, append, metadata
from tests.support.servers import RabbitMQ
from tests.support.waiting import DEADLINE_S, eventually
from workers.relay.process import Publisher, RelayProcess
from workers.relay.service import RelayService

SUBJECT = 7


class Checkpoints:
    """A checkpoint in memory, with the rules of the vault, and all its moves."""

    def __init__(self) -> None:
        self.reached = History()
        self.moves: list[tuple[str, Position]] = []

    @property
    def position(self) -> Position:
        return self.reached.position

    def checkpoint(self, process: str) -> History:
        return self.reached

    def save_checkpoint(self, process: str, reached: History, *, since: Position = BEGINNING) -> None:
        assert self.position >= since
        self.moves.append(("save", reached.position))
        if reached.position >= self.position:
            self.reached = reached

    def rewind_checkpoint(self, process: str, reached: History, *, now_us: int) -> None:
        self.moves.append(("rewind", reached.position))
        if reached.position <= self.position:
            self.reached = reached


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
