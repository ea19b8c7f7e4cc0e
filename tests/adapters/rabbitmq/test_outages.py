"""Connections that break and brokers that stop: workers and callers recover without an operator."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from adapters.log import open_log
from adapters.rabbitmq.caller import RabbitCaller
from adapters.rabbitmq.url import parameters_of
from domain.kernel.errors import PartUnavailable
from domain.kernel.messages import Body, Question
from domain.kernel.ports.transport import Caller
from tests.support.rabbitmq import Role, rabbit_server, ready_server
from tests.support.scripted import ROLE, Gate, Serve, SetWindow, background, numbers, questions, serving
from tests.support.servers import RabbitMQ
from tests.support.waiting import DEADLINE_S, eventually


def test_a_connection_cut_during_the_work_loses_no_reply(
    role: Role, serve_by: Serve, caller: Caller, cut: Callable[[], None]
) -> None:
    gate = Gate()
    worker = serve_by(gate)
    with background(lambda: numbers(caller.pipeline(ROLE, questions(300)))) as asking:
        gate.wait_until_busy()
        cut()
        gate.open()
        assert asking.result(DEADLINE_S) == list(range(300))

    assert worker.service.effects == set(range(300))
    eventually(lambda: role.depth() == 0, "no message is left")


def test_four_callers_receive_their_own_replies_while_connections_are_cut(
    role: Role, serve_by: Serve, cut: Callable[[], None], set_window: SetWindow
) -> None:
    set_window(20)
    workers = [serve_by(), serve_by()]
    over = threading.Event()

    def ask_many(name: int) -> set[str]:
        """Ask until the cuts are over. The names of all requests, each of which got its own reply."""
        asked: list[Body] = []

        def bodies() -> Iterator[Question]:
            while not over.is_set() or len(asked) < 100:
                asked.append({"n": f"{name}-{len(asked)}"})
                yield "echo", asked[-1]

        with closing(RabbitCaller(role.url)) as caller:
            replies = list(caller.pipeline(ROLE, bodies(), timeout_s=DEADLINE_S))
        assert replies == asked
        return {body["n"] for body in asked}

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask_many, name) for name in range(4)]
        eventually(lambda: any(worker.service.seen for worker in workers), "it has begun")
        cut()
        over.set()
        asked = set().union(*(each.result(DEADLINE_S * 2) for each in asking))

    assert workers[0].service.effects | workers[1].service.effects == asked


# --- brokers that stop -----------------------------------------------------------------------


def test_workers_and_callers_recover_from_a_restart_of_the_broker(
    private_rabbitmq: RabbitMQ, log_file: Path
) -> None:
    url, name, log = private_rabbitmq.url, f"test-{uuid4()}", open_log(f"test-{uuid4()}", log_file)
    stopped, taken = threading.Event(), threading.Event()

    def half_now_half_later() -> Iterator[Question]:
        yield from questions(600)[:300]
        taken.set()
        assert stopped.wait(DEADLINE_S * 2)
        yield from questions(600)[300:]

    def ask() -> list[Any]:
        return numbers(caller.pipeline(name, half_now_half_later(), timeout_s=60))

    with (
        serving(ready_server(url, name, log=log), log_file),
        closing(RabbitCaller(url)) as caller,
        background(ask) as asking,
    ):
        assert taken.wait(DEADLINE_S)
        private_rabbitmq.ctl("stop_app")
        stopped.set()
        with closing(RabbitCaller(url)) as newcomer:
            asked_at_s = time.monotonic()
            with pytest.raises(PartUnavailable, match="RabbitMQ"):
                newcomer.ask(name, "echo", {})
            assert time.monotonic() - asked_at_s < 10.0
        private_rabbitmq.ctl("start_app")
        assert asking.result(60) == list(range(600))

    attempts = [json.loads(line) for line in log_file.read_text().splitlines()]
    assert [line["attempt"] for line in attempts if line["action"] == "broker-lost"][:3] == [1, 2, 3]


def test_a_memory_alarm_is_named_and_work_continues_after_it(
    private_rabbitmq: RabbitMQ, log_file: Path
) -> None:
    url, name = private_rabbitmq.url, f"test-{uuid4()}"
    with (
        serving(ready_server(url, name), log_file),
        closing(RabbitCaller(f"{url}?blocked_connection_timeout=1")) as caller,
    ):
        assert caller.ask(name, "echo", {"n": 0}) == {"n": 0}
        private_rabbitmq.ctl("set_vm_memory_high_watermark", "absolute", "1")
        try:
            with pytest.raises(PartUnavailable, match=r"RabbitMQ.*no confirmation.*the outcome is unknown"):
                caller.ask(name, "echo", {"n": 1}, timeout_s=4.0)
        finally:
            private_rabbitmq.ctl("set_vm_memory_high_watermark", "0.6")
        assert caller.ask(name, "echo", {"n": 2}, timeout_s=DEADLINE_S) == {"n": 2}


def test_a_blocked_connection_is_kept_by_a_worker_and_given_up_by_a_caller(role: Role) -> None:
    # Each reconnect delivers again what a worker holds, and the number of deliveries is limited.
    worker = rabbit_server(f"{role.url}?blocked_connection_timeout=1", ROLE)

    assert [each.blocked_connection_timeout for each in worker._link._parameters] == [None]
    assert [each.blocked_connection_timeout for each in parameters_of(role.url)] == [60]
