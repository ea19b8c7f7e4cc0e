"""The relay's publisher: a refused message, a wrong exchange and a second relay are errors, and it recovers."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from adapters.log import Log
from adapters.rabbitmq.connection import open_channel
from adapters.rabbitmq.errors import QueueMismatch
from adapters.rabbitmq.publisher import EXCHANGE, Outgoing, RabbitPublisher
from domain.kernel.errors import PartUnavailable
from domain.kernel.events import BEGINNING
from tests.support.relaying import Relay, Relaying, Subscriber, full_queue
from tests.support.servers import RabbitMQ
from tests.support.waiting import eventually


def a_message(id_: str, type_: str = "thing-happened.v1") -> Outgoing:
    return Outgoing(type_, id_, b"{}")


def publishes(publisher: RabbitPublisher, id_: str) -> bool:
    try:
        publisher.publish([a_message(id_)])
    except PartUnavailable:
        return False
    return True


def test_a_message_that_the_broker_does_not_store_is_an_error(
    publisher: RabbitPublisher, rabbitmq: RabbitMQ
) -> None:
    publisher.publish([a_message("0", "before.v1")])  # declares the exchange

    with full_queue(rabbitmq, "full.*"), pytest.raises(PartUnavailable, match="refused"):
        publisher.publish([a_message(str(number), "full.v1") for number in range(50)])

    publisher.publish([a_message("51", "full.v1")])


def test_an_exchange_of_another_type_is_refused_until_it_is_removed(
    publisher: RabbitPublisher, rabbitmq: RabbitMQ, log: Log
) -> None:
    if not rabbitmq.control:
        pytest.skip("it removes the exchange, so it needs a virtual host of its own")
    publisher.close()
    with open_channel(rabbitmq.url) as channel:
        channel.exchange_delete(EXCHANGE)
        channel.exchange_declare(EXCHANGE, exchange_type="fanout", durable=True)
    try:
        with closing(RabbitPublisher(rabbitmq.url, log=log)) as another:
            with pytest.raises(QueueMismatch, match=r"es\.events"):
                another.publish([a_message("1")])

            with open_channel(rabbitmq.url) as channel:
                channel.exchange_delete(EXCHANGE)
            eventually(lambda: publishes(another, "1"), "it recovers without a restart")
    finally:
        with open_channel(rabbitmq.url) as channel:
            channel.exchange_delete(EXCHANGE)


def test_one_relay_publishes_at_a_time_and_another_takes_over(
    publisher: RabbitPublisher, rabbitmq: RabbitMQ, subscriber: Subscriber, log: Log
) -> None:
    publisher.publish([a_message("1")])

    with closing(RabbitPublisher(rabbitmq.url, log=log)) as standby:
        with pytest.raises(PartUnavailable, match="another worker"):
            standby.publish([a_message("2")])

        publisher.close()
        eventually(lambda: publishes(standby, "3"), "the standby takes over")

    assert subscriber.ids() == ["1", "3"]


def test_a_relay_that_stands_by_reads_nothing_and_reports_no_error(
    publisher: RabbitPublisher, rabbitmq: RabbitMQ, subscriber: Subscriber, log: Log, tmp_path: Path
) -> None:
    log_file = tmp_path / "log" / "test.log"

    publisher.publish([a_message("1")])
    with closing(RabbitPublisher(rabbitmq.url, log=log)) as standby:
        relay = Relay(standby, log)
        ids = relay.store_events(1)
        relaying = Relaying(relay.process)
        eventually(lambda: "standing-by" in log_file.read_text(), "it stands by")
        assert relay.process.reached == BEGINNING
        assert not relaying.is_over
        publisher.close()
        relaying.wait_for(relay.store.head())
        relaying.stop()

    assert subscriber.ids() == ["1", *ids]
    assert {json.loads(line)["level"] for line in log_file.read_text().splitlines()} == {"info"}
