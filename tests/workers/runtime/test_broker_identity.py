"""The mark of a virtual host: servers and publishers of another system are refused before they take or send anything."""

from __future__ import annotations

from contextlib import closing
from uuid import UUID

import pytest

from adapters import wiring
from adapters.log import Log
from adapters.rabbitmq.connection import open_channel
from adapters.rabbitmq.messages import SYSTEM
from adapters.rabbitmq.publisher import Outgoing, RabbitPublisher
from adapters.settings import load_settings
from domain.kernel.errors import ForeignPart
from tests.support.rabbitmq import Role, a_request, rabbit_broker, rabbit_server, receive
from tests.support.servers import RabbitMQ
from tests.support.waiting import eventually


def test_a_server_takes_requests_of_its_own_system_only(rabbitmq: RabbitMQ) -> None:
    with rabbit_broker(rabbitmq) as url:
        role = Role(url, "echo")
        role.declare()
        with closing(rabbit_server(url, "echo", system_id=lambda: UUID(int=1))) as first:
            role.put(a_request(1))
            assert len(receive(first, 1)) == 1
        stranger = rabbit_server(url, "echo", system_id=lambda: UUID(int=2))

        with closing(stranger), pytest.raises(ForeignPart) as refused:
            eventually(lambda: stranger.receive(1, 0.05), "the broker refuses")

        assert (refused.value.found, refused.value.expected) == (str(UUID(int=1)), str(UUID(int=2)))
        assert SYSTEM in refused.value.hint
        eventually(lambda: role.depth() == 1, "the request is still there")


def test_a_server_that_does_not_know_its_system_yet_takes_requests(rabbitmq: RabbitMQ) -> None:
    with rabbit_broker(rabbitmq) as url, open_channel(url):
        wiring.claim_broker(load_settings(environment={"ES_HOME": "/nowhere", "ES_BROKER": url}), UUID(int=1))
        with closing(rabbit_server(url, "echo")) as server:
            server.receive(0, 0)
            role = Role(url, "echo")
            eventually(lambda: role.depth() == 0, "its queue exists")
            role.declare()
            role.put(a_request(1))
            assert len(receive(server, 1)) == 1


def test_an_own_worker_goes_on_after_a_broker_outage(rabbitmq: RabbitMQ) -> None:
    rabbitmq.need_control()
    with rabbit_broker(rabbitmq) as url:
        role = Role(url, "echo")
        role.declare()
        with closing(rabbit_server(url, "echo", system_id=lambda: UUID(int=1))) as server:
            role.put(a_request(1))
            receive(server, 1)
            rabbitmq.close_connections()
            role.put(a_request(2))
            assert receive(server, 1)


def test_nothing_is_published_to_the_broker_of_another_system(rabbitmq: RabbitMQ, log: Log) -> None:
    event = Outgoing("user-erased.v1", "1", b"{}")
    with rabbit_broker(rabbitmq) as url:
        with closing(RabbitPublisher(url, log=log, system_id=UUID(int=1))) as own:
            own.publish([event])

        with (
            closing(RabbitPublisher(url, log=log, system_id=UUID(int=2))) as stranger,
            pytest.raises(ForeignPart, match="RabbitMQ"),
        ):
            stranger.publish([event])
