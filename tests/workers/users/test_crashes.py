"""Crashed and paused workers: a crash at any step can be retried or settled, and no paused worker uses a lost claim."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from domain.kernel.messages import Reply, Request
from domain.kernel.ports.vault import ClaimState
from domain.users.account import RegistrationAbandoned, Status, UserErased
from domain.users.errors import EmailTaken, UserIsErased
from tests.support.accounts import ADA, GRACE, NEW_IDS, Accounts, change, create, erase, rename
from tests.support.parts import Steps, before_call, crashed, every_crash
from tests.support.vaults import are_destroyed, destroy, holder

SITUATIONS: dict[str, Callable[[Accounts], Request]] = {
    "register": lambda accounts: create(ADA, UUID(int=1)),
    "change": lambda accounts: change(accounts.a_user(GRACE), ADA, UUID(int=1)),
}
"""A command that takes the address ADA."""
each_situation = pytest.mark.parametrize("situation", SITUATIONS)


def crashes(folder: Path, situation: str) -> Iterator[tuple[str, Accounts, Request]]:
    """New accounts for each step at which the command can crash, after it has crashed there."""

    def run(accounts: Accounts, asked: Request) -> Callable[[Steps], object]:
        return lambda steps: accounts.service(
            **steps.watched(store=accounts.store, vault=accounts.vault)
        ).handle([asked])

    with closing(Accounts(folder / "counting")) as counted:
        places = every_crash(run(counted, SITUATIONS[situation](counted)))
    assert len(places) >= 8
    for at, after in places:
        with closing(Accounts(folder / f"{at}{after}")) as accounts:
            asked = SITUATIONS[situation](accounts)
            yield crashed(run(accounts, asked), at, after=after), accounts, asked


def is_stored(accounts: Accounts, asked: Request) -> bool:
    return any(
        str(accounts.codec.metadata(recorded).command_id) == asked.body["command_id"]
        for recorded in accounts.store.read_all(0, 100)
    )


@each_situation
def test_a_retry_completes_a_command_that_crashed_at_any_step(tmp_path: Path, situation: str) -> None:
    for where, accounts, asked in crashes(tmp_path, situation):
        reply = accounts.done(asked)

        owner = accounts.owner(ADA)
        assert int(reply["user_id"]) == owner, where
        accounts.claims().settle([owner])
        assert accounts.states(owner) == [ClaimState.CONFIRMED], where
        assert accounts.done(asked) == reply, where
        assert accounts.expired() == 0, where


@each_situation
def test_the_janitor_settles_a_command_that_crashed_at_any_step(tmp_path: Path, situation: str) -> None:
    for where, accounts, asked in crashes(tmp_path, situation):
        stored = is_stored(accounts, asked)

        accounts.run_the_janitor()

        assert accounts.expired() == 0, where
        assert (holder(accounts.vault, ADA) is not None) == stored, where
        rival, again = accounts.handle(create(ADA), asked)
        if stored:
            assert rival == EmailTaken(), where
            assert isinstance(again, dict), where
        else:
            assert isinstance(rival, dict), where
            assert again == EmailTaken(), where
        accounts.owner(ADA)


@each_situation
def test_a_crashed_command_can_run_after_the_janitor_released_its_claim(
    tmp_path: Path, situation: str
) -> None:
    for where, accounts, asked in crashes(tmp_path, situation):
        accounts.run_the_janitor()

        reply = accounts.done(asked)

        assert int(reply["user_id"]) == accounts.owner(ADA), where
        with_key = {user_id for user_id in NEW_IDS if accounts.has_key(user_id)}
        assert with_key == {user_id for user_id, _ in accounts.active()}, f"{where}: no key without a user"


@each_situation
def test_without_a_janitor_an_expired_address_can_be_registered(tmp_path: Path, situation: str) -> None:
    for where, accounts, asked in crashes(tmp_path, situation):
        stored = is_stored(accounts, asked)
        (early,) = accounts.handle(create(ADA))
        reserved = holder(accounts.vault, ADA) is not None
        accounts.let_reservations_expire()

        (late,) = accounts.handle(create(ADA))

        if stored:
            assert (early, late) == (EmailTaken(), EmailTaken()), where
        elif isinstance(early, dict):
            assert late == EmailTaken(), where
        else:
            assert reserved, where
            assert isinstance(late, dict), where
        accounts.owner(ADA)


# --- paused workers --------------------------------------------------------------------------


def paused(accounts: Accounts, at: str, meanwhile: Callable[[], object]) -> dict[str, Any]:
    """Store and vault of a worker that pauses before a call, `<part>.<method>`, while `meanwhile` runs."""
    parts: dict[str, Any] = {"store": accounts.store, "vault": accounts.vault}
    part, method = at.split(".")
    return parts | {part: before_call(parts[part], method, meanwhile)}


@pytest.mark.parametrize("rival", [True, False])
@pytest.mark.parametrize("paused_at", ["vault.data_keys", "store.append", "vault.settle_claims"])
@each_situation
def test_a_paused_worker_never_uses_an_address_that_was_released(
    accounts: Accounts, situation: str, paused_at: str, rival: bool
) -> None:
    asked = SITUATIONS[situation](accounts)
    rivals: list[Reply] = []

    def meanwhile() -> None:
        accounts.run_the_janitor()
        if rival:
            rivals.extend(accounts.handle(create(ADA)))

    (reply,) = accounts.service(**paused(accounts, paused_at, meanwhile)).handle([asked])

    owner = accounts.owner(ADA)
    if rival and paused_at != "vault.settle_claims":
        assert isinstance(rivals[0], dict)
        assert reply == EmailTaken()
        assert owner == int(rivals[0]["user_id"])
    else:
        assert rivals == ([EmailTaken()] if rival else [])
        assert isinstance(reply, dict)
        assert owner == int(reply["user_id"])
    accounts.run_the_janitor()
    accounts.claims().settle([owner])
    assert accounts.states(owner) == [ClaimState.CONFIRMED]
    assert accounts.owner(ADA) == owner


_CALLS = ["vault.reserve", "vault.data_keys", "store.read_streams", "store.append", "vault.settle_claims"]


@pytest.mark.parametrize("paused_at", _CALLS)
@each_situation
def test_a_command_run_by_two_workers_at_once_takes_effect_once(
    accounts: Accounts, situation: str, paused_at: str
) -> None:
    asked = SITUATIONS[situation](accounts)
    other: list[Reply] = []
    parts = paused(accounts, paused_at, lambda: other.extend(accounts.handle(asked)))

    (reply,) = accounts.service(**parts).handle([asked])

    assert isinstance(reply, dict)
    assert other in ([], [reply]), "the same result, if the worker came to that call"
    user_id = int(reply["user_id"])
    assert user_id == accounts.owner(ADA)
    assert accounts.handle(create(ADA)) == [EmailTaken()]
    accounts.run_the_janitor()
    accounts.claims().settle([user_id])
    assert accounts.states(user_id) == [ClaimState.CONFIRMED]


def test_the_late_append_of_an_abandoned_registration_conflicts(accounts: Accounts) -> None:
    abandoned: list[int] = []

    def meanwhile() -> None:
        abandoned.append(holder(accounts.vault, ADA) or 0)
        accounts.run_the_janitor()

    (reply,) = accounts.service(**paused(accounts, "store.append", meanwhile)).handle([create(ADA)])

    (user_id,) = abandoned
    assert accounts.types(user_id) == [RegistrationAbandoned.type]
    assert accounts.user(user_id).status is Status.UNKNOWN
    assert are_destroyed(accounts.vault, user_id)
    assert isinstance(reply, dict)
    assert int(reply["user_id"]) != user_id, "the command ran again for another user id"


def test_a_change_that_was_sealed_before_an_erasure_is_refused_after_it(accounts: Accounts) -> None:
    user_id = accounts.a_user(ADA)

    def meanwhile() -> None:
        accounts.done(erase(user_id))
        destroy(accounts.vault, user_id)

    parts = paused(accounts, "store.append", meanwhile)
    (reply,) = accounts.service(**parts).handle([change(user_id, GRACE)])

    assert reply == UserIsErased(user_id)
    assert accounts.types(user_id)[-1] == UserErased.type
    assert accounts.states(user_id) == []
    assert isinstance(accounts.done(create(GRACE)), dict)


def test_concurrent_commands_append_nothing_after_an_erasure(tmp_path: Path) -> None:
    with closing(Accounts(tmp_path, durable=True)) as accounts:
        for round_ in range(5):
            user_id = accounts.a_user(f"user{round_}@example.com")

            def write(number: int, user_id: int = user_id) -> list[Reply]:
                if number == 4:
                    return accounts.service().handle([erase(user_id)])
                return accounts.service().handle(
                    [rename(user_id, f"Name {number}"), change(user_id, f"{user_id}-{number}@example.com")]
                )

            with ThreadPoolExecutor(8) as pool:
                replies = [reply for some in pool.map(write, range(8)) for reply in some]

            types = accounts.types(user_id)
            assert types[-1] == UserErased.type
            assert types.count(UserErased.type) == 1
            done = [reply["version"] for reply in replies if isinstance(reply, dict)]
            assert max(done) == len(types) - 1
            assert {type(reply) for reply in replies if not isinstance(reply, dict)} <= {UserIsErased}
