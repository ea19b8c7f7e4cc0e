"""The vault contract, owed erasures: what is decided stays listed, and opens nothing, until it is completed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from uuid import UUID

import pytest

from domain.kernel.history import History
from domain.kernel.ports.vault import (
    Decided,
    DestroyedKey,
    Destruction,
    HeldByOther,
    LivingKey,
    Owed,
    OwedState,
    OwedTag,
    Quarantined,
    Reason,
    Reserved,
    Vault,
)
from tests.support.vaults import (
    ADA,
    GRACE,
    LATER_US,
    NOW_US,
    PROCESS,
    abandon,
    change,
    decided,
    destroy,
    history,
    owe,
    register,
    registered,
    registration,
    reserve,
    secret_of,
)

OpenVault = Callable[[], Vault]
FOREIGN = Quarantined(4, "user-abc", "user-deleted.v1", "no person")
TOO_LARGE = 1 << 70
NAME = OwedTag(b"n" * 32, 2)
FORMER = OwedTag(b"f" * 32, 0)


def subjects(vault: Vault, state: OwedState | None = None) -> list[int]:
    return [owed.decided.subject for owed in vault.owed(limit=99, state=state)]


# --- listing ---------------------------------------------------------------------------------


def test_an_owed_erasure_is_listed_with_what_decided_it(open_vault: OpenVault, vault: Vault) -> None:
    with_event, without = Decided(1, UUID(int=7), 7), Decided(2, None, 8)

    vault.owe([without, with_event], now_us=NOW_US)

    listed = [Owed(d, OwedState.DECIDED, NOW_US, 0, "", 0) for d in (with_event, without)]
    assert open_vault().owed(limit=9) == listed
    assert [open_vault().owed_of(1), open_vault().owed_of(2)] == listed
    assert open_vault().owed_of(3) is None


def test_an_erasure_that_is_listed_already_stays_as_it_is(vault: Vault) -> None:
    owe(vault, 1)
    vault.erasure_failed([1], "a damaged page")
    before = vault.owed(limit=9)

    vault.owe([Decided(1, None, 99), Decided(1, None, 100)], now_us=LATER_US)
    assert vault.owed(limit=9) == before

    destroy(vault, 1)
    before = vault.owed(limit=9)
    vault.owe([Decided(1, None, 99)], now_us=LATER_US)
    assert vault.owed(limit=9) == before


def test_owed_erasures_come_in_pages_in_order_of_subject_and_of_one_state_or_all(vault: Vault) -> None:
    owe(vault, 5, 3, 1, 4)
    destroy(vault, 1, 4)

    assert subjects(vault) == [1, 3, 4, 5]
    assert subjects(vault, OwedState.DECIDED) == [3, 5]
    assert subjects(vault, OwedState.KEY_DESTROYED) == [1, 4]
    pages = [[owed.decided.subject for owed in vault.owed(after=a, limit=2)] for a in (0, 3, 5)]
    assert pages == [[1, 3], [4, 5], []]
    assert [o.decided.subject for o in vault.owed(after=3, limit=1, state=OwedState.DECIDED)] == [5]


def test_owed_erasures_are_counted_by_state(vault: Vault) -> None:
    assert vault.owed_count() == {}

    owe(vault, 1, 2, 3)
    destroy(vault, 2)

    assert vault.owed_count() == {OwedState.DECIDED: 2, OwedState.KEY_DESTROYED: 1}


# --- listing moves the checkpoint --------------------------------------------------------------


def test_erasures_quarantined_events_and_the_checkpoint_are_stored_together(
    open_vault: OpenVault, vault: Vault
) -> None:
    vault.owe([decided(1)], now_us=NOW_US, process=PROCESS, reached=history(9), quarantined=[FOREIGN])

    assert subjects(open_vault()) == [1]
    assert open_vault().quarantined() == [FOREIGN]
    assert open_vault().checkpoint(PROCESS) == history(9)


@pytest.mark.parametrize(
    ("erasure", "event", "reached"),
    [(TOO_LARGE, 4, 9), (1, TOO_LARGE, 9), (1, 4, TOO_LARGE)],
    ids=["erasure", "quarantined", "checkpoint"],
)
def test_if_one_of_them_cannot_be_stored_none_is(
    vault: Vault, erasure: int, event: int, reached: int
) -> None:
    with pytest.raises(Exception):  # noqa: B017  # a bug of the caller: any error is right
        vault.owe(
            [Decided(1, None, erasure)],
            now_us=NOW_US,
            process=PROCESS,
            reached=History(reached),
            quarantined=[replace(FOREIGN, position=event)],
        )

    assert (subjects(vault), vault.quarantined(), vault.checkpoint(PROCESS)) == ([], [], History())


def test_listing_without_a_process_moves_no_checkpoint(vault: Vault) -> None:
    vault.save_checkpoint(PROCESS, history(3))

    owe(vault, 1)

    assert vault.checkpoint(PROCESS) == history(3)


def test_quarantined_events_are_kept_once_and_listed_oldest_first_up_to_the_limit(vault: Vault) -> None:
    events = [Quarantined(position, "user-abc", "user-deleted.v1", "no person") for position in (7, 4, 9)]
    for event in [*events, FOREIGN]:
        vault.owe([], now_us=NOW_US, quarantined=[event])

    assert [event.position for event in vault.quarantined()] == [4, 7, 9]
    assert [event.position for event in vault.quarantined(limit=2)] == [4, 7]

    vault.forget_findings()

    assert vault.quarantined() == []


# --- an owed key opens nothing -----------------------------------------------------------------


def test_the_key_of_an_owed_erasure_is_shown_to_its_destroyer_only(vault: Vault) -> None:
    register(vault, 1, 2)
    secret = secret_of(vault, 1)

    owe(vault, 1)

    keys = vault.data_keys([1, 2])
    assert keys[1] == DestroyedKey(Reason.ERASURE, decided(1).event_id, None)
    assert isinstance(keys[2], LivingKey)
    assert vault.data_keys([1], even_owed=True) == {1: LivingKey(secret)}


def test_an_owed_subject_without_a_key_has_none_to_show(vault: Vault) -> None:
    owe(vault, 1)

    assert vault.data_keys([1]) == {1: DestroyedKey(Reason.ERASURE, decided(1).event_id, None)}
    assert vault.data_keys([1], even_owed=True) == {}


def test_a_tombstone_stays_what_it_is_while_an_erasure_is_owed(vault: Vault) -> None:
    abandon(vault, 1)

    owe(vault, 1)

    for even_owed in (False, True):
        assert vault.data_keys([1], even_owed=even_owed) == {1: DestroyedKey(Reason.ABANDONED, None, NOW_US)}


# --- destroying the key ------------------------------------------------------------------------


def test_destroying_an_owed_key_keeps_the_tags_of_its_claims_and_the_given_ones(
    vault: Vault,
) -> None:
    registered(vault, 1, ADA)
    reserve(vault, change(GRACE, subject=1))
    register(vault, 2)
    owe(vault, 1, 2)
    vault.erasure_failed([1], "an error before")

    vault.destroy(
        [Destruction(1, Reason.ERASURE, UUID(int=9), [NAME, FORMER, NAME]), Destruction(2, Reason.ERASURE)],
        now_us=NOW_US,
    )

    ada, grace, second = vault.tags([ADA, GRACE, "user2@example.com"])
    tags = vault.owed_tags([1, 2, 3])
    assert set(tags) == {1, 2}
    assert sorted(tags[1], key=lambda t: t.tag) == sorted(
        [NAME, FORMER, OwedTag(ada, 0), OwedTag(grace, 0)], key=lambda t: t.tag
    )
    assert list(tags[2]) == [OwedTag(second, 0)]
    assert vault.owed_of(1) == Owed(decided(1), OwedState.KEY_DESTROYED, NOW_US, 1, "", 0)


def test_no_tags_are_kept_for_a_subject_without_an_owed_erasure(vault: Vault) -> None:
    registered(vault, 1, ADA)

    vault.destroy([Destruction(1, Reason.ERASURE, tags=[NAME])], now_us=NOW_US)

    assert (vault.owed_tags([1]), vault.owed_of(1)) == ({}, None)


def test_abandoning_a_registration_carries_out_no_owed_erasure(vault: Vault) -> None:
    registered(vault, 1, ADA)
    owe(vault, 1)

    abandon(vault, 1)

    assert subjects(vault, OwedState.DECIDED) == [1]
    assert vault.owed_tags([1]) == {}


def test_destroying_again_keeps_further_tags_and_the_last_error(vault: Vault) -> None:
    registered(vault, 1, ADA)
    owe(vault, 1)
    destroy(vault, 1)
    vault.erasure_failed([1], "a reader")

    vault.destroy([Destruction(1, Reason.ERASURE, tags=[NAME])], now_us=NOW_US)

    assert len(vault.owed_tags([1])[1]) == 2
    owed = vault.owed_of(1)
    assert owed is not None
    assert owed.last_error == "a reader"


# --- attempts, letters and the end -------------------------------------------------------------


def test_attempts_are_counted_with_the_last_error_and_an_empty_one_is_progress(vault: Vault) -> None:
    owe(vault, 1, 2)

    vault.erasure_failed([1, 2, 3], "first")
    vault.erasure_failed([1], "second")
    vault.erasure_failed([2], "")
    vault.erasure_failed([], "nothing")

    found = {owed.decided.subject: (owed.attempts, owed.last_error) for owed in vault.owed(limit=9)}
    assert found == {1: (2, "second"), 2: (2, "")}


def test_forgetting_tags_deletes_them_and_adds_the_letters(vault: Vault) -> None:
    register(vault, 1, 2, 3)
    owe(vault, 1, 2, 3)
    destroy(vault, 1, 2, 3)

    vault.forget_tags({1: 2, 2: 0})
    vault.forget_tags({1: 3, 9: 1})
    vault.forget_tags({})

    assert set(vault.owed_tags([1, 2, 3])) == {3}
    assert {o.decided.subject: o.letters for o in vault.owed(limit=9)} == {1: 5, 2: 0, 3: 0}


def test_only_an_erasure_whose_key_is_destroyed_is_settled(open_vault: OpenVault, vault: Vault) -> None:
    owe(vault, 1, 2, 3)
    destroy(vault, 1, 3)

    vault.settle_erasures([1, 2, 9])
    vault.settle_erasures([])

    assert subjects(open_vault()) == [2, 3]
    assert vault.data_keys([1]) == {1: DestroyedKey(Reason.ERASURE, None, NOW_US)}


def test_owed_erasures_and_their_tags_survive_closing_and_reopening(open_vault: OpenVault) -> None:
    with closing(open_vault()) as vault:
        registered(vault, 1, ADA)
        owe(vault, 1, 2)
        destroy(vault, 1)
        before = vault.owed(limit=9), vault.owed_tags([1, 2])

    reopened = open_vault()
    assert (reopened.owed(limit=9), reopened.owed_tags([1, 2])) == before


def test_another_worker_goes_on_while_residue_is_removed(open_vault: OpenVault, vault: Vault) -> None:
    """It has used the keys of all these people before: none of them may be stale."""
    people = range(1, 131)
    email = "user{}@example.com".format
    register(vault, *people)
    another = open_vault()
    before = another.data_keys(people)
    another.holders([email(subject) for subject in people])
    erased = [3, 70]

    for subject in erased:
        owe(vault, subject)
        destroy(vault, subject)
        vault.forget_tags({subject: 0})
        vault.remove_residue([subject])

    kept = [subject for subject in people if subject not in erased]
    assert another.data_keys(kept) == {subject: before[subject] for subject in kept}
    assert another.holders([email(subject) for subject in people]) == {email(s): s for s in kept}
    again = [registration(email(subject), subject=1000 + subject) for subject in people]
    answers = another.reserve(again, now_us=NOW_US)
    assert [type(answer) for answer in answers] == [
        Reserved if subject in erased else HeldByOther for subject in people
    ]
    assert vault.holders([email(subject) for subject in people]) == {
        email(s): 1000 + s if s in erased else s for s in people
    }
    assert secret_of(vault, 1003) == secret_of(another, 1003)


def test_people_of_one_block_are_erased_one_after_another(vault: Vault) -> None:
    people = range(1, 66)
    register(vault, *people)
    secrets = vault.data_keys(people)
    owe(vault, *people)

    for subject in people:
        destroy(vault, subject)
        vault.remove_residue([subject])

        tags = vault.owed_tags(range(1, subject + 1))
        assert [list(tags[s]) for s in range(1, subject + 1)] == [
            [OwedTag(tag, 0)] for tag in vault.tags([f"user{s}@example.com" for s in range(1, subject + 1)])
        ]
        left = range(subject + 1, 66)
        assert vault.data_keys(left, even_owed=True) == {s: secrets[s] for s in left}


def test_residue_is_removed_again_and_again(vault: Vault) -> None:
    register(vault, *range(1, 9))
    owe(vault, 1, 2)
    destroy(vault, 1, 2)
    vault.forget_tags({1: 0, 2: 0})

    vault.remove_residue([1, 2])
    vault.remove_residue([1, 2])

    assert len(secret_of(vault, 3)) == 32
