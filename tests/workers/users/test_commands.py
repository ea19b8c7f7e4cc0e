"""Commands to the `users` worker: effects, refusals, wrong input, and batches with one durable write for all."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest

from domain.kernel.errors import EsError, InvalidInput, PartUnavailable, UnknownRequest
from domain.kernel.messages import Reply, Request
from domain.kernel.personal import Personal
from domain.kernel.ports.vault import ClaimState
from domain.users.account import USER, Status
from domain.users.errors import EmailReserved, EmailTaken, UserIsDeleted, UserIsErased, UserNotFound
from tests.support.accounts import (
    ADA,
    ALAN,
    GRACE,
    Accounts,
    change,
    create,
    delete,
    erase,
    rename,
    request,
)
from tests.support.parts import Steps, unavailable
from tests.support.vaults import holder


def test_the_reply_to_a_registration_has_user_id_version_and_position(accounts: Accounts) -> None:
    command = uuid4()

    reply = accounts.done(create(ADA, command))

    user_id = int(reply["user_id"])
    assert reply == {"command_id": str(command), "user_id": str(user_id), "version": 0, "position": 1}
    assert accounts.active() == [(user_id, ADA)]
    assert accounts.states(user_id) == [ClaimState.CONFIRMED]


def test_every_command_takes_effect(accounts: Accounts) -> None:
    user_id = accounts.a_user(ADA)

    accounts.done(rename(user_id, "Countess"))
    accounts.done(change(user_id, GRACE))
    assert accounts.user(user_id).name == Personal("Countess")
    assert accounts.active() == [(user_id, GRACE)]
    accounts.done(delete(user_id))
    assert accounts.user(user_id).status is Status.DELETED
    accounts.done(erase(user_id))
    assert accounts.user(user_id).status is Status.ERASED


def test_a_stored_event_is_sealed_and_names_command_and_actor(accounts: Accounts) -> None:
    command = uuid4()
    user_id = accounts.a_user(ADA)
    accounts.done(change(user_id, "canary-77aa@example.com", command))

    (recorded,) = accounts.store.read_stream(USER.stream_of(user_id), 1)

    metadata = accounts.codec.metadata(recorded)
    assert (metadata.command_id, metadata.command, metadata.actor) == (command, "change-email", "uid:1000")
    assert (metadata.correlation_id, metadata.causation_id) == (command, command)
    assert b"canary" not in recorded.data + recorded.metadata + recorded.stream.encode()


def test_a_command_without_a_change_stores_nothing(accounts: Accounts) -> None:
    user_id = accounts.a_user(ADA)
    head = accounts.store.head()

    replies = accounts.handle(rename(user_id, "Some Body"), change(user_id, ADA.upper()))

    assert [reply["version"] for reply in replies if isinstance(reply, dict)] == [0, 0]
    assert accounts.store.head() == head
    assert accounts.states(user_id) == [ClaimState.CONFIRMED]


# --- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize("email", [ADA, "ADA@Example.COM", "  ada@example.com "])
def test_a_taken_address_is_refused_in_any_spelling(accounts: Accounts, email: str) -> None:
    first = accounts.a_user(ADA)
    head = accounts.store.head()

    assert accounts.handle(create(email)) == [EmailTaken()]

    assert accounts.store.head() == head
    assert accounts.with_keys() == {first}, "no key for a refused registration"


def test_commands_for_missing_deleted_and_erased_users_hold_no_address(accounts: Accounts) -> None:
    deleted, erased = accounts.a_user(ADA), accounts.a_user(GRACE)
    accounts.handle(delete(deleted), erase(erased))

    replies = accounts.handle(
        change(5, "new5@example.com"),
        change(deleted, "new6@example.com"),
        change(erased, "new7@example.com"),
        rename(5),
        rename(deleted),
        rename(erased),
        delete(5),
        erase(5),
    )

    refusals = [UserNotFound(5), UserIsDeleted(deleted), UserIsErased(erased)]
    assert replies == [*refusals, *refusals, UserNotFound(5), UserNotFound(5)]
    assert accounts.holders(*(f"new{number}@example.com" for number in (5, 6, 7))) == [None] * 3
    assert list(accounts.store.read_stream(USER.stream_of(5))) == []


def test_two_users_cannot_swap_their_addresses(accounts: Accounts) -> None:
    ada, grace = accounts.a_user(ADA), accounts.a_user(GRACE)

    assert accounts.handle(change(ada, GRACE), change(grace, ADA)) == [EmailTaken(), EmailTaken()]
    assert accounts.active() == [(ada, ADA), (grace, GRACE)]


def test_a_user_changes_back_and_forth_between_two_addresses(accounts: Accounts) -> None:
    user_id = accounts.a_user(ADA)

    for email in (GRACE, ADA, GRACE, ADA, ADA, GRACE):
        accounts.done(change(user_id, email))
        assert accounts.active() == [(user_id, email)]

    assert accounts.types(user_id).count("user-email-changed.v1") == 5
    accounts.claims().settle([user_id])
    assert accounts.states(user_id) == [ClaimState.CONFIRMED]
    assert isinstance(accounts.done(create(ADA)), dict)


# --- wrong input -----------------------------------------------------------------------------


def _create_body(**body: object) -> Request:
    return Request("users.create", {"input": {"email": ADA, "name": "A"}, **body})


@pytest.mark.parametrize(
    ("asked", "wrong"),
    [
        (create("no address"), "email"),
        (request("create", email=ADA, name=""), "name"),
        (request("create", email=ADA), "name"),
        (request("create", email=ADA, name="Ada", admin="yes"), "input"),
        (request("rename", user_id="x", name="Ada"), "user_id"),
        (request("rename", user_id="-1", name="Ada"), "user_id"),
        (request("erase", user_id="1000", basis=""), "basis"),
        (_create_body(input=[], command_id=str(uuid4())), "input"),
        (Request("users.create", {}), "input"),
        (_create_body(command_id="1"), "command_id"),
        (_create_body(), "command_id"),
        (_create_body(command_id=5), "command_id"),
        (_create_body(input={"email": 5, "name": "A"}, command_id=str(uuid4())), "email"),
    ],
    ids=range(13),
)
def test_a_wrong_request_is_refused_by_field_and_fails_alone(
    accounts: Accounts, asked: Request, wrong: str
) -> None:
    refused, done = accounts.handle(asked, create(GRACE))

    assert isinstance(refused, InvalidInput)
    assert refused.field == wrong
    assert isinstance(done, dict)
    assert [email for _, email in accounts.active()] == [GRACE]


def test_an_unknown_request_fails_alone(accounts: Accounts) -> None:
    refused, done = accounts.handle(Request("users.explode", {}), create(GRACE))

    assert refused == UnknownRequest("users.explode")
    assert isinstance(done, dict)


def test_a_refusal_of_wrong_input_does_not_repeat_the_input(accounts: Accounts) -> None:
    canary = "canary-5f1d"
    wrong = [
        create(f"{canary}@@example.com"),
        request("create", email=ADA, name=f"{canary}\x00"),
        request("rename", user_id=canary, name="Ada"),
        request("create", email=ADA, name="Ada", **{canary: "1"}),
    ]

    replies = accounts.handle(*wrong)

    assert all(isinstance(reply, EsError) for reply in replies)
    assert canary not in json.dumps([reply.to_wire() for reply in replies if isinstance(reply, EsError)])


# --- batches ---------------------------------------------------------------------------------


def test_a_batch_is_one_reservation_one_append_and_one_confirmation(accounts: Accounts) -> None:
    user_id = accounts.a_user(ADA)
    steps = Steps()
    service = accounts.service(**steps.watched(store=accounts.store, vault=accounts.vault))
    batch = [create(f"user{number}@example.com") for number in range(200)]

    replies = service.handle([*batch, change(user_id, GRACE), rename(5)])

    assert [isinstance(reply, dict) for reply in replies] == [True] * 201 + [False]
    of_the_vault = ["vault.claims_of", "vault.reserve", "vault.data_keys"]
    assert steps.calls == [*of_the_vault, "store.read_streams", "store.append", "vault.settle_claims"]


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
    assert holder(accounts.vault, GRACE) is None


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
