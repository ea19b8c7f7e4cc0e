"""Systems over private servers, which the tests stop, kill and overload."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.breakable import Broker
from tests.support.postgres import Server, private_server
from tests.support.profiles import a_system
from tests.support.servers import RabbitMQ
from tests.support.system import System


@pytest.fixture
def broker(private_rabbitmq: RabbitMQ) -> Broker:
    return Broker(private_rabbitmq)


@pytest.fixture
def on_rabbitmq(
    private_rabbitmq: RabbitMQ, broker: Broker, request: pytest.FixtureRequest
) -> Iterator[System]:
    """A system over the private RabbitMQ, PostgreSQL and the test node. Nothing runs yet."""
    with a_system("distributed", request, broker=private_rabbitmq) as made:
        try:
            yield made
        finally:
            broker.start()  # also after a failure: the virtual host has to be removed


@pytest.fixture
def postgres() -> Iterator[Server]:
    with private_server() as server:
        yield server


@pytest.fixture
def on_postgres(postgres: Server, request: pytest.FixtureRequest) -> Iterator[System]:
    """A running system over a private PostgreSQL, RabbitMQ and the test node."""
    with a_system("distributed", request, database=postgres.url) as made:
        try:
            yield made.up()
        finally:
            postgres.ensure_running()
