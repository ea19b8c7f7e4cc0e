"""Fixtures of RabbitMQ with a real broker. The queues of the role are deleted after each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapters.rabbitmq.dead_letters import DeadLetters
from adapters.settings import Settings, load_settings
from tests.support.rabbitmq import Role, rabbit_broker
from tests.support.servers import RabbitMQ
from tests.support.transports import (  # noqa: F401  # fixtures
    ROLE,
    caller,
    echoing,
    transport,
)


@pytest.fixture
def broker_settings(rabbitmq: RabbitMQ, tmp_path: Path) -> Iterator[Settings]:
    with rabbit_broker(rabbitmq) as url:
        yield load_settings(environment={"ES_HOME": str(tmp_path), "ES_BROKER": url})


@pytest.fixture
def role(broker_settings: Settings) -> Role:
    return Role(broker_settings.broker, ROLE)


@pytest.fixture
def dead(role: Role) -> DeadLetters:
    return DeadLetters(role.url, [ROLE])


@pytest.fixture
def cut(rabbitmq: RabbitMQ) -> Callable[[], None]:
    """Closes every connection. A test that uses it is skipped if the broker cannot be controlled."""
    rabbitmq.need_control()
    return rabbitmq.close_connections
