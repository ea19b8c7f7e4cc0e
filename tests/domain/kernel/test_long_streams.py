"""Many commands for one stream: folded once for a batch, kept between batches, and never trusted without a look."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from adapters.crypto.sealing import AllErased
from adapters.memory.event_store import MemoryStore
from domain.kernel.errors import CommandIdReused, Damaged, EsError, PartUnavailable
from domain.kernel.events import NO_STREAM, Event, EventData, Metadata, event_id
from domain.kernel.kept_states import KeptStates
from domain.kernel.orders import Done
from domain.kernel.personal import ERASED
from domain.kernel.ports.event_store import Append, AppendResult
from domain.kernel.ports.vault import DestroyedKey
from tests.support.bank import ACCOUNT, CODEC, Bank, Paid, PayOnce, TooMuch, name, order, pay
from tests.support.builders import append, stored
from tests.support.parts import replaced


def _kept(**limits: int) -> KeptStates[Any, Any]:
    return KeptStates(ACCOUNT, **{"long": 2, **limits})


def _bank(**limits: int) -> Bank:
    return Bank(kept=_kept(**limits))


# --- one batch -------------------------------------------------------------------------------


def test_the_commands_of_a_stream_are_one_load_and_one_append_with_a_result_for_each() -> None:
    bank = _bank()

    outcomes = bank.handle(pay(1), pay(1, account=2), pay(2, 3), pay(), pay(200), pay(4))

    assert outcomes == [Done(0, 1), Done(0, 5), Done(2, 3), Done(2, 3), TooMuch(), Done(3, 4)]
    assert [len(batch) for batch in bank.batches] == [2]
    assert [(r.version, r.position) for r in bank.memory.read_stream("account-1")] == [
        (0, 1),
        (1, 2),
        (2, 3),
        (3, 4),
    ]


def test_nothing_after_a_command_that_cannot_be_stored_relies_on_it() -> None:
    bank, used = _bank(), uuid4()
    bank.handle(pay(1, account=2, id_=used))

    outcomes = bank.handle(pay(10), pay(85, id_=used), pay(20), order(PayOnce((1,))), pay(70), pay(99))

    assert [type(outcome) for outcome in outcomes] == [Done, CommandIdReused, Done, Done, Done, TooMuch]
    assert bank.amounts() == [10, 20, 70]


def test_an_outcome_before_the_first_change_holds_if_nothing_is_stored() -> None:
    bank = _bank()
    bank.let_a_rival_pay(1)

    assert bank.handle(pay(101), pay(99), pay(1)) == [TooMuch(), Done(1, 2), TooMuch()]


def test_after_an_unknown_outcome_the_other_commands_are_decided_again() -> None:
    bank = _bank()
    outages: list[EsError] = [PartUnavailable("event store", "no answer")]

    def lose_one(batch: Sequence[Append]) -> list[AppendResult]:
        return [outages.pop()] if outages else bank.memory.append(batch)

    bank.store = replaced(bank.memory, append=lose_one)

    outcomes = bank.handle(pay(60), pay(50))

    assert [type(outcome) for outcome in outcomes] == [PartUnavailable, Done], "50 was too much only after 60"
    assert bank.amounts() == [50]


def test_after_conflicts_fewer_commands_are_decided_at_once() -> None:
    bank = _bank()
    bank.let_a_rival_pay(3)

    outcomes = bank.handle(*(pay(1) for _ in range(16)))

    assert [outcome.version for outcome in outcomes if isinstance(outcome, Done)] == [*range(3, 19)]
    assert [len(batch[0].events) for batch in bank.batches] == [16, 8, 4, 2, 4, 8, 2]


# --- between batches -------------------------------------------------------------------------


def test_of_a_long_stream_a_batch_reads_only_the_last_known_event_and_what_followed() -> None:
    bank = _bank()
    bank.handle(*(pay(1) for _ in range(20)))

    bank.handle(pay(1))
    Bank(bank.memory).handle(pay(2), pay(3))
    bank.handle(pay(4))

    positions = {"account-1": 0}  # of the first batch, read after its append
    assert bank.read_from == [{}, positions, {"account-1": 19}, {"account-1": 20}]
    assert bank.amounts() == [1] * 21 + [2, 3, 4]


def test_a_short_stream_is_read_whole() -> None:
    bank = _bank(long=5)
    bank.handle(*(pay(1) for _ in range(4)))

    bank.handle(pay(1))
    bank.handle(pay(1))

    positions = {"account-1": 0}  # of the first batch, read after its append
    assert bank.read_from == [{}, positions, {}, {"account-1": 4}]


def test_a_refusal_is_decided_on_what_others_stored_meanwhile() -> None:
    bank = _bank()
    bank.handle(pay(1), pay(1))
    Bank(bank.memory).handle(pay(90))

    assert bank.handle(pay(10)) == [TooMuch()]


def test_after_a_conflict_the_kept_state_includes_what_others_stored() -> None:
    bank = _bank()
    bank.handle(pay(1), pay(1))
    rival = Bank(bank.memory)
    bank.interrupt_with(lambda: rival.handle(pay(90)))

    assert bank.handle(pay(10)) == [TooMuch()]
    assert bank.handle(pay(10), pay(8)) == [TooMuch(), Done(3, 4)]


def test_a_repeated_command_of_any_age_returns_its_first_result() -> None:
    bank = _bank()
    commands = [pay(1) for _ in range(30)]
    first = bank.handle(*commands)
    bank.handle(pay(69, 1))

    assert bank.handle(*commands, pay(1)) == [*first, TooMuch()]
    assert bank.handle(order(PayOnce((1,)), id_=commands[3].metadata.command_id)) == [
        CommandIdReused(str(commands[3].metadata.command_id))
    ]
    assert sum(bank.amounts()) == 100


def test_repeats_of_a_whole_batch_are_found_with_one_read() -> None:
    bank, reads = _bank(), list[tuple[Any, ...]]()
    commands = [pay(1) for _ in range(50)]
    bank.handle(*commands)

    def read_stream(*args: Any, **more: Any) -> Any:
        reads.append((*args, more))
        return bank.memory.read_stream(*args, **more)

    bank.store = replaced(bank.store, read_stream=read_stream)
    bank.handle(*commands[10:40])

    assert reads == [("account-1", 10, {"limit": 30})]


# --- other histories -------------------------------------------------------------------------


@pytest.mark.parametrize("events", [0, 1, 3, 9])
def test_a_store_that_was_restored_is_noticed(events: int) -> None:
    bank = _bank()
    bank.handle(pay(90), pay(1), pay(1))
    restored = MemoryStore()
    Bank(restored).handle(*(pay(2) for _ in range(events)))
    bank.memory = restored

    assert bank.handle(pay(50), pay(99)) == [Done(events, events + 1), TooMuch()]


def test_damage_after_the_known_events_stops_commands_that_read() -> None:
    bank = _bank()
    bank.handle(pay(1), pay(1))
    append(bank.memory, "account-1", 1, [EventData(uuid4(), "paid.v1", b"not JSON", b"{}")])
    before = stored(bank.memory, "account-1")

    first, second = bank.handle(pay(1), pay(2))

    assert isinstance(first, Damaged)
    assert isinstance(second, Damaged)
    assert stored(bank.memory, "account-1") == before


# --- personal data ---------------------------------------------------------------------------


def _names(bank: Bank) -> Any:
    return bank.handle(name("Ada Lovelace"), pay(1), pay(1))


def test_a_kept_state_holds_no_readable_personal_value() -> None:
    bank = _bank()
    _names(bank)

    raw = pickle.dumps(bank.kept)

    assert b"account-1" in raw, "it is kept"
    assert b"Ada" not in raw
    assert bank.handle(name("Ada Lovelace")) == [Done(2, 3)], "decided on the name"
    assert bank.read_from[-1] == {"account-1": 2}


def test_a_kept_state_is_gone_with_the_key() -> None:
    seen: list[Any] = []
    bank = _bank()
    _names(bank)
    bank.keys[1] = DestroyedKey()

    def decide(state: Any, command: Any) -> list[Event]:
        seen.append(state)
        return []

    bank.handler(replace(ACCOUNT, decide=decide)).handle([pay(1)])

    assert seen == [(2, ERASED)]
    assert b"account-1" not in pickle.dumps(bank.kept)


def test_states_without_personal_data_are_kept_without_a_key() -> None:
    plain = replace(ACCOUNT, events=(Paid,))
    kept: KeptStates[Any, Any] = KeptStates(plain, long=2)
    bank = Bank(kept=kept)
    bank.keyring = lambda _: AllErased()  # type: ignore[method-assign,assignment,return-value]

    for _ in range(3):
        bank.handler(plain).handle([pay(1)])

    assert bank.read_from == [{}, {}, {"account-1": 1}]


def test_a_state_that_cannot_be_copied_is_read_again() -> None:
    class Odd(tuple):  # type: ignore[type-arg]
        def __reduce__(self) -> Any:
            raise TypeError("no copy")

    odd = replace(
        ACCOUNT, initial=Odd((0, None)), evolve=lambda state, event: Odd(ACCOUNT.evolve((*state,), event))
    )
    bank = Bank(kept=KeptStates(odd, long=1))

    for _ in range(3):
        bank.handler(odd).handle([pay(1)])

    assert bank.read_from == [{}, {}, {}]
    assert bank.amounts() == [1, 1, 1]


# --- bounds ----------------------------------------------------------------------------------


def test_the_kept_streams_together_have_a_limited_number_of_commands() -> None:
    bank = _bank(limit=10)
    for account in range(1, 8):
        bank.handle(*(pay(1, account=account) for _ in range(4)))
    bank.handle(pay(1, account=6))

    bank.handle(pay(1, account=6), pay(1, account=7), pay(1, account=5))

    assert bank.read_from[-1] == {"account-6": 4, "account-7": 3}, "the last two, 9 commands"


def test_a_stream_beyond_the_limit_is_not_kept() -> None:
    bank = _bank(limit=10)
    bank.handle(*(pay(1) for _ in range(11)))
    bank.handle(pay(1))

    assert bank.read_from[-1] == {}


def test_a_state_that_is_too_large_is_not_kept() -> None:
    bank = _bank()
    bank.handle(name("A" * 60_000), pay(1), pay(1))

    assert bank.handle(name("A" * 60_000)) == [Done(2, 3)]
    assert bank.read_from[-1] == {}


# --- where the index comes from --------------------------------------------------------------


def test_a_command_is_recognised_by_its_metadata_not_by_its_event_ids() -> None:
    bank, id_ = _bank(), uuid4()
    metadata = Metadata(id_, "pay", id_, id_, "uid:1000")
    raw = CODEC.encode(Paid(5), event_id=uuid4(), subject=None, metadata=metadata, sealer=None)
    append(bank.memory, "account-1", NO_STREAM, [raw])
    bank.handle(pay(1), pay(1))

    assert bank.handle(pay(5, id_=id_)) == [Done(0, 1)]
    assert bank.handle(pay(5, id_=id_)) == [Done(0, 1)]
    assert bank.amounts() == [5, 1, 1]
    assert raw.event_id != event_id(id_, 0)
