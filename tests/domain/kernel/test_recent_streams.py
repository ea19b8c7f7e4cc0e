"""Streams that a handler remembers: a decision that appends needs no read, any other outcome needs one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from domain.kernel.errors import CommandIdReused, Damaged, PartUnavailable
from domain.kernel.events import Event
from domain.kernel.kept_states import KeptStates
from domain.kernel.orders import Done
from domain.kernel.personal import ERASED
from domain.kernel.ports.event_store import Append, AppendResult
from domain.kernel.ports.vault import DestroyedKey
from domain.kernel.recent_streams import RecentStreams
from tests.support.bank import ACCOUNT, Bank, Paid, PayOnce, TooMuch, name, order, pay
from tests.support.parts import replaced


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def _bank(clock: Clock | None = None, **limits: Any) -> Bank:
    return Bank(recent=RecentStreams(clock or Clock(), **limits))


def _rival_of(bank: Bank) -> Bank:
    return Bank(bank.memory)


# --- without a read --------------------------------------------------------------------------


def test_a_stream_that_was_created_or_read_is_not_read_again_for_a_change() -> None:
    bank = _bank()
    bank.handle(pay(1, is_new=True))
    _rival_of(bank).handle(pay(2, account=2))

    assert bank.handle(pay(3), pay(4, account=2)) == [Done(1, 3), Done(1, 4)]
    assert bank.handle(pay(5), pay(6, account=2)) == [Done(2, 5), Done(2, 6)]
    assert bank.loads == [["account-2"]]


def test_the_commands_of_a_batch_see_those_before_them_also_the_refused() -> None:
    bank = _bank()
    bank.handle(pay(60))
    bank.loads.clear()

    assert bank.handle(pay(50), pay(40), pay(1)) == [TooMuch(), Done(1, 2), TooMuch()]
    assert bank.loads == [], "the append at its version proves all three"


def test_after_several_events_of_one_append_the_stream_is_read() -> None:
    bank = _bank()
    bank.handle(pay(1, 2))
    bank.loads.clear()
    again = uuid4()

    bank.handle(pay(3, id_=again))

    assert bank.loads == [["account-1"]], "the positions of the first events were not told"
    assert bank.handle(pay(3, id_=again)) == [Done(2, 3, is_repeat=True)]


# --- with a read -----------------------------------------------------------------------------


def test_a_refusal_is_about_the_stream_as_it_is() -> None:
    bank = _bank()
    bank.handle(pay(1))
    _rival_of(bank).handle(pay(98))

    assert bank.handle(pay(2)) == [TooMuch()]


def test_what_another_handler_allowed_meanwhile_is_not_refused() -> None:
    bank = _bank()
    bank.handle(order(PayOnce((1,))))
    bank.handle(pay(), pay(99))
    _rival_of(bank).handle(name("Ada"))

    assert bank.handle(pay(1)) == [TooMuch()]
    assert bank.handle(pay()) == [Done(2, 3, is_unchanged=True)], "at the last event of the rival"


def test_a_command_that_another_handler_carried_out_has_its_first_result() -> None:
    bank, id_ = _bank(), uuid4()
    bank.handle(pay(1))
    _rival_of(bank).handle(pay(2, id_=id_))

    (done,) = bank.handle(pay(2, id_=id_))

    assert done == Done(1, 2)
    assert isinstance(done, Done)
    assert done.is_repeat, "the store took its event for a retry"
    assert bank.amounts() == [1, 2]


def test_an_event_of_another_command_with_its_id_is_not_its_result() -> None:
    bank, id_ = _bank(), uuid4()
    bank.handle(pay(1))
    _rival_of(bank).handle(pay(2, id_=id_))

    assert bank.handle(name("Ada", id_=id_)) == [CommandIdReused(str(id_))]
    assert bank.amounts() == [1, 2]


def test_after_a_conflict_the_stream_is_read_and_nothing_before_the_change_holds() -> None:
    bank = _bank()
    bank.handle(pay(60))
    bank.loads.clear()
    _rival_of(bank).handle(pay(38))

    assert bank.handle(pay(), pay(3), pay(2)) == [Done(1, 2, is_unchanged=True), TooMuch(), Done(2, 3)]
    assert bank.loads[0] == ["account-1"]


def test_a_damaged_stream_is_not_remembered() -> None:
    bank = _bank()
    _rival_of(bank).handle(pay(1))
    stream = ACCOUNT.stream_of(1)
    bank.store = replaced(
        bank.memory, read_streams=lambda streams, **_: {stream: Damaged("event store", "truncated")}
    )
    for _ in range(2):
        (outcome,) = bank.handle(pay(2))
        assert isinstance(outcome, Damaged)


def test_a_long_stream_is_kept_as_a_state_and_not_remembered() -> None:
    bank = Bank(kept=KeptStates(ACCOUNT, long=3), recent=RecentStreams(Clock()))
    for amount in (1, 2, 3, 4):
        bank.handle(pay(amount))

    assert bank.loads == [["account-1"], ["account-1"]]
    assert bank.read_from == [{}, {"account-1": 2}]


@pytest.mark.parametrize("is_raised", [True, False])
def test_nothing_is_remembered_from_before_an_outage(is_raised: bool) -> None:
    bank = _bank()
    bank.handle(pay(1), pay(1, account=2))
    outage = PartUnavailable("event store", "no answer")

    def fail(batch: Sequence[Append]) -> list[AppendResult]:
        if is_raised:
            raise outage
        return [outage for _ in batch]

    bank.store = replaced(bank.store, append=fail)
    if is_raised:
        with pytest.raises(PartUnavailable):
            bank.handle(pay(2))
    else:
        assert bank.handle(pay(2)) == [outage]
    bank.store = Bank(bank.memory).store
    bank.loads.clear()
    other = Bank(bank.memory, recent=bank.recent)
    other.handle(pay(2), pay(2, account=2))

    assert other.loads == [["account-1", "account-2"]]


def test_an_erased_person_cannot_be_read_in_what_is_remembered() -> None:
    seen: list[Any] = []
    bank = _bank()
    bank.handle(name("Ada"))
    bank.loads.clear()
    bank.keys[1] = DestroyedKey()

    def decide(state: Any, command: Any) -> list[Event]:
        seen.append((state, len(bank.loads)))
        return [Paid(1)]

    bank.handler(replace(ACCOUNT, decide=decide)).handle([pay(1)])

    assert seen == [((0, ERASED), 0)]


# --- bounds ----------------------------------------------------------------------------------


def test_a_stream_is_remembered_for_some_seconds_after_its_last_use() -> None:
    clock = Clock()
    bank = _bank(clock, fresh_s=10)
    bank.handle(pay(1))
    clock.now_s = 9
    bank.handle(pay(2))
    clock.now_s = 18
    bank.handle(pay(3))
    assert len(bank.loads) == 1
    clock.now_s = 28.5

    bank.handle(pay(4))

    assert len(bank.loads) == 2


def test_the_least_recent_stream_is_forgotten_where_they_take_too_much_memory() -> None:
    bank = _bank()
    assert bank.recent is not None
    bank.handle(pay(1))
    (event,) = bank.recent.events("account-1") or ()
    size_bytes = len(event.data) + len(event.metadata)
    bank = _bank(limit_bytes=3 * size_bytes)
    for account in (1, 2, 3, 1, 4):
        bank.handle(pay(1, account=account))
    bank.loads.clear()

    bank.handle(pay(2, account=3), pay(2, account=4))
    assert bank.loads == [["account-3"]], "account 1 holds two events, account 4 one"
