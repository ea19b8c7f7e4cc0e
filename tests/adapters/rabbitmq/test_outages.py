"""Connections that break and brokers that stop: workers and callers recover without an operator."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from adapters.rabbitmq.caller import RabbitCaller
from adapters.rabbitmq.url import parameters_of
from adapters.settings import load_settings
from domain.kernel.errors import PartUnavailable
from domain.kernel.messages import Body, Question
from domain.kernel.ports.transport import Caller
from tests.support.rabbitmq import Role, rabbit_broker, rabbit_server
from tests.support.servers import RabbitMQ
from tests.support.transports import ROLE, Gate, Transport, asked, background, numbers, questions
from tests.support.waiting import DEADLINE_S, eventually


def test_a_connection_cut_during_the_work_loses_no_reply(
    role: Role, transport: Transport, caller: Caller, cut: Callable[[], None]
) -> None:
    gate = Gate()
    worker = transport.serve(gate)
    with background(asked, caller, 300) as asking:
        gate.wait_until_busy()
        cut()
        gate.open()
        assert asking.result(DEADLINE_S) == list(range(300))

    assert worker.service.effects == set(range(300))
    eventually(lambda: role.depth() == 0, "no message is left")


def test_four_callers_receive_their_own_replies_while_connections_are_cut(
    transport: Transport, cut: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.pipeline.WINDOW", 20)
    workers, callers = [transport.serve() for _ in range(2)], [transport.caller() for _ in range(4)]
    over = threading.Event()

    def ask_many(name: int) -> set[str]:
        """Send requests until the cuts are over. The names of all of them, each of which got its own reply."""
        sent: list[Body] = []

        def bodies() -> Iterator[Question]:
            while not over.is_set() or len(sent) < 100:
                sent.append({"n": f"{name}-{len(sent)}"})
                yield "echo", sent[-1]

        assert list(callers[name].pipeline(ROLE, bodies(), timeout_s=DEADLINE_S)) == sent
        return {body["n"] for body in sent}

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask_many, name) for name in range(4)]
        eventually(lambda: any(worker.service.seen for worker in workers), "it has begun")
        cut()
        over.set()
        names = set().union(*(each.result(DEADLINE_S * 2) for each in asking))

    assert workers[0].service.effects | workers[1].service.effects == names


# --- brokers that stop -----------------------------------------------------------------------


@pytest.fixture
def private(private_rabbitmq: RabbitMQ, tmp_path: Path) -> Iterator[Transport]:
    """A transport whose broker may be stopped."""
    with rabbit_broker(private_rabbitmq) as url:
        settings = load_settings(environment={"ES_HOME": str(tmp_path), "ES_BROKER": url})
        with closing(Transport(settings, tmp_path / "worker.log")) as opened:
            yield opened


def test_workers_and_callers_recover_from_a_restart_of_the_broker(
    private_rabbitmq: RabbitMQ, private: Transport
) -> None:
    private.serve()
    caller, newcomer = private.caller(), private.caller()
    stopped, taken = threading.Event(), threading.Event()

    def half_now_half_later() -> Iterator[Question]:
        yield from questions(600)[:300]
        taken.set()
        assert stopped.wait(DEADLINE_S * 2)
        yield from questions(600)[300:]

    with background(lambda: numbers(caller.pipeline(ROLE, half_now_half_later(), timeout_s=60))) as asking:
        assert taken.wait(DEADLINE_S)
        private_rabbitmq.ctl("stop_app")
        stopped.set()
        asked_at_s = time.monotonic()
        with pytest.raises(PartUnavailable, match="RabbitMQ"):
            newcomer.ask(ROLE, "echo", {})
        assert time.monotonic() - asked_at_s < 10.0
        private_rabbitmq.ctl("start_app")
        assert asking.result(60) == list(range(600))

    attempts = [json.loads(line) for line in private.log().splitlines()]
    assert [line["attempt"] for line in attempts if line["action"] == "broker-lost"][:3] == [1, 2, 3]


def test_a_memory_alarm_is_named_and_work_continues_after_it(
    private_rabbitmq: RabbitMQ, private: Transport
) -> None:
    private.serve()
    with closing(RabbitCaller(f"{private_rabbitmq.url}?blocked_connection_timeout=1")) as caller:
        assert caller.ask(ROLE, "echo", {"n": 0}) == {"n": 0}
        private_rabbitmq.ctl("set_vm_memory_high_watermark", "absolute", "1")
        try:
            with pytest.raises(PartUnavailable, match=r"RabbitMQ.*no confirmation.*the outcome is unknown"):
                caller.ask(ROLE, "echo", {"n": 1}, timeout_s=4.0)
        finally:
            private_rabbitmq.ctl("set_vm_memory_high_watermark", "0.6")
        assert caller.ask(ROLE, "echo", {"n": 2}, timeout_s=DEADLINE_S) == {"n": 2}


def test_a_blocked_connection_is_kept_by_a_worker_and_given_up_by_a_caller(role: Role) -> None:
    # Each reconnect delivers again what a worker holds, and the number of deliveries is limited.
    worker = rabbit_server(f"{role.url}?blocked_connection_timeout=1", ROLE)

    assert [each.blocked_connection_timeout for each in worker._link._parameters] == [None]
    assert [each.blocked_connection_timeout for each in parameters_of(role.url)] == [60]
