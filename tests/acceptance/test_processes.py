"""Process managers as real processes: transfers end once while workers are killed, and an operator sees what rests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from typing import Any
from uuid import uuid4

import pytest

from adapters import wiring
from domain.kernel.events import NO_STREAM
from tests.support.builders import an_event, append
from tests.support.processes import ROOT
from tests.support.system import System
from tests.support.transfers import PURSE, MoneyPut, MoneyTaken, PurseFilled, TransferFinished
from tests.support.waiting import eventually

FEATURE = "tests.support.transfers"
COUNT, PURSES, MONEY = 50, 5, 1000
pytestmark = pytest.mark.own_store("the events of the feature are unknown to systems without it")


@pytest.fixture
def bank(system: System) -> System:
    system.environment |= {"ES_FEATURES": FEATURE, "PYTHONPATH": str(ROOT)}
    return system.up()


def send(bank: System, *commands: tuple[str, Mapping[str, object]]) -> None:
    """Send commands; each must succeed."""
    questions = [
        (
            f"bank.{verb}",
            {
                "command_id": str(uuid4()),
                "actor": "uid:1000",
                "input": {name: str(value) for name, value in given.items()},
            },
        )
        for verb, given in commands
    ]
    with closing(wiring.open_caller(bank.settings)) as caller:
        for reply in caller.pipeline("bank", questions, timeout_s=60):
            assert isinstance(reply, dict), reply


def events(bank: System) -> list[tuple[str, Any]]:
    """The events of purses and transfers, with their streams."""
    codec = wiring.open_codec((FEATURE,))
    with closing(wiring.open_store(bank.settings.store)) as store:
        found = store.read_all(0, 1_000_000, prefixes=["purse-", "transfer-"])
        return [(recorded.stream, codec.decode(recorded)) for recorded in found]


def finished(bank: System) -> Counter[str]:
    return Counter(stream for stream, event in events(bank) if isinstance(event, TransferFinished))


def is_quiet(bank: System) -> bool:
    return bank.es("processes", "list", "--json").out.strip() == ""


def test_transfers_end_once_while_managers_and_services_are_killed(bank: System) -> None:
    send(bank, *[("fill", {"purse_id": purse + 1, "amount": MONEY}) for purse in range(PURSES)])
    send(
        bank,
        *[
            (
                "transfer",
                {
                    "transfer_id": number + 100,
                    "payer": number % PURSES + 1,
                    "payee": (number + 1) % PURSES + 1,
                    "amount": 5000 if number % 10 == 9 else 10,
                },
            )
            for number in range(COUNT)
        ],
    )
    for killed in range(6):
        bank.kill(("processes", "bank")[killed % 2])
        reached = COUNT * killed // 6
        eventually(lambda least=reached: len(finished(bank)) >= least, f"{reached} transfers")  # type: ignore[misc]
    eventually(lambda: len(finished(bank)) == COUNT, "all transfers")
    eventually(lambda: is_quiet(bank), "an empty list")

    assert set(finished(bank).values()) == {1}
    money: Counter[str] = Counter()
    moves: Counter[tuple[type, int]] = Counter()
    for stream, event in events(bank):
        if isinstance(event, MoneyTaken):
            money[stream] -= event.amount
            moves[MoneyTaken, event.transfer_id] += 1
        elif isinstance(event, PurseFilled | MoneyPut):
            money[stream] += event.amount
            if isinstance(event, MoneyPut):
                moves[MoneyPut, event.transfer_id] += 1
    assert set(moves.values()) == {1}
    assert {id_ for kind, id_ in moves if kind is MoneyTaken} == {
        id_ for kind, id_ in moves if kind is MoneyPut
    }
    assert sum(money.values()) == PURSES * MONEY
    assert {*money} == {PURSE.stream_of(purse + 1) for purse in range(PURSES)}
    bank.ready().es("status").ok()


@pytest.mark.over("embedded", because="what an operator sees is the same over every part")
def test_an_operator_sees_an_instance_in_quarantine_and_retries_it(bank: System) -> None:
    send(bank, ("fill", {"purse_id": 1, "amount": MONEY}))
    # A stream that a newer program has begun, so this one cannot read it.
    with closing(wiring.open_store(bank.settings.store)) as store:
        append(store, "process-moving-7", NO_STREAM, [an_event("process-of-tomorrow.v1")])
    send(bank, ("transfer", {"transfer_id": 7, "payer": 1, "payee": 2, "amount": 1}))
    send(bank, ("transfer", {"transfer_id": 8, "payer": 1, "payee": 2, "amount": 1}))
    eventually(lambda: len(finished(bank)) == 1, "the sibling")

    (row,) = bank.es("processes", "list", "--quarantined", "--json").ok().objects
    assert (row["process"], row["instance"], row["held"]) == ("moving", "7", 1)
    assert "process-moving-7" in row["reason"]
    status = bank.es("status")
    assert status.code == 4
    assert "process moving: 1 instances cannot go on" in status.out
    assert "es processes retry moving ID" in status.out
    assert status.out.count("`") == 4, "nothing else is wrong"
    assert bank.es("doctor").code == 4
    shown = bank.es("processes", "show", "moving", "7").ok().out
    assert "process-of-tomorrow.v1" in shown
    assert "quarantined" in bank.es("processes", "retry", "moving", "7").out
    bank.es("processes", "show", "moving", "9").failed(3)
    bank.es("processes", "retry", "other", "9").failed(2)
