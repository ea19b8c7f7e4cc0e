"""Carrying commands out: load, decide, append at the exact version, and again after a conflict."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import UUID, uuid4

import pytest

from adapters.codec import JsonCodec
from adapters.crypto.sealing import Keyring
from adapters.memory.event_store import MemoryStore
from domain.kernel.aggregate import Aggregate
from domain.kernel.command_handler import ATTEMPTS, CommandHandler, Done, Order, Outcome
from domain.kernel.errors import (
    CommandIdReused,
    Damaged,
    DuplicateEventId,
    EsError,
    KeyUnavailable,
    PartUnavailable,
    Refusal,
    Tampered,
    VersionConflict,
)
from domain.kernel.events import NO_STREAM, Event, EventData, Metadata, event_id
from domain.kernel.personal import Erased, Personal, PersonalText
from domain.kernel.ports.event_store import Append, Appended, AppendResult, EventStore
from domain.kernel.ports.vault import DestroyedKey, LivingKey
from tests.support.builders import a_key, append, some_events, stored

# --- an account with a balance and an owner, to carry commands out on ------------------------


@dataclass(frozen=True, slots=True)
class Paid(Event):
    amount: int
    type: ClassVar[str] = "paid.v1"


@dataclass(frozen=True, slots=True)
class Named(Event):
    owner: PersonalText
    type: ClassVar[str] = "named.v1"


@dataclass(frozen=True, slots=True)
class Pay:
    amounts: tuple[int, ...]
    wire: ClassVar[str] = "pay"


@dataclass(frozen=True, slots=True)
class Name:
    owner: Personal
    wire: ClassVar[str] = "name"


@dataclass(frozen=True, slots=True)
class PayOnce(Pay):
    wire: ClassVar[str] = "pay-once"


class TooMuch(Refusal):
    code = "too-much"


State = tuple[int, PersonalText | None]


def evolve(state: State, event: Event) -> State:
    match event:
        case Paid(amount):
            return state[0] + amount, state[1]
        case Named(owner):
            return state[0], owner
    return state


def decide(state: State, command: Any) -> Sequence[Event] | EsError:
    if isinstance(command, Name):
        return [] if command.owner == state[1] else [Named(command.owner)]
    if state[0] + sum(command.amounts) > 100:
        return TooMuch()
    if isinstance(command, PayOnce) and state[0]:
        return []
    return [Paid(amount) for amount in command.amounts]


ACCOUNT: Aggregate[State, Any] = Aggregate(name="account", initial=(0, None), evolve=evolve, decide=decide)


def order(
    command: Any, stream: str = "account-1", *, id_: UUID | None = None, is_new: bool = False
) -> Order[Any]:
    id_ = id_ or uuid4()
    metadata = Metadata(id_, command.wire, id_, id_, "uid:1000")
    return Order(command, stream, int(stream.removeprefix("account-")), metadata, is_new)


def pay(
    *amounts: int, stream: str = "account-1", id_: UUID | None = None, is_new: bool = False
) -> Order[Any]:
    return order(Pay(amounts), stream, id_=id_, is_new=is_new)


CODEC = JsonCodec([Paid, Named])


class Bank:
    """A handler, what it stands on, and a look at what it did."""

    def __init__(self, store: EventStore | None = None) -> None:
        self.memory = MemoryStore()
        self.keys: dict[int, Any] = {number: a_key(number) for number in range(1, 100)}
        self.asked_for_keys: list[Sequence[int]] = []
        self.pauses_s: list[float] = []
        self.store: EventStore = store or self.memory

    def keyring(self, subjects: Sequence[int]) -> Keyring:
        self.asked_for_keys.append(list(subjects))
        return Keyring({subject: self.keys[subject] for subject in subjects if subject in self.keys})

    def handle(self, *orders: Order[Any]) -> list[Outcome]:
        handler = CommandHandler(
            ACCOUNT, store=self.store, codec=CODEC, keyring=self.keyring, pause=self.pauses_s.append
        )
        return handler.handle(orders)

    def amounts(self, stream: str = "account-1") -> list[int]:
        events = [CODEC.decode(recorded) for recorded in self.memory.read_stream(stream)]
        return [event.amount for event in events if isinstance(event, Paid)]


class Rivals:
    """A store in which somebody else is faster, as often as told: the double calls `rival` before an append."""

    def __init__(self, store: EventStore, rival: Callable[[], object], times: int) -> None:
        self._store, self._rival, self._times = store, rival, times
        self.batches: list[list[Append]] = []
        self.loads: list[str] = []

    def append(self, batch: Sequence[Append]) -> list[AppendResult]:
        self.batches.append(list(batch))
        if self._times > 0:
            self._times -= 1
            self._rival()
        return self._store.append(batch)

    def read_stream(self, stream: str, *args: Any, **more: Any) -> Iterator[Any]:
        self.loads.append(stream)
        return self._store.read_stream(stream, *args, **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def bank_with_rivals(times: int) -> tuple[Bank, Rivals]:
    """A bank where a rival pays 1 into account-1 before each of the first appends."""
    bank = Bank()
    rival = Bank(bank.memory)
    rivals = Rivals(bank.memory, lambda: rival.handle(pay(1)), times)
    bank.store = rivals  # type: ignore[assignment]
    return bank, rivals


# --- one command -----------------------------------------------------------------------------


def test_a_command_is_decided_on_what_was_loaded_and_its_events_are_appended() -> None:
    bank = Bank()
    bank.handle(pay(60, 30))

    outcomes = bank.handle(pay(5, 5), pay(11))

    assert outcomes == [Done(3, 4), TooMuch()]
    assert bank.amounts() == [60, 30, 5, 5]


def test_the_events_of_a_command_have_ids_that_follow_from_its_id() -> None:
    bank, command = Bank(), uuid4()

    bank.handle(pay(1, 2, 3, id_=command))

    assert [e.event_id for e in bank.memory.read_stream("account-1")] == [
        event_id(command, i) for i in range(3)
    ]
    (metadata,) = {CODEC.metadata(recorded) for recorded in bank.memory.read_stream("account-1")}
    assert metadata == Metadata(command, "pay", command, command, "uid:1000")


def test_a_command_that_has_nothing_to_do_is_answered_with_the_end_of_the_stream() -> None:
    bank = Bank()
    bank.handle(pay(1, 2))

    assert bank.handle(order(PayOnce((5,)))) == [Done(1, 2)]
    assert bank.amounts() == [1, 2]


def test_a_command_that_has_nothing_to_do_on_a_stream_that_is_not_there_does_no_harm() -> None:
    bank = Bank()

    nothing, paid = bank.handle(pay(stream="account-1"), pay(7, stream="account-2"))

    assert paid == Done(0, 1), "its neighbour goes on"
    assert isinstance(nothing, Done | EsError)
    assert bank.amounts("account-1") == []


def test_personal_fields_are_sealed_on_the_way_in_and_open_to_the_decision() -> None:
    bank = Bank()
    name = order(Name(Personal("Ada Lovelace")))

    assert bank.handle(name) == [Done(0, 1)]
    assert b"Ada" not in next(bank.memory.read_stream("account-1")).data
    assert bank.handle(order(Name(Personal("Ada Lovelace")))) == [Done(0, 1)], "the decision saw the name"
    assert bank.handle(order(Name(Personal("Grace Hopper")))) == [Done(1, 2)]


def test_a_decision_sees_erased_where_a_key_was_destroyed() -> None:
    seen: list[Any] = []
    bank = Bank()
    bank.handle(order(Name(Personal("Ada"))))
    bank.keys[1] = DestroyedKey()
    watching: Aggregate[State, Any] = Aggregate(
        name="account", initial=(0, None), evolve=evolve, decide=lambda state, _: seen.append(state) or []
    )
    CommandHandler(
        watching, store=bank.store, codec=CODEC, keyring=bank.keyring, pause=bank.pauses_s.append
    ).handle([pay(1)])

    assert seen == [(0, Erased())]


# --- batches ---------------------------------------------------------------------------------


def test_a_batch_is_one_append_and_one_fetch_of_keys() -> None:
    bank = Bank()
    counting = Rivals(bank.memory, lambda: None, 0)
    bank.store = counting  # type: ignore[assignment]

    outcomes = bank.handle(*(pay(1, stream=f"account-{number}", is_new=True) for number in range(1, 51)))

    assert outcomes == [Done(0, position) for position in range(1, 51)]
    assert [len(batch) for batch in counting.batches] == [50]
    assert bank.asked_for_keys == [list(range(1, 51))]
    assert counting.loads == [], "what is new needs no load"


def test_an_empty_batch_is_nothing() -> None:
    bank = Bank()

    assert bank.handle() == []
    assert bank.asked_for_keys == []


def test_commands_to_one_stream_in_a_batch_see_each_other_in_order() -> None:
    bank = Bank()

    outcomes = bank.handle(
        pay(60), pay(1, stream="account-2"), pay(50), pay(40), pay(2, stream="account-2"), pay(1)
    )

    assert [type(outcome).__name__ for outcome in outcomes] == [
        "Done",
        "Done",
        "TooMuch",
        "Done",
        "Done",
        "TooMuch",
    ]
    assert (bank.amounts("account-1"), bank.amounts("account-2")) == ([60, 40], [1, 2])


def test_outcomes_come_in_order_of_the_orders_whatever_the_waves() -> None:
    bank = Bank()
    streams = [1, 2, 1, 3, 2, 1, 1, 4]

    outcomes = bank.handle(*(pay(1, stream=f"account-{number}") for number in streams))

    assert [outcome.version for outcome in outcomes if isinstance(outcome, Done)] == [0, 0, 1, 0, 1, 2, 3, 0]


def test_a_batch_that_is_refused_as_a_whole_appends_nothing() -> None:
    bank = Bank()
    counting = Rivals(bank.memory, lambda: None, 0)
    bank.store = counting  # type: ignore[assignment]

    assert bank.handle(pay(101), pay(102, stream="account-2")) == [TooMuch(), TooMuch()]
    assert counting.batches == []


# --- conflicts -------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 2, ATTEMPTS - 1])
def test_after_a_conflict_a_command_is_decided_anew(times: int) -> None:
    bank, rivals = bank_with_rivals(times)

    assert bank.handle(pay(50, 5)) == [Done(times + 1, times + 2)]

    assert bank.amounts() == [1] * times + [50, 5]
    assert len(rivals.batches) == times + 1
    assert len(bank.pauses_s) == times
    assert all(0 <= pause_s <= 0.1 for pause_s in bank.pauses_s)


def test_after_a_conflict_the_rule_is_applied_to_what_is_there_now() -> None:
    bank = Bank()
    rival = Bank(bank.memory)
    bank.store = Rivals(bank.memory, lambda: rival.handle(pay(60)), 1)  # type: ignore[assignment]

    assert bank.handle(pay(50)) == [TooMuch()]
    assert bank.amounts() == [60]


def test_a_new_stream_that_is_there_after_all_is_loaded_after_the_conflict() -> None:
    bank, rivals = bank_with_rivals(1)

    assert bank.handle(pay(5, is_new=True)) == [Done(1, 2)]
    assert rivals.loads == ["account-1"]


def test_only_those_that_lost_a_race_go_round_again() -> None:
    bank, rivals = bank_with_rivals(1)

    outcomes = bank.handle(*(pay(5, stream=f"account-{number}") for number in (2, 1, 3)))

    assert [outcome.version for outcome in outcomes if isinstance(outcome, Done)] == [0, 1, 0]
    assert [[item.stream for item in batch] for batch in rivals.batches] == [
        ["account-2", "account-1", "account-3"],
        ["account-1"],
    ]
    assert bank.asked_for_keys == [[2, 1, 3], [1]]


def test_keys_are_fetched_anew_for_every_try() -> None:
    # An erasure may have destroyed the key between the tries.
    bank = Bank()

    def destroy() -> None:
        Bank(bank.memory).handle(pay(1))
        bank.keys[1] = DestroyedKey()

    bank.store = Rivals(bank.memory, destroy, 1)  # type: ignore[assignment]

    (outcome,) = bank.handle(order(Name(Personal("Ada"))))

    assert isinstance(outcome, KeyUnavailable)
    assert len(stored(bank.memory, "account-1")) == 1


def test_a_command_that_loses_every_race_is_answered_with_the_conflict_and_others_are_done() -> None:
    bank, rivals = bank_with_rivals(1000)

    hopeless, fine, later = bank.handle(pay(5), pay(5, stream="account-2"), pay(6, stream="account-2"))

    assert hopeless == VersionConflict("account-1", ATTEMPTS - 2, ATTEMPTS - 1)
    assert (fine, later) == (Done(0, 2), Done(1, ATTEMPTS + 3))
    assert bank.amounts("account-2") == [5, 6]
    assert len(rivals.batches) == ATTEMPTS + 1


def test_pauses_between_conflicts_grow_and_are_not_in_step() -> None:
    first, second = bank_with_rivals(11)[0], bank_with_rivals(11)[0]
    first.handle(pay(5))
    second.handle(pay(5))

    assert first.pauses_s != second.pauses_s
    assert max(first.pauses_s) > 0.004, "the first waits at most 2 ms"


# --- repetition ------------------------------------------------------------------------------


def test_a_repeated_command_is_answered_as_the_first_time_and_changes_nothing() -> None:
    bank, command = Bank(), pay(1, 2)
    first = bank.handle(command)
    bank.handle(pay(3))

    assert bank.handle(command) == first == [Done(1, 2)]
    assert bank.amounts() == [1, 2, 3]


def test_a_repeated_command_is_answered_even_if_it_would_be_refused_now() -> None:
    bank, command = Bank(), pay(60)
    first = bank.handle(command)

    assert bank.handle(command) == first


def test_a_repeated_command_for_a_new_stream_is_answered_as_the_first_time() -> None:
    bank, command = Bank(), pay(1, 2, is_new=True)

    assert bank.handle(command) == bank.handle(command) == [Done(1, 2)]
    assert bank.amounts() == [1, 2]


def test_the_same_command_twice_in_a_batch_has_its_effect_once() -> None:
    bank, command = Bank(), pay(1)

    assert bank.handle(command, pay(9, stream="account-2"), command) == [Done(0, 1), Done(0, 2), Done(0, 1)]
    assert bank.amounts() == [1]


def test_a_command_whose_rival_is_itself_is_answered_with_what_that_did() -> None:
    # Two workers got the same command; the other was faster, and then a third one wrote.
    bank, command = Bank(), pay(5)
    other = Bank(bank.memory)
    bank.store = Rivals(bank.memory, lambda: other.handle(command, pay(7)), 1)  # type: ignore[assignment]

    assert bank.handle(command) == [Done(0, 1)]
    assert bank.amounts() == [5, 7]


def test_a_command_id_of_another_command_in_the_stream_is_refused() -> None:
    bank, id_ = Bank(), uuid4()
    bank.handle(pay(1, id_=id_))

    assert bank.handle(order(PayOnce((1,)), id_=id_)) == [CommandIdReused(str(id_))]
    assert bank.amounts() == [1]


def test_a_command_id_that_was_used_on_another_stream_is_refused() -> None:
    bank, id_ = Bank(), uuid4()
    bank.handle(pay(1, id_=id_))

    refused, done = bank.handle(pay(1, stream="account-2", id_=id_), pay(2, stream="account-3"))

    assert refused == CommandIdReused(str(id_))
    assert done == Done(0, 2)
    assert bank.amounts("account-2") == []


# --- damage and outages ----------------------------------------------------------------------


def _damaged(bank: Bank) -> type[EsError]:
    append(bank.memory, "account-1", NO_STREAM, [EventData(uuid4(), "paid.v1", b"not JSON", b"{}")])
    return Damaged


def _of_another_program(bank: Bank) -> type[EsError]:
    append(bank.memory, "account-1", NO_STREAM, some_events(1))
    return EsError


def _tampered(bank: Bank) -> type[EsError]:
    bank.handle(order(Name(Personal("Ada")), "account-1"))
    bank.keys[1] = LivingKey(bytes(32))
    return Tampered


def _without_key(bank: Bank) -> type[EsError]:
    bank.handle(order(Name(Personal("Ada")), "account-1"))
    del bank.keys[1]
    return KeyUnavailable


@pytest.mark.parametrize("damage", [_damaged, _of_another_program, _tampered, _without_key])
def test_a_stream_that_cannot_be_read_fails_its_own_command_alone(
    damage: Callable[[Bank], type[EsError]],
) -> None:
    bank = Bank()
    expected = damage(bank)
    before = stored(bank.memory, "account-1")

    first, bad, last = bank.handle(pay(1, stream="account-2"), pay(1), pay(2, stream="account-2"))

    assert isinstance(bad, expected)
    assert isinstance(first, Done)
    assert isinstance(last, Done)
    assert bank.amounts("account-2") == [1, 2]
    assert stored(bank.memory, "account-1") == before, "nothing is decided on it"


@pytest.mark.parametrize(
    "error", [PartUnavailable("event store", "it is full"), DuplicateEventId("account-1")]
)
def test_an_append_that_failed_alone_is_the_outcome_of_its_order_alone(error: EsError) -> None:
    bank = Bank()

    class Picky:
        def append(self, batch: Sequence[Append]) -> list[AppendResult]:
            return [
                error if item.stream == "account-1" else bank.memory.append([item])[0]  # type: ignore[misc]
                for item in batch
            ]

        def __getattr__(self, name: str) -> Any:
            return getattr(bank.memory, name)

    bank.store = Picky()  # type: ignore[assignment]

    bad, good = bank.handle(pay(1), pay(1, stream="account-2"))

    assert isinstance(bad, PartUnavailable | CommandIdReused)
    assert good == Done(0, 1)


@pytest.mark.parametrize("what", ["append", "keyring"])
def test_a_part_that_is_down_is_raised_and_repeating_is_safe(what: str) -> None:
    bank = Bank()
    down: Iterator[bool] = itertools.chain([True], itertools.repeat(False))
    command = pay(1, 2)

    def refuse() -> None:
        if next(down):
            raise PartUnavailable("a part", "it is down")

    if what == "append":
        bank.store = Rivals(bank.memory, refuse, 1)  # type: ignore[assignment]
    else:
        keys = bank.keyring
        bank.keyring = lambda subjects: refuse() or keys(subjects)  # type: ignore[method-assign,func-returns-value]

    with pytest.raises(PartUnavailable):
        bank.handle(command)
    assert bank.handle(command) == [Done(1, 2)]


def test_an_append_that_was_stored_but_not_answered_is_found_by_repeating() -> None:
    bank, command = Bank(), pay(1, 2)

    class Cut:
        def append(self, batch: Sequence[Append]) -> list[AppendResult]:
            assert all(isinstance(result, Appended) for result in bank.memory.append(batch))
            raise PartUnavailable("event store", "the connection was lost")

        def __getattr__(self, name: str) -> Any:
            return getattr(bank.memory, name)

    bank.store = Cut()  # type: ignore[assignment]
    with pytest.raises(PartUnavailable):
        bank.handle(command)
    bank.store = bank.memory

    assert bank.handle(command) == [Done(1, 2)]
    assert bank.amounts() == [1, 2]


def test_nothing_is_appended_without_an_exact_version() -> None:
    bank, rivals = bank_with_rivals(3)
    bank.handle(pay(1, stream="account-2"), pay(2), pay(3))

    for batch in rivals.batches:
        for item in batch:
            assert item.expected_version >= NO_STREAM
    assert [
        item.expected_version for batch in rivals.batches for item in batch if item.stream == "account-1"
    ] == [
        NO_STREAM,
        0,
        1,
        2,
        3,
    ]
