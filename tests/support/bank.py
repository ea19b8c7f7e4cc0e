"""An aggregate with a balance and an owner for tests of command handling, and a handler over a store in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar
from uuid import UUID, uuid4

from adapters.codec import JsonCodec
from adapters.crypto.sealing import Keyring
from adapters.memory.event_store import MemoryStore
from domain.kernel.aggregate import Aggregate
from domain.kernel.command_handler import CommandHandler
from domain.kernel.errors import EsError, Refusal
from domain.kernel.events import Event, Metadata
from domain.kernel.kept_states import KeptStates
from domain.kernel.orders import Order, Outcome
from domain.kernel.personal import Personal, PersonalText
from domain.kernel.ports.event_store import Append, AppendResult
from domain.kernel.recent_streams import RecentStreams
from domain.kernel.system import CommandRemembered
from tests.support.builders import a_key
from tests.support.parts import replaced


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
class PayOnce(Pay):
    """Pay unless there is a balance."""

    wire: ClassVar[str] = "pay-once"


@dataclass(frozen=True, slots=True)
class Name:
    owner: Personal
    wire: ClassVar[str] = "name"


class TooMuch(Refusal):
    """Rule: the balance is at most 100."""

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


ACCOUNT: Aggregate[State, Any] = Aggregate(
    name="account", initial=(0, None), evolve=evolve, decide=decide, events=(Paid, Named)
)
CODEC = JsonCodec([Paid, Named, CommandRemembered])


def order(command: Any, account: int = 1, *, id_: UUID | None = None, is_new: bool = False) -> Order[Any]:
    id_ = id_ or uuid4()
    metadata = Metadata(id_, command.wire, id_, id_, "uid:1000")
    return Order(command, ACCOUNT.stream_of(account), account, metadata, is_new)


def with_content(order: Order[Any], *, is_personal: bool = False, **changed: Any) -> Order[Any]:
    """The order as a worker makes it of a request: with its input."""
    return replace(
        order,
        content=(getattr(order.command, "owner", None) or Personal(repr(order.command))).value.encode(),
        is_personal=is_personal,
        **changed,
    )


def pay(*amounts: int, account: int = 1, id_: UUID | None = None, is_new: bool = False) -> Order[Any]:
    return order(Pay(amounts), account, id_=id_, is_new=is_new)


def name(owner: str, *, id_: UUID | None = None) -> Order[Any]:
    return order(Name(Personal(owner)), id_=id_)


class Bank:
    """A handler, its parts, and a record of its calls."""

    def __init__(
        self,
        memory: MemoryStore | None = None,
        *,
        kept: KeptStates[State, Any] | None = None,
        recent: RecentStreams | None = None,
    ) -> None:
        """`kept` and `recent` are what its handlers share; without `kept` each handler has its own."""
        self.memory = memory or MemoryStore()
        self.kept = kept
        self.recent = recent
        self.keys: dict[int, Any] = {number: a_key(number) for number in range(1, 100)}
        self.key_requests: list[Sequence[int]] = []
        self.batches: list[list[Append]] = []
        self.loads: list[list[str]] = []
        self.read_from: list[Mapping[str, int]] = []
        """For each load, the first versions of the streams that were not read whole."""
        self.pauses_s: list[float] = []
        self._rivals: Iterator[Callable[[], object]] = iter(())
        self.store: Any = replaced(self.memory, append=self._append, read_streams=self._read_streams)

    def interrupt_with(self, *rivals: Callable[[], object]) -> None:
        """Call one of these before each of the next appends."""
        self._rivals = iter(rivals)

    def let_a_rival_pay(self, times: int) -> None:
        """Before each of the next appends, another handler pays 1 into account 1."""
        rival = Bank(self.memory)
        self.interrupt_with(*[lambda: rival.handle(pay(1))] * times)

    def _append(self, batch: Sequence[Append]) -> list[AppendResult]:
        self.batches.append(list(batch))
        next(self._rivals, lambda: None)()
        return self.memory.append(batch)

    def _read_streams(self, streams: Sequence[str], *, first: Mapping[str, int] | None = None) -> Any:
        self.loads.append(list(streams))
        self.read_from.append(dict(first or {}))
        return self.memory.read_streams(streams, first=first)

    def keyring(self, subjects: Sequence[int]) -> Keyring:
        self.key_requests.append(list(subjects))
        return Keyring({subject: self.keys[subject] for subject in subjects if subject in self.keys})

    def handler(self, aggregate: Aggregate[State, Any] = ACCOUNT) -> CommandHandler[State, Any]:
        return CommandHandler(
            aggregate,
            store=self.store,
            codec=CODEC,
            keyring=self.keyring,
            pause=self.pauses_s.append,
            kept=self.kept,
            recent=self.recent,
        )

    def handle(self, *orders: Order[Any]) -> list[Outcome]:
        return self.handler().handle(orders)

    def amounts(self, account: int = 1) -> list[int]:
        events = [CODEC.decode(recorded) for recorded in self.memory.read_stream(ACCOUNT.stream_of(account))]
        return [event.amount for event in events if isinstance(event, Paid)]
