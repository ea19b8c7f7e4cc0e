"""Claims that a batch of registrations leaves: the next one confirms them with its reservations, or `settle` does."""

from __future__ import annotations

import pytest

from domain.kernel.errors import PartUnavailable
from domain.kernel.messages import Reply, Request
from domain.kernel.ports.vault import ClaimState
from domain.users.errors import EmailTaken
from tests.support.accounts import ADA, ALAN, GRACE, Accounts, change, create, delete, rename
from tests.support.parts import Steps, replaced, unavailable
from tests.support.vaults import holder
from workers.users.service import UsersService

RESERVED, CONFIRMED = [ClaimState.RESERVED], [ClaimState.CONFIRMED]


@pytest.fixture
def steps() -> Steps:
    return Steps()


@pytest.fixture
def service(accounts: Accounts, steps: Steps) -> UsersService:
    return accounts.service(**steps.watched(store=accounts.store, vault=accounts.vault))


def staged(service: UsersService, *batch: Request) -> list[Reply]:
    """The replies to a batch as the loop of a worker handles it."""
    return service.complete(service.begin(batch))


def test_a_batch_of_registrations_waits_for_the_vault_twice(service: UsersService, steps: Steps) -> None:
    for number in range(3):
        staged(service, create(f"{number}@example.com"))

    assert steps.calls == ["vault.reserve", "vault.data_keys", "store.append"] * 3


def test_the_next_reservations_confirm_what_was_left(accounts: Accounts, service: UsersService) -> None:
    (done,) = staged(service, create(ADA))
    assert isinstance(done, dict)
    user_id = int(done["user_id"])
    assert accounts.states(user_id) == RESERVED

    (other,) = staged(service, create(GRACE))

    assert accounts.states(user_id) == CONFIRMED
    assert isinstance(other, dict)
    assert accounts.states(int(other["user_id"])) == RESERVED
    assert staged(service, create(GRACE)) == [EmailTaken()]


def test_a_settlement_confirms_what_was_left_once(
    accounts: Accounts, service: UsersService, steps: Steps
) -> None:
    (done,) = staged(service, create(ADA))
    assert isinstance(done, dict)

    service.settle()
    service.settle()

    assert accounts.states(int(done["user_id"])) == CONFIRMED
    assert steps.calls.count("vault.settle_claims") == 1


def test_a_batch_that_reserves_nothing_confirms_what_was_left(
    accounts: Accounts, service: UsersService
) -> None:
    (done,) = staged(service, create(ADA))
    assert isinstance(done, dict)
    user_id = int(done["user_id"])

    staged(service, rename(user_id))

    assert accounts.states(user_id) == CONFIRMED


@pytest.mark.parametrize("follows", ["change", "delete"])
def test_an_address_that_was_left_unconfirmed_is_free_after_its_change(
    accounts: Accounts, service: UsersService, follows: str
) -> None:
    (done,) = staged(service, create(ADA))
    assert isinstance(done, dict)
    user_id = int(done["user_id"])

    if follows == "change":
        staged(service, change(user_id, GRACE))
        assert (holder(accounts.vault, ADA), holder(accounts.vault, GRACE)) == (None, user_id)
    else:
        staged(service, delete(user_id))

    (again,) = staged(service, create(ADA))
    assert isinstance(again, dict)


def test_a_repeated_registration_has_its_first_result_while_its_claim_is_left(service: UsersService) -> None:
    request = create(ADA)
    first = staged(service, request)

    assert staged(service, request) == first


@pytest.mark.parametrize("call", ["reserve", "settle_claims"])
def test_what_could_not_be_confirmed_is_left_again(accounts: Accounts, call: str) -> None:
    failing = replaced(accounts.vault)
    service = accounts.service(vault=failing)
    (done,) = staged(service, create(ADA))
    assert isinstance(done, dict)
    setattr(failing, call, unavailable)

    with pytest.raises(PartUnavailable):
        staged(service, create(GRACE)) if call == "reserve" else service.settle()
    delattr(failing, call)
    service.settle()

    assert accounts.states(int(done["user_id"])) == CONFIRMED


def test_a_worker_that_ends_before_a_confirmation_loses_nothing(accounts: Accounts) -> None:
    (done,) = staged(accounts.service(), create(ADA))
    assert isinstance(done, dict)
    user_id = int(done["user_id"])
    other = accounts.service()

    assert other.handle([create(ADA), create(ALAN)])[0] == EmailTaken()

    accounts.let_reservations_expire()
    accounts.claims().settle_expired()
    assert accounts.states(user_id) == CONFIRMED
    assert accounts.owner(ADA) == user_id
