"""Unique values of an outside aggregate: taken by its commands, and released when its instance or its person is gone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest

from adapters.log import Log
from domain.kernel.errors import CommandIdReused, EsError, PersonErased
from domain.kernel.messages import Request
from domain.kernel.ports.vault import ClaimState
from domain.kernel.system import CommandRemembered, ReservationAbandoned
from domain.kernel.unique import UniqueReserved, UniqueTaken
from tests.support.accounts import ADA, GRACE, change, erase
from tests.support.parts import Crash, Steps, before_call, crashed, every_crash
from tests.support.wallets import (
    BOTH,
    LabelTaken,
    WalletIsClosed,
    WalletOpened,
    WalletRenamed,
    Wallets,
    close_wallet,
    open_wallet,
    rename_wallet,
)

RESERVED = [("label", ClaimState.RESERVED.value), ("number", ClaimState.RESERVED.value)]
TAKEN = LabelTaken("wallet", "owner_id and label")


@pytest.fixture
def wallets(tmp_path: Path, log: Log) -> Iterator[Wallets]:
    with closing(Wallets(tmp_path / "wallets", log)) as wallets:
        yield wallets


def crash() -> None:
    raise Crash


def test_a_value_belongs_to_one_open_instance(wallets: Wallets) -> None:
    wallets.did(open_wallet(5))

    assert wallets.held(5) == BOTH
    assert wallets.ask(open_wallet(6)) == [TAKEN]
    assert wallets.held(6) == [], "the number that it could have had is free"
    assert wallets.ask(open_wallet(6, "other", number="5")) == [UniqueTaken("wallet", "number")]
    wallets.did(open_wallet(7, owner=2))
    wallets.did(open_wallet(6, "other"))


@pytest.mark.parametrize("label", ["MAIN", "  main ", "Main"])
def test_texts_are_compared_in_one_form(wallets: Wallets, label: str) -> None:
    wallets.did(open_wallet(5, "main"))

    assert wallets.ask(open_wallet(6, label)) == [TAKEN]


def test_a_refusal_tells_the_fields_and_no_value(wallets: Wallets) -> None:
    wallets.did(open_wallet(5, "canary"))
    (refused,) = wallets.ask(open_wallet(6, "other", number="5"))

    assert isinstance(refused, EsError)
    assert refused.to_wire()["message"] == "another wallet has the same number"
    (refused,) = wallets.ask(open_wallet(6, "canary"))
    assert isinstance(refused, EsError)
    assert (refused.code, "canary" in str(refused.to_wire())) == ("label-taken", False)


def test_of_a_batch_the_first_command_gets_the_value(wallets: Wallets) -> None:
    first, *others = wallets.ask(*(open_wallet(number) for number in (5, 6, 7)))

    assert isinstance(first, dict)
    assert others == [TAKEN] * 2


def test_a_closed_instance_frees_its_values_at_once(wallets: Wallets) -> None:
    wallets.did(open_wallet(5))

    replies = wallets.ask(close_wallet(5), open_wallet(6, number="5"))

    assert all(isinstance(reply, dict) for reply in replies)
    assert (wallets.held(5), wallets.held(6)) == ([], BOTH)


def test_the_process_releases_the_values_of_closed_and_renamed_instances(wallets: Wallets) -> None:
    wallets.did(open_wallet(5))
    wallets.did(open_wallet(6, "other"))
    wallets.did(close_wallet(5))
    wallets.did(rename_wallet(6, "third"))
    assert len(wallets.held(6)) == 3

    wallets.settling().run(lambda: False)

    assert (wallets.held(5), wallets.held(6)) == ([], BOTH)
    wallets.did(open_wallet(7, "other", number="5"))


def test_an_erased_person_has_no_values_and_gets_none(wallets: Wallets) -> None:
    ada, grace = wallets.a_user(ADA), wallets.a_user(GRACE)
    wallets.did(open_wallet(5, owner=ada, number="50"))
    wallets.did(open_wallet(6, owner=grace))
    wallets.done(erase(ada))

    wallets.run()

    assert wallets.held(5) == [("number", "confirmed")], "it is no data of the person"
    assert wallets.held(6) == BOTH
    assert wallets.ask(open_wallet(7, owner=ada)) == [PersonErased(ada)]
    assert wallets.held(7) == []


def test_a_change_of_the_address_leaves_the_values_of_the_person(wallets: Wallets) -> None:
    ada = wallets.a_user(ADA)
    wallets.did(open_wallet(5, owner=ada))
    wallets.done(change(ada, GRACE))

    wallets.claims().settle([ada])

    assert wallets.held(5) == BOTH
    assert wallets.holders(ADA, GRACE) == [None, ada]


# --- repeats ---------------------------------------------------------------------------------


def test_a_repeated_command_returns_its_first_result_although_another_has_the_value(wallets: Wallets) -> None:
    asked = open_wallet(5)
    first = wallets.did(asked)
    assert wallets.did(asked) == first

    wallets.did(close_wallet(5))
    wallets.did(open_wallet(6))

    assert wallets.did(asked) == first
    assert wallets.held(5) == []


def test_a_command_twice_in_a_batch_takes_effect_once(wallets: Wallets) -> None:
    asked = open_wallet(5)

    first, second = wallets.ask(asked, asked)

    assert isinstance(first, dict)
    assert first == second
    assert wallets.wallet_types(5) == [WalletOpened.type]


def test_a_command_id_with_another_value_is_refused_and_takes_nothing(wallets: Wallets) -> None:
    command = uuid4()
    wallets.did(open_wallet(5, command=command))

    assert wallets.ask(open_wallet(5, "other", command=command)) == [CommandIdReused(str(command))]
    assert wallets.held(5) == BOTH


def test_a_refusal_that_its_sender_relies_on_is_kept(wallets: Wallets) -> None:
    wallets.did(open_wallet(5))
    asked = open_wallet(6)
    asked = Request(asked.kind, {**asked.body, "remember": True})
    assert wallets.ask(asked) == [TAKEN]
    wallets.did(close_wallet(5))

    (again,) = wallets.ask(asked)

    assert isinstance(again, EsError)
    assert again.code == "label-taken"
    assert wallets.wallet_types(6) == [CommandRemembered.type]


# --- commands that leave the value as it is ---------------------------------------------------


def test_a_refused_command_and_one_that_changes_nothing_free_what_they_reserved(wallets: Wallets) -> None:
    assert wallets.ask(rename_wallet(5, "main")) == [WalletIsClosed()]
    assert wallets.held(5) == []
    wallets.did(open_wallet(5))

    wallets.did(open_wallet(5, "other", number="9"))

    assert wallets.wallet(5).label == "main"
    assert wallets.held(5) == BOTH
    wallets.did(open_wallet(6, "other", number="9"))


def test_an_instance_may_take_what_it_has(wallets: Wallets) -> None:
    wallets.did(open_wallet(5, "main"))
    for label in ("Main", "MAIN", "MAIN"):
        wallets.did(rename_wallet(5, label))
        wallets.settling().run(lambda: False)
        assert wallets.held(5) == BOTH

    assert wallets.wallet_types(5) == [WalletOpened.type, WalletRenamed.type, WalletRenamed.type]
    assert wallets.ask(open_wallet(6, "main")) == [TAKEN]
    wallets.did(rename_wallet(5, "other"))
    wallets.settling().run(lambda: False)
    assert wallets.held(5) == BOTH
    wallets.did(open_wallet(6, "main"))


def test_what_an_instance_has_is_looked_at_again_when_its_stream_has_changed(wallets: Wallets) -> None:
    wallets.did(open_wallet(5, "main"))

    def meanwhile() -> None:
        wallets.did(rename_wallet(5, "other"))
        wallets.did(open_wallet(6, "main"))

    store = before_call(wallets.store, "append", meanwhile)
    replies = wallets.ask(rename_wallet(5, "MAIN"), store=store)

    assert replies == [TAKEN]
    assert wallets.wallet(5).label == "other"


# --- crashes ---------------------------------------------------------------------------------


def test_nothing_is_confirmed_before_the_append(wallets: Wallets) -> None:
    with pytest.raises(Crash):
        wallets.ask(open_wallet(5), store=before_call(wallets.store, "append", crash))

    assert wallets.held(5) == RESERVED
    assert wallets.ask(open_wallet(6)) == [UniqueReserved("wallet", "owner_id and label")]


def test_an_expired_reservation_is_fenced_and_released(wallets: Wallets) -> None:
    with pytest.raises(Crash):
        wallets.ask(open_wallet(5), store=before_call(wallets.store, "append", crash))

    assert wallets.run_the_janitor() == 2

    assert wallets.held(5) == []
    assert wallets.wallet_types(5) == [ReservationAbandoned.type] * 2
    wallets.did(open_wallet(6, number="5"))


@pytest.mark.parametrize("is_stored", [False, True])
def test_the_claims_of_a_rule_that_no_feature_has_any_more_are_settled(
    wallets: Wallets, is_stored: bool
) -> None:
    store, vault = wallets.store, wallets.vault
    with pytest.raises(Crash):
        wallets.ask(
            open_wallet(5),
            store=store if is_stored else before_call(store, "append", crash),
            vault=before_call(vault, "settle_claims", crash),
        )
    wallets.let_reservations_expire()
    wallets.aggregates = ()

    wallets.unique_claims().settle_expired()

    assert wallets.held(5) == (BOTH if is_stored else [])
    assert len(wallets.wallet_types(5)) == (1 if is_stored else 2), "a fence for each reservation"


def test_a_late_append_of_a_paused_worker_meets_the_fence(wallets: Wallets) -> None:
    def meanwhile() -> None:
        wallets.run_the_janitor()
        wallets.did(open_wallet(6, number="9"))

    (late,) = wallets.ask(open_wallet(5), store=before_call(wallets.store, "append", meanwhile))

    assert late == TAKEN
    assert wallets.open_wallets().keys() == {6}


def test_two_attempts_of_a_command_share_no_reservation(wallets: Wallets) -> None:
    """A refusal of the first one, on an older state, would release what the second one has confirmed."""
    wallets.did(open_wallet(5))
    wallets.did(close_wallet(5))
    asked = rename_wallet(5, "other")

    def meanwhile() -> None:
        wallets.did(open_wallet(5))
        wallets.did(asked)

    assert wallets.ask(asked, vault=before_call(wallets.vault, "settle_claims", meanwhile)) == [
        WalletIsClosed()
    ]
    assert wallets.wallet(5).label == "other"
    wallets.settling().run(lambda: False)
    assert wallets.held(5) == BOTH


def test_a_value_that_is_taken_while_claims_are_settled_ends_the_one_before(wallets: Wallets) -> None:
    wallets.did(open_wallet(5))
    store = before_call(wallets.store, "read_streams", lambda: wallets.did(rename_wallet(5, "other")))

    wallets.unique_claims(store=store).settle(["wallet-5"])

    assert wallets.held(5) == BOTH
    wallets.did(open_wallet(6))


def test_a_paused_worker_whose_value_is_still_free_takes_it_again(wallets: Wallets) -> None:
    store = before_call(wallets.store, "append", wallets.run_the_janitor)

    (late,) = wallets.ask(open_wallet(5), store=store)

    assert isinstance(late, dict)
    assert wallets.held(5) == BOTH


def test_a_fence_in_the_part_of_a_long_stream_that_is_not_read_again_counts(wallets: Wallets) -> None:
    wallets.did(open_wallet(5))
    service = wallets.wallet_service()
    for number in range(80):
        (reply,) = service.handle([rename_wallet(5, f"label {number}")])
        assert isinstance(reply, dict)

    def meanwhile() -> None:
        wallets.run_the_janitor()
        for number in range(3):
            wallets.did(rename_wallet(5, f"later {number}"))
        wallets.did(open_wallet(6, "wanted"))

    parts = {"store": before_call(wallets.store, "append", meanwhile)}
    service = wallets.wallet_service(**parts)

    assert service.handle([rename_wallet(5, "wanted")]) == [TAKEN]
    assert wallets.wallet(5).label == "later 2"


@pytest.mark.parametrize("ends", ["retried", "left"])
def test_after_a_crash_at_any_step_the_stream_decides(tmp_path: Path, log: Log, ends: str) -> None:
    def run(steps: Steps) -> None:
        with closing(Wallets(tmp_path / str(uuid4()), log)) as world:
            world.did(open_wallet(5, "first"))
            asked = rename_wallet(5, "second")
            try:
                world.ask(asked, **steps.watched(store=world.store, vault=world.vault))
            except Crash:
                if ends == "retried":
                    world.did(asked)
                world.run_the_janitor()
                world.settling().run(lambda: False)
                assert world.held(5) == BOTH
                has = world.wallet(5).label
                assert world.ask(open_wallet(6, has)) == [TAKEN]
                world.did(open_wallet(7, "first" if has == "second" else "second"))
                raise

    for at, after in every_crash(run):
        crashed(run, at, after=after)
