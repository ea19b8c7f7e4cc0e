"""A feature of an outside package: purses with money, and transfers between them as a process with compensation.

`ES_FEATURES=tests.support.transfers` registers it. A transfer takes the money from one purse and puts it into another. If that is
refused, or takes too long, the money goes back. A purse that is broken refuses everything but its money back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from domain.kernel.aggregate import Aggregate
from domain.kernel.commands import Command, Input
from domain.kernel.errors import EsError, InvalidInput, Refusal
from domain.kernel.events import Event
from domain.kernel.feature import Feature, Role
from domain.kernel.ids import parse_id
from domain.kernel.process import (
    Answered,
    Cancel,
    Effect,
    End,
    Process,
    Send,
    SetTimer,
    StopTimer,
    TimedOut,
    by_stream,
)

LATE_S = 30.0


def parse_amount(value: object) -> int:
    if not str(value).isdecimal():
        raise InvalidInput("", "must be a whole number")
    return int(str(value))


def parse_outcome(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidInput("", "must be text")
    return value


Id = Annotated[int, Input(parse_id)]
Amount = Annotated[int, Input(parse_amount)]


# --- purses ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PurseFilled(Event):
    amount: int
    type: ClassVar[str] = "purse-filled.v1"


@dataclass(frozen=True, slots=True)
class MoneyTaken(Event):
    transfer_id: int
    amount: int
    type: ClassVar[str] = "money-taken.v1"


@dataclass(frozen=True, slots=True)
class MoneyPut(Event):
    transfer_id: int
    amount: int
    type: ClassVar[str] = "money-put.v1"


@dataclass(frozen=True, slots=True)
class PurseBroken(Event):
    type: ClassVar[str] = "purse-broken.v1"


@dataclass(frozen=True, slots=True)
class Purse:
    money: int = 0
    is_broken: bool = False


@dataclass(frozen=True, slots=True)
class Fill(Command):
    """Fill a purse."""

    purse_id: Id
    amount: Amount
    wire: ClassVar[str] = "fill-purse"
    request: ClassVar[str] = "bank.fill"
    creates: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Break(Command):
    """Break a purse."""

    purse_id: Id
    wire: ClassVar[str] = "break-purse"
    request: ClassVar[str] = "bank.break"


@dataclass(frozen=True, slots=True)
class Take(Command):
    """Take money for a transfer."""

    purse_id: Id
    transfer_id: Id
    amount: Amount
    wire: ClassVar[str] = "take-money"
    request: ClassVar[str] = "bank.take"


@dataclass(frozen=True, slots=True)
class Put(Command):
    """Put the money of a transfer into a purse."""

    purse_id: Id
    transfer_id: Id
    amount: Amount
    wire: ClassVar[str] = "put-money"
    request: ClassVar[str] = "bank.put"


@dataclass(frozen=True, slots=True)
class PutBack(Command):
    """Put the money of a transfer back."""

    purse_id: Id
    transfer_id: Id
    amount: Amount
    wire: ClassVar[str] = "put-money-back"
    request: ClassVar[str] = "bank.put-back"


class TooLittleMoney(Refusal):
    """Rule: a purse holds what is taken from it."""

    code = "too-little-money"

    def __str__(self) -> str:
        return "the purse holds too little money"


class PurseIsBroken(Refusal):
    """Rule: a broken purse takes and gives no money."""

    code = "purse-broken"

    def __str__(self) -> str:
        return "the purse is broken"


def evolve_purse(purse: Purse, event: Event) -> Purse:
    match event:
        case PurseFilled(amount) | MoneyPut(_, amount):
            return replace(purse, money=purse.money + amount)
        case MoneyTaken(_, amount):
            return replace(purse, money=purse.money - amount)
        case PurseBroken():
            return replace(purse, is_broken=True)
    raise TypeError("no event of a purse")


def decide_purse(purse: Purse, command: Any) -> Sequence[Event] | EsError:
    match command:
        case Fill(amount=amount):
            return [PurseFilled(amount)]
        case Break():
            return [PurseBroken()]
        case PutBack(transfer_id=transfer, amount=amount):
            return [MoneyPut(transfer, amount)]
    if purse.is_broken:
        return PurseIsBroken()
    match command:
        case Take(transfer_id=transfer, amount=amount):
            return [MoneyTaken(transfer, amount)] if purse.money >= amount else TooLittleMoney()
        case Put(transfer_id=transfer, amount=amount):
            return [MoneyPut(transfer, amount)]
    raise TypeError("no command of a purse")


PURSE: Aggregate[Purse, Any] = Aggregate(
    name="purse",
    initial=Purse(),
    evolve=evolve_purse,
    decide=decide_purse,
    events=(PurseFilled, MoneyTaken, MoneyPut, PurseBroken),
    commands=(Fill, Break, Take, Put, PutBack),
)


# --- transfers -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TransferRequested(Event):
    payer: int
    payee: int
    amount: int
    type: ClassVar[str] = "transfer-requested.v1"


@dataclass(frozen=True, slots=True)
class TransferStopped(Event):
    type: ClassVar[str] = "transfer-stopped.v1"


@dataclass(frozen=True, slots=True)
class TransferFinished(Event):
    outcome: str
    type: ClassVar[str] = "transfer-finished.v1"


@dataclass(frozen=True, slots=True)
class Transfer:
    is_requested: bool = False
    is_stopped: bool = False
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class RequestTransfer(Command):
    """Request a transfer."""

    transfer_id: Id
    payer: Id
    payee: Id
    amount: Amount
    wire: ClassVar[str] = "request-transfer"
    request: ClassVar[str] = "bank.transfer"
    creates: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class StopTransfer(Command):
    """Stop a transfer."""

    transfer_id: Id
    wire: ClassVar[str] = "stop-transfer"
    request: ClassVar[str] = "bank.stop"


@dataclass(frozen=True, slots=True)
class FinishTransfer(Command):
    """Finish a transfer."""

    transfer_id: Id
    outcome: Annotated[str, Input(parse_outcome)]
    wire: ClassVar[str] = "finish-transfer"
    request: ClassVar[str] = "bank.finish"


def evolve_transfer(transfer: Transfer, event: Event) -> Transfer:
    match event:
        case TransferRequested():
            return replace(transfer, is_requested=True)
        case TransferStopped():
            return replace(transfer, is_stopped=True)
        case TransferFinished(outcome):
            return replace(transfer, outcome=outcome)
    raise TypeError("no event of a transfer")


def decide_transfer(transfer: Transfer, command: Any) -> Sequence[Event] | EsError:
    match command:
        case RequestTransfer(payer=payer, payee=payee, amount=amount):
            return [] if transfer.is_requested else [TransferRequested(payer, payee, amount)]
        case StopTransfer():
            return [TransferStopped()]
        case FinishTransfer(outcome=outcome):
            return [TransferFinished(outcome)]
    raise TypeError("no command of a transfer")


TRANSFER: Aggregate[Transfer, Any] = Aggregate(
    name="transfer",
    initial=Transfer(),
    evolve=evolve_transfer,
    decide=decide_transfer,
    events=(TransferRequested, TransferStopped, TransferFinished),
    commands=(RequestTransfer, StopTransfer, FinishTransfer),
)


# --- the process -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Moving:
    """A transfer on its way. `step` is the one that has no answer yet."""

    id: int
    payer: int = 0
    payee: int = 0
    amount: int = 0
    step: str = ""


def evolve(moving: Moving, event: Event) -> Moving:
    match event:
        case TransferRequested(payer, payee, amount):
            return replace(moving, payer=payer, payee=payee, amount=amount, step="take")
        case Answered(step="take"):
            return replace(moving, step="put" if event.is_done else "finish")
        case Answered(step="put"):
            return replace(moving, step="finish" if event.is_done else "put-back")
        case Answered(step="put-back"):
            return replace(moving, step="finish")
    return moving


def react(moving: Moving, event: Event) -> Sequence[Effect]:
    amount = moving.amount
    match event:
        case TransferRequested(payer=payer):
            return [Send("take", Take(payer, moving.id, amount)), SetTimer("late", LATE_S)]
        case Answered(step="take"):
            if event.is_done:
                return [Send("put", Put(moving.payee, moving.id, amount))]
            return [StopTimer("late"), Send("finish", FinishTransfer(moving.id, event.code))]
        case Answered(step="put"):
            if event.is_done:
                return [StopTimer("late"), Send("finish", FinishTransfer(moving.id, "done"))]
            return [StopTimer("late"), Send("put-back", PutBack(moving.payer, moving.id, amount))]
        case Answered(step="put-back"):
            return [Send("finish", FinishTransfer(moving.id, "put back"))]
        case Answered(step="finish"):
            return [End()]
        case TransferStopped() | TimedOut():
            return [Cancel(moving.step)] if moving.step in ("take", "put") else []
    return []


MOVING: Process[Moving] = Process(
    name="moving",
    initial=Moving,
    evolve=evolve,
    react=react,
    starts={TransferRequested: by_stream},
    follows={TransferStopped: by_stream},
)

AGGREGATES = (PURSE, TRANSFER)
PROCESSES = (MOVING,)
FEATURE = Feature(name="bank", help="Move money.", model=__name__, roles=(Role("bank"),))
