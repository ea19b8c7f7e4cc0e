"""Version conflicts of commands: decided again on the new state, a limited number of times, with growing pauses."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from domain.kernel.command_handler import ATTEMPTS, CommandHandler
from domain.kernel.errors import KeyUnavailable, VersionConflict
from domain.kernel.events import NO_STREAM
from domain.kernel.orders import Done, Order, Outcome
from domain.kernel.ports.vault import DestroyedKey
from tests.support.bank import ACCOUNT, CODEC, Bank, TooMuch, name, pay
from tests.support.builders import stored


@pytest.mark.parametrize("times", [1, 2, ATTEMPTS - 1])
def test_after_a_conflict_a_command_is_decided_again(times: int) -> None:
    bank = Bank()
    bank.let_a_rival_pay(times)

    assert bank.handle(pay(50, 5)) == [Done(times + 1, times + 2)]

    assert bank.amounts() == [1] * times + [50, 5]
    assert len(bank.batches) == times + 1
    assert len(bank.pauses_s) == times
    assert all(0 <= pause_s <= 0.1 for pause_s in bank.pauses_s)


def test_after_a_conflict_the_rule_is_applied_to_the_new_state() -> None:
    bank = Bank()
    rival = Bank(bank.memory)
    bank.interrupt_with(lambda: rival.handle(pay(60)))

    assert bank.handle(pay(50)) == [TooMuch()]
    assert bank.amounts() == [60]


def test_a_stream_that_was_expected_to_be_new_is_loaded_after_the_conflict() -> None:
    bank = Bank()
    bank.let_a_rival_pay(1)

    assert bank.handle(pay(5, is_new=True)) == [Done(1, 2)]
    assert bank.loads == [["account-1"]]


def test_only_commands_that_met_a_conflict_are_decided_again() -> None:
    bank = Bank()
    bank.let_a_rival_pay(1)

    outcomes = bank.handle(*(pay(5, account=number) for number in (2, 1, 3)))

    assert [outcome.version for outcome in outcomes if isinstance(outcome, Done)] == [0, 1, 0]
    assert [[item.stream for item in batch] for batch in bank.batches] == [
        ["account-2", "account-1", "account-3"],
        ["account-1"],
    ]
    assert bank.key_requests == [[2, 1, 3], [1]]


def test_keys_are_loaded_again_for_every_attempt() -> None:
    bank = Bank()

    def erase_meanwhile() -> None:
        Bank(bank.memory).handle(pay(1))
        bank.keys[1] = DestroyedKey()

    bank.interrupt_with(erase_meanwhile)

    (outcome,) = bank.handle(name("Ada"))

    assert isinstance(outcome, KeyUnavailable)
    assert len(stored(bank.memory, "account-1")) == 1


def test_a_command_with_endless_conflicts_returns_the_conflict_alone() -> None:
    bank = Bank()
    bank.let_a_rival_pay(1000)

    hopeless, fine, later = bank.handle(pay(5), pay(5, account=2), pay(6, account=2))

    assert hopeless == VersionConflict("account-1", ATTEMPTS - 2, ATTEMPTS - 1)
    assert (fine, later) == (Done(0, 2), Done(1, 3))
    assert bank.amounts(2) == [5, 6]
    assert len(bank.batches) == ATTEMPTS


def test_pauses_between_conflicts_grow_and_are_jittered() -> None:
    first, second = Bank(), Bank()
    for bank in (first, second):
        bank.let_a_rival_pay(11)
        bank.handle(pay(5))

    assert first.pauses_s != second.pauses_s
    assert max(first.pauses_s) > 0.004, "the first is at most 2 ms"


def test_every_append_has_an_exact_expected_version() -> None:
    bank = Bank()
    bank.let_a_rival_pay(3)
    bank.handle(pay(1, account=2), pay(2), pay(3))

    items = [item for batch in bank.batches for item in batch]
    assert all(item.expected_version >= NO_STREAM for item in items)
    versions = [item.expected_version for item in items if item.stream == "account-1"]
    assert versions == [NO_STREAM, 0, 1, 2, 3]


def test_two_handlers_that_share_a_long_stream_store_every_command_once() -> None:
    bank = Bank()
    batches = [[[pay(0) for _ in range(30)] for _ in range(8)] for _ in range(2)]

    def work(own: list[list[Order[Any]]]) -> list[Outcome]:
        handler = CommandHandler(
            ACCOUNT, store=bank.memory, codec=CODEC, keyring=Bank(bank.memory).keyring, pause=time.sleep
        )
        return [outcome for batch in own for outcome in handler.handle(batch)]

    with ThreadPoolExecutor(2) as threads:
        outcomes = [outcome for found in threads.map(work, batches) for outcome in found]

    assert all(isinstance(outcome, Done) for outcome in outcomes)
    assert sorted(outcome.version for outcome in outcomes if isinstance(outcome, Done)) == [*range(480)]
    assert [event.position for event in bank.memory.read_stream("account-1")] == [
        position for _, position in sorted((o.version, o.position) for o in outcomes if isinstance(o, Done))
    ]
