"""The process manager of erasures: key, claims and dead letters are removed, and the erasure is completed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from adapters import wiring
from domain.kernel.errors import PartUnavailable
from domain.kernel.personal import ERASED
from domain.kernel.ports.vault import ClaimState
from domain.users.account import USER, ErasureCompleted, Status, UserErased
from tests.support.accounts import ADA, ALAN, GRACE, change, create, delete, erase, rename
from tests.support.erasures import Erasures
from tests.support.parts import Crash, Steps, before_call, unavailable

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


def test_the_address_of_an_erased_user_can_be_registered(erasures: Erasures) -> None:
    user_id = erasures.a_user(ADA)
    erasures.done(erase(user_id))
    erasures.run()

    assert int(erasures.done(create(ADA))["user_id"]) != user_id


def test_reacting_to_the_same_events_again_changes_nothing(erasures: Erasures) -> None:
    user_id = erasures.a_user(ADA)
    erasures.done(erase(user_id))
    erasures.run()
    head = erasures.store.head()

    erasures.run()
    erasures.process().react(list(erasures.store.read_all(0, 100)))

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


def test_dead_letters_of_a_user_are_purged_before_the_key_is_destroyed(erasures: Erasures) -> None:
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
    purged: list[list[bool]] = []

    def purge(is_theirs: Callable[[dict[str, Any]], bool]) -> int:
        assert not erasures.is_erased(user_id), "only the key opens the addresses"
        purged.append([is_theirs(request) for request in (*theirs, *not_theirs)])
        return 1

    erasures.run(purge_dead_letters=purge)

    assert purged == [[True] * len(theirs) + [False] * len(not_theirs)]
    assert erasures.is_erased(user_id)


def test_waiting_erasures_share_one_pass_through_the_dead_letters(erasures: Erasures) -> None:
    ids = [erasures.a_user(f"user{number}@example.com") for number in range(5)]
    for user_id in ids:
        erasures.done(erase(user_id))
    passes: list[list[bool]] = []

    def purge(is_theirs: Callable[[dict[str, Any]], bool]) -> int:
        passes.append([is_theirs({"unreadable": f"user{number}@example.com"}) for number in range(6)])
        return 0

    erasures.run(purge_dead_letters=purge)

    assert passes == [[True] * 5 + [False]]
    assert all(map(erasures.is_erased, ids))


def test_an_erasure_waits_for_an_unavailable_broker(erasures: Erasures) -> None:
    user_id = erasures.a_user(ADA)
    erasures.done(erase(user_id))

    with pytest.raises(PartUnavailable):
        erasures.run(purge_dead_letters=unavailable)
    assert not erasures.is_erased(user_id)

    erasures.run(purge_dead_letters=lambda *_: 0)

    assert erasures.is_erased(user_id)
