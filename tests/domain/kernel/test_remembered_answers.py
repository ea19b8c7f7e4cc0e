"""Answers that stay: repeated ids with other input, remembered refusals, cancelled commands."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.kernel.commands import Command, Input
from domain.kernel.errors import CommandCancelled, CommandIdReused, EsError, PartUnavailable
from domain.kernel.kept_states import KeptStates
from domain.kernel.orders import Done, Order, Outcome, content_of
from domain.kernel.personal import Personal
from domain.kernel.ports.vault import DestroyedKey, LivingKey
from domain.kernel.system import CommandRemembered
from tests.support.bank import ACCOUNT, CODEC, Bank, Name, Pay, PayOnce, TooMuch, order, pay, with_content


@dataclass(frozen=True, slots=True)
class Rename(Command):
    name: Annotated[Personal, Input(str, "The name.", "NAME")]
    note: Annotated[str, Input(str, "A note.", "NOTE")]
    wire: ClassVar[str] = "rename-it"


ID, OTHER_ID = UUID(int=7), UUID(int=8)


def paying(*amounts: int, id_: UUID = ID, **changed: Any) -> Order[Any]:
    return with_content(order(Pay(amounts), id_=id_), **changed)


def naming(owner: str, id_: UUID = ID) -> Order[Any]:
    return with_content(order(Name(Personal(owner)), id_=id_), is_personal=True)


def cancelling(of: Order[Any]) -> Order[Any]:
    return replace(of, verdict=CommandCancelled(), remembers=True)


def code_of(outcome: Outcome) -> str:
    return outcome.code if isinstance(outcome, EsError) else "done"


def types(bank: Bank) -> list[str]:
    return [recorded.type for recorded in bank.memory.read_stream("account-1")]


# --- other input ---------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "one after the other"])
def test_a_command_id_with_other_input_is_refused(*, together: bool) -> None:
    bank = Bank()
    orders = [paying(5), paying(5), paying(6)]

    outcomes = bank.handle(*orders) if together else [bank.handle(each)[0] for each in orders]

    assert outcomes == [Done(0, 1), Done(0, 1), CommandIdReused(str(ID))]
    assert bank.amounts() == [5]


def test_other_input_is_refused_in_a_stream_whose_state_is_kept() -> None:
    bank = Bank(kept=KeptStates(ACCOUNT, long=2))
    bank.handle(paying(1))
    for number in range(5):
        bank.handle(paying(1, id_=UUID(int=100 + number)))

    assert bank.handle(paying(1), paying(2)) == [Done(0, 1), CommandIdReused(str(ID))]


def test_the_digest_of_personal_input_dies_with_the_data_key() -> None:
    bank = Bank()
    bank.handle(naming("Ada"))
    (recorded,) = bank.memory.read_stream("account-1")

    assert bank.handle(naming("Grace")) == [CommandIdReused(str(ID))]
    assert CODEC.metadata(recorded).digest, "it is stored"
    other = Bank()
    other.keys[1] = LivingKey(b"other" * 6 + b"!!")
    other.handle(naming("Ada"))
    digests = {CODEC.metadata(e).digest for b in (bank, other) for e in b.memory.read_stream("account-1")}
    assert len(digests) == 2, "a guess of the name cannot be compared with it"
    bank.keys[1] = DestroyedKey()
    assert bank.handle(naming("Grace")) == [Done(0, 1)], "what it was is not known any more"


def test_events_without_a_digest_accept_any_repeat() -> None:
    bank = Bank()
    bank.handle(pay(5, id_=ID))

    assert bank.handle(paying(6)) == [Done(0, 1)], "earlier versions stored no digest"


# --- remembered answers --------------------------------------------------------------------------


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "one after the other"])
def test_a_remembered_refusal_is_the_answer_for_ever(*, together: bool) -> None:
    bank = Bank()
    bank.handle(pay(90, id_=OTHER_ID))
    orders = [paying(20, remembers=True), pay(-80), paying(20, remembers=True), paying(20)]

    outcomes = bank.handle(*orders) if together else [bank.handle(each)[0] for each in orders]

    assert [code_of(outcome) for outcome in outcomes] == ["too-much", "done", "too-much", "too-much"]
    assert str(outcomes[2]) == str(TooMuch())
    assert bank.amounts() == [90, -80]


def test_that_nothing_had_to_change_is_remembered_as_well() -> None:
    bank = Bank()
    bank.handle(pay(5, id_=OTHER_ID))
    once = with_content(order(PayOnce((1,)), id_=ID), remembers=True)

    assert bank.handle(once, pay(-5), once) == [Done(1, 2), Done(2, 3), Done(1, 2)]
    assert bank.amounts() == [5, -5], "without it the repeat would have paid"


def test_a_refusal_is_not_remembered_unless_the_sender_asks() -> None:
    bank = Bank()

    assert [code_of(outcome) for outcome in bank.handle(paying(101), paying(101))] == ["too-much"] * 2
    assert types(bank) == []


def test_an_outage_is_never_remembered() -> None:
    bank = Bank()
    outage = replace(paying(1, remembers=True), verdict=PartUnavailable("the vault", "down"))

    assert code_of(bank.handle(outage)[0]) == "unavailable"
    assert types(bank) == []


def test_a_remembered_answer_changes_no_state() -> None:
    bank = Bank()
    bank.handle(paying(101, remembers=True), pay(100, id_=OTHER_ID))

    assert bank.amounts() == [100]
    assert types(bank) == [CommandRemembered.type, "paid.v1"]


# --- cancelling ----------------------------------------------------------------------------------


def test_a_cancelled_command_never_takes_effect() -> None:
    bank = Bank()

    assert bank.handle(cancelling(paying(5))) == [CommandCancelled()]
    assert code_of(bank.handle(paying(5))[0]) == "command-cancelled"
    assert code_of(bank.handle(paying(6))[0]) == "command-id-reused"
    assert bank.amounts() == []


def test_cancelling_a_command_that_took_effect_gives_its_first_answer() -> None:
    bank = Bank()
    bank.handle(paying(5))

    assert bank.handle(cancelling(paying(5))) == [Done(0, 1)]
    assert types(bank) == ["paid.v1"]


def test_a_paused_worker_cannot_act_on_a_command_that_was_cancelled_meanwhile() -> None:
    bank = Bank()
    rival = Bank(bank.memory)
    bank.interrupt_with(lambda: rival.handle(cancelling(paying(5))))

    assert code_of(bank.handle(paying(5))[0]) == "command-cancelled"
    assert bank.amounts() == []


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["act", "remember", "cancel"])), max_size=20),
    st.data(),
)
def test_once_remembered_or_done_an_answer_stays(steps: list[tuple[int, str]], data: st.DataObject) -> None:
    """However often it is repeated or cancelled, in any order and grouping, one command has one lasting answer and one effect."""
    bank = Bank()
    answers: dict[int, str] = {}
    while steps:
        size = data.draw(st.integers(1, len(steps)))
        batch, steps = steps[:size], steps[size:]
        orders = []
        for number, how in batch:
            made = paying(40, id_=UUID(int=number), remembers=how == "remember")
            orders.append(cancelling(made) if how == "cancel" else made)
        for (number, how), outcome in zip(batch, bank.handle(*orders), strict=True):
            if number in answers:
                assert code_of(outcome) == answers[number]
            elif how != "act" or isinstance(outcome, Done):
                answers[number] = code_of(outcome)
    assert sum(bank.amounts()) == 40 * sum(code == "done" for code in answers.values())


@given(st.lists(st.text(), min_size=2, max_size=2), st.lists(st.text(), min_size=2, max_size=2))
def test_different_inputs_have_different_contents(one: list[str], other: list[str]) -> None:
    contents = [content_of(Rename(Personal(first), second)) for first, second in (one, other)]

    assert (contents[0] == contents[1]) == (one == other)
