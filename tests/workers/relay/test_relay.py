"""The relay with a real broker: every stored event arrives at least once, in order, and nothing personal is readable."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from adapters.crypto.sealing import Keyring
from adapters.log import Log, open_log
from adapters.memory.event_store import MemoryStore
from adapters.rabbitmq.connection import open_channel
from adapters.rabbitmq.errors import QueueMismatch
from adapters.rabbitmq.publisher import EXCHANGE, Outgoing, RabbitPublisher
from adapters.wiring import open_codec
from domain.kernel.errors import PartUnavailable
from domain.kernel.events import NO_STREAM, EventData, Position
from domain.kernel.messages import Request
from domain.users.account import UserDeleted, UserRegistered
from tests.support.builders import a_key, a_sample, append, metadata, some_events
from tests.support.servers import RabbitMQ
from tests.support.waiting import DEADLINE_S, before, eventually
from workers.relay.process import BATCH_LIMIT, RelayProcess
from workers.relay.service import RelayService

SUBJECT = 7


class Checkpoints:
    """A checkpoint in memory, as the vault keeps it."""

    def __init__(self) -> None:
        self.position = Position(0)

    def checkpoint(self, process: str) -> Position:
        return self.position

    def save_checkpoint(self, process: str, position: Position) -> None:
        self.position = max(self.position, position)

    def rewind_checkpoint(self, process: str, position: Position) -> None:
        self.position = min(self.position, position)


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
def publisher(rabbitmq: RabbitMQ, log: Log) -> Iterator[RabbitPublisher]:
    with closing(RabbitPublisher(rabbitmq.url, log=log)) as opened:
        yield opened


@pytest.fixture
def subscriber(rabbitmq: RabbitMQ) -> Iterator[Subscriber]:
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
    return a_process(store, checkpoints, publisher, log)


def a_process(
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
    rabbitmq: RabbitMQ,
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
    rabbitmq: RabbitMQ,
) -> None:
    rabbitmq.need_control()
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


class Muffler:
    """Stands between a client and the broker, and can keep what the broker says to itself."""

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
        """From here on nothing that the broker says gets through, and what the client says still does."""
        self._is_muffled.set()

    def cut(self) -> None:
        """Break all connections, and let later ones through."""
        ends, self._ends = self._ends, []
        for end in ends:
            _hang_up(end)
        self._is_muffled.clear()

    def close(self) -> None:
        _hang_up(self._listener)
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
            while said := source.recv(1 << 16):
                if not (may_be_muffled and self._is_muffled.is_set()):
                    target.sendall(said)
        _hang_up(target)


def _hang_up(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


def test_the_checkpoint_waits_for_the_confirmation_of_what_the_broker_already_has(
    store: MemoryStore,
    checkpoints: Checkpoints,
    rabbitmq: RabbitMQ,
    subscriber: Subscriber,
    log: Log,
) -> None:
    with (
        closing(Muffler(rabbitmq.url)) as between,
        closing(RabbitPublisher(between.url, log=log)) as publisher,
    ):
        process = a_process(store, checkpoints, publisher, log)
        ids = store_events(store, 1)
        relaying = Relaying(process)
        relaying.wait_for(store.head())
        eventually(lambda: checkpoints.position == 1, "the first is confirmed, and the checkpoint saved")

        between.muffle()
        ids += store_events(store, 5)
        arrived: list[str] = []

        def all_arrived() -> bool:
            arrived.extend(subscriber.ids())
            return arrived == ids

        eventually(all_arrived, "the broker has all")

        # They are stored, but the relay can't know: whoever listens must be told again rather than never.
        assert (process.reached, checkpoints.position) == (1, 1)
        between.cut()
        with pytest.raises(PartUnavailable):
            relaying.stop()
        assert (process.reached, checkpoints.position) == (1, 1)

        eventually(lambda: _goes_on(process, store), "it goes on once the broker is back")

    assert subscriber.ids()[-5:] == ids[1:], "the same again, under the same ids"
    assert checkpoints.position == store.head()


def test_the_checkpoint_stays_before_events_that_the_broker_refuses_to_store(
    store: MemoryStore,
    checkpoints: Checkpoints,
    process: RelayProcess,
    subscriber: Subscriber,
    rabbitmq: RabbitMQ,
) -> None:
    ids = store_events(store, 50)
    full = f"test-full-{uuid4().hex[:12]}"
    with open_channel(rabbitmq.url) as channel:
        refusing = {"x-max-length": 1, "x-overflow": "reject-publish"}
        channel.queue_declare(full, durable=True, arguments=refusing)
        channel.queue_bind(full, EXCHANGE, "#")

    with pytest.raises(PartUnavailable, match="refused"):
        process.run(before(DEADLINE_S))
    assert (process.reached, checkpoints.position) == (0, 0)

    rabbitmq.delete_queues(full)
    relaying = Relaying(process)
    relaying.wait_for(store.head())
    relaying.stop()
    assert subscriber.ids()[-50:] == ids
    assert checkpoints.position == store.head()


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
    rabbitmq: RabbitMQ,
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


def test_an_exchange_that_somebody_declared_otherwise_is_a_clear_refusal(
    publisher: RabbitPublisher,
    rabbitmq: RabbitMQ,
    log: Log,
) -> None:
    if not rabbitmq.control:
        pytest.skip("it takes the exchange away, so it needs a virtual host that nobody else uses")
    publisher.close()
    with open_channel(rabbitmq.url) as channel:
        channel.exchange_delete(EXCHANGE)
        channel.exchange_declare(EXCHANGE, exchange_type="fanout", durable=True)
    try:
        with closing(RabbitPublisher(rabbitmq.url, log=log)) as another:
            with pytest.raises(QueueMismatch, match=r"es\.events"):
                another.publish([Outgoing("thing-happened.v1", "1", b"{}")])

            with open_channel(rabbitmq.url) as channel:
                channel.exchange_delete(EXCHANGE)
            eventually(lambda: _publishes(another, "1"), "it is mended, and nobody restarted anything")
    finally:
        with open_channel(rabbitmq.url) as channel:
            channel.exchange_delete(EXCHANGE)


def test_one_relay_publishes_at_a_time_and_another_takes_over(
    publisher: RabbitPublisher,
    rabbitmq: RabbitMQ,
    subscriber: Subscriber,
    log: Log,
) -> None:
    publisher.publish([Outgoing("thing-happened.v1", "1", b"{}")])

    with closing(RabbitPublisher(rabbitmq.url, log=log)) as standby:
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


def test_what_comes_after_older_events_were_restored_is_published(
    store: MemoryStore, checkpoints: Checkpoints, process: RelayProcess, subscriber: Subscriber
) -> None:
    store_events(store, 1)
    checkpoints.position = Position(5000)  # it published so much that isn't there any more
    relaying = Relaying(process)
    eventually(lambda: checkpoints.position == 1 or relaying.ended.done(), "the relay starts at the new end")

    new = store_events(store, 1)
    relaying.wait_for(store.head())
    relaying.stop()

    assert subscriber.ids() == new


def test_an_event_of_another_program_is_passed_over(
    store: MemoryStore, process: RelayProcess, subscriber: Subscriber
) -> None:
    append(store, "elsewhere-1", NO_STREAM, some_events(1))  # with metadata that isn't ours
    ours = store_events(store, 1)

    relaying = Relaying(process)
    relaying.wait_for(store.head())
    relaying.stop()

    assert subscriber.ids() == ours
