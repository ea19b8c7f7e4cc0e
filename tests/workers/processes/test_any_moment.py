"""A process survives a crash at any call, and any other manager at any time: it ends, and each command has one effect."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from domain.kernel.errors import EsError
from tests.support.interleavings import Actor
from tests.support.managing import Bank, leading, paused_parts
from tests.support.parts import Crash, Steps, crashed, every_crash
from tests.support.transfers import LATE_S
from workers.runtime.followers import CheckpointedFollowing

NewBank = Callable[[], Bank]


def requested(bank: Bank) -> Bank:
    """One transfer that succeeds, one that is refused and one that is put back."""
    bank.do("break", purse_id=3)
    bank.transfer(7, amount=30)
    bank.transfer(8, amount=500)
    bank.transfer(9, payee=3, amount=20)
    return bank


def watched(bank: Bank, steps: Steps) -> None:
    """Let a manager work over watched parts, also those of the addressee."""
    parts = steps.watched(store=bank.store, worklist=bank.worklist)
    (caller,) = steps.watched(caller=bank.caller(parts["store"])).values()
    bank.run(**parts, caller=caller)


def test_every_transfer_ends_once_wherever_a_manager_crashes(new_bank: NewBank) -> None:
    for at, after in every_crash(lambda steps: watched(requested(new_bank()), steps)):
        bank = requested(new_bank())
        place = crashed(lambda steps, bank=bank: watched(bank, steps), at, after=after)  # type: ignore[misc]
        try:
            bank.check()
            bank.settle()
            bank.check_at_the_end()
        except AssertionError as error:
            error.add_note(place)
            raise
        assert [bank.outcomes(id_) for id_ in (7, 8, 9)] == [["done"], ["too-little-money"], ["put back"]]
        bank.close()


MEANWHILE: dict[str, Callable[[Bank], object]] = {
    "another manager works": lambda bank: bank.run(**leading(bank)),
    "the transfers are late": lambda bank: late(bank),
    "the transfers are stopped": lambda bank: stopped(bank),
    "a refusal would hold no more": lambda bank: refused_before(bank),
}


def refused_before(bank: Bank) -> None:
    """The purse is filled, and another manager sends the command that was refused, and crashes before it notes the answer."""

    class Crashing:
        def pipeline(self, *args: Any, **more: Any) -> Any:
            list(bank.caller().pipeline(*args, **more))
            raise Crash("after the answer")

    bank.fill(1, 1000)
    with suppress(Crash):
        bank.run(**leading(bank), caller=Crashing())


def late(bank: Bank) -> None:
    bank.us += round(LATE_S * 1e6) + 1
    bank.run(**leading(bank))


def stopped(bank: Bank) -> None:
    for id_ in (7, 9):
        bank.do("stop", transfer_id=id_)
    bank.run(**leading(bank))


@pytest.mark.parametrize("meanwhile", MEANWHILE)
@pytest.mark.parametrize("crashes", [False, True], ids=["goes on", "crashes"])
def test_every_transfer_ends_once_whatever_happens_while_a_manager_is_paused(
    new_bank: NewBank, meanwhile: str, crashes: bool
) -> None:
    for pauses_at in range(1, 200):
        bank = requested(new_bank())
        manager = Actor("the paused manager", lambda actor, bank=bank: bank.run(**paused_parts(actor, bank)))  # type: ignore[misc]
        for _ in range(pauses_at):
            if not manager.is_over:
                manager.step()
        was_over = manager.is_over
        try:
            MEANWHILE[meanwhile](bank)
            while not (crashes or manager.is_over):
                manager.step()
            manager.end()
            assert manager.error is None or isinstance(manager.error, EsError), manager.error
            bank.settle()
            bank.check_at_the_end()
        except AssertionError as error:
            error.add_note(f"paused after {pauses_at} calls")
            raise
        finally:
            bank.close()
        if was_over:
            return
    raise AssertionError("it never came to its end")


def crash(*_: object, **__: object) -> Any:
    raise Crash


@pytest.mark.parametrize("crashes", [False, True], ids=["checkpoint saved", "checkpoint behind"])
def test_every_transfer_ends_once_in_a_store_that_was_restored_to_any_moment(
    new_bank: NewBank, crashes: bool
) -> None:
    """What was noted lies behind what was read. A checkpoint that is not saved yet fits a store without the notes."""
    head = 10**9
    while head > 2:
        bank = requested(new_bank())
        bank.run()
        bank.transfer(10)
        bank.us += 2_000_000
        if crashes:
            with pytest.MonkeyPatch.context() as patch, suppress(Crash):
                patch.setattr(CheckpointedFollowing, "_save", crash)
                bank.run()
        else:
            bank.settle()
        head = min(head, bank.store.head())
        bank.restore_store(head)
        try:
            bank.settle()
            bank.check_at_the_end()
        except AssertionError as error:
            error.add_note(f"restored to {head}")
            raise
        finally:
            bank.close()
        head -= 1


def test_a_crash_ends_no_run_quietly(bank: Bank) -> None:
    """The tests above rely on it."""
    requested(bank)
    with suppress(Crash):
        watched(bank, Steps(5))
    assert bank.outcomes(7) == []
