"""The server over RabbitMQ: what a worker acknowledges, rejects, shares, and leaves to others."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.rabbitmq.connection import open_channel
from adapters.rabbitmq.consumer import SUSPECT_AFTER, Tags
from adapters.rabbitmq.dead_letters import DeadLetters
from adapters.rabbitmq.messages import Properties
from adapters.rabbitmq.roll_call import roll_call
from domain.kernel.errors import PartUnavailable
from domain.kernel.messages import MAX_MESSAGE_BYTES
from domain.kernel.ports.transport import Caller
from tests.support.processes import start_python
from tests.support.rabbitmq import Role, a_request, receive
from tests.support.transports import ROLE, Gate, Transport, asked, background
from tests.support.waiting import DEADLINE_S, eventually

# --- acknowledgements ------------------------------------------------------------------------


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 20))
def test_each_settled_tag_is_acknowledged_once_and_no_other(choices: list[int], count: int) -> None:
    tags, unsettled, unacknowledged = Tags(), set(range(1, count + 1)), set(range(1, count + 1))
    for tag in sorted(unsettled):
        tags.add(tag)

    def acknowledge() -> None:
        for tag, multiple in tags.take():
            assert tag in unacknowledged, "the broker closes a channel that acknowledges an unknown tag"
            covered = {each for each in unacknowledged if each == tag or (multiple and each < tag)}
            assert not covered & unsettled
            unacknowledged.difference_update(covered)

    for choice in choices:
        if choice == 0 and unsettled:
            rejected = min(unsettled)
            tags.forget(rejected)
            unsettled.discard(rejected)
            unacknowledged.discard(rejected)
        elif choice < 7 and unsettled:
            settled = sorted(unsettled)[choice % len(unsettled)]
            tags.settle(settled)
            unsettled.discard(settled)
        else:
            acknowledge()
    acknowledge()

    assert unacknowledged == unsettled


def test_an_acknowledgement_of_a_lost_channel_settles_nothing_on_the_next(
    role: Role, transport: Transport, cut: Callable[[], None]
) -> None:
    server = transport.server()
    role.put(a_request("first"))
    (stale,) = receive(server, 1)
    cut()
    eventually(lambda: server.is_gone(stale), "the loss is noticed")
    (again,) = receive(server, 1)
    assert again.message.tag == stale.message.tag, "the same number, on another channel"

    server.answer([(stale, {})])
    server.close()

    (third,) = receive(transport.server(), 1)
    assert third.request.body == {"n": "first"}


def test_answered_requests_are_removed_and_the_others_delivered_again(
    role: Role, transport: Transport
) -> None:
    server = transport.server()
    role.put(*(a_request(n) for n in range(10)))
    received = receive(server, 10)

    # The oldest stays unanswered, so no acknowledgement may cover it.
    server.answer([(delivery, {}) for delivery in received if delivery.request.body["n"] in (1, 2, 5)])
    server.close()

    again = receive(transport.server(), 7)
    assert sorted(delivery.request.body["n"] for delivery in again) == [0, 3, 4, 6, 7, 8, 9]


def test_a_message_with_many_requests_is_settled_by_its_last_reply(role: Role, transport: Transport) -> None:
    server = transport.server()
    role.put(json.dumps({"requests": [{"kind": "echo", "body": {"n": n}} for n in range(3)]}).encode())
    server.answer([(delivery, {}) for delivery in receive(server, 3)[:2]])
    server.close()

    server = transport.server()
    server.answer([(delivery, {}) for delivery in receive(server, 3)])  # the whole message again
    server.close()

    assert transport.server().receive(1, 0.3) == []


# --- sharing and stopping --------------------------------------------------------------------


def test_workers_of_a_role_share_its_requests(role: Role, transport: Transport, caller: Caller) -> None:
    workers = [transport.serve(), transport.serve()]

    for number in range(20):
        caller.ask(ROLE, "echo", {"n": number})

    shares = [serving.service.numbers for serving in workers]
    assert all(shares), "each has its share"
    assert sorted(shares[0] + shares[1]) == list(range(20)), "and no request is handled twice"


def test_a_worker_holds_no_more_than_its_prefetch_count(
    role: Role, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as few:
        few.setattr("adapters.rabbitmq.consumer.PREFETCH_COUNT", 5)
        holding = transport.server()
    role.put(*(a_request(n) for n in range(20)))
    held = receive(holding, 5)

    rest = receive(transport.server(), 15)

    assert sorted(delivery.request.body["n"] for delivery in [*held, *rest]) == list(range(20))


BUSY_WORKER = """
import sys
from adapters.rabbitmq.link import Silence
from adapters.rabbitmq.server import RabbitServer
server = RabbitServer(
    sys.argv[1], sys.argv[2], log=Silence(), describe=dict, on_away=lambda _: None,
    on_serving=lambda: print("ready", flush=True),
)
while not (batch := server.receive(256, 1.0)):
    pass
server.answer([(delivery, delivery.request.body) for delivery in batch if delivery.request.body["n"] == 0])
print("busy", flush=True)
sys.stdin.read()
"""


def test_requests_of_a_killed_worker_are_handled_by_another(
    role: Role, transport: Transport, caller: Caller
) -> None:
    process = start_python(BUSY_WORKER, role.url, ROLE)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"

    with background(asked, caller, 300) as asking:
        assert process.stdout.readline() == "busy\n"
        process.kill()
        process.communicate(timeout=DEADLINE_S)
        serving = transport.serve()
        assert asking.result(DEADLINE_S) == list(range(300))

    assert serving.service.effects >= set(range(1, 300)), "all but the one that the first had answered"


def test_a_worker_that_stops_finishes_its_deliveries_and_takes_no_more(
    role: Role, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.rabbitmq.consumer.PREFETCH_COUNT", 5)
    gate = Gate()
    serving = transport.serve(gate)
    role.put(*(a_request(n) for n in range(8)))
    gate.wait_until_busy()
    with background(serving.stop) as stopping:
        gate.open()
        stopping.result(DEADLINE_S)

    seen = serving.service.numbers
    assert len(seen) + role.depth() == 8, "each was handled, or is left for another worker"
    assert len(set(seen)) == len(seen)
    assert seen


def test_a_worker_that_stops_listening_leaves_new_requests_to_others(
    role: Role, transport: Transport
) -> None:
    stopping = transport.server()
    role.put(a_request("before"))
    (before,) = receive(stopping, 1)

    stopping.stop_listening()
    role.put(a_request("after"))
    other = transport.server()

    assert [delivery.request.body["n"] for delivery in receive(other, 1)] == ["after"]
    stopping.answer([(before, {})])
    stopping.close()
    assert other.receive(1, 0.3) == [], "its own delivery was acknowledged"


# --- messages that are not sound -------------------------------------------------------------


def deliver(transport: Transport, count: int, *, times: int) -> None:
    """Have `count` requests delivered to workers that end without a reply."""
    for _ in range(times):
        server = transport.server()
        receive(server, count)
        server.close()


def test_a_message_that_may_crash_workers_is_handled_alone(role: Role, transport: Transport) -> None:
    transport.server().close()
    role.put(*(a_request(n) for n in range(5)))
    deliver(transport, 5, times=SUSPECT_AFTER)

    server = transport.server()
    role.put(a_request("new"))
    batches: list[list[Any]] = []

    def all_received() -> bool:
        if batch := server.receive(256, 0.05):
            batches.append([delivery.request.body["n"] for delivery in batch])
        return sum(map(len, batches)) == 6

    eventually(all_received, "all requests are received")
    assert [len(batch) for batch in batches] == [1] * 6
    assert sorted(str(batch[0]) for batch in batches) == ["0", "1", "2", "3", "4", "new"]


@pytest.mark.parametrize(
    "odd",
    [
        a_request(1, pad="x" * 2 * MAX_MESSAGE_BYTES),
        b'[{"kind":"echo","body":{"n":' + b"[" * 985 + b"]" * 985 + b"}}]",
    ],
    ids=["size", "nesting"],
)
def test_a_message_beyond_a_limit_becomes_a_dead_letter(
    role: Role, transport: Transport, caller: Caller, dead: DeadLetters, odd: bytes
) -> None:
    serving = transport.serve()
    role.put(odd)

    assert asked(caller, 3) == [0, 1, 2]
    eventually(lambda: dead.counts()[0].dead == 1, "it is a dead letter")
    assert serving.service.numbers == [0, 1, 2]


def test_no_request_is_handled_while_the_broker_takes_no_replies(
    role: Role, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = transport.server()
    role.put(*(a_request(n) for n in range(2)), reply_to="nowhere")
    first, second = receive(server, 2)
    with monkeypatch.context() as blocked:
        blocked.setattr("adapters.rabbitmq.link.Link.has_room", False)
        blocked.setattr("adapters.rabbitmq.server._UNSENT_LIMIT_BYTES", 1000)
        assert not server.is_full(first)
        server.answer([(first, {"pad": "x" * 1000})])
        assert server.is_full(second)
        blocked.setattr("adapters.rabbitmq.link.Link.has_room", True)
        eventually(lambda: not server.is_full(second), "the reply is sent")


def test_replies_of_a_lost_channel_do_not_count(
    role: Role, transport: Transport, cut: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.rabbitmq.server._UNSENT_LIMIT_BYTES", 1000)
    server = transport.server()
    role.put(a_request(1), reply_to="nowhere")
    (delivery,) = receive(server, 1)
    with monkeypatch.context() as blocked:
        blocked.setattr("adapters.rabbitmq.link.Link.has_room", False)
        server.answer([(delivery, {"pad": "x" * 1000})])
        cut()
        eventually(lambda: server.is_gone(delivery), "the loss is noticed")

    (again,) = receive(server, 1)

    eventually(lambda: not server.is_full(again), "the lost reply is no longer counted")
    assert again.request.body == delivery.request.body, "the request came again, and it can be answered"


def direct_reply(process: bytes) -> str:
    return f"amq.rabbitmq.reply-to.{base64.b64encode(process).decode()}.a2V5"


@pytest.mark.parametrize(
    "reply_to",
    [
        "amq.rabbitmq.reply-to.a.b",
        direct_reply(b"garbage"),
        direct_reply(b"\x83garbage"),
        direct_reply(b"\x83Xw\x04node"),
        b"\xff\xfe",
        "no such queue",
    ],
)
def test_a_reply_address_that_no_reply_can_reach_disturbs_no_caller(
    role: Role, transport: Transport, caller: Caller, reply_to: str | bytes
) -> None:
    serving = transport.serve(describe=lambda: {"pid": 1})
    role.put(a_request("odd"), reply_to=reply_to)
    with open_channel(role.url) as channel:
        channel.basic_publish("es.workers", "", b"", Properties(reply_to=reply_to))

    eventually(lambda: "odd" in serving.service.effects, "it is handled")
    assert asked(caller, 10) == list(range(10))
    eventually(lambda: roll_call(role.url, expected=1, wait_s=1.0) == [{"pid": 1}], "it answers roll calls")
    assert serving.service.numbers.count("odd") == 1
    assert "broker-lost" not in transport.log()
    assert ("reply-undeliverable" in transport.log()) == (reply_to != "no such queue")


@pytest.mark.usefixtures("echoing")
def test_a_plain_message_is_answered_under_its_correlation_id(role: Role) -> None:
    replies: list[tuple[str, Any]] = []

    def on_reply(channel: Any, method: Any, properties: Any, raw: bytes) -> None:
        replies.append((properties.correlation_id, json.loads(raw)))

    with open_channel(role.url) as channel:
        channel.basic_consume("amq.rabbitmq.reply-to", on_reply, auto_ack=True)
        sent = Properties(reply_to="amq.rabbitmq.reply-to", correlation_id="mine")
        channel.basic_publish("", role.queue, a_request(1), sent)
        while not replies:
            channel.connection.process_data_events(time_limit=0.1)

    assert replies == [("mine", {"replies": [[0, {"ok": {"n": 1}}]]})]


# --- the I/O thread --------------------------------------------------------------------------


def test_work_that_takes_longer_than_the_heartbeat_is_done_once(
    role: Role, transport: Transport, caller: Caller
) -> None:
    never = threading.Event()
    # The broker closes a connection after two missing heartbeats.
    serving = transport.serve(lambda request: {"waited": never.wait(4.0)}, url=f"{role.url}?heartbeat=1")

    assert caller.ask(ROLE, "echo", {"n": 1}) == {"waited": False}

    assert serving.service.numbers == [1]
    assert "broker-lost" not in transport.log()


def test_a_crash_of_the_io_thread_ends_the_worker_with_an_error(transport: Transport) -> None:
    server = transport.server()
    server._link.call(lambda: 1 // 0)  # stands for a bug in the thread

    with pytest.raises(PartUnavailable, match="I/O thread crashed"):
        receive(server, 1)
