"""A relay over RabbitMQ and a subscriber of all its messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from adapters.log import Log
from adapters.rabbitmq.publisher import RabbitPublisher
from tests.support.relaying import Relay, Subscriber
from tests.support.servers import RabbitMQ


@pytest.fixture
def publisher(rabbitmq: RabbitMQ, log: Log) -> Iterator[RabbitPublisher]:
    with closing(RabbitPublisher(rabbitmq.url, log=log)) as opened:
        yield opened


@pytest.fixture
def relay(publisher: RabbitPublisher, log: Log) -> Relay:
    return Relay(publisher, log)


@pytest.fixture
def subscriber(rabbitmq: RabbitMQ) -> Iterator[Subscriber]:
    with closing(Subscriber(rabbitmq.url, "#")) as subscribed:
        yield subscribed
