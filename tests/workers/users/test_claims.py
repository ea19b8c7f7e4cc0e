"""Settling of e-mail claims according to the user's stream, and the janitor of expired reservations."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from domain.kernel.errors import Damaged, PartUnavailable
from domain.kernel.messages import Request
from domain.kernel.ports.vault import ClaimState, DestroyedKey, Reason
from domain.users.account import USER, EmailChangeAbandoned, RegistrationAbandoned
from domain.users.errors import EmailTaken
from tests.support.accounts import ADA, ALAN, GRACE, Accounts, change, create, delete, erase, rename
from tests.support.parts import (
    Crash,
    Steps,
    Unavailable,
    before_call,
    crashed,
    every_crash,
    replaced,
    unavailable,
)
from tests.support.vaults import holder

each_end = pytest.mark.parametrize("end", [delete, erase])


def crash() -> None:
    raise Crash


def test_the_claim_of_the_current_address_is_confirmed(accounts: Accounts) -> None:
    with pytest.raises(Crash):
        accounts.service(vault=before_call(accounts.vault, "settle_claims", crash)).handle([create(ADA)])
    ((user_id, _),) = accounts.active()
    assert accounts.states(user_id) == [ClaimState.RESERVED]

    accounts.claims().settle([user_id])

    assert accounts.states(user_id) == [ClaimState.CONFIRMED]


def test_a_change_releases_the_former_address_with_its_confirmation(accounts: Accounts) -> None:
    user_id = accounts.a_user(ADA)

    accounts.done(change(user_id, GRACE))

    assert accounts.holders(ADA, GRACE) == [None, user_id]
    assert accounts.states(user_id) == [ClaimState.CONFIRMED]


def test_a_refused_or_repeated_change_releases_nothing(accounts: Accounts) -> None:
    user_id, _ = accounts.a_user(ADA), accounts.a_user(ALAN)
    changed = change(user_id, GRACE)
    accounts.done(changed)
    accounts.done(change(user_id, ADA))

    assert accounts.handle(change(user_id, ALAN)) == [EmailTaken()]
    accounts.done(changed)
    accounts.done(change(user_id, ADA))

    assert accounts.holders(ADA, GRACE) == [user_id, None]


def test_a_change_leaves_what_was_confirmed_after_its_reservation(accounts: Accounts) -> None:
    """Another worker's change of the same user is stored after it, and confirmed before it."""
    user_id = accounts.a_user(ADA)

    def change_elsewhere() -> None:
        accounts.done(change(user_id, ALAN))

    vault = before_call(accounts.vault, "settle_claims", change_elsewhere)
    (reply,) = accounts.service(vault=vault).handle([change(user_id, GRACE)])

    assert isinstance(reply, dict)
    assert accounts.holders(ADA, ALAN) == [None, user_id]
    accounts.claims().settle([user_id])
    assert accounts.holders(ADA, GRACE, ALAN) == [None, None, user_id]


def test_the_claims_of_former_addresses_are_released(accounts: Accounts) -> None:
    user_id = accounts.a_user(ADA)
    accounts.handle(change(user_id, GRACE), change(user_id, ALAN))  # together: neither was confirmed before
    assert len(accounts.states(user_id)) == 2

    accounts.claims().settle([user_id], changed={user_id})

    assert accounts.holders(ADA, GRACE, ALAN) == [None, None, user_id]


def test_the_stream_of_a_changed_account_with_one_confirmed_claim_is_not_read(accounts: Accounts) -> None:
    user_id = accounts.a_user(ADA)
    accounts.done(change(user_id, GRACE))

    accounts.claims(store=Unavailable()).settle([user_id], changed={user_id})

    assert accounts.holders(ADA, GRACE) == [None, user_id]


def test_a_reservation_of_a_changed_account_is_decided_by_the_stream(accounts: Accounts) -> None:
    user_id = accounts.a_user(ADA)
    with pytest.raises(Crash):
        accounts.service(vault=before_call(accounts.vault, "settle_claims", crash)).handle(
            [change(user_id, GRACE)]
        )
    assert {*accounts.states(user_id)} == {ClaimState.CONFIRMED, ClaimState.RESERVED}

    accounts.claims().settle([user_id], changed={user_id})

    assert accounts.holders(ADA, GRACE) == [None, user_id]


@each_end
def test_all_claims_of_a_closed_account_are_released(
    accounts: Accounts, end: Callable[[int], Request]
) -> None:
    user_id = accounts.a_user(ADA)
    accounts.done(end(user_id))

    accounts.claims().settle([user_id])

    assert accounts.states(user_id) == []
    assert accounts.has_key(user_id), "only an erasure destroys the key"


def test_the_stream_of_an_account_known_to_be_closed_is_not_read(accounts: Accounts) -> None:
    gone, stays = accounts.a_user(ADA), accounts.a_user(GRACE)
    accounts.done(delete(gone))

    accounts.claims(store=Unavailable()).settle([gone], closed={gone})

    assert (accounts.states(gone), accounts.states(stays)) == ([], [ClaimState.CONFIRMED])


def test_the_stream_decides_a_reservation_of_a_closed_account(accounts: Accounts) -> None:
    user_id = accounts.a_user(ADA)
    accounts.reserve(GRACE, user_id)
    accounts.done(delete(user_id))

    accounts.claims().settle([user_id], closed={user_id})

    assert accounts.holders(ADA, GRACE) == [None, user_id], "a paused command may still use it"


def test_a_reservation_that_a_command_may_still_use_stays(accounts: Accounts) -> None:
    user_id = accounts.a_user(ADA)
    accounts.reserve(GRACE, user_id)
    accounts.reserve(ALAN, 77, registers=True)
    head = accounts.store.head()

    accounts.claims().settle([user_id])
    accounts.claims().settle([77])
    assert accounts.claims().settle_expired() == 0

    assert accounts.holders(ADA, GRACE, ALAN) == [user_id, user_id, 77]
    assert accounts.store.head() == head


# --- fences ----------------------------------------------------------------------------------


def test_an_expired_change_is_fenced_before_its_address_is_released(accounts: Accounts) -> None:
    user_id = accounts.a_user(ADA)
    reservation = accounts.reserve(GRACE, user_id)
    accounts.let_reservations_expire()
    steps = Steps()

    accounts.claims(**steps.watched(store=accounts.store, vault=accounts.vault)).settle([user_id])

    assert steps.calls[-2:] == ["store.append", "vault.settle_claims"]
    (fence,) = accounts.store.read_stream(USER.stream_of(user_id), 1)
    assert accounts.codec.decode(fence) == EmailChangeAbandoned(str(reservation))
    assert accounts.codec.metadata(fence).actor == "process:claims"
    assert accounts.states(user_id) == [ClaimState.CONFIRMED]


def test_an_expired_registration_is_fenced_before_its_key_is_destroyed(accounts: Accounts) -> None:
    reservation = accounts.reserve(ADA, 77, registers=True)
    accounts.let_reservations_expire()
    steps = Steps()

    accounts.claims(**steps.watched(store=accounts.store, vault=accounts.vault)).settle([77])

    assert steps.calls[-2:] == ["store.append", "vault.settle_claims"]
    (fence,) = accounts.store.read_stream(USER.stream_of(77))
    assert accounts.codec.decode(fence) == RegistrationAbandoned(str(reservation))
    found = accounts.vault.data_keys([77])[77]
    assert isinstance(found, DestroyedKey)
    assert found.reason is Reason.ABANDONED
    assert holder(accounts.vault, ADA) is None


@each_end
def test_a_closed_account_needs_no_fence(accounts: Accounts, end: Callable[[int], Request]) -> None:
    user_id = accounts.a_user(ADA)
    accounts.reserve(GRACE, user_id)
    accounts.done(end(user_id))
    head = accounts.store.head()

    assert accounts.run_the_janitor() == 1

    assert accounts.states(user_id) == []
    assert accounts.store.head() == head


def test_settling_twice_changes_nothing(accounts: Accounts) -> None:
    user_id = accounts.a_user(ADA)
    accounts.reserve(GRACE, user_id)
    accounts.reserve(ALAN, 77, registers=True)
    accounts.run_the_janitor()
    head = accounts.store.head()

    accounts.claims().settle([user_id])
    accounts.claims().settle([77])

    assert accounts.claims().settle_expired() == 0
    assert accounts.store.head() == head


def test_a_fence_that_met_a_conflict_is_decided_again(accounts: Accounts) -> None:
    user_id = accounts.a_user(ADA)
    accounts.reserve(GRACE, user_id)
    accounts.let_reservations_expire()
    store = before_call(accounts.store, "append", lambda: accounts.done(rename(user_id, "Faster")))

    accounts.claims(store=store).settle([user_id])

    assert accounts.types(user_id) == ["user-registered.v1", "user-renamed.v1", "email-change-abandoned.v1"]
    assert accounts.states(user_id) == [ClaimState.CONFIRMED]


def test_a_change_whose_claim_was_released_reserves_it_again(accounts: Accounts) -> None:
    user_id = accounts.a_user(ADA)

    def meanwhile() -> None:
        accounts.let_reservations_expire()
        accounts.claims().settle([user_id])

    service = accounts.service(store=before_call(accounts.store, "append", meanwhile))
    (reply,) = service.handle([change(user_id, GRACE)])

    assert isinstance(reply, dict)
    assert accounts.active() == [(user_id, GRACE)]
    accounts.claims().settle([user_id])
    assert holder(accounts.vault, GRACE) == user_id


def test_endless_conflicts_leave_the_claim_to_the_next_round(accounts: Accounts) -> None:
    user_id = accounts.a_user(ADA)
    accounts.reserve(GRACE, user_id)
    accounts.let_reservations_expire()

    def append(batch: Any) -> Any:
        accounts.done(rename(user_id, uuid4().hex))
        return accounts.store.append(batch)

    accounts.claims(store=replaced(accounts.store, append=append)).settle([user_id])

    assert holder(accounts.vault, GRACE) == user_id, "not fenced, so not released"
    accounts.claims().settle([user_id])
    assert holder(accounts.vault, GRACE) is None


# --- the janitor -----------------------------------------------------------------------------


def test_the_janitor_settles_at_most_its_limit_in_a_round(accounts: Accounts) -> None:
    for number in range(5):
        accounts.reserve(f"user{number}@example.com", 100 + number, registers=True)
    accounts.let_reservations_expire()

    assert [accounts.claims().settle_expired(limit=2) for _ in range(4)] == [2, 2, 1, 0]


def test_the_janitor_settles_other_claims_despite_a_damaged_stream(accounts: Accounts) -> None:
    damaged, other = accounts.a_user(ADA), accounts.a_user(GRACE)
    accounts.reserve("first@example.com", damaged)
    accounts.now_us += 1
    accounts.reserve("second@example.com", other)
    accounts.damage(damaged)

    with contextlib.suppress(Damaged):  # raised after the others are settled
        accounts.run_the_janitor()

    assert holder(accounts.vault, "second@example.com") is None
    assert holder(accounts.vault, "first@example.com") == damaged, "without a decision it stays reserved"


def test_a_janitor_without_its_parts_changes_nothing(accounts: Accounts) -> None:
    accounts.reserve(ADA, 77, registers=True)
    accounts.let_reservations_expire()

    with pytest.raises(PartUnavailable):
        accounts.claims(store=before_call(accounts.store, "append", unavailable)).settle_expired()

    assert holder(accounts.vault, ADA) == 77
    assert accounts.claims().settle_expired() == 1
    assert holder(accounts.vault, ADA) is None


@pytest.mark.parametrize("what", ["registration", "change"])
def test_the_next_janitor_completes_a_round_that_crashed_at_any_step(tmp_path: Path, what: str) -> None:
    def prepared(folder: Path) -> tuple[Accounts, int]:
        accounts = Accounts(folder)
        subject = 77 if what == "registration" else accounts.a_user(GRACE)
        accounts.reserve(ADA, subject, registers=what == "registration")
        accounts.let_reservations_expire()
        return accounts, subject

    def run(accounts: Accounts) -> Callable[[Steps], object]:
        return lambda steps: accounts.claims(
            **steps.watched(store=accounts.store, vault=accounts.vault)
        ).settle_expired()

    with closing(prepared(tmp_path / "counting")[0]) as counted:
        places = every_crash(run(counted))
    for at, after in places:
        accounts, subject = prepared(tmp_path / f"{at}{after}")
        with closing(accounts):
            where = crashed(run(accounts), at, after=after)

            accounts.claims().settle_expired()

            assert accounts.vault.expired_claims(now_us=accounts.now_us, limit=10) == [], where
            assert holder(accounts.vault, ADA) is None, where
            fences = [type_ for type_ in accounts.types(subject) if type_.endswith("abandoned.v1")]
            assert len(fences) == 1, where
            assert isinstance(accounts.done(create(ADA)), dict), where


# --- many at once ----------------------------------------------------------------------------


def test_many_users_are_settled_in_one_pass(accounts: Accounts) -> None:
    changed = accounts.a_user("user@example.com")
    accounts.reserve(GRACE, changed)
    for number in range(50):
        accounts.reserve(f"late{number}@example.com", 100 + number, registers=True)
    accounts.let_reservations_expire()
    steps = Steps()

    claims = accounts.claims(**steps.watched(store=accounts.store, vault=accounts.vault))
    claims.settle([changed, *range(100, 150), changed])

    assert steps.calls == ["vault.claims_of", "store.read_streams", "store.append", "vault.settle_claims"]
    assert accounts.expired() == 0
    assert accounts.holders("late0@example.com", "late49@example.com", GRACE) == [None] * 3


def test_after_a_conflict_only_those_who_met_it_are_settled_again(accounts: Accounts) -> None:
    first, second = accounts.a_user("first@example.com"), accounts.a_user("second@example.com")
    accounts.reserve(ADA, first)
    accounts.reserve(GRACE, second)
    accounts.let_reservations_expire()
    store = before_call(accounts.store, "append", lambda: accounts.done(rename(second, "Faster")))
    settled: list[list[int]] = []

    def claims_of(subjects: list[int], **more: Any) -> Any:
        settled.append(sorted(subjects))
        return accounts.vault.claims_of(subjects, **more)

    accounts.claims(store=store, vault=replaced(accounts.vault, claims_of=claims_of)).settle([first, second])

    assert settled == [sorted([first, second]), [second]]
    assert accounts.holders(ADA, GRACE) == [None, None]


def test_a_fence_that_cannot_be_stored_keeps_the_claim_of_its_user_only(accounts: Accounts) -> None:
    first, second = accounts.a_user("first@example.com"), accounts.a_user("second@example.com")
    accounts.reserve(ADA, first)
    accounts.reserve(GRACE, second)
    accounts.let_reservations_expire()
    full = PartUnavailable("event store", "it is full")

    def append(batch: Any) -> Any:
        return [
            full if item.stream == USER.stream_of(first) else accounts.store.append([item])[0]
            for item in batch
        ]

    with pytest.raises(PartUnavailable):
        accounts.claims(store=replaced(accounts.store, append=append)).settle([first, second])

    assert accounts.holders(ADA, GRACE) == [first, None]
