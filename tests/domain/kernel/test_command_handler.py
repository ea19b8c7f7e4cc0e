"""Handling of commands: load, decide, append at the exact version, and no second effect of a retry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from domain.kernel.errors import (
    CommandIdReused,
    Damaged,
    DuplicateEventId,
    EsError,
    KeyUnavailable,
    PartUnavailable,
    Tampered,
)
from domain.kernel.events import NO_STREAM, Event, EventData, Metadata, event_id
from domain.kernel.orders import Done
from domain.kernel.personal import ERASED
from domain.kernel.ports.event_store import Append, Appended, AppendResult
from domain.kernel.ports.vault import DestroyedKey, LivingKey
from tests.support.bank import ACCOUNT, CODEC, Bank, PayOnce, TooMuch, name, order, pay
from tests.support.builders import append, some_events, stored
from tests.support.parts import replaced

# --- one command -----------------------------------------------------------------------------


def test_a_command_is_decided_on_the_loaded_stream_and_its_events_appended() -> None:
    bank = Bank()
    bank.handle(pay(60, 30))

    outcomes = bank.handle(pay(5, 5), pay(11))

    assert outcomes == [Done(3, 4), TooMuch()]
    assert bank.amounts() == [60, 30, 5, 5]


def test_the_ids_of_events_derive_from_the_command_id() -> None:
    bank, command = Bank(), uuid4()

    bank.handle(pay(1, 2, 3, id_=command))

    events = list(bank.memory.read_stream("account-1"))
    assert [event.event_id for event in events] == [event_id(command, index) for index in range(3)]
    assert {CODEC.metadata(event) for event in events} == {
        Metadata(command, "pay", command, command, "uid:1000")
    }


def test_a_command_without_a_change_returns_the_last_version() -> None:
    bank = Bank()
    bank.handle(pay(1, 2))

    assert bank.handle(order(PayOnce((5,)))) == [Done(1, 2)]
    assert bank.amounts() == [1, 2]


def test_a_command_without_a_change_of_a_missing_stream_does_no_harm() -> None:
    bank = Bank()

    nothing, paid = bank.handle(pay(account=1), pay(7, account=2))

    assert paid == Done(0, 1), "the other command continues"
    assert isinstance(nothing, Done | EsError)
    assert bank.amounts(1) == []


def test_personal_fields_are_stored_sealed_and_decided_on_opened() -> None:
    bank = Bank()

    assert bank.handle(name("Ada Lovelace")) == [Done(0, 1)]
    assert b"Ada" not in next(bank.memory.read_stream("account-1")).data
    assert bank.handle(name("Ada Lovelace")) == [Done(0, 1)], "the decision saw the name"
    assert bank.handle(name("Grace Hopper")) == [Done(1, 2)]


def test_a_decision_sees_erased_values_after_the_key_was_destroyed() -> None:
    seen: list[Any] = []
    bank = Bank()
    bank.handle(name("Ada"))
    bank.keys[1] = DestroyedKey()

    def decide(state: Any, command: Any) -> list[Event]:
        seen.append(state)
        return []

    bank.handler(replace(ACCOUNT, decide=decide)).handle([pay(1)])

    assert seen == [(0, ERASED)]


# --- batches ---------------------------------------------------------------------------------


def test_a_batch_is_one_append_and_one_load_of_keys() -> None:
    bank = Bank()

    outcomes = bank.handle(*(pay(1, account=number, is_new=True) for number in range(1, 51)))

    assert outcomes == [Done(0, position) for position in range(1, 51)]
    assert [len(batch) for batch in bank.batches] == [50]
    assert bank.key_requests == [list(range(1, 51))]
    assert bank.loads == [], "a new stream is not loaded"


def test_an_empty_batch_does_nothing() -> None:
    bank = Bank()

    assert bank.handle() == []
    assert bank.key_requests == []


def test_commands_to_one_stream_in_a_batch_see_each_other_in_order() -> None:
    bank = Bank()

    outcomes = bank.handle(pay(60), pay(1, account=2), pay(50), pay(40), pay(2, account=2), pay(1))

    names = [type(outcome).__name__ for outcome in outcomes]
    assert names == ["Done", "Done", "TooMuch", "Done", "Done", "TooMuch"]
    assert (bank.amounts(1), bank.amounts(2)) == ([60, 40], [1, 2])


def test_outcomes_are_in_the_order_of_the_orders() -> None:
    outcomes = Bank().handle(*(pay(1, account=number) for number in [1, 2, 1, 3, 2, 1, 1, 4]))

    assert [outcome.version for outcome in outcomes if isinstance(outcome, Done)] == [0, 0, 1, 0, 1, 2, 3, 0]


def test_a_batch_of_refused_commands_appends_nothing() -> None:
    bank = Bank()

    assert bank.handle(pay(101), pay(102, account=2)) == [TooMuch(), TooMuch()]
    assert bank.batches == []


# --- retries ---------------------------------------------------------------------------------


def test_a_retried_command_returns_the_first_result_and_changes_nothing() -> None:
    bank, command = Bank(), pay(1, 2)
    first = bank.handle(command)
    bank.handle(pay(3))

    assert bank.handle(command) == first == [Done(1, 2)]
    assert bank.amounts() == [1, 2, 3]


def test_a_retried_command_that_would_be_refused_now_returns_the_first_result() -> None:
    bank, command = Bank(), pay(60)
    first = bank.handle(command)

    assert bank.handle(command) == first


def test_a_retried_command_for_a_new_stream_returns_the_first_result() -> None:
    bank, command = Bank(), pay(1, 2, is_new=True)

    assert bank.handle(command) == bank.handle(command) == [Done(1, 2)]
    assert bank.amounts() == [1, 2]


def test_a_duplicate_command_in_a_batch_takes_effect_once() -> None:
    bank, command = Bank(), pay(1)

    assert bank.handle(command, pay(9, account=2), command) == [Done(0, 1), Done(0, 2), Done(0, 1)]
    assert bank.amounts() == [1]


def test_a_command_that_another_worker_handled_first_returns_that_result() -> None:
    bank, command = Bank(), pay(5)
    other = Bank(bank.memory)
    bank.interrupt_with(lambda: other.handle(command, pay(7)))

    assert bank.handle(command) == [Done(0, 1)]
    assert bank.amounts() == [5, 7]


def test_the_command_id_of_another_command_in_the_stream_is_refused() -> None:
    bank, id_ = Bank(), uuid4()
    bank.handle(pay(1, id_=id_))

    assert bank.handle(order(PayOnce((1,)), id_=id_)) == [CommandIdReused(str(id_))]
    assert bank.amounts() == [1]


def test_a_command_id_of_another_stream_is_refused() -> None:
    bank, id_ = Bank(), uuid4()
    bank.handle(pay(1, id_=id_))

    refused, done = bank.handle(pay(1, account=2, id_=id_), pay(2, account=3))

    assert refused == CommandIdReused(str(id_))
    assert done == Done(0, 2)
    assert bank.amounts(2) == []


# --- damage and outages ----------------------------------------------------------------------


def _damaged(bank: Bank) -> type[EsError]:
    append(bank.memory, "account-1", NO_STREAM, [EventData(uuid4(), "paid.v1", b"not JSON", b"{}")])
    return Damaged


def _of_another_program(bank: Bank) -> type[EsError]:
    append(bank.memory, "account-1", NO_STREAM, some_events(1))
    return EsError


def _tampered(bank: Bank) -> type[EsError]:
    bank.handle(name("Ada"))
    bank.keys[1] = LivingKey(bytes(32))
    return Tampered


def _without_key(bank: Bank) -> type[EsError]:
    bank.handle(name("Ada"))
    del bank.keys[1]
    return KeyUnavailable


@pytest.mark.parametrize("damage", [_damaged, _of_another_program, _tampered, _without_key])
def test_a_stream_that_cannot_be_opened_fails_its_own_command_only(
    damage: Callable[[Bank], type[EsError]],
) -> None:
    bank = Bank()
    expected = damage(bank)
    before = stored(bank.memory, "account-1")

    first, bad, last = bank.handle(pay(1, account=2), pay(1), pay(2, account=2))

    assert isinstance(bad, expected)
    assert isinstance(first, Done)
    assert isinstance(last, Done)
    assert bank.amounts(2) == [1, 2]
    assert stored(bank.memory, "account-1") == before, "nothing is decided on it"


@pytest.mark.parametrize(
    "error", [PartUnavailable("event store", "it is full"), DuplicateEventId("account-1")]
)
def test_an_append_that_fails_is_the_outcome_of_its_own_order_only(error: EsError) -> None:
    bank = Bank()

    def fail_one(batch: Sequence[Append]) -> list[AppendResult]:
        return [error if item.stream == "account-1" else bank.memory.append([item])[0] for item in batch]

    bank.store = replaced(bank.memory, append=fail_one)

    bad, good = bank.handle(pay(1), pay(1, account=2))

    assert isinstance(bad, PartUnavailable | CommandIdReused)
    assert good == Done(0, 1)


@pytest.mark.parametrize("what", ["append", "keyring"])
def test_an_outage_is_raised_and_a_retry_is_safe(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bank, command = Bank(), pay(1, 2)
    outages = [PartUnavailable("a part", "it is unavailable")]

    def fail_once(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def called(argument: Any) -> Any:
            if outages:
                raise outages.pop()
            return call(argument)

        return called

    if what == "append":
        bank.store = replaced(bank.memory, append=fail_once(bank.memory.append))
    else:
        monkeypatch.setattr(bank, "keyring", fail_once(bank.keyring))

    with pytest.raises(PartUnavailable):
        bank.handle(command)
    assert bank.handle(command) == [Done(1, 2)]


def test_a_retry_finds_an_append_whose_result_was_lost() -> None:
    bank, command = Bank(), pay(1, 2)

    def lose_the_result(batch: Sequence[Append]) -> list[AppendResult]:
        assert all(isinstance(result, Appended) for result in bank.memory.append(batch))
        raise PartUnavailable("event store", "the connection was lost")

    own, bank.store = bank.store, replaced(bank.memory, append=lose_the_result)
    with pytest.raises(PartUnavailable):
        bank.handle(command)
    bank.store = own

    assert bank.handle(command) == [Done(1, 2)]
    assert bank.amounts() == [1, 2]
