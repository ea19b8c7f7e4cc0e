"""The queues of a role over RabbitMQ: as they are declared, and what a worker does when they differ or are gone."""

from __future__ import annotations

import json

import pytest

from adapters.rabbitmq.errors import QueueMismatch
from domain.kernel.errors import PartUnavailable
from domain.kernel.ports.transport import Caller
from tests.support.rabbitmq import Role, a_request, rabbit_server
from tests.support.servers import RabbitMQ
from tests.support.transports import ROLE, Serving, Transport
from tests.support.waiting import DEADLINE_S, eventually


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


def test_the_queue_of_an_earlier_version_is_served_without_a_limit(
    role: Role, transport: Transport, caller: Caller
) -> None:
    role.declare(limit_bytes=None)

    with transport.serving(rabbit_server(role.url, ROLE)):
        assert caller.ask(ROLE, "echo", {"n": 1}) == {"n": 1}


def test_a_full_queue_refuses_more_and_what_it_holds_is_carried_out(
    role: Role, transport: Transport, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.rabbitmq.consumer.QUEUE_LIMIT_BYTES", 20_000)
    role.declare(limit_bytes=20_000)
    refusals = []
    for n in range(60):
        with pytest.raises(PartUnavailable) as refused:
            caller.ask(ROLE, "echo", {"n": n, "filling": "x" * 1000}, timeout_s=0.05)
        refusals.append(str(refused.value))

    assert "RabbitMQ has the request" in refusals[0]
    assert f"its queue {role.queue} is full" in refusals[-1]
    assert role.depth() < 30, "the broker may accept a few more than the limit"
    with pytest.raises(PartUnavailable, match="the queue is full"):
        role.put(a_request(99))

    with transport.serving(rabbit_server(role.url, ROLE)):
        assert caller.ask(ROLE, "echo", {"n": 100}) == {"n": 100}
        eventually(lambda: role.depth() == 0, "the requests are carried out")
