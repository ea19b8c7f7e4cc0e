"""Batches of the `users` worker: one durable write for all, in order, and one failure does not fail the others."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest

from domain.kernel.errors import EsError, PartUnavailable
from domain.kernel.messages import Reply, Request
from domain.users.errors import EmailReserved, EmailTaken, UserIsDeleted
from tests.support.accounts import ADA, ALAN, GRACE, Accounts, change, create, delete, rename
from tests.support.parts import Steps, unavailable


def test_a_batch_is_one_reservation_one_append_and_one_confirmation(accounts: Accounts) -> None:
    user_id = accounts.a_user(ADA)
    steps = Steps()
    service = accounts.service(**steps.watched(store=accounts.store, vault=accounts.vault))
    batch = [create(f"user{number}@example.com") for number in range(200)]

    replies = service.handle([*batch, change(user_id, GRACE), rename(5)])

    assert [isinstance(reply, dict) for reply in replies] == [True] * 201 + [False]
    writes = [call for call in steps.calls if call != "store.read_stream"]
    assert writes == ["vault.reserve", "vault.data_keys", "store.append", "vault.confirm"]
    assert steps.calls.count("store.read_stream") == 2, "a new stream is not loaded"


def test_replies_are_in_the_order_of_the_requests(accounts: Accounts) -> None:
    ids = [accounts.a_user(f"old{number}@example.com") for number in range(6)]
    kinds: list[Callable[[int], Request]] = [
        lambda id_: rename(id_),
        lambda id_: change(id_, f"new{id_}@example.com"),
        lambda id_: delete(id_),
        lambda id_: rename(id_ + 5000),
        lambda id_: change(id_, "old0@example.com"),
        lambda id_: create("wrong"),
    ]

    replies = accounts.handle(*(kind(id_) for kind, id_ in zip(kinds, ids, strict=True)))

    shown = [int(reply["user_id"]) if isinstance(reply, dict) else type(reply).__name__ for reply in replies]
    assert shown == [*ids[:3], "UserNotFound", "EmailTaken", "InvalidInput"]


def test_the_first_of_several_registrations_of_one_address_succeeds(accounts: Accounts) -> None:
    first, *others = accounts.handle(*(create(ADA) for _ in range(5)))

    assert isinstance(first, dict)
    winner = int(first["user_id"])
    assert others == [EmailTaken()] * 4
    assert accounts.active() == [(winner, ADA)]
    assert accounts.with_keys() == {winner}


def test_a_duplicate_registration_in_a_batch_is_one_user(accounts: Accounts) -> None:
    command = uuid4()

    first, second = accounts.handle(create(ADA, command), create(ADA, command))

    assert first == second
    assert len(accounts.active()) == 1


def test_commands_to_one_user_in_a_batch_see_each_other(accounts: Accounts) -> None:
    user_id = accounts.a_user(ADA)

    replies = accounts.handle(
        rename(user_id, "One"), rename(user_id, "Two"), delete(user_id), rename(user_id)
    )

    assert [reply["version"] for reply in replies if isinstance(reply, dict)] == [1, 2, 3]
    assert replies[3] == UserIsDeleted(user_id)


def test_an_address_that_a_batch_releases_can_be_reserved_in_it(accounts: Accounts) -> None:
    user_id, other = accounts.a_user(ADA), accounts.a_user(GRACE)

    replies = accounts.handle(delete(user_id), create(ADA), change(other, ALAN), create(GRACE))

    assert all(isinstance(reply, dict) for reply in replies)
    assert sorted(email for _, email in accounts.active()) == [ADA, ALAN, GRACE]


def test_without_new_ids_only_registrations_fail(accounts: Accounts) -> None:
    user_id = accounts.a_user(ADA)
    service = accounts.service(take_ids=unavailable)

    refused, *done = service.handle([create(GRACE), rename(user_id), change(user_id, ALAN), delete(user_id)])

    assert isinstance(refused, PartUnavailable)
    assert [isinstance(reply, dict) for reply in done] == [True] * 3
    assert accounts.vault.holder(GRACE) is None


@pytest.mark.parametrize("asks_for", ["the damaged user's address", "a change of the damaged user"])
def test_a_damaged_stream_does_not_fail_other_commands(accounts: Accounts, asks_for: str) -> None:
    damaged = accounts.a_user(ADA)
    accounts.damage(damaged)
    bad = create(ADA) if asks_for == "the damaged user's address" else change(damaged, ALAN)

    first, refused, last = accounts.handle(create(GRACE), bad, create("last@example.com"))

    assert isinstance(first, dict)
    assert isinstance(refused, EsError)
    assert isinstance(last, dict)


def test_one_of_fifty_concurrent_registrations_of_an_address_succeeds(tmp_path: Path) -> None:
    with closing(Accounts(tmp_path, durable=True)) as accounts:
        services = [accounts.service() for _ in range(5)]

        def register(number: int) -> Reply:
            (reply,) = services[number % 5].handle([create(ADA)])
            return reply

        with ThreadPoolExecutor(10) as pool:
            replies = list(pool.map(register, range(50)))

        assert [type(reply) for reply in replies].count(dict) == 1
        assert {type(reply) for reply in replies} <= {dict, EmailTaken, EmailReserved}
        assert len(accounts.active()) == 1
