"""The relay with a real broker: every stored event arrives at least once, in order, and nothing personal is readable."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from adapters.log import Log, open_log
from adapters.memory import MemoryStore
from adapters.rabbitmq import open_channel
from adapters.rabbitmq_publisher import EXCHANGE, Outgoing, RabbitPublisher
from adapters.sealing import Keyring
from adapters.wiring import open_codec
from domain.errors import PartUnavailable
from domain.events import NO_STREAM, EventData, Position
from domain.messages import Request
from domain.users import UserDeleted, UserRegistered
from tests.builders import DEADLINE_S, a_key, a_sample, append, before, eventually, metadata
from tests.servers import RabbitMQ, rabbitmq  # noqa: F401  # a fixture
from workers.relay import BATCH_LIMIT, RelayProcess, RelayService

SUBJECT = 7


class Checkpoints:
    """A checkpoint in memory, as the vault keeps it."""

    def __init__(self) -> None:
        self.position = Position(0)

    def checkpoint(self, process: str) -> Position:
        return self.position

    def save_checkpoint(self, process: str, position: Position) -> None:
        self.position = max(self.position, position)


class Subscriber:
    """A durable queue of somebody outside, bound to the exchange."""

    def __init__(self, url: str, pattern: str) -> None:
        self._url = url
        self._queue = f"test-subscriber-{uuid4().hex[:12]}"
        with open_channel(url) as channel:
            channel.exchange_declare(EXCHANGE, exchange_type="topic", durable=True)
            channel.queue_declare(self._queue, durable=True, arguments={"x-queue-type": "quorum"})
            channel.queue_bind(self._queue, EXCHANGE, pattern)

    def messages(self) -> list[tuple[Any, Any, bytes]]:
        """What has arrived since the last call: method, properties and body."""
        arrived = []
        with open_channel(self._url) as channel:
            while (message := channel.basic_get(self._queue, auto_ack=True))[0] is not None:
                arrived.append(message)
        return arrived

    def ids(self) -> list[str]:
        return [properties.message_id for _, properties, _ in self.messages()]

    def delete(self) -> None:
        with open_channel(self._url) as channel:
            channel.queue_delete(self._queue)


class Relaying:
    """A relay in a thread, as a follower runs it."""

    def __init__(self, process: RelayProcess) -> None:
        self.process = process
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self.ended = self._pool.submit(process.run, self._stopping.is_set)

    def wait_for(self, position: Position) -> None:
        eventually(
            lambda: self.process.reached >= position or self.ended.done(), f"the relay reaches {position}"
        )

    def stop(self) -> None:
        self._stopping.set()
        self.ended.result(DEADLINE_S)
        self._pool.shutdown()


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return open_log(f"relay-{uuid4()}", tmp_path / "relay.log")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def checkpoints() -> Checkpoints:
    return Checkpoints()


@pytest.fixture
def publisher(rabbitmq: RabbitMQ, log: Log) -> Iterator[RabbitPublisher]:  # noqa: F811
    with closing(RabbitPublisher(rabbitmq.url, log=log)) as opened:
        yield opened


@pytest.fixture
def subscriber(rabbitmq: RabbitMQ) -> Iterator[Subscriber]:  # noqa: F811
    subscribed = Subscriber(rabbitmq.url, "#")
    yield subscribed
    subscribed.delete()


@pytest.fixture
def process(
    store: MemoryStore, checkpoints: Checkpoints, publisher: RabbitPublisher, log: Log
) -> RelayProcess:
    return a_relay(store, checkpoints, publisher, log)


def a_relay(
    store: MemoryStore, checkpoints: Checkpoints, publisher: RabbitPublisher, log: Log
) -> RelayProcess:
    return RelayProcess(
        store=store,
        codec=open_codec(),
        checkpoints=checkpoints,
        publisher=publisher,
        log=log,
        monotonic_s=iter(range(0, 1 << 30, 2)).__next__,  # every look at the clock is time to save
    )


def an_event(event_class: Any = UserRegistered) -> EventData:
    return open_codec().encode(
        a_sample(event_class),
        event_id=uuid4(),
        subject=SUBJECT,
        metadata=metadata(),
        sealer=Keyring({SUBJECT: a_key()}),
    )


def store_events(store: MemoryStore, count: int, stream: str = "user-7") -> list[str]:
    """Append events and give their ids."""
    events = [an_event() for _ in range(count)]
    version = max((recorded.version for recorded in store.read_stream(stream)), default=NO_STREAM)
    append(store, stream, version, events)
    return [str(event.event_id) for event in events]


# ---------------------------------------------------------------------------------------------


def test_an_event_arrives_as_it_is_stored_with_its_personal_fields_sealed(
    store: MemoryStore, process: RelayProcess, subscriber: Subscriber
) -> None:
    event = an_event()
    append(store, "user-7", NO_STREAM, [event])

    relaying = Relaying(process)
    relaying.wait_for(store.head())
    relaying.stop()

    ((method, properties, body),) = subscriber.messages()
    assert method.routing_key == properties.type == "user-registered.v1"
    assert properties.message_id == str(event.event_id)
    assert properties.delivery_mode == 2, "persistent"
    message = json.loads(body)
    assert message["data"] == json.loads(event.data)
    assert (message["stream"], message["version"], message["position"]) == ("user-7", 0, store.head())
    assert message["command_id"] == json.loads(event.metadata)["command_id"]
    assert b"Ada" not in body
    assert b"ada@" not in body


def test_events_arrive_in_order_whatever_their_number(
    store: MemoryStore, process: RelayProcess, subscriber: Subscriber
) -> None:
    ids = store_events(store, 2 * BATCH_LIMIT + 7)
    relaying = Relaying(process)
    relaying.wait_for(store.head())

    ids += store_events(store, 3)  # live
    relaying.wait_for(store.head())
    relaying.stop()

    assert subscriber.ids() == ids


def test_whoever_listens_chooses_by_the_type_of_event(
    store: MemoryStore,
    process: RelayProcess,
    rabbitmq: RabbitMQ,  # noqa: F811
) -> None:
    chosen = Subscriber(rabbitmq.url, "user-deleted.*")
    append(store, "user-7", NO_STREAM, [an_event(), an_event(UserDeleted)])

    relaying = Relaying(process)
    relaying.wait_for(store.head())
    relaying.stop()

    assert [method.routing_key for method, _, _ in chosen.messages()] == ["user-deleted.v1"]
    chosen.delete()


def test_events_that_nobody_listens_to_hold_nothing_up(store: MemoryStore, process: RelayProcess) -> None:
    store_events(store, 5)

    relaying = Relaying(process)
    relaying.wait_for(store.head())
    relaying.stop()

    assert process.reached == store.head()


def test_a_relay_that_is_started_again_continues_where_it_was(
    store: MemoryStore, process: RelayProcess, checkpoints: Checkpoints, subscriber: Subscriber
) -> None:
    first = store_events(store, 3)
    relaying = Relaying(process)
    relaying.wait_for(store.head())
    relaying.stop()
    assert checkpoints.position == store.head()
    second = store_events(store, 2)

    relaying = Relaying(process)
    relaying.wait_for(store.head())
    relaying.stop()

    assert subscriber.ids() == first + second


def test_what_was_published_before_the_checkpoint_was_saved_comes_again_under_the_same_ids(
    store: MemoryStore, process: RelayProcess, checkpoints: Checkpoints, subscriber: Subscriber
) -> None:
    ids = store_events(store, 3)
    relaying = Relaying(process)
    relaying.wait_for(store.head())
    relaying.stop()

    checkpoints.position = Position(1)  # as a crash, or an older copy of the vault, leaves it
    relaying = Relaying(process)
    eventually(lambda: checkpoints.position == store.head(), "it has caught up")
    relaying.stop()

    assert subscriber.ids() == ids + ids[1:]


def test_a_cut_connection_loses_no_event(
    store: MemoryStore,
    process: RelayProcess,
    subscriber: Subscriber,
    rabbitmq: RabbitMQ,  # noqa: F811
) -> None:
    ids = store_events(store, 1)
    relaying = Relaying(process)
    relaying.wait_for(store.head())

    rabbitmq.close_connections()
    ids += store_events(store, 500)
    eventually(lambda: relaying.ended.done() or process.reached == store.head(), "it fails, or it is through")
    if relaying.ended.done():  # then a follower runs it again
        with pytest.raises(PartUnavailable):
            relaying.stop()
        eventually(lambda: _goes_on(process, store), "it goes on once the broker is back")
    else:
        relaying.stop()

    arrived = subscriber.ids()
    assert list(dict.fromkeys(arrived)) == ids, "all, in order, but for what came twice"


def _goes_on(process: RelayProcess, store: MemoryStore) -> bool:
    relaying = Relaying(process)
    relaying.wait_for(store.head())
    try:
        relaying.stop()
    except PartUnavailable:
        return False
    return process.reached == store.head()


class Unreachable:
    """A publisher whose broker is down."""

    def publish(self, batch: Sequence[Outgoing]) -> None:
        raise PartUnavailable("RabbitMQ", "it is down")


def test_the_checkpoint_stays_where_it_is_while_nothing_can_be_published(
    store: MemoryStore, checkpoints: Checkpoints, log: Log
) -> None:
    store_events(store, 3)
    process = RelayProcess(
        store=store, codec=open_codec(), checkpoints=checkpoints, publisher=Unreachable(), log=log
    )

    with pytest.raises(PartUnavailable):
        process.run(before(DEADLINE_S))

    assert (checkpoints.position, process.reached) == (0, 0)


def test_events_that_the_broker_does_not_store_are_not_published(
    publisher: RabbitPublisher,
    rabbitmq: RabbitMQ,  # noqa: F811
) -> None:
    full = f"test-full-{uuid4().hex[:12]}"
    publisher.publish([Outgoing("before.v1", "0", b"{}")])  # the exchange is there from here on
    with open_channel(rabbitmq.url) as channel:
        refusing = {"x-max-length": 1, "x-overflow": "reject-publish"}
        channel.queue_declare(full, durable=True, arguments=refusing)
        channel.queue_bind(full, EXCHANGE, "full.*")

    with pytest.raises(PartUnavailable, match="refused"):
        publisher.publish([Outgoing("full.v1", str(number), b"{}") for number in range(50)])

    rabbitmq.delete_queues(full)
    publisher.publish([Outgoing("full.v1", "51", b"{}")])


def test_one_relay_publishes_at_a_time_and_another_takes_over(
    publisher: RabbitPublisher,
    rabbitmq: RabbitMQ,  # noqa: F811
    subscriber: Subscriber,
) -> None:
    publisher.publish([Outgoing("thing-happened.v1", "1", b"{}")])

    with closing(RabbitPublisher(rabbitmq.url)) as standby:
        with pytest.raises(PartUnavailable, match="another worker"):
            standby.publish([Outgoing("thing-happened.v1", "2", b"{}")])

        publisher.close()
        eventually(lambda: _publishes(standby, "3"), "the other takes over")

    assert subscriber.ids() == ["1", "3"]


def _publishes(publisher: RabbitPublisher, message_id: str) -> bool:
    try:
        publisher.publish([Outgoing("thing-happened.v1", message_id, b"{}")])
    except PartUnavailable:
        return False
    return True


def test_the_relay_tells_how_far_it_is(
    store: MemoryStore, process: RelayProcess, checkpoints: Checkpoints, publisher: RabbitPublisher, log: Log
) -> None:
    store_events(store, 3)
    service = RelayService(store=store, process=process)

    (before,) = service.handle([Request("relay.progress", {})])
    relaying = Relaying(process)
    relaying.wait_for(store.head())
    relaying.stop()
    (after,) = service.handle([Request("relay.progress", {})])

    assert before == {"position": 0, "head": store.head(), "lag": store.head()}
    assert after == {"position": store.head(), "head": store.head(), "lag": 0}

    # One that stands by has published nothing itself.
    standby = RelayService(store=store, process=a_relay(store, checkpoints, publisher, log))
    assert standby.handle([Request("relay.progress", {})]) == [after]
