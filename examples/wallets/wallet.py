"""A wallet: opened by a person, with a balance in cents that never falls below zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import es

# --- events ----------------------------------------------------------------------------------


@es.event("wallet-opened.v1")
class WalletOpened(es.Event):
    owner_id: int
    label: str


@es.event("wallet-described.v1")
class WalletDescribed(es.Event):
    owner_id: int
    description: Annotated[es.PersonalText, es.Of("owner_id")]


@es.event("wallet-credited.v1")
class WalletCredited(es.Event):
    """Money came in. `balance` is that after it; `transfer_id` is 0 without a transfer."""

    owner_id: int
    amount: int
    balance: int
    transfer_id: int


@es.event("wallet-debited.v1")
class WalletDebited(es.Event):
    """Money went out."""

    owner_id: int
    amount: int
    balance: int
    transfer_id: int


@es.event("wallet-closed.v1")
class WalletClosed(es.Event):
    owner_id: int


# --- state -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wallet:
    owner_id: int = 0
    label: str = ""
    description: es.PersonalText | None = None
    balance: int = 0
    status: str = "missing"


def evolve(wallet: Wallet, event: es.Event) -> Wallet:
    match event:
        case WalletOpened(owner_id=owner_id, label=label):
            return replace(wallet, owner_id=owner_id, label=label, status="open")
        case WalletDescribed(description=description):
            return replace(wallet, description=description)
        case WalletCredited(balance=balance) | WalletDebited(balance=balance):
            return replace(wallet, balance=balance, status="open")
        case WalletClosed():
            return replace(wallet, status="closed")
    return wallet


# --- commands --------------------------------------------------------------------------------

Amount = Annotated[int, es.whole(1, 10**12, "Cents to move.")]
Transfer = Annotated[int, es.whole(0, 2**63 - 1, "The transfer that moves them, or 0.", example="0")]


@es.command("wallets.open", creates=True)
class OpenWallet(es.Command):
    """Open a wallet for a user."""

    owner_id: es.Id
    label: Annotated[str, es.text(40, "Its label, which no other open wallet of the owner has.")]
    wallet_id: es.NewId = es.NEW


@es.command("wallets.describe")
class DescribeWallet(es.Command):
    """Describe a wallet in the owner's words."""

    wallet_id: es.Id
    description: Annotated[es.Personal, es.personal(200, "The description.")]


@es.command("wallets.deposit", done="deposited {amount} into wallet {wallet_id}")
class Deposit(es.Command):
    """Put money into a wallet."""

    wallet_id: es.Id
    amount: Amount
    transfer_id: Transfer = 0


@es.command("wallets.withdraw", done="withdrew {amount} from wallet {wallet_id}")
class Withdraw(es.Command):
    """Take money out of a wallet."""

    wallet_id: es.Id
    amount: Amount
    transfer_id: Transfer = 0


@es.command("wallets.refund", in_group=False)
class Refund(es.Command):
    """Give the money of a failed transfer back, also to a wallet that was closed meanwhile: it is open again then."""

    wallet_id: es.Id
    amount: Amount
    transfer_id: Transfer


@es.command("wallets.close", question="Close this wallet?")
class CloseWallet(es.Command):
    """Close an empty wallet."""

    wallet_id: es.Id


# --- decisions -------------------------------------------------------------------------------

NoWallet = es.not_found("wallet-not-found", "there is no such wallet", "List them with `es wallets list`.")
WalletIsClosed = es.refusal("wallet-closed", "the wallet is closed", "Open another one.")
InsufficientFunds = es.refusal(
    "insufficient-funds", "the wallet holds {balance}, not {amount}", "Deposit first."
)
WalletNotEmpty = es.refusal("wallet-not-empty", "the wallet holds {balance}", "Withdraw it first.")


def decide(wallet: Wallet, command: es.Command) -> Sequence[es.Event] | es.EsError:
    match command:
        case OpenWallet(owner_id=owner_id, label=label):
            return [WalletOpened(owner_id, label)]
        case _ if wallet.status == "missing":
            return NoWallet()
        case Refund(amount=amount, transfer_id=transfer_id):
            return [WalletCredited(wallet.owner_id, amount, wallet.balance + amount, transfer_id)]
        case CloseWallet() if wallet.status == "closed":
            return []
        case _ if wallet.status == "closed":
            return WalletIsClosed()
        case DescribeWallet(description=description):
            return [WalletDescribed(wallet.owner_id, description)]
        case Deposit(amount=amount, transfer_id=transfer_id):
            return [WalletCredited(wallet.owner_id, amount, wallet.balance + amount, transfer_id)]
        case Withdraw(amount=amount) if amount > wallet.balance:
            return InsufficientFunds(balance=wallet.balance, amount=amount)
        case Withdraw(amount=amount, transfer_id=transfer_id):
            return [WalletDebited(wallet.owner_id, amount, wallet.balance - amount, transfer_id)]
        case CloseWallet() if wallet.balance:
            return WalletNotEmpty(balance=wallet.balance)
        case CloseWallet():
            return [WalletClosed(wallet.owner_id)]
    raise TypeError(f"no decision for {type(command).__name__}")


WALLET = es.Aggregate(
    name="wallet",
    initial=Wallet(),
    evolve=evolve,
    decide=decide,
    events=(WalletOpened, WalletDescribed, WalletCredited, WalletDebited, WalletClosed),
    commands=(OpenWallet, DescribeWallet, Deposit, Withdraw, Refund, CloseWallet),
    unique=(
        es.Unique(
            "label",
            fields=("owner_id", "label"),
            person="owner_id",
            taken_by=(WalletOpened,),
            released_by=(WalletClosed,),
        ),
    ),
)
