"""The caller over RabbitMQ: what it publishes, resends, waits for, and drops."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any
from uuid import uuid4

import pytest

from adapters.rabbitmq.caller import RabbitCaller
from adapters.rabbitmq.connection import open_channel
from adapters.rabbitmq.messages import Properties
from domain.kernel.errors import PartUnavailable
from domain.kernel.ports.transport import Caller
from tests.support.rabbitmq import Role
from tests.support.servers import free_port
from tests.support.transports import ROLE, Transport, asked, background
from tests.support.waiting import DEADLINE_S, eventually


def test_without_a_broker_a_request_is_unavailable_within_its_timeout() -> None:
    asked_at_s = time.monotonic()

    with (
        closing(RabbitCaller(f"amqp://guest:secret@127.0.0.1:{free_port()}/")) as caller,
        pytest.raises(PartUnavailable, match=r"RabbitMQ.*refused") as refused,
    ):
        caller.ask("users", "echo", {}, timeout_s=1.0)

    assert 0.9 < time.monotonic() - asked_at_s < DEADLINE_S, (
        "not before its timeout: the broker may be restarting"
    )
    assert "secret" not in str(refused.value.to_wire())


def test_a_caller_waits_for_a_worker_that_starts_late(transport: Transport, caller: Caller) -> None:
    with background(caller.ask, ROLE, "echo", {"n": 1}) as asking:
        with pytest.raises(TimeoutError):
            asking.result(0.5)
        transport.serve()
        assert asking.result(DEADLINE_S) == {"n": 1}


def test_requests_of_a_pipeline_that_wait_together_travel_together(
    role: Role, transport: Transport, caller: Caller
) -> None:
    role.declare()

    def ask() -> list[Any]:
        return asked(caller, 512, timeout_s=DEADLINE_S)

    with background(ask) as asking:
        eventually(lambda: role.depth() > 0, "they are sent")
        with pytest.raises(TimeoutError):
            asking.result(0.5)
        assert role.depth() <= 512 / 8
        serving = transport.serve()
        assert asking.result(DEADLINE_S) == list(range(512))

    assert serving.service.numbers == list(range(512))


def test_a_request_is_persistent_and_keeps_its_message_id_when_it_is_sent_again(
    role: Role, transport: Transport, caller: Caller, cut: Callable[[], None]
) -> None:
    role.declare()
    with background(caller.ask, ROLE, "echo", {"n": 1}, timeout_s=DEADLINE_S * 3) as asking:
        eventually(lambda: role.depth() == 1, "the request is stored")

        # Whether it was stored is unknown to the caller after this.
        cut()
        eventually(lambda: role.depth() == 2, "it is sent again")

        first, second = role.waiting_properties()
        transport.serve()
        assert asking.result(DEADLINE_S * 3) == {"n": 1}

    assert first.message_id == second.message_id
    assert (first.delivery_mode, second.delivery_mode) == (2, 2), "persistent"


def test_a_reply_is_returned_once_among_unknown_wrong_and_late_ones(role: Role, caller: Caller) -> None:
    role.declare()

    def answer_twice(channel: Any, method: Any, properties: Any, raw: bytes) -> None:
        """Reply as a worker that handles the same message twice, with noise around it."""
        (request,) = json.loads(raw)["requests"]
        mine, another = properties.correlation_id, str(uuid4())
        replies: list[tuple[str, bytes]] = [
            (another, b'{"replies": [[0, {"ok": {"n": "of another caller"}}]]}'),
            (mine, b"\xff not JSON"),
            (mine, b'{"replies": 7}'),
            (mine, b'{"replies": [[7, {"ok": {"n": "beyond"}}]]}'),
            (mine, json.dumps({"replies": [[0, {"ok": request["body"]}]]}).encode()),
            (mine, b'{"replies": [[0, {"ok": {"n": "late"}}]]}'),
        ]
        for correlation_id, body in replies:
            channel.basic_publish("", properties.reply_to, body, Properties(correlation_id=correlation_id))
        channel.basic_ack(method.delivery_tag)

    with open_channel(role.url) as channel:
        channel.basic_consume(role.queue, answer_twice)
        for number in range(3):
            with background(caller.ask, ROLE, "echo", {"n": number}, timeout_s=DEADLINE_S) as asking:
                while not asking.done():
                    channel.connection.process_data_events(time_limit=0.05)
                assert asking.result() == {"n": number}


def test_a_request_that_the_broker_refuses_is_sent_again_until_it_is_stored(
    role: Role, caller: Caller
) -> None:
    with open_channel(role.url) as channel:
        full = {"x-max-length": 1, "x-overflow": "reject-publish"}
        channel.queue_declare(role.queue, durable=True, arguments=full)
    role.put(b"in the way")

    with pytest.raises(PartUnavailable, match=r"es\.echo is full"):
        caller.ask(ROLE, "echo", {"n": 1}, timeout_s=1.0)

    with (
        background(caller.ask, ROLE, "echo", {"n": 2}, timeout_s=DEADLINE_S) as asking,
        open_channel(role.url) as channel,
    ):
        with pytest.raises(TimeoutError):
            asking.result(0.5)
        channel.queue_purge(role.queue)
        found: list[Any] = []

        def is_stored() -> bool:
            found[:] = channel.basic_get(role.queue, auto_ack=True)
            return found[0] is not None

        eventually(is_stored, "the request is stored")
        _, properties, raw = found
        assert json.loads(raw)["requests"][0]["body"] == {"n": 2}
        reply = Properties(correlation_id=properties.correlation_id)
        channel.basic_publish("", properties.reply_to, b'{"replies":[[0,{"ok":{"n":2}}]]}', reply)
        assert asking.result(DEADLINE_S) == {"n": 2}
