"""A transfer between two wallets: a saga with compensation and a time-out.

withdraw → deposit → completed. A refused or late deposit is compensated by a refund. Each step is an ordinary command
with one effect, and its answer stays, so the sum of all money is the same wherever a worker crashes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import es
from examples.wallets.wallet import Amount, Deposit, Refund, Withdraw

DEADLINE_S = float(os.environ.get("WALLETS_DEADLINE_S", "30"))
"""How long a transfer may take before it is given up."""

# --- the aggregate: what was asked for, and how it ended -------------------------------------------


@es.event("transfer-requested.v1")
class TransferRequested(es.Event):
    source_id: int
    target_id: int
    amount: int


@es.event("transfer-settled.v1")
class TransferSettled(es.Event):
    """`outcome` is `completed`, or the code of the refusal."""

    outcome: str


@es.command("wallets.transfer", creates=True)
class RequestTransfer(es.Command):
    """Move money from one wallet to another."""

    source_id: es.Id
    target_id: es.Id
    amount: Amount
    transfer_id: es.NewId = es.NEW


@es.command("wallets.settle-transfer", in_group=False)
class SettleTransfer(es.Command):
    """Say how a transfer ended."""

    transfer_id: es.Id
    outcome: Annotated[str, es.text(60)]


@dataclass(frozen=True, slots=True)
class Transfer:
    source_id: int = 0
    target_id: int = 0
    amount: int = 0
    outcome: str = ""


SameWallet = es.refusal("same-wallet", "a wallet cannot pay itself", "Name two wallets.")
NoTransfer = es.not_found("transfer-not-found", "there is no such transfer")


def evolve(transfer: Transfer, event: es.Event) -> Transfer:
    match event:
        case TransferRequested(source_id=source, target_id=target, amount=amount):
            return Transfer(source, target, amount, "pending")
        case TransferSettled(outcome=outcome):
            return replace(transfer, outcome=outcome)
    return transfer


def decide(transfer: Transfer, command: es.Command) -> Sequence[es.Event] | es.EsError:
    match command:
        case RequestTransfer(source_id=source, target_id=target, amount=amount):
            return SameWallet() if source == target else [TransferRequested(source, target, amount)]
        case SettleTransfer(outcome=outcome) if transfer.outcome:
            return [] if transfer.outcome != "pending" else [TransferSettled(outcome)]
    return NoTransfer()


TRANSFER = es.Aggregate(
    name="transfer",
    initial=Transfer(),
    evolve=evolve,
    decide=decide,
    events=(TransferRequested, TransferSettled),
    commands=(RequestTransfer, SettleTransfer),
)

# --- the process ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Run:
    """What the process knows. `step` is the command that it waits for."""

    transfer_id: int
    source_id: int = 0
    target_id: int = 0
    amount: int = 0
    step: str = "withdraw"
    failure: str = ""


def evolve_run(run: Run, event: es.Event) -> Run:
    match event:
        case TransferRequested(source_id=source, target_id=target, amount=amount):
            return replace(run, source_id=source, target_id=target, amount=amount)
        case es.TimedOut():
            return replace(run, failure="timed-out") if run.step in ("withdraw", "deposit") else run
        case es.Answered(step="withdraw", code=""):
            return replace(run, step="refund" if run.failure else "deposit")
        case es.Answered(step="deposit", code=""):  # also if it was late: the money has arrived
            return replace(run, step="settle", failure="")
        case es.Answered(step="deposit", code=code):
            return replace(run, step="refund", failure=run.failure or code)
        case es.Answered(code=code):
            return replace(run, step="settle", failure=run.failure or code)
    return run


def react(run: Run, event: es.Event) -> Sequence[es.Effect]:
    source, target, amount = run.source_id, run.target_id, run.amount
    match event:
        case TransferRequested():
            return [
                es.Send("withdraw", Withdraw(source, amount, run.transfer_id)),
                es.SetTimer("deadline", DEADLINE_S),
            ]
        case es.TimedOut():
            return [es.Cancel(run.step)] if run.step in ("withdraw", "deposit") else []
        case es.Answered(step="settle"):
            return [es.End(run.failure or "completed")]
    match run.step:
        case "deposit":
            return [es.Send("deposit", Deposit(target, amount, run.transfer_id))]
        case "refund":
            return [es.Send("refund", Refund(source, amount, run.transfer_id))]
    return [
        es.StopTimer("deadline"),
        es.Send("settle", SettleTransfer(run.transfer_id, run.failure or "completed")),
    ]


TRANSFERS = es.Process(
    name="transfer",
    initial=Run,
    evolve=evolve_run,
    react=react,
    starts={TransferRequested: es.by_stream},
)
