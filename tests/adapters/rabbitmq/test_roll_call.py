"""Roll calls: every worker behind a broker reports its state."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from adapters.rabbitmq.roll_call import roll_call
from domain.kernel.ports.transport import Caller
from tests.support.rabbitmq import Role
from tests.support.transports import ROLE, Gate, Transport, background
from tests.support.waiting import DEADLINE_S, eventually


def states_of(role: Role, count: int) -> list[Any]:
    """The states of `count` workers. A worker that lost its connection is in a roll call after it reconnected."""
    found: list[Any] = []

    def complete() -> bool:
        found[:] = sorted(roll_call(role.url, expected=count, wait_s=0.2), key=lambda state: state["pid"])
        return len(found) == count

    eventually(complete, f"{count} workers answer")
    return found


def test_a_roll_call_reaches_every_worker_even_a_busy_one(
    role: Role, transport: Transport, caller: Caller
) -> None:
    gate = Gate()
    states = [{"pid": 1, "state": "busy"}, {"pid": 2, "state": "busy"}]
    for state in states:
        transport.serve(gate, describe=partial(dict, state))
    with background(caller.ask, ROLE, "work", {}, timeout_s=DEADLINE_S) as asked:
        gate.wait_until_busy()
        assert states_of(role, 2) == states
        gate.open()
        asked.result(DEADLINE_S)


def test_a_worker_answers_roll_calls_again_after_it_reconnected(
    role: Role, transport: Transport, cut: Callable[[], None]
) -> None:
    transport.serve(describe=lambda: {"pid": 1})
    cut()

    assert states_of(role, 1) == [{"pid": 1}]


def test_a_roll_call_ends_after_its_time(role: Role) -> None:
    assert roll_call(role.url, expected=1, wait_s=0.05) == []
