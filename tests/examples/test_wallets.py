"""The decisions of the wallets example, without anything running: given events, when a command, then events."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import es
from domain.features import registry
from examples.wallets import transfers, wallet, welcome
from examples.wallets.transfers import Run, SettleTransfer, TransferRequested
from examples.wallets.wallet import (
    CloseWallet,
    Deposit,
    InsufficientFunds,
    OpenWallet,
    Refund,
    Wallet,
    WalletClosed,
    WalletCredited,
    WalletDebited,
    WalletOpened,
    Withdraw,
)

OPENED, CLOSED = WalletOpened(1, "savings"), WalletClosed(1)
FIVE = WalletCredited(1, 5, 5, 0)


@pytest.mark.parametrize(
    ("given_events", "command", "then"),
    [
        ([], Deposit(7, 5), "wallet-not-found"),
        ([OPENED], Deposit(7, 5), [FIVE]),
        ([OPENED, FIVE], Withdraw(7, 3, 9), [WalletDebited(1, 3, 2, 9)]),
        ([OPENED, FIVE], Withdraw(7, 6), "insufficient-funds"),
        ([OPENED, FIVE], CloseWallet(7), "wallet-not-empty"),
        ([OPENED], CloseWallet(7), [CLOSED]),
        ([OPENED, CLOSED], CloseWallet(7), []),
        ([OPENED, CLOSED], Deposit(7, 5), "wallet-closed"),
        ([OPENED, CLOSED], Refund(7, 5, 9), [WalletCredited(1, 5, 5, 9)]),
    ],
)
def test_a_wallet_decides(given_events: list[es.Event], command: es.Command, then: Any) -> None:
    decided = wallet.decide(reduce(wallet.evolve, given_events, Wallet()), command)

    assert (decided.code if isinstance(decided, es.EsError) else decided) == then


def test_a_refund_opens_a_closed_wallet_again() -> None:
    refunded = reduce(wallet.evolve, [OPENED, CLOSED, WalletCredited(1, 5, 5, 9)], Wallet())

    assert (refunded.status, refunded.balance) == ("open", 5)


def test_a_refusal_says_what_to_do() -> None:
    assert str(InsufficientFunds(balance=5, amount=6)) == "the wallet holds 5, not 6"
    assert InsufficientFunds(balance=5, amount=6).hint == "Deposit first."


# --- processes -----------------------------------------------------------------------------------


def sent(effects: Sequence[es.Effect]) -> list[str]:
    return [effect.step for effect in effects if isinstance(effect, es.Send)]


@given(st.lists(st.sampled_from(["", "refused"]), min_size=3, max_size=3), st.sampled_from([0, 1, 2, 3]))
def test_a_transfer_ends_with_its_money_in_one_wallet(answers: list[str], late_at: int) -> None:
    """Each command is answered in any way, and the deadline may pass at any step; a refund and a settlement are not refused."""
    run, event, money, codes = Run(9), TransferRequested(10, 20, 5), {10: 5, 20: 0}, iter(answers)
    run = transfers.evolve_run(run, event)
    effects = list(transfers.react(run, event))
    for number in range(4):
        assert len(sent(effects)) == 1, "one command is open at a time"
        (sending,) = [effect for effect in effects if isinstance(effect, es.Send)]
        cancels: Sequence[es.Effect] = []
        if number == late_at:
            late = es.TimedOut("deadline")
            run = transfers.evolve_run(run, late)
            cancels = transfers.react(run, late)
            assert sending.step in ("refund", "settle") or cancels == [es.Cancel(sending.step)]
        code = "command-cancelled" if cancels else next(codes, "")
        match sending.command:
            case Withdraw(wallet_id=id_, amount=amount) if not code:
                money[id_] -= amount
            case Deposit(wallet_id=id_, amount=amount) if not code:
                money[id_] += amount
            case Refund(wallet_id=id_, amount=amount):
                code = ""
                money[id_] += amount
            case SettleTransfer(outcome=outcome):
                code = ""
                assert money == ({10: 0, 20: 5} if outcome == "completed" else {10: 5, 20: 0})
        answered = es.Answered(sending.step, code)
        run = transfers.evolve_run(run, answered)
        effects = list(transfers.react(run, answered))
        if isinstance(effects[0], es.End):
            return
    raise AssertionError("it did not end")


def test_a_welcome_wallet_that_stays_unused_is_closed() -> None:
    begun = welcome.Welcome(7)
    opened = es.Answered("open", id=12)
    knowing = welcome.evolve(begun, opened)

    assert welcome.react(knowing, opened) == [es.SetTimer("unused", welcome.UNUSED_S)]
    assert welcome.react(knowing, es.TimedOut("unused")) == [es.Send("close", CloseWallet(12))]
    assert welcome.react(knowing, FIVE) == [es.End("used")]


def test_a_new_user_gets_one() -> None:
    begun = welcome.Welcome(7)
    registered = es.UserRegistered(es.ERASED, es.ERASED)

    assert welcome.react(begun, registered) == [es.Send("open", OpenWallet(7, "welcome"))]


def test_the_registry_takes_it() -> None:
    assert registry(("examples.wallets",)).broken == ()
