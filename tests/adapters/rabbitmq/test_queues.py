"""The queues of a role over RabbitMQ: as they are declared, and what a worker does when they differ or are gone."""

from __future__ import annotations

import json

import pytest

from adapters.rabbitmq.errors import QueueMismatch
from domain.kernel.ports.transport import Caller
from tests.support.rabbitmq import Role, rabbit_server
from tests.support.servers import RabbitMQ
from tests.support.transports import ROLE, Serving, Transport
from tests.support.waiting import DEADLINE_S


def test_queues_are_declared_so_that_every_version_keeps_their_messages(
    rabbitmq: RabbitMQ, role: Role
) -> None:
    role.declare()
    columns = ("name", "type", "durable", "arguments")
    shown = rabbitmq.ctl("list_queues", "-p", rabbitmq.vhost, *columns, "--quiet", "--formatter", "json")
    queues = {queue["name"]: queue for queue in json.loads(shown)}

    for name in (role.queue, role.dead_queue):
        assert (queues[name]["type"], queues[name]["durable"]) == ("quorum", True)
        # An explicit limit: the default is none in 3.10 and 20 from 4.0 on.
        assert "x-delivery-limit" in str(queues[name]["arguments"])
    for needed in ("at-least-once", "reject-publish", role.dead_queue):
        assert needed in str(queues[role.queue]["arguments"])


def test_a_queue_with_other_arguments_ends_the_worker_with_the_reason(
    role: Role, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as other_version:
        other_version.setattr("adapters.rabbitmq.messages.DELIVERY_LIMIT", 7)
        role.declare()

    server = rabbit_server(role.url, ROLE)
    with (
        pytest.raises(QueueMismatch, match="x-delivery-limit") as refused,
        transport.serving(server) as worker,
    ):
        worker.ended.result(DEADLINE_S)
    assert "delete_queue" in refused.value.hint


def test_a_queue_deleted_under_its_worker_is_declared_again(
    rabbitmq: RabbitMQ, role: Role, echoing: Serving, caller: Caller, transport: Transport
) -> None:
    assert caller.ask(ROLE, "echo", {"n": 1}) == {"n": 1}

    rabbitmq.delete_queues(role.queue)

    assert caller.ask(ROLE, "echo", {"n": 2}) == {"n": 2}
    assert "cancelled" in transport.log()
