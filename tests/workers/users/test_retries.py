"""Retried commands: the first result again, no second effect, and no claim that the account does not need."""

from __future__ import annotations

from uuid import uuid4

import pytest

from domain.kernel.errors import CommandIdReused, Kind, PartUnavailable
from domain.kernel.messages import Request
from domain.kernel.ports.vault import ClaimState
from domain.users.errors import EmailReserved, EmailTaken
from tests.support.accounts import ADA, ALAN, GRACE, Accounts, change, create, delete, erase, rename
from tests.support.builders import streams_of
from tests.support.parts import Unavailable, before_call, unavailable
from tests.support.vaults import destroy, holder


@pytest.mark.parametrize("meanwhile", ["nothing", "renamed", "address changed", "deleted", "erased"])
def test_a_retried_registration_returns_the_first_result(accounts: Accounts, meanwhile: str) -> None:
    command = uuid4()
    first = accounts.done(create(ADA, command))
    user_id = int(first["user_id"])
    then = {
        "renamed": rename(user_id),
        "address changed": change(user_id, GRACE),
        "deleted": delete(user_id),
        "erased": erase(user_id),
    }
    if meanwhile in then:
        accounts.done(then[meanwhile])
        accounts.claims().settle([user_id])
    versions = streams_of(accounts.store)

    assert accounts.done(create(ADA, command)) == first
    assert streams_of(accounts.store) == versions
    assert accounts.with_keys() == {user_id}


@pytest.mark.parametrize("kind", ["rename", "change", "delete", "erase"])
def test_a_retried_command_returns_the_first_result(accounts: Accounts, kind: str) -> None:
    command, user_id = uuid4(), accounts.a_user(ADA)
    asked = {
        "rename": rename(user_id, "Two", command),
        "change": change(user_id, GRACE, command),
        "delete": delete(user_id, command),
        "erase": erase(user_id, command),
    }[kind]
    first = accounts.done(asked)
    head = accounts.store.head()

    assert accounts.done(asked) == first
    assert accounts.store.head() == head


@pytest.fixture
def moved_twice(accounts: Accounts) -> tuple[int, Request]:
    """A user who changed from ADA to GRACE to ALAN, with settled claims; and the command that led to GRACE."""
    user_id = accounts.a_user(ADA)
    to_grace = change(user_id, GRACE, uuid4())
    accounts.done(to_grace)
    accounts.done(change(user_id, ALAN))
    accounts.claims().settle([user_id])
    assert accounts.states(user_id) == [ClaimState.CONFIRMED]
    return user_id, to_grace


def test_a_retried_change_does_not_claim_a_former_address(
    accounts: Accounts, moved_twice: tuple[int, Request]
) -> None:
    user_id, to_grace = moved_twice

    reply = accounts.done(to_grace)

    assert reply["version"] == 1, "the first result"
    assert accounts.active() == [(user_id, ALAN)]
    assert holder(accounts.vault, GRACE) is None
    assert accounts.states(user_id) == [ClaimState.CONFIRMED]


def test_a_retried_change_of_an_erased_user_leaves_no_claim(
    accounts: Accounts, moved_twice: tuple[int, Request]
) -> None:
    user_id, to_grace = moved_twice
    accounts.done(erase(user_id))
    destroy(accounts.vault, user_id)

    accounts.handle(to_grace)

    assert accounts.states(user_id) == []
    assert holder(accounts.vault, GRACE) is None


def test_a_retried_change_with_another_address_claims_nothing(accounts: Accounts) -> None:
    user_id, command = accounts.a_user(ADA), uuid4()
    accounts.done(change(user_id, GRACE, command))

    accounts.handle(change(user_id, ALAN, command))  # a command id belongs to one command

    assert accounts.active() == [(user_id, GRACE)]
    assert holder(accounts.vault, ALAN) is None
    assert isinstance(accounts.done(create(ALAN)), dict)


def test_the_command_id_of_a_registration_is_refused_for_another_command(accounts: Accounts) -> None:
    command = uuid4()
    user_id = int(accounts.done(create(ADA, command))["user_id"])
    other = accounts.a_user(GRACE)

    replies = accounts.handle(
        rename(user_id, command=command),
        change(user_id, ALAN, command),
        change(other, ALAN, command),
        delete(other, command),
    )

    assert replies == [CommandIdReused(str(command))] * 4
    assert holder(accounts.vault, ALAN) is None
    assert len(accounts.active()) == 2


def test_the_command_id_of_another_command_is_refused_for_a_registration(accounts: Accounts) -> None:
    command = uuid4()
    user_id = accounts.a_user(ADA)
    accounts.done(rename(user_id, command=command))

    assert accounts.handle(create(GRACE, command)) == [CommandIdReused(str(command))]

    assert holder(accounts.vault, GRACE) is None, "the address is free at once"
    assert isinstance(accounts.done(create(GRACE)), dict)


# --- outages ---------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["store", "vault"])
def test_a_registration_during_an_outage_has_no_effect_and_can_be_retried(
    accounts: Accounts, part: str
) -> None:
    asked = create(ADA, uuid4())

    with pytest.raises(PartUnavailable) as refused:
        accounts.service(**{part: Unavailable()}).handle([asked])

    assert refused.value.kind is Kind.UNAVAILABLE
    assert accounts.active() == []
    first = accounts.done(asked)
    assert accounts.active() == [(int(first["user_id"]), ADA)]


def test_an_address_without_a_stored_event_is_reserved_and_not_taken(accounts: Accounts) -> None:
    with pytest.raises(PartUnavailable):
        accounts.service(store=before_call(accounts.store, "append", unavailable)).handle([create(ADA)])

    # "Taken by another user" would make the caller look for a user that does not exist.
    assert accounts.handle(create(ADA)) == [EmailReserved()]

    accounts.let_reservations_expire()
    accounts.done(create(ADA))
    assert accounts.handle(create(ADA)) == [EmailTaken()]


def test_a_failed_confirmation_is_completed_by_a_retry(accounts: Accounts) -> None:
    asked = create(ADA, uuid4())
    with pytest.raises(PartUnavailable):
        accounts.service(vault=before_call(accounts.vault, "settle_claims", unavailable)).handle([asked])
    assert len(accounts.active()) == 1

    reply = accounts.done(asked)

    assert accounts.states(int(reply["user_id"])) == [ClaimState.CONFIRMED]
