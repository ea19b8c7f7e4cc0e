"""The relay during outages of the broker: no event is lost, and the checkpoint waits for the confirmations."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from adapters.log import Log
from adapters.rabbitmq.publisher import RabbitPublisher
from domain.kernel.errors import PartUnavailable
from tests.support.parts import Unavailable
from tests.support.proxy import proxied
from tests.support.relaying import Relay, Relaying, Subscriber, full_queue
from tests.support.servers import RabbitMQ
from tests.support.waiting import DEADLINE_S, before, eventually


def test_a_cut_connection_loses_no_event(relay: Relay, subscriber: Subscriber, rabbitmq: RabbitMQ) -> None:
    rabbitmq.need_control()
    ids = relay.store_events(1)
    relaying = Relaying(relay.process)
    relaying.wait_for(relay.store.head())

    rabbitmq.close_connections()
    ids += relay.store_events(500)
    relaying.wait_for(relay.store.head())
    if relaying.is_over:
        with pytest.raises(PartUnavailable):
            relaying.stop()
        eventually(relay.recovers, "it continues after the outage")
    else:
        relaying.stop()

    assert list(dict.fromkeys(subscriber.ids())) == ids, "all in order, apart from duplicates"


def test_the_checkpoint_waits_for_the_confirmation_of_stored_messages(
    rabbitmq: RabbitMQ, subscriber: Subscriber, log: Log
) -> None:
    proxy, url = proxied(rabbitmq.url)
    with closing(proxy), closing(RabbitPublisher(url, log=log)) as publisher:
        relay = Relay(publisher, log)
        ids = relay.store_events(1)
        relaying = Relaying(relay.process)
        relaying.wait_for(relay.store.head())
        eventually(lambda: relay.checkpoints.position == 1, "the first is confirmed, the checkpoint saved")

        proxy.drop_replies()
        ids += relay.store_events(5)
        arrived: list[str] = []

        def all_arrived() -> bool:
            arrived.extend(subscriber.ids())
            return arrived == ids

        eventually(all_arrived, "the broker has stored all of them")

        # The relay cannot know that, so it must publish them again.
        assert relay.positions == (1, 1)
        proxy.cut()
        with pytest.raises(PartUnavailable):
            relaying.stop()
        assert relay.positions == (1, 1)

        eventually(relay.recovers, "it continues after the outage")

    assert subscriber.ids()[-5:] == ids[1:], "again, under the same ids"
    assert relay.checkpoints.position == relay.store.head()


def test_the_checkpoint_stays_before_messages_that_the_broker_refuses(
    relay: Relay, subscriber: Subscriber, rabbitmq: RabbitMQ
) -> None:
    ids = relay.store_events(50)

    with full_queue(rabbitmq, "#"):
        with pytest.raises(PartUnavailable, match="refused"):
            relay.process.run(before(DEADLINE_S))
        assert relay.positions == (0, 0)

    relay.publish_all()
    assert subscriber.ids()[-50:] == ids
    assert relay.checkpoints.position == relay.store.head()


def test_the_checkpoint_stays_while_the_broker_is_unavailable(log: Log) -> None:
    publisher: Any = Unavailable()
    relay = Relay(publisher, log)
    relay.store_events(3)

    with pytest.raises(PartUnavailable):
        relay.process.run(before(DEADLINE_S))

    assert relay.positions == (0, 0)
