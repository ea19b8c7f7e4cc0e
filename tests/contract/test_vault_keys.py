"""The vault contract: data keys, tombstones, tags and outages."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from uuid import UUID, uuid4

import pytest

from domain.kernel.errors import EsError, PartUnavailable
from domain.kernel.history import History
from domain.kernel.ports.vault import (
    AlreadyHeld,
    ClaimId,
    DestroyedKey,
    Destruction,
    LivingKey,
    Reason,
    Reserved,
    Vault,
)
from tests.support.together import at_once
from tests.support.vaults import (
    ADA,
    GRACE,
    LATER_US,
    NOW_US,
    PROCESS,
    abandon,
    are_destroyed,
    change,
    destroy,
    holder,
    owe,
    register,
    registered,
    registration,
    reserve,
    reserved,
    secret_of,
)
from tests.support.waiting import DEADLINE_S

OpenVault = Callable[[], Vault]


# --- keys ------------------------------------------------------------------------------------


def test_every_subject_has_its_own_key(vault: Vault) -> None:
    register(vault, *range(1, 11))

    assert len({secret_of(vault, subject) for subject in range(1, 11)}) == 10


def test_a_change_of_address_creates_no_key(vault: Vault) -> None:
    reserve(vault, change(GRACE, subject=1))

    assert vault.data_keys([1]) == {}


@pytest.mark.parametrize("first", ["alive", "destroyed", "abandoned", "owed"])
def test_a_subject_never_gets_a_second_key(vault: Vault, first: str) -> None:
    registered(vault, 1, ADA)
    if first == "destroyed":
        destroy(vault, 1)
    elif first == "abandoned":
        abandon(vault, 1)
    elif first == "owed":
        vault.settle_claims(
            released=[claim.id for claim in vault.claims_of([1], now_us=NOW_US)], now_us=NOW_US
        )
        owe(vault, 1)
    before = vault.data_keys([1])

    # Ids are issued once. If one were issued twice, any error is right, and a key is wrong.
    with pytest.raises(EsError):
        reserve(vault, registration(GRACE, subject=1))

    assert vault.data_keys([1]) == before
    assert holder(vault, GRACE) is None, "the whole transaction is rolled back"


def test_an_unknown_subject_is_missing_from_the_keys(vault: Vault) -> None:
    registered(vault, 1, ADA)
    destroy(vault, 2)

    keys = vault.data_keys([3, 2, 1])

    assert set(keys) == {1, 2}
    assert isinstance(keys[1], LivingKey)
    assert isinstance(keys[2], DestroyedKey)
    assert vault.data_keys([]) == {}


def test_subjects_have_a_key_a_tombstone_or_a_claim_and_come_in_pages(vault: Vault) -> None:
    registered(vault, 2, ADA)
    reserve(vault, change("other@example.com", subject=2))  # a key and two claims: still once
    reserve(vault, change(GRACE, subject=4))  # a claim alone
    destroy(vault, 3)
    register(vault, 1)

    assert vault.subjects(after=0, limit=9) == [1, 2, 3, 4]
    assert vault.subjects(after=0, limit=2) == [1, 2]
    assert vault.subjects(after=2, limit=2) == [3, 4]
    assert vault.subjects(after=4, limit=2) == []


def test_a_key_hides_its_secret_when_printed(vault: Vault) -> None:
    registered(vault, 1, ADA)
    key = vault.data_keys([1])[1]
    secret = secret_of(vault, 1)

    assert repr(secret) not in repr(key)
    assert secret.hex() not in f"{key}"


# --- destroying ------------------------------------------------------------------------------


def test_destroying_keys_leaves_tombstones_and_removes_all_claims_of_their_subjects(vault: Vault) -> None:
    registered(vault, 1, ADA)
    reserve(vault, change(GRACE, subject=1))
    registered(vault, 2, "other@example.com")
    registered(vault, 3, "third@example.com")

    destroy(vault, 1, 3)

    assert are_destroyed(vault, 1, 3)
    assert vault.claims_of([1], now_us=NOW_US) == []
    assert (holder(vault, ADA), holder(vault, GRACE), holder(vault, "third@example.com")) == (
        None,
        None,
        None,
    )
    assert holder(vault, "other@example.com") == 2
    assert isinstance(vault.data_keys([2])[2], LivingKey)


@pytest.mark.parametrize("event_id", [None, UUID(int=5)])
@pytest.mark.parametrize("reason", [Reason.ERASURE, Reason.ABANDONED])
def test_a_tombstone_says_why_by_which_event_and_when(
    open_vault: OpenVault, reason: Reason, event_id: UUID | None
) -> None:
    with closing(open_vault()) as vault:
        registered(vault, 1, ADA)
        vault.destroy([Destruction(1, reason, event_id), Destruction(2, reason)], now_us=NOW_US)

    keys = open_vault().data_keys([1, 2])
    assert keys == {1: DestroyedKey(reason, event_id, NOW_US), 2: DestroyedKey(reason, None, NOW_US)}


def test_the_first_tombstone_stays(vault: Vault) -> None:
    registered(vault, 1, ADA)
    vault.destroy([Destruction(1, Reason.ERASURE, UUID(int=1))], now_us=NOW_US)
    registered(vault, 2, ADA)

    again = [Destruction(1, Reason.ABANDONED, UUID(int=2)), Destruction(1, Reason.ERASURE)]
    vault.destroy(again, now_us=LATER_US)

    assert vault.data_keys([1]) == {1: DestroyedKey(Reason.ERASURE, UUID(int=1), NOW_US)}
    assert holder(vault, ADA) == 2, "the claims of another subject stay"


def test_destroying_an_unknown_key_leaves_a_tombstone(vault: Vault) -> None:
    destroy(vault, 1)

    assert are_destroyed(vault, 1)


def test_destroying_nothing_changes_nothing(vault: Vault) -> None:
    registered(vault, 1, ADA)

    vault.destroy([], now_us=NOW_US)

    assert len(secret_of(vault, 1)) == 32


def test_of_destruction_and_change_at_once_no_claim_of_the_destroyed_subject_stays(vault: Vault) -> None:
    def run(subject: int, is_change: bool) -> None:
        if is_change:
            reserve(vault, change(f"new{subject}@example.com", subject=subject))
        else:
            destroy(vault, subject)

    for subject in range(1, 31):
        registered(vault, subject, f"user{subject}@example.com")

        at_once(partial(run, subject), [True, False])

        assert vault.claims_of([subject], now_us=NOW_US) == []


# --- a destroyed key, or one whose erasure is owed ---------------------------------------------


@pytest.mark.parametrize("close", [destroy, owe, abandon])
@pytest.mark.parametrize("email", [ADA, GRACE])
def test_no_tag_is_stored_any_more_for_a_subject_whose_key_is_closed(
    vault: Vault, close: Callable[[Vault, int], None], email: str
) -> None:
    reserved(vault, registration(ADA, subject=1))
    close(vault, 1)
    before = vault.claims_of([1], now_us=NOW_US)

    assert reserve(vault, change(email, subject=1)) == AlreadyHeld(1)

    assert vault.claims_of([1], now_us=NOW_US) == before


@pytest.mark.parametrize("close", [destroy, owe])
@pytest.mark.parametrize("email", [ADA, GRACE])
def test_a_repeated_registration_of_a_closed_subject_yields_it_and_reserves_nothing(
    vault: Vault, close: Callable[[Vault, int], None], email: str
) -> None:
    command = uuid4()
    reserved(vault, registration(ADA, subject=1, command=command))
    close(vault, 1)
    before = vault.claims_of([1], now_us=NOW_US)

    assert reserve(vault, registration(email, subject=2, command=command)) == AlreadyHeld(1)

    assert vault.claims_of([1], now_us=NOW_US) == before
    assert vault.data_keys([2]) == {}


def test_a_command_of_a_closed_subject_does_not_hinder_the_others_of_its_batch(vault: Vault) -> None:
    register(vault, 1, 2)
    destroy(vault, 1)

    answers = vault.reserve([change(ADA, subject=1), change(GRACE, subject=2)], now_us=NOW_US)

    assert answers[0] == AlreadyHeld(1)
    assert isinstance(answers[1], Reserved)


# --- tags ------------------------------------------------------------------------------------


def test_tags_are_keyed_and_the_same_for_the_same_text(open_vault: OpenVault) -> None:
    with closing(open_vault()) as vault:
        first = vault.tags([ADA, "ada lovelace", ADA])

    assert {len(tag) for tag in first} == {32}
    assert (first[0], len(set(first))) == (first[2], 2)
    assert open_vault().tags([ADA]) == first[:1]
    assert hashlib.sha256(ADA.encode()).digest() not in first, "without the key no tag can be guessed"
    assert open_vault().tags([]) == []


def test_the_tag_of_an_address_is_that_of_its_claim(vault: Vault) -> None:
    registered(vault, 1, ADA)
    owe(vault, 1)

    destroy(vault, 1)

    assert [owed.tag for owed in vault.owed_tags([1])[1]] == vault.tags([ADA])


def test_a_registration_tells_its_subject_unless_it_was_abandoned(
    vault: Vault,
) -> None:
    commands = [uuid4() for _ in range(4)]
    for subject, command in enumerate(commands[:3], start=1):
        reserve(vault, registration(f"user{subject}@example.com", subject=subject, command=command))
    destroy(vault, 2)
    abandon(vault, 3)

    assert vault.registered_by(commands) == {commands[0]: 1, commands[1]: 2}


# --- outages ---------------------------------------------------------------------------------

_EVERY_METHOD: list[Callable[[Vault], object]] = [
    lambda vault: reserve(vault, registration()),
    lambda vault: vault.settle_claims(confirmed=[ClaimId(1, uuid4())], now_us=NOW_US),
    lambda vault: vault.settle_claims(released=[ClaimId(1, uuid4())], now_us=NOW_US),
    lambda vault: vault.claims_of([1], now_us=NOW_US),
    lambda vault: vault.expired_claims(now_us=NOW_US, limit=1),
    lambda vault: holder(vault, ADA),
    lambda vault: vault.registered_by([uuid4()]),
    lambda vault: vault.data_keys([1]),
    lambda vault: vault.subjects(after=0, limit=1),
    lambda vault: destroy(vault, 1),
    lambda vault: vault.remove_residue([1]),
    lambda vault: owe(vault, 1),
    lambda vault: vault.owed(limit=1),
    lambda vault: vault.owed_of(1),
    lambda vault: vault.owed_count(),
    lambda vault: vault.owed_tags([1]),
    lambda vault: vault.erasure_failed([1], "error"),
    lambda vault: vault.forget_tags({1: 0}),
    lambda vault: vault.settle_erasures([1]),
    lambda vault: vault.quarantined(),
    lambda vault: vault.checkpoint(PROCESS),
    lambda vault: vault.save_checkpoint(PROCESS, History(1)),
    lambda vault: vault.rewind_checkpoint(PROCESS, History(), now_us=NOW_US),
    lambda vault: vault.divergences(),
    lambda vault: vault.forget_findings(),
    lambda vault: vault.system_id(),
    lambda vault: vault.claim_system(uuid4()),
]


@pytest.mark.parametrize("call", range(len(_EVERY_METHOD)))
def test_a_closed_vault_is_unavailable(vault: Vault, call: int) -> None:
    vault.close()

    # In a new thread, which has no connection yet.
    with pytest.raises(PartUnavailable), ThreadPoolExecutor(1) as pool:
        pool.submit(_EVERY_METHOD[call], vault).result(DEADLINE_S)


def test_a_second_close_does_nothing(vault: Vault) -> None:
    vault.close()

    assert vault.close() is None  # type: ignore[func-returns-value]
