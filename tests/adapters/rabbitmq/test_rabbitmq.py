"""RabbitMQ with a real broker: what a worker, a caller and dead letters do when things break.

What every transport promises is in tests/contract/test_transport.py; here is what is RabbitMQ's own.
"""

from __future__ import annotations

import base64
import functools
import json
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.log import open_log
from adapters.rabbitmq.caller import RabbitCaller
from adapters.rabbitmq.connection import (
    Properties,
    QueueMismatch,
    dead_queue_of,
    declare_queues,
    depth_of,
    open_channel,
    parameters_of,
    queue_of,
)
from adapters.rabbitmq.dead_letters import DeadLetterNotFound, DeadLetters
from adapters.rabbitmq.roll_call import roll_call
from adapters.rabbitmq.server import SUSPECT_AFTER, RabbitServer, Tags
from domain.kernel.errors import InvalidInput, PartUnavailable
from domain.kernel.messages import Body, Question, Reply, Request
from tests.support.processes import start_python
from tests.support.servers import RabbitMQ, free_port
from tests.support.waiting import DEADLINE_S, eventually
from workers.runtime.loop import serve

OpenServer = Callable[..., RabbitServer]


class Remembering:
    """A service with idempotent effects: it remembers what it was asked, and what that changed."""

    def __init__(self, answer: Callable[[Request], Reply] | None = None) -> None:
        self.role = "test"
        self._answer = answer or (lambda request: request.body)
        self.seen: list[Any] = []
        self.effects: set[Any] = set()

    def handle(self, batch: Sequence[Request]) -> list[Reply]:
        self.seen += [request.body.get("n") for request in batch]
        replies = [self._answer(request) for request in batch]
        self.effects |= {request.body.get("n") for request in batch}
        return replies

    def close(self) -> None: ...


class Working:
    """A worker's own loop over a service, in a thread."""

    def __init__(self, service: Remembering, server: RabbitServer, log_file: Path) -> None:
        self.service = service
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        log = open_log(f"test-{uuid4()}", log_file)
        self.ended = self._pool.submit(serve, service, server, stopping=self._stopping.is_set, log=log)

    def give_up(self) -> None:
        self._stopping.set()

    def stop(self) -> None:
        self.give_up()
        self.ended.result(DEADLINE_S)  # a crash of the loop comes out here
        self._pool.shutdown()


Work = Callable[..., Working]


@pytest.fixture
def role(rabbitmq: RabbitMQ) -> Iterator[str]:
    """A role that nobody else has."""
    name = f"test-{uuid4().hex[:12]}"
    yield name
    rabbitmq.delete_queues(queue_of(name), dead_queue_of(name))


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    return tmp_path / "worker.log"


@pytest.fixture
def open_server(rabbitmq: RabbitMQ, role: str, log_file: Path) -> Iterator[OpenServer]:
    """Starts the answering end of the role and waits until requests reach it."""
    with ExitStack() as closing_all:

        def start(url: str = rabbitmq.url, **options: Any) -> RabbitServer:
            server = RabbitServer(url, role, log=open_log(f"link-{uuid4()}", log_file), **options)
            closing_all.callback(server.close)
            assert server.wait_until_ready(DEADLINE_S)
            return server

        yield start


@pytest.fixture
def work(open_server: OpenServer, log_file: Path) -> Iterator[Work]:
    running: list[Working] = []

    def start(answer: Callable[[Request], Reply] | None = None, **options: Any) -> Working:
        running.append(Working(Remembering(answer), open_server(**options), log_file))
        return running[-1]

    yield start
    for working in running:
        working.stop()


@pytest.fixture
def caller(rabbitmq: RabbitMQ) -> Iterator[RabbitCaller]:
    with closing(RabbitCaller(rabbitmq.url)) as opened:
        yield opened


@pytest.fixture
def dead(rabbitmq: RabbitMQ, role: str) -> DeadLetters:
    return DeadLetters(rabbitmq.url, [role])


def questions(count: int) -> list[Question]:
    return [("echo", {"n": number}) for number in range(count)]


def numbers(replies: Sequence[Body | Exception] | Iterator[Body | Exception]) -> list[Any]:
    return [reply["n"] if isinstance(reply, dict) else type(reply).__name__ for reply in replies]


def depth(url: str, queue: str) -> int:
    with open_channel(url) as channel:
        return depth_of(channel, queue)[0]


def put(url: str, queue: str, *bodies: bytes, message_id: str | None = None) -> None:
    """Store messages in a queue, as somebody outside might."""
    with open_channel(url) as channel:
        for body in bodies:
            channel.basic_publish("", queue, body, Properties(message_id=message_id), mandatory=True)


def a_request(n: Any, **body: Any) -> bytes:
    return json.dumps({"kind": "users.rename", "body": {"n": n, **body}}).encode()


def receive(server: RabbitServer, count: int) -> list[Any]:
    """Receive until `count` requests are here."""
    received: list[Any] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(received) < count:
        assert time.monotonic() < deadline, f"only {len(received)} of {count} requests came"
        received += server.receive(count - len(received), 0.05)
    return received


# --- acknowledgements ------------------------------------------------------------------------


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 20))
def test_every_settled_tag_is_acknowledged_once_and_no_other(choices: list[int], count: int) -> None:
    tags, open_tags, acknowledged = Tags(), list(range(1, count + 1)), set()
    unsettled = set(open_tags)
    for tag in open_tags:
        tags.add(tag)

    for choice in choices:
        if choice == 0 and unsettled:
            rejected = min(unsettled)
            tags.forget(rejected)
            unsettled.discard(rejected)
            open_tags.remove(rejected)
        elif choice < 7 and unsettled:
            settled = sorted(unsettled)[choice % len(unsettled)]
            tags.settle(settled)
            unsettled.discard(settled)
        else:
            for tag, multiple in tags.take():
                assert tag in open_tags, "the broker closes the channel of an acknowledgement of nothing"
                covered = {each for each in open_tags if each <= tag} if multiple else {tag}
                assert not covered & unsettled
                acknowledged |= covered
                open_tags = [each for each in open_tags if each not in covered]
    for tag, multiple in tags.take():
        open_tags = [each for each in open_tags if not (each <= tag if multiple else each == tag)]

    assert set(open_tags) == unsettled


def test_an_acknowledgement_of_a_lost_channel_settles_nothing_on_the_next(
    rabbitmq: RabbitMQ,
    role: str,
    open_server: OpenServer,
) -> None:
    rabbitmq.need_control()
    server = open_server()
    put(rabbitmq.url, queue_of(role), a_request("first"))
    (stale,) = receive(server, 1)
    rabbitmq.close_connections()
    eventually(lambda: server.is_gone(stale), "the loss is noticed")
    (again,) = receive(server, 1)
    assert again.message.tag == stale.message.tag, "the same number, of another channel"

    server.answer([(stale, {})])
    server.close()

    (third,) = receive(open_server(), 1)
    assert third.request.body == {"n": "first"}


def test_what_is_answered_is_gone_for_good_and_the_rest_comes_again(
    rabbitmq: RabbitMQ,
    role: str,
    open_server: OpenServer,
) -> None:
    server = open_server()
    put(rabbitmq.url, queue_of(role), *(a_request(n) for n in range(10)))
    received = receive(server, 10)

    # The oldest stays open, so that nothing may be acknowledged along with it.
    server.answer([(delivery, {}) for delivery in received if delivery.request.body["n"] in (1, 2, 5)])
    server.close()

    again = receive(open_server(), 7)
    assert sorted(delivery.request.body["n"] for delivery in again) == [0, 3, 4, 6, 7, 8, 9]


def test_a_message_with_many_requests_is_settled_by_the_last_answer(
    rabbitmq: RabbitMQ,
    role: str,
    open_server: OpenServer,
) -> None:
    server = open_server()
    many = json.dumps({"requests": [{"kind": "echo", "body": {"n": n}} for n in range(3)]}).encode()
    put(rabbitmq.url, queue_of(role), many)
    received = receive(server, 3)
    server.answer([(delivery, {}) for delivery in received[:2]])
    server.close()

    server = open_server()
    received = receive(server, 3)  # the whole message again
    server.answer([(delivery, {}) for delivery in received])
    server.close()

    assert open_server().receive(1, 0.3) == []


# --- connections that break ------------------------------------------------------------------


def test_work_that_takes_longer_than_the_heartbeat_is_done_once(
    rabbitmq: RabbitMQ,
    role: str,
    work: Work,
    caller: RabbitCaller,
    log_file: Path,
) -> None:
    never = threading.Event()
    # The broker gives a connection up after two heartbeats without a sign.
    working = work(lambda request: {"waited": never.wait(4.0)}, url=f"{rabbitmq.url}?heartbeat=1")

    assert caller.ask(role, "echo", {"n": 1}) == {"waited": False}

    assert working.service.seen == [1]
    assert "broker-lost" not in log_file.read_text()


def test_a_connection_cut_in_the_middle_of_the_work_costs_nobody_an_answer(
    rabbitmq: RabbitMQ,
    role: str,
    work: Work,
    caller: RabbitCaller,
) -> None:
    rabbitmq.need_control()
    busy, go_on = threading.Event(), threading.Event()

    def answer(request: Request) -> Reply:
        busy.set()
        assert go_on.wait(DEADLINE_S)
        return request.body

    working = work(answer)
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(lambda: numbers(caller.pipeline(role, questions(300))))
        assert busy.wait(DEADLINE_S)
        rabbitmq.close_connections()
        go_on.set()
        assert asking.result(DEADLINE_S) == list(range(300))

    assert working.service.effects == set(range(300))
    eventually(lambda: depth(rabbitmq.url, queue_of(role)) == 0, "nothing is left behind")


def test_four_callers_get_true_answers_while_connections_are_cut(
    rabbitmq: RabbitMQ,
    role: str,
    work: Work,
) -> None:
    rabbitmq.need_control()
    workings = [work(), work()]
    over = threading.Event()

    def ask_many(name: int) -> set[str]:
        """Ask until the cuts are over; the names of all that was asked, each answered truly."""
        asked: list[Body] = []

        def bodies() -> Iterator[Question]:
            while not over.is_set() or len(asked) < 100:
                asked.append({"n": f"{name}-{len(asked)}"})
                yield "echo", asked[-1]

        with closing(RabbitCaller(rabbitmq.url)) as caller:
            replies = list(caller.pipeline(role, bodies(), window=20, timeout_s=DEADLINE_S))
        assert replies == asked
        return {body["n"] for body in asked}

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask_many, name) for name in range(4)]
        eventually(lambda: any(working.service.seen for working in workings), "it has begun")
        rabbitmq.close_connections()
        over.set()
        asked = set().union(*(each.result(DEADLINE_S * 2) for each in asking))

    assert workings[0].service.effects | workings[1].service.effects == asked


def test_a_queue_deleted_under_its_worker_is_made_again(
    rabbitmq: RabbitMQ,
    role: str,
    work: Work,
    caller: RabbitCaller,
    log_file: Path,
) -> None:
    work()
    assert caller.ask(role, "echo", {"n": 1}) == {"n": 1}

    rabbitmq.delete_queues(queue_of(role))

    assert caller.ask(role, "echo", {"n": 2}) == {"n": 2}
    assert "cancelled" in log_file.read_text()


def test_everybody_waits_for_a_broker_that_restarts_and_goes_on_by_himself(
    private_rabbitmq: RabbitMQ,
    log_file: Path,
) -> None:
    log, name = open_log(f"test-{uuid4()}", log_file), f"test-{uuid4().hex[:12]}"
    server = RabbitServer(private_rabbitmq.url, name, log=log)
    assert server.wait_until_ready(DEADLINE_S)
    working = Working(Remembering(), server, log_file)
    stopped, taken = threading.Event(), threading.Event()

    def half_now_half_later() -> Iterator[Question]:
        yield from questions(600)[:300]
        taken.set()
        assert stopped.wait(DEADLINE_S * 2)
        yield from questions(600)[300:]

    with closing(RabbitCaller(private_rabbitmq.url)) as caller, ThreadPoolExecutor(1) as pool:
        asking = pool.submit(lambda: numbers(caller.pipeline(name, half_now_half_later(), timeout_s=60)))
        assert taken.wait(DEADLINE_S)
        private_rabbitmq.ctl("stop_app")
        stopped.set()
        with closing(RabbitCaller(private_rabbitmq.url)) as newcomer:
            asked_at_s = time.monotonic()
            with pytest.raises(PartUnavailable, match="RabbitMQ"):
                newcomer.ask(name, "echo", {})
            assert time.monotonic() - asked_at_s < 10.0
        private_rabbitmq.ctl("start_app")
        assert asking.result(60) == list(range(600))

    working.stop()
    attempts = [json.loads(line) for line in log_file.read_text().splitlines()]
    assert [line["attempt"] for line in attempts if line["action"] == "broker-lost"][:3] == [1, 2, 3]


def test_without_a_broker_a_question_is_unavailable_within_its_time() -> None:
    asked_at_s = time.monotonic()

    with (
        closing(RabbitCaller(f"amqp://guest:secret@127.0.0.1:{free_port()}/")) as caller,
        pytest.raises(PartUnavailable, match=r"RabbitMQ.*refused") as refused,
    ):
        caller.ask("users", "echo", {}, timeout_s=1.0)

    assert 0.9 < time.monotonic() - asked_at_s < 2.0, "not before the time is up: it may be restarting"
    assert "secret" not in str(refused.value.to_wire())


# --- queues ----------------------------------------------------------------------------------


def test_a_worker_that_starts_late_is_waited_for(role: str, work: Work, caller: RabbitCaller) -> None:
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(caller.ask, role, "echo", {"n": 1})
        with pytest.raises(TimeoutError):
            asking.result(0.5)
        work()
        assert asking.result(DEADLINE_S) == {"n": 1}


def test_a_queue_declared_otherwise_ends_the_worker_with_the_reason(
    rabbitmq: RabbitMQ,
    role: str,
    log_file: Path,
) -> None:
    with open_channel(rabbitmq.url) as channel:
        declare_queues(channel, role, delivery_limit=7)

    working = Working(Remembering(), RabbitServer(rabbitmq.url, role), log_file)
    try:
        with pytest.raises(QueueMismatch, match="x-delivery-limit") as refused:
            working.ended.result(DEADLINE_S)
    finally:
        working.give_up()  # a worker that goes on would keep the tests from ending
    assert "delete_queue" in refused.value.hint


def test_workers_of_a_role_share_its_requests(role: str, work: Work, caller: RabbitCaller) -> None:
    workings = [work(), work()]

    for number in range(20):
        caller.ask(role, "echo", {"n": number})

    shares = [working.service.seen for working in workings]
    assert all(shares), "each has its share"
    assert sorted(shares[0] + shares[1]) == list(range(20)), "and nothing is done twice"


def test_what_a_killed_worker_had_begun_is_done_by_another(
    rabbitmq: RabbitMQ,
    role: str,
    work: Work,
    caller: RabbitCaller,
) -> None:
    process = start_python(_BUSY_WORKER, rabbitmq.url, role)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(lambda: numbers(caller.pipeline(role, questions(300))))
        assert process.stdout.readline() == "busy\n"
        process.kill()
        process.communicate(timeout=DEADLINE_S)
        working = work()
        assert asking.result(DEADLINE_S) == list(range(300))

    assert working.service.effects >= set(range(1, 300)), "all but what the first had answered"


_BUSY_WORKER = """
import sys
from adapters.rabbitmq.server import RabbitServer
server = RabbitServer(sys.argv[1], sys.argv[2])
assert server.wait_until_ready(20)
print("ready", flush=True)
while not (batch := server.receive(256, 1.0)):
    pass
server.answer([(delivery, delivery.request.body) for delivery in batch if delivery.request.body["n"] == 0])
print("busy", flush=True)
sys.stdin.read()
"""


def test_a_worker_that_stops_finishes_what_was_delivered_and_takes_nothing_new(
    rabbitmq: RabbitMQ,
    role: str,
    work: Work,
) -> None:
    busy, go_on = threading.Event(), threading.Event()

    def answer(request: Request) -> Reply:
        busy.set()
        assert go_on.wait(DEADLINE_S)
        return {}

    working = work(answer, prefetch_count=5)
    put(rabbitmq.url, queue_of(role), *(a_request(n) for n in range(8)))
    assert busy.wait(DEADLINE_S)
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(working.stop)
        go_on.set()
        stopping.result(DEADLINE_S)

    left = depth(rabbitmq.url, queue_of(role))
    assert len(working.service.seen) + left == 8, "each was done, or is left for another worker"
    assert len(set(working.service.seen)) == len(working.service.seen)
    assert working.service.seen


def test_a_worker_that_listens_no_more_leaves_new_requests_to_others(
    rabbitmq: RabbitMQ,
    role: str,
    open_server: OpenServer,
) -> None:
    stopping = open_server()
    put(rabbitmq.url, queue_of(role), a_request("before"))
    (before,) = receive(stopping, 1)

    stopping.stop_listening()
    put(rabbitmq.url, queue_of(role), a_request("after"))
    other = open_server()

    assert [delivery.request.body["n"] for delivery in receive(other, 1)] == ["after"]
    stopping.answer([(before, {})])
    stopping.close()
    assert other.receive(1, 0.3) == [], "what it had begun was acknowledged"


def test_requests_of_a_pipeline_that_wait_together_travel_together(
    rabbitmq: RabbitMQ,
    role: str,
    work: Work,
    caller: RabbitCaller,
) -> None:
    with open_channel(rabbitmq.url) as channel:
        declare_queues(channel, role)

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(lambda: numbers(caller.pipeline(role, questions(512), timeout_s=DEADLINE_S)))
        eventually(lambda: depth(rabbitmq.url, queue_of(role)) > 0, "they are on their way")
        with pytest.raises(TimeoutError):
            asking.result(0.5)
        assert depth(rabbitmq.url, queue_of(role)) <= 512 / 8
        working = work()
        assert asking.result(DEADLINE_S) == list(range(512))

    assert working.service.seen == list(range(512))


def test_a_plain_message_from_outside_is_answered_under_its_correlation_id(
    rabbitmq: RabbitMQ,
    role: str,
    work: Work,
) -> None:
    work()
    with open_channel(rabbitmq.url) as channel:
        answers: list[Any] = []
        channel.basic_consume(
            "amq.rabbitmq.reply-to",
            lambda _c, _m, p, raw: answers.append((p, json.loads(raw))),
            auto_ack=True,
        )
        asked = Properties(reply_to="amq.rabbitmq.reply-to", correlation_id="mine")
        channel.basic_publish("", queue_of(role), a_request(1), asked)
        while not answers:
            channel.connection.process_data_events(time_limit=0.1)

    ((properties, body),) = answers
    assert properties.correlation_id == "mine"
    assert body == {"replies": [[0, {"ok": {"n": 1}}]]}


# --- what a request carries ------------------------------------------------------------------


@pytest.fixture
def no_worker(rabbitmq: RabbitMQ, role: str) -> str:
    """The queue of a role whose workers are all away."""
    with open_channel(rabbitmq.url) as channel:
        declare_queues(channel, role)
    return queue_of(role)


def peek(url: str, queue: str) -> list[Any]:
    """The properties of what waits in a queue; all of it stays."""
    with open_channel(url) as channel:
        found = []
        while (got := channel.basic_get(queue))[0] is not None:
            found.append(got[1])
        return found


def test_a_request_is_persistent_and_keeps_its_message_id_when_it_is_sent_again(
    rabbitmq: RabbitMQ,
    role: str,
    no_worker: str,
    work: Work,
    caller: RabbitCaller,
) -> None:
    rabbitmq.need_control()
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(caller.ask, role, "echo", {"n": 1}, timeout_s=DEADLINE_S * 3)
        eventually(lambda: depth(rabbitmq.url, no_worker) == 1, "the request is stored")

        # Whether it was stored can't be known after this, so it is sent again.
        rabbitmq.close_connections()
        eventually(lambda: depth(rabbitmq.url, no_worker) == 2, "it is sent again")

        first, second = peek(rabbitmq.url, no_worker)
        work()
        assert asking.result(DEADLINE_S * 3) == {"n": 1}

    assert first.message_id == second.message_id
    assert (first.delivery_mode, second.delivery_mode) == (2, 2), "persistent"


def test_an_answer_is_handed_out_once_whatever_else_arrives(
    rabbitmq: RabbitMQ,
    role: str,
    no_worker: str,
    caller: RabbitCaller,
) -> None:
    def answer_twice(channel: Any, method: Any, properties: Any, raw: bytes) -> None:
        """A worker that did the same twice, with noise around it."""
        (request,) = json.loads(raw)["requests"]
        mine, another = properties.correlation_id, str(uuid4())
        good = {"replies": [[0, {"ok": request["body"]}]]}
        wrong = {"replies": [[0, {"ok": {"n": "somebody else's"}}]]}
        late = {"replies": [[0, {"ok": {"n": "late"}}]]}
        beyond = {"replies": [[7, {"ok": {"n": "beyond"}}]]}
        noise: list[tuple[str, bytes]] = [
            (another, json.dumps(wrong).encode()),
            (mine, b"\xff not JSON"),
            (mine, b'{"replies": 7}'),
            (mine, json.dumps(beyond).encode()),
            (mine, json.dumps(good).encode()),
            (mine, json.dumps(late).encode()),
        ]
        for correlation_id, body in noise:
            channel.basic_publish("", properties.reply_to, body, Properties(correlation_id=correlation_id))
        channel.basic_ack(method.delivery_tag)

    with open_channel(rabbitmq.url) as channel, ThreadPoolExecutor(1) as pool:
        channel.basic_consume(no_worker, answer_twice)
        for number in range(3):
            asking = pool.submit(caller.ask, role, "echo", {"n": number}, timeout_s=DEADLINE_S)
            while not asking.done():
                channel.connection.process_data_events(time_limit=0.05)
            assert asking.result() == {"n": number}


def test_a_request_that_the_broker_refuses_to_store_is_sent_again_until_it_is(
    rabbitmq: RabbitMQ,
    role: str,
    caller: RabbitCaller,
) -> None:
    with open_channel(rabbitmq.url) as channel:
        full = {"x-max-length": 1, "x-overflow": "reject-publish"}
        channel.queue_declare(queue_of(role), durable=True, arguments=full)
    put(rabbitmq.url, queue_of(role), b"in the way")

    with pytest.raises(PartUnavailable, match=r"no confirmation.*the outcome is unknown"):
        caller.ask(role, "echo", {"n": 1}, timeout_s=1.0)

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(caller.ask, role, "echo", {"n": 2}, timeout_s=DEADLINE_S)
        with pytest.raises(TimeoutError):
            asking.result(0.5)
        with open_channel(rabbitmq.url) as channel:
            channel.queue_purge(queue_of(role))
            method = None
            deadline = time.monotonic() + DEADLINE_S
            while method is None:
                assert time.monotonic() < deadline, "it never came"
                method, properties, raw = channel.basic_get(queue_of(role), auto_ack=True)
            assert json.loads(raw)["requests"][0]["body"] == {"n": 2}
            channel.basic_publish(
                "",
                properties.reply_to,
                b'{"replies":[[0,{"ok":{"n":2}}]]}',
                Properties(correlation_id=properties.correlation_id),
            )
        assert asking.result(DEADLINE_S) == {"n": 2}


def test_a_broker_with_a_memory_alarm_is_named_and_everybody_goes_on_when_it_is_over(
    private_rabbitmq: RabbitMQ,
    log_file: Path,
) -> None:
    name = f"test-{uuid4().hex[:12]}"
    server = RabbitServer(private_rabbitmq.url, name)
    assert server.wait_until_ready(DEADLINE_S)
    working = Working(Remembering(), server, log_file)
    with closing(RabbitCaller(f"{private_rabbitmq.url}?blocked_connection_timeout=1")) as caller:
        assert caller.ask(name, "echo", {"n": 0}) == {"n": 0}
        private_rabbitmq.ctl("set_vm_memory_high_watermark", "absolute", "1")
        try:
            with pytest.raises(PartUnavailable, match=r"RabbitMQ.*no confirmation.*the outcome is unknown"):
                caller.ask(name, "echo", {"n": 1}, timeout_s=4.0)
        finally:
            private_rabbitmq.ctl("set_vm_memory_high_watermark", "0.6")
        assert caller.ask(name, "echo", {"n": 2}, timeout_s=DEADLINE_S) == {"n": 2}
    working.stop()


def test_queues_are_declared_so_that_every_version_keeps_their_messages(
    rabbitmq: RabbitMQ,
    role: str,
    no_worker: str,
) -> None:
    rabbitmq.need_control()
    told = rabbitmq.ctl(
        *("list_queues", "-p", rabbitmq.vhost, "name", "type", "durable", "arguments"),
        *("--quiet", "--formatter", "json"),
    )
    queues = {queue["name"]: queue for queue in json.loads(told)}

    for name in (no_worker, dead_queue_of(role)):
        assert (queues[name]["type"], queues[name]["durable"]) == ("quorum", True)
        # An explicit limit: it is none in 3.10 and 20 from 4.0 on.
        assert "x-delivery-limit" in str(queues[name]["arguments"])
    for needed in ("at-least-once", "reject-publish", dead_queue_of(role)):
        assert needed in str(queues[no_worker]["arguments"])


# --- dead letters ----------------------------------------------------------------------------

MALFORMED = [b"", b"{", b"[]", b"[1]", b"7", b'{"kind":1}', b'{"requests":[]}', b"\xff\xfe", b"[" * 100_000]


def test_a_message_that_nobody_can_read_is_a_dead_letter_and_harms_nobody(
    rabbitmq: RabbitMQ,
    role: str,
    work: Work,
    caller: RabbitCaller,
    dead: DeadLetters,
) -> None:
    work()

    put(rabbitmq.url, queue_of(role), *MALFORMED)

    assert numbers(caller.pipeline(role, questions(10))) == list(range(10))
    eventually(lambda: dead.counts()[0].dead == len(MALFORMED), "all are dead letters")
    assert {letter.reason for letter in dead.show(role)} == {
        "no worker can read it, or a part was down when it was sent again"
    }


BAD_HEADERS = {
    "a time beyond year 9999": b"T" + (10**15).to_bytes(8, "big"),
    "too deep": functools.reduce(
        lambda deep, _: b"A" + struct.pack(">I", len(deep)) + deep, range(2000), b"V"
    ),
}


def put_with_header(url: str, queue: str, body: bytes, value: bytes, message_id: str) -> None:
    """Store a message with a header of raw bytes, which pika itself wouldn't send."""

    class Raw(Properties):
        def encode(self) -> Any:
            table = b"\x03odd" + value
            flags = self.FLAG_HEADERS | self.FLAG_MESSAGE_ID
            text = message_id.encode()
            return [
                struct.pack(">H", flags),
                struct.pack(">I", len(table)) + table,
                bytes([len(text)]) + text,
            ]

    with open_channel(url) as channel:
        channel.basic_publish("", queue, body, Raw(), mandatory=True)


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_a_message_with_headers_that_cannot_be_read_is_a_dead_letter_that_can_be_seen_to(
    rabbitmq: RabbitMQ,
    role: str,
    work: Work,
    caller: RabbitCaller,
    dead: DeadLetters,
    log_file: Path,
    name: str,
) -> None:
    working = work()
    for message_id in ("m-1", "m-2"):
        put_with_header(rabbitmq.url, queue_of(role), a_request(message_id), BAD_HEADERS[name], message_id)

    assert numbers(caller.pipeline(role, questions(10))) == list(range(10))
    eventually(lambda: dead.counts()[0].dead == 2, "both are dead letters")
    assert "broker-lost" not in log_file.read_text(), "each loss is a delivery of every neighbour"
    assert sorted((letter.message_id, letter.reason) for letter in dead.show(role)) == [
        (message_id, "no worker can read its headers; sending it again leaves them out")
        for message_id in ("m-1", "m-2")
    ]
    assert dead.purge_person(7, lambda _: False) == 0
    assert dead.retry(role, ["m-1"]) == 1
    eventually(lambda: "m-1" in working.service.effects, "it is carried out")
    assert dead.drop(role, None) == 1
    assert dead.counts()[0].dead == 0


@pytest.mark.parametrize("x_death", ["odd", [], ["odd"], {"odd": 1}, 7])
def test_a_dead_letter_that_lies_about_its_death_is_shown(
    rabbitmq: RabbitMQ, role: str, open_server: OpenServer, dead: DeadLetters, x_death: Any
) -> None:
    open_server()
    properties = Properties(message_id="m-1", headers={"x-death": x_death})
    with open_channel(rabbitmq.url) as channel:
        channel.basic_publish("", dead_queue_of(role), a_request(1), properties, mandatory=True)

    assert [letter.reason for letter in dead.show(role)] == ["unknown"]


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
def test_an_address_that_no_answer_can_reach_harms_nobody(
    rabbitmq: RabbitMQ, role: str, work: Work, caller: RabbitCaller, log_file: Path, reply_to: str | bytes
) -> None:
    working = work(describe=lambda: {"pid": 1})
    with open_channel(rabbitmq.url) as channel:
        channel.basic_publish("", queue_of(role), a_request("odd"), Properties(reply_to=reply_to))
        channel.basic_publish("es.workers", "", b"", Properties(reply_to=reply_to))

    eventually(lambda: "odd" in working.service.effects, "it is carried out")
    assert numbers(caller.pipeline(role, questions(10))) == list(range(10))
    eventually(
        lambda: roll_call(rabbitmq.url, expected=1, wait_s=1.0) == [{"pid": 1}], "it answers roll calls"
    )
    assert working.service.seen.count("odd") == 1
    assert "broker-lost" not in log_file.read_text()
    assert ("reply-undeliverable" in log_file.read_text()) == (reply_to != "no such queue")


def come_back(open_server: OpenServer, count: int, *, times: int, **options: Any) -> None:
    """Have `count` requests delivered to a worker that goes without an answer, again and again."""
    for _ in range(times):
        server = open_server(**options)
        receive(server, count)
        server.close()


def test_a_message_that_comes_back_too_often_is_a_dead_letter(
    rabbitmq: RabbitMQ,
    role: str,
    open_server: OpenServer,
    dead: DeadLetters,
) -> None:
    open_server(delivery_limit=2).close()
    put(rabbitmq.url, queue_of(role), a_request(1, command_id=str(uuid4())))

    come_back(open_server, 1, times=3, delivery_limit=2)

    eventually(lambda: dead.counts()[0].dead == 1, "it is a dead letter")
    assert "too often" in dead.show(role)[0].reason


def test_what_may_be_killing_workers_is_handed_over_alone(
    rabbitmq: RabbitMQ,
    role: str,
    open_server: OpenServer,
) -> None:
    open_server().close()
    put(rabbitmq.url, queue_of(role), *(a_request(n) for n in range(5)))
    come_back(open_server, 5, times=SUSPECT_AFTER)

    server = open_server()
    put(rabbitmq.url, queue_of(role), a_request("new"))
    batches: list[list[Any]] = []
    deadline = time.monotonic() + DEADLINE_S
    while sum(map(len, batches)) < 6:
        assert time.monotonic() < deadline
        if batch := server.receive(256, 0.05):
            batches.append([delivery.request.body["n"] for delivery in batch])

    assert [len(batch) for batch in batches] == [1] * 6
    assert sorted(str(batch[0]) for batch in batches) == ["0", "1", "2", "3", "4", "new"]


def test_looking_at_dead_letters_leaves_them_where_they_are(
    rabbitmq: RabbitMQ,
    role: str,
    open_server: OpenServer,
    dead: DeadLetters,
) -> None:
    open_server()
    command_id = str(uuid4())
    person = a_request(1, command_id=command_id, input={"name": "Ada Lovelace"})
    put(rabbitmq.url, dead_queue_of(role), person, b"garbage of Ada", message_id="m-1")

    def all_back() -> None:
        # What was looked at is given back, and the broker takes a moment to put it into its queue again.
        eventually(lambda: dead.counts()[0].dead == 2, "both dead letters are in their queue")

    for _ in range(30):  # more often than messages are delivered again by default
        all_back()
        first, second = dead.show(role)

    assert (first.message_id, first.requests[0].kind, first.requests[0].command_id) == (
        "m-1",
        "users.rename",
        command_id,
    )
    assert first.requests[0].body["input"] == {"name": "Ada Lovelace"}
    assert second.unreadable == "garbage of Ada"
    all_back()
    assert len(dead.show(role, limit=1)) == 1
    all_back()


def test_a_dead_letter_that_is_sent_again_is_carried_out(
    rabbitmq: RabbitMQ,
    role: str,
    work: Work,
    dead: DeadLetters,
) -> None:
    working = work()
    put(rabbitmq.url, dead_queue_of(role), a_request("again"), message_id="m-1")
    put(rabbitmq.url, dead_queue_of(role), a_request("not this"), message_id="m-2")

    assert dead.retry(role, ["m-1"]) == 1

    eventually(lambda: working.service.seen == ["again"], "the worker has it")
    assert [letter.message_id for letter in dead.show(role)] == ["m-2"]


def test_a_dead_letter_is_taken_away_only_after_it_was_stored_again(
    rabbitmq: RabbitMQ, role: str, open_server: OpenServer, dead: DeadLetters
) -> None:
    open_server().close()
    put(rabbitmq.url, dead_queue_of(role), a_request(1), message_id="m-1")
    rabbitmq.delete_queues(queue_of(role))  # so it can't be stored

    with pytest.raises(PartUnavailable, match="queue of this role does not exist"):
        dead.retry(role, None)

    eventually(lambda: dead.counts()[0].dead == 1, "it is still there")


def test_a_crash_of_the_io_thread_is_not_waited_out_in_silence(open_server: OpenServer) -> None:
    server = open_server()
    server._link.call(lambda: 1 // 0)  # type: ignore[arg-type, return-value]  # a bug, wherever it may be

    with pytest.raises(PartUnavailable, match="I/O thread crashed"):
        eventually(lambda: server.receive(1, 0.05), "the worker hears of it")


def test_a_worker_holds_no_more_than_it_may(rabbitmq: RabbitMQ, role: str, open_server: OpenServer) -> None:
    holding = open_server(prefetch_count=5)
    put(rabbitmq.url, queue_of(role), *(a_request(n) for n in range(20)))
    held = receive(holding, 5)

    rest = receive(open_server(), 15)

    assert sorted(delivery.request.body["n"] for delivery in [*held, *rest]) == list(range(20))


def test_dropping_removes_the_named_and_says_what_is_missing(
    rabbitmq: RabbitMQ,
    role: str,
    open_server: OpenServer,
    dead: DeadLetters,
) -> None:
    open_server()
    for name in ("m-1", "m-2", "m-3"):
        put(rabbitmq.url, dead_queue_of(role), a_request(name), message_id=name)

    with pytest.raises(DeadLetterNotFound, match="m-9"):
        dead.drop(role, ["m-9", "m-2"])
    assert [letter.message_id for letter in dead.show(role)] == ["m-1", "m-3"]

    assert dead.drop(role, None) == 2
    assert dead.counts()[0].dead == 0


@pytest.mark.parametrize("error", [PartUnavailable("vault", "it is down"), ZeroDivisionError()])
def test_a_dead_letter_that_is_sent_again_in_vain_is_a_dead_letter_again(
    rabbitmq: RabbitMQ, work: Work, dead: DeadLetters, role: str, error: Exception
) -> None:
    is_down = True

    def answer(request: Request) -> Reply:
        if is_down:
            raise error
        return {}

    working = work(answer)
    put(rabbitmq.url, dead_queue_of(role), a_request(1), message_id="m-1")
    assert dead.retry(role, None) == 1
    eventually(lambda: working.service.seen and dead.counts()[0].dead == 1, "it is back")

    is_down = False
    assert dead.retry(role, ["m-1"]) == 1
    eventually(lambda: working.service.effects == {1}, "it is carried out")
    eventually(lambda: dead.counts()[0].waiting == 0, "it is done with")
    assert dead.counts()[0].dead == 0


def test_a_person_is_removed_from_dead_letters_and_nobody_else(
    rabbitmq: RabbitMQ,
    role: str,
    open_server: OpenServer,
    dead: DeadLetters,
) -> None:
    open_server()
    bodies = [
        {"input": {"user_id": "7", "name": "Ada"}},
        {"input": {"user_id": "8", "name": "Bob"}},
        {"input": {"email": "ada@example.com"}},
    ]
    together = json.dumps({"requests": [{"kind": "users.rename", "body": body} for body in bodies]})
    put(rabbitmq.url, dead_queue_of(role), together.encode(), message_id="m-1")
    put(rabbitmq.url, dead_queue_of(role), a_request(1, **bodies[0]), b"ada@", b"bob@", message_id="m-2")

    def matches(request: dict[str, Any]) -> bool:
        return "ada@" in json.dumps(request)

    assert dead.purge_person(7, matches) == 4
    assert dead.purge_person(7, matches) == 0

    left = dead.show(role)
    assert sorted(letter.unreadable or letter.message_id for letter in left) == ["bob@", "m-1"]
    assert [item.body for letter in left for item in letter.requests] == [bodies[1]]


def test_queues_that_nobody_has_made_yet_are_empty(dead: DeadLetters, role: str) -> None:
    (state,) = dead.counts()

    assert (state.waiting, state.workers, state.dead) == (0, 0, 0)
    assert dead.show(role) == []
    assert dead.retry(role, None) == 0


# --- URLs ------------------------------------------------------------------------------------


def test_a_url_names_several_hosts_and_passes_options_on() -> None:
    first, second = parameters_of("amqp://me:secret@one:1111,two:2222/here?heartbeat=7")

    assert [(each.host, each.port) for each in (first, second)] == [("one", 1111), ("two", 2222)]
    assert (second.virtual_host, second.heartbeat, second.credentials.password) == ("here", 7, "secret")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("amqp://me:secret@host/?colour=red", "colour"),
        ("amqp://me:secret@host/?heartbeat=soon", "not a usable"),
        ("amqp://me:secret@host:port/", "not a usable"),
        ("amqp://me:secret@host/?cafile=/tmp/ca.pem", "takes amqps"),
        ("amqps://me:secret@host/?cafile=/nowhere/ca.pem", "No such file"),
        ("amqps://me:secret@host/?certfile=/dev/null", "unusable"),
    ],
)
def test_a_url_that_cannot_work_is_refused_without_being_repeated(url: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason) as refused:
        parameters_of(url)

    assert "secret" not in str(refused.value)


def test_a_connection_has_heartbeats_and_gives_up_on_a_broker_that_blocks_it() -> None:
    (usual,) = parameters_of("amqp://host/")

    assert (usual.heartbeat, usual.blocked_connection_timeout) == (30, 60)


def test_a_worker_keeps_its_connection_while_the_broker_blocks_it_and_a_caller_does_not(
    rabbitmq: RabbitMQ, role: str
) -> None:
    # Each new connection is another delivery of all that a worker holds, and these are limited.
    worker = RabbitServer(f"{rabbitmq.url}?blocked_connection_timeout=1", role)

    assert [each.blocked_connection_timeout for each in worker._link._parameters] == [None]
    assert [each.blocked_connection_timeout for each in parameters_of(rabbitmq.url)] == [60]


# --- roll call -------------------------------------------------------------------------------


def test_a_roll_call_reaches_every_worker_also_busy_ones(
    rabbitmq: RabbitMQ, work: Work, caller: RabbitCaller, role: str
) -> None:
    busy, done = threading.Event(), threading.Event()

    def work_long(request: Request) -> Reply:
        busy.set()
        assert done.wait(DEADLINE_S)
        return {}

    work(work_long, describe=lambda: {"pid": 1, "state": "busy"})
    work(work_long, describe=lambda: {"pid": 2, "state": "busy"})
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(caller.ask, role, "work", {}, timeout_s=DEADLINE_S)
        assert busy.wait(DEADLINE_S)
        answers = _all_who_answer(rabbitmq.url, 2)
        done.set()
        asked.result(DEADLINE_S)

    assert answers == [{"pid": 1, "state": "busy"}, {"pid": 2, "state": "busy"}]


def test_a_worker_answers_roll_calls_again_after_its_connection_was_lost(
    rabbitmq: RabbitMQ, work: Work
) -> None:
    rabbitmq.need_control()
    work(describe=lambda: {"pid": 1})
    rabbitmq.close_connections()

    assert _all_who_answer(rabbitmq.url, 1) == [{"pid": 1}]


def test_a_roll_call_waits_for_nobody_beyond_its_time(rabbitmq: RabbitMQ) -> None:
    assert roll_call(rabbitmq.url, expected=1, wait_s=0.05) == []


def _all_who_answer(url: str, count: int) -> list[Any]:
    """A worker whose connection was lost joins when it is back, so they are asked until all have answered."""
    found: list[Any] = []

    def complete() -> bool:
        found[:] = sorted(roll_call(url, expected=count, wait_s=0.2), key=lambda answer: answer["pid"])
        return len(found) == count

    eventually(complete, f"{count} workers answer")
    return found
