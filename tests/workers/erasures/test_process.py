"""The process manager of erasures: key, claims and dead letters are removed, and the erasure is completed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

import pytest

from adapters import wiring
from domain.kernel.history import History
from domain.kernel.personal import ERASED
from domain.kernel.ports.event_store import CaughtUp
from domain.kernel.ports.vault import ClaimState
from domain.users.account import USER, ErasureCompleted, Status, UserDeleted, UserErased
from tests.support.accounts import ADA, ALAN, GRACE, change, create, delete, erase, rename
from tests.support.erasures import Erasures, Letters
from tests.support.parts import Crash, Steps, before_call, replaced, unavailable
from tests.support.vaults import holder

# --- erasing ---------------------------------------------------------------------------------


def test_an_erasure_destroys_key_and_claims_and_is_completed(erasures: Erasures) -> None:
    user_id, other = erasures.a_user(ADA), erasures.a_user(GRACE)
    erasures.done(change(user_id, ALAN))
    erasures.done(erase(user_id))

    erasures.run()

    assert erasures.is_erased(user_id)
    assert erasures.types(user_id)[-2:] == [UserErased.type, ErasureCompleted.type]
    assert erasures.holders(ADA, GRACE, ALAN) == [None, other, None]
    assert erasures.has_key(other)
    user = erasures.user(user_id)
    assert (user.status, user.email, user.name) == (Status.ERASED, ERASED, ERASED)
    assert user.erasure_completed


def test_the_completion_names_its_cause(erasures: Erasures) -> None:
    user_id, command = erasures.a_user(ADA), uuid4()
    erasures.done(erase(user_id, command))

    erasures.run()

    erased, completed = list(erasures.store.read_stream(USER.stream_of(user_id)))[-2:]
    metadata = erasures.codec.metadata(completed)
    assert metadata.actor == "process:erasures"
    assert (metadata.causation_id, metadata.correlation_id) == (erased.event_id, command)


def test_the_key_is_destroyed_before_the_erasure_is_completed(erasures: Erasures) -> None:
    user_id = erasures.a_user(ADA)
    erasures.done(erase(user_id))
    seen: list[bool] = []

    erasures.run(
        store=before_call(erasures.store, "append", lambda: seen.append(erasures.is_erased(user_id)))
    )

    assert seen == [True]


def test_every_key_is_destroyed_before_anything_is_cleaned_up(erasures: Erasures) -> None:
    ids = [erasures.a_user(f"user{number}@example.com") for number in range(5)]
    for user_id in ids:
        erasures.done(erase(user_id))

    cleanings: list[None] = []
    vault = replaced(erasures.vault, remove_residue=lambda _subjects: cleanings.append(None))
    erasures.process(vault=vault).run(lambda: False)

    assert all(map(erasures.is_erased, ids))
    assert cleanings == [], "it may take long, and has a thread of its own"
    assert erasures.owed() == dict.fromkeys(ids, "key-destroyed")
    assert [erasures.completions(user_id) for user_id in ids] == [0] * 5


def test_the_address_of_an_erased_user_can_be_registered(erasures: Erasures) -> None:
    user_id = erasures.a_user(ADA)
    erasures.done(erase(user_id))
    erasures.run()

    assert int(erasures.done(create(ADA))["user_id"]) != user_id


def test_listing_the_same_events_again_changes_nothing(erasures: Erasures) -> None:
    user_id = erasures.a_user(ADA)
    erasures.done(erase(user_id))
    erasures.run()
    head = erasures.store.head()

    erasures.listing().list_erasures(list(erasures.store.read_all(0, 100)), History(), History())
    assert erasures.owed() == {}, "a completed erasure of which the vault holds nothing is not listed again"
    erasures.run()

    assert erasures.store.head() == head
    assert erasures.completions(user_id) == 1


def test_a_second_erasure_of_a_user_changes_nothing(erasures: Erasures) -> None:
    user_id = erasures.a_user(ADA)
    erasures.done(erase(user_id))
    erasures.done(erase(user_id))
    erasures.run()
    head = erasures.store.head()

    erasures.done(erase(user_id))
    erasures.run()

    assert erasures.store.head() == head


def test_a_user_without_an_erasure_does_not_change(erasures: Erasures) -> None:
    user_id = erasures.a_user(ADA)
    erasures.done(rename(user_id))
    head = erasures.store.head()

    erasures.run()

    assert erasures.active() == [(user_id, ADA)]
    assert erasures.store.head() == head
    assert erasures.states(user_id) == [ClaimState.CONFIRMED]


def test_nothing_opens_the_events_of_an_erased_user(erasures: Erasures) -> None:
    user_id = erasures.a_user(ADA)
    erasures.done(erase(user_id))
    erasures.run()
    keyring = wiring.keyring_of(erasures.vault)([user_id])

    registered: Any
    registered, *_ = [
        erasures.codec.decode(recorded, subject=user_id, opener=keyring)
        for recorded in erasures.store.read_stream(USER.stream_of(user_id))
    ]

    assert (registered.email, registered.name) == (ERASED, ERASED)


def test_the_log_of_an_erasure_contains_no_personal_data(
    erasures: Erasures, log_text: Callable[[], str]
) -> None:
    user_id = erasures.a_user("canary-5f1d@example.com")
    erasures.done(change(user_id, "canary-77aa@example.com"))
    erasures.done(erase(user_id))

    erasures.run()

    assert '"action": "erased"' in log_text()
    assert "canary" not in log_text()


# --- claims ----------------------------------------------------------------------------------


def test_claims_are_released_after_a_change_and_a_deletion(erasures: Erasures) -> None:
    moved, deleted = erasures.a_user(ADA), erasures.a_user(GRACE)
    erasures.done(change(moved, ALAN))
    erasures.done(delete(deleted))

    erasures.run()

    assert erasures.holders(ADA, GRACE, ALAN) == [None, None, moved]
    assert erasures.has_key(deleted), "its data stays"


def test_deletions_that_follow_each_other_are_settled_together(erasures: Erasures) -> None:
    first, second = erasures.a_user(ADA), erasures.a_user(GRACE)
    erasures.done(delete(first))
    erasures.done(delete(second))
    held: list[list[int | None]] = []

    erasures.settling(pause=lambda _: held.append(erasures.holders(ADA, GRACE))).run(lambda: False)

    assert held == [[first, second]], "one pause, before both"
    assert erasures.holders(ADA, GRACE) == [None, None]


def test_a_deletion_does_not_ask_the_vault_for_owed_erasures(erasures: Erasures) -> None:
    for email in (ADA, GRACE):
        erasures.done(delete(erasures.a_user(email)))
    deleted = [each for each in erasures.store.read_all(0, 100) if each.type == UserDeleted.type]
    following = [item for each in deleted for item in (each, CaughtUp(each.position, each.event_id))]
    steps = Steps()

    erasures.process(
        **steps.watched(vault=erasures.vault),
        followed=replaced(erasures.store, follow=lambda *_, **__: iter(following)),
        monotonic_s=lambda: 100.0,
    ).run(lambda: False)

    assert steps.calls.count("vault.owed") == 1, "the look at the start"


def test_the_process_is_the_janitor_of_expired_reservations(erasures: Erasures) -> None:
    steps = Steps(3)
    with pytest.raises(Crash, match=r"store|vault"):
        erasures.service(**steps.watched(store=erasures.store, vault=erasures.vault)).handle(
            [create(ADA), create(GRACE)]
        )
    erasures.let_reservations_expire()

    erasures.run()

    assert erasures.expired() == 0


# --- dead letters ----------------------------------------------------------------------------


def test_dead_letters_of_a_user_are_recognised_after_the_key_is_destroyed(erasures: Erasures) -> None:
    user_id, other = erasures.a_user(ADA), erasures.a_user(GRACE)
    erasures.done(change(user_id, ALAN))
    erasures.done(erase(user_id))
    (registered, *_) = erasures.store.read_stream(USER.stream_of(user_id))
    command = str(erasures.codec.metadata(registered).command_id)
    theirs: list[dict[str, Any]] = [
        {"kind": "users.create", "body": {"input": {"email": " ALAN@example.com ", "name": "A"}}},
        {"kind": "users.rename", "body": {"input": {"user_id": user_id, "name": "A"}}},
        {"kind": "users.find", "body": {"email": ADA}},
        {"kind": "users.create", "body": {"input": {"nmae": "Some  Body"}}},
        {"kind": "users.create", "body": [[{"odd": f"<{ADA}>"}]]},
        {"unreadable": f'{{"email":"{ADA}'},
        {"unreadable": '"name":"some\\u0020BODY",'},
        {"kind": "users.create", "body": {"command_id": command, "input": None}},
        {"kind": "users.create", "body": {"input": {"email": ADA}}},
        {"unreadable": f"something about {user_id}"},
    ]
    not_theirs: list[dict[str, Any]] = [
        {"kind": "users.create", "body": {"input": {"email": GRACE, "name": "G"}}},
        {"kind": "users.create", "body": {"command_id": [], "input": {"email": "no address"}}},
        {"kind": "users.create", "body": {"command_id": str(uuid4()), "input": None}},
        {"kind": "users.create"},
        {"kind": "users.rename", "body": {"input": {"user_id": str(other), "name": "Some Body"}}},
        {"kind": "users.find", "body": {"email": f"not-{ADA}"}},
        {"unreadable": f"something about {other}"},
        {"unreadable": f"mail of x.{ADA}, awesome body"},
    ]
    letters = Letters(*theirs, *not_theirs)

    erasures.process().run(lambda: False)
    assert erasures.is_erased(user_id)
    erasures.cleaning(dead_letters=letters).clean()

    assert letters.items == not_theirs
    assert erasures.owed() == {}
    *_, completed = erasures.store.read_stream(USER.stream_of(user_id))
    assert erasures.codec.decode(completed) == ErasureCompleted(len(theirs))
    assert erasures.vault.owed_tags([user_id]) == {}


def test_requests_of_others_that_name_a_former_address_are_kept(erasures: Erasures) -> None:
    user_id, other = erasures.a_user(ADA), erasures.a_user(GRACE)
    erasures.done(erase(user_id))
    erasures.process().run(lambda: False)
    heir = int(erasures.done(create(ADA))["user_id"])
    of_others: list[dict[str, Any]] = [
        {"kind": "users.change-email", "body": {"input": {"user_id": str(other), "email": ADA}}},
        {"kind": "users.create", "body": {"input": {"email": ADA, "name": "Another Person"}}},
        {"unreadable": f"<{ADA}>"},
    ]
    letters = Letters(*of_others, {"unreadable": f"{ADA} of user-{user_id}"})

    erasures.cleaning(dead_letters=letters).clean()

    assert holder(erasures.vault, ADA) == heir
    assert letters.items == of_others


def test_waiting_erasures_share_one_pass_through_the_dead_letters(erasures: Erasures) -> None:
    ids = [erasures.a_user(f"user{number}@example.com") for number in range(5)]
    for user_id in ids:
        erasures.done(erase(user_id))
    letters = Letters(*[{"unreadable": f"user{number}@example.com"} for number in range(6)])

    erasures.run(dead_letters=letters)

    assert letters.items == [{"unreadable": "user5@example.com"}]
    assert letters.passes == 2, "one for the five, and one for requests that died late"
    assert all(map(erasures.is_erased, ids))


def test_an_unavailable_broker_delays_the_cleaning_alone(erasures: Erasures) -> None:
    first, second = erasures.a_user(ADA), erasures.a_user(GRACE)
    letters = Letters({"unreadable": ADA})
    down = replaced(letters, purge=unavailable)
    cleaning = erasures.cleaning(dead_letters=down)
    for user_id in (first, second):
        erasures.done(erase(user_id))
        erasures.process().run(lambda: False)
        cleaning.clean()
        assert erasures.is_erased(user_id)

    assert erasures.owed() == {first: "key-destroyed", second: "key-destroyed"}
    assert "unavailable" in erasures.why_owed(first)
    assert len(letters.items) == 1

    down.purge = letters.purge
    cleaning.clean()

    assert (letters.items, erasures.owed()) == ([], {})
    assert erasures.completions(first) == erasures.completions(second) == 1


def test_the_bytes_of_destroyed_keys_do_not_wait_for_the_broker(erasures: Erasures) -> None:
    erasures.done(erase(erasures.a_user(ADA)))
    erasures.process().run(lambda: False)
    removals: list[None] = []

    def remove_residue(_subjects: Sequence[int]) -> None:
        removals.append(None)

    vault = replaced(erasures.vault, remove_residue=remove_residue)
    cleaning = erasures.cleaning(vault=vault, dead_letters=replaced(Letters(), purge=unavailable))
    for _ in range(3):
        cleaning.clean()

    assert len(removals) == 1


def test_a_request_that_dies_after_the_erasure_is_removed(erasures: Erasures) -> None:
    command = uuid4()
    user_id, other = int(erasures.done(create(ADA, command))["user_id"]), erasures.a_user(GRACE)
    letters = Letters()
    cleaning = erasures.cleaning(dead_letters=letters)
    erasures.done(erase(user_id))
    erasures.process().run(lambda: False)
    cleaning.clean()
    of_other = {"kind": "users.rename", "body": {"input": {"user_id": str(other), "name": "Other"}}}

    letters.items += [
        {"kind": "users.rename", "body": {"input": {"user_id": str(user_id), "name": "Late"}}},
        {"kind": "users.create", "body": {"command_id": str(command), "input": {"name": "Late"}}},
        {"unreadable": f"late, of user-{user_id}"},
        of_other,
    ]
    cleaning.clean()

    assert letters.items == [of_other]
    passes = letters.passes
    cleaning.clean()
    assert letters.passes == passes, "it looks again only if the number changed"
