"""Random batches: the handler that folds once and keeps states does what one that rereads everything does."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from domain.kernel.errors import EsError, VersionConflict
from domain.kernel.events import BEGINNING, Event, Recorded
from domain.kernel.kept_states import KeptStates
from domain.kernel.orders import Done, Order
from domain.kernel.personal import Personal
from domain.kernel.recent_streams import RecentStreams
from tests.support import plain_handler
from tests.support.bank import ACCOUNT, CODEC, Bank, Name, Pay, PayOnce, State, order

Step = tuple[str, int, int, int]
"""The kind of a command, its account, its amount or owner, and the number of its command id: equal numbers repeat."""

Kept = tuple[int, int, int | None]

_KINDS = ["pay", "pay-twice", "pay-nothing", "pay-once", "name"]

STEPS: st.SearchStrategy[Step] = st.tuples(
    st.sampled_from(_KINDS),
    st.integers(1, 2),
    st.integers(1, 40),
    st.integers(0, 40),
)
BATCHES = st.lists(st.tuples(st.booleans(), st.lists(STEPS, max_size=12)), max_size=12)
"""Batches of the handler itself, or of another one."""
KEPT: st.SearchStrategy[Kept] = st.one_of(
    st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from([0, 3, 12, 1000]), st.none()),
    st.tuples(st.sampled_from([4, 64]), st.just(1000), st.sampled_from([600, 100_000])),
)
"""The length from which on states are kept, the number of commands that are kept at most, and the bytes of recent streams
that are remembered at most; None: every stream is read."""


def _order(step: Step) -> Order[Any]:
    kind, account, number, id_ = step
    command: Any = {
        "pay": Pay((number,)),
        "pay-twice": Pay((1, 1)),
        "pay-nothing": Pay(()),
        "pay-once": PayOnce((number,)),
        "name": Name(Personal(f"owner {number % 3}")),
    }[kind]
    return order(command, account, id_=uuid.UUID(int=id_))


def _bank(kept: Kept) -> Bank:
    long, limit, recent_bytes = kept
    recent = None if recent_bytes is None else RecentStreams(lambda: 0.0, limit_bytes=recent_bytes)
    return Bank(kept=KeptStates(ACCOUNT, long=long, limit=limit), recent=recent)


def _content(bank: Bank) -> list[tuple[str, Event, uuid.UUID]]:
    """All events with their streams and commands, opened."""
    keyring = bank.keyring([1, 2])
    return [
        (
            recorded.stream,
            CODEC.decode(recorded, subject=ACCOUNT.id_of(recorded.stream), opener=keyring),
            CODEC.metadata(recorded).command_id,
        )
        for recorded in bank.memory.read_all(0, 10_000)
    ]


def _comparable(outcomes: Sequence[Any]) -> list[Any]:
    return [(outcome, outcome.is_repeat) if isinstance(outcome, Done) else outcome for outcome in outcomes]


@settings(deadline=None, max_examples=150)
@given(batches=BATCHES, kept=KEPT)
def test_outcomes_and_events_are_those_of_a_handler_that_rereads_everything(
    batches: list[tuple[bool, list[Step]]], kept: Kept
) -> None:
    bank, model = _bank(kept), Bank()
    rival = Bank(bank.memory)

    for is_own, steps in batches:
        # A batch for one account: with several, commands of different streams may be stored in another order.
        for account in (1, 2):
            orders = [_order(step) for step in steps if step[1] == account]
            outcomes = (bank if is_own else rival).handle(*orders)
            assert _comparable(outcomes) == _comparable(plain_handler.handle(model, orders))

    assert _content(bank) == _content(model)


@settings(deadline=None, max_examples=150)
@given(
    batches=st.lists(st.lists(STEPS, max_size=10), max_size=6),
    rivals=st.lists(st.lists(STEPS, max_size=3), max_size=12),
    kept=KEPT,
)
def test_under_concurrent_writes_each_decision_holds_at_its_place_in_the_stream(
    batches: list[list[Step]], rivals: list[list[Step]], kept: Kept
) -> None:
    bank = _bank(kept)
    other = Bank(bank.memory)
    bank.interrupt_with(*[lambda steps=steps: other.handle(*map(_repeatable, steps)) for steps in rivals])

    for steps in batches:
        before = {account: len(_states(bank, account)) - 1 for account in (1, 2)}
        orders = [_repeatable(step) for step in steps]
        outcomes = bank.handle(*orders)
        states = {account: _states(bank, account) for account in (1, 2)}
        for each, outcome in zip(orders, outcomes, strict=True):
            _check_outcome(each, outcome, states[each.subject], before[each.subject])

    sent = {
        each.metadata.command_id: each for steps in [*batches, *rivals] for each in map(_repeatable, steps)
    }
    for account in (1, 2):
        _check_stream(_states(bank, account), sent)


@settings(deadline=None, max_examples=150)
@given(batches=st.lists(st.tuples(st.booleans(), STEPS.map(lambda step: [step])), min_size=3, max_size=12))
def test_a_remembered_stream_gives_the_outcomes_of_one_that_is_read(
    batches: list[tuple[bool, list[Step]]],
) -> None:
    """Single commands: a decision without events is alone in its batch."""
    bank, model = _bank((64, 0, 100_000)), Bank()
    rival = Bank(bank.memory)

    for is_own, steps in batches:
        orders = [*map(_order, steps)]
        outcomes = (bank if is_own else rival).handle(*orders)
        assert _comparable(outcomes) == _comparable(plain_handler.handle(model, orders))


def _repeatable(step: Step) -> Order[Any]:
    """An order whose command id no other command has."""
    kind, account, number, id_ = step
    return _order((kind, account, number, _KINDS.index(kind) * 1000 + account * 100 + number * 2 + id_ % 2))


def _states(bank: Bank, account: int) -> list[tuple[State, Recorded | None]]:
    """The state after each version of a stream, with its last event, and before the first."""
    keyring = bank.keyring([account])
    states: list[tuple[State, Recorded | None]] = [(ACCOUNT.initial, None)]
    for recorded in bank.memory.read_stream(ACCOUNT.stream_of(account)):
        event = CODEC.decode(recorded, subject=account, opener=keyring)
        states.append((ACCOUNT.evolve(states[-1][0], event), recorded))
    return states


def _check_outcome(
    order: Order[Any], outcome: Any, states: list[tuple[State, Recorded | None]], before: int
) -> None:
    """It is the place of the command's events in the stream, or right for a state during the batch."""
    mine = [
        last for _, last in states if last and CODEC.metadata(last).command_id == order.metadata.command_id
    ]
    if isinstance(outcome, Done):
        if mine and (outcome.version, outcome.position) == (mine[-1].version, mine[-1].position):
            return
        state, last = states[outcome.version + 1]
        assert ACCOUNT.decide(state, order.command) == [], "nothing had to change"
        assert outcome.version + 1 >= before, "not of a state before the batch"
        assert outcome.position == (last.position if last else BEGINNING)
    elif not isinstance(outcome, VersionConflict):
        assert any(ACCOUNT.decide(state, order.command) == outcome for state, _ in states[before:])


def _check_stream(states: list[tuple[State, Recorded | None]], sent: dict[uuid.UUID, Order[Any]]) -> None:
    """Each command took effect at most once, as a whole, and as its rule says for the state before."""
    version, seen = 0, set[uuid.UUID]()
    while version + 1 < len(states):
        recorded = states[version + 1][1]
        assert recorded is not None
        command_id = CODEC.metadata(recorded).command_id
        assert command_id not in seen
        seen.add(command_id)
        after = states[version][0]
        decided = ACCOUNT.decide(after, sent[command_id].command)
        assert not isinstance(decided, EsError)
        for event in decided:
            after = ACCOUNT.evolve(after, event)
        version += len(decided)
        assert decided
        assert states[version][0] == after
