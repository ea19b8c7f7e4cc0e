"""Commands whose sender relies on the answer: the user's stream keeps a refusal, and a cancelled command has no effect."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from domain.kernel.messages import Request
from tests.support.accounts import ADA, ALAN, GRACE, Accounts, change, create, delete, rename


def asking(request: Request, **flags: Any) -> Request:
    return Request(request.kind, {**request.body, **flags})


def code(accounts: Accounts, request: Request) -> str:
    (reply,) = accounts.service().handle([request])
    return getattr(reply, "code", "done")


def test_an_address_that_was_taken_stays_the_answer_when_it_is_free(accounts: Accounts) -> None:
    user_id, holder = accounts.a_user(ADA), accounts.a_user(GRACE)
    asked = asking(change(user_id, GRACE, uuid4()), remember=True)

    assert code(accounts, asked) == "email-taken"
    accounts.done(delete(holder))
    accounts.claims().settle([holder])

    assert code(accounts, asked) == "email-taken"
    assert code(accounts, change(user_id, GRACE)) == "done", "another command may have it"


def test_a_refusal_of_a_closed_account_is_remembered(accounts: Accounts) -> None:
    user_id = accounts.a_user(ADA)
    accounts.done(delete(user_id))
    asked = asking(rename(user_id, "Two", uuid4()), remember=True)

    assert [code(accounts, asked) for _ in range(2)] == ["user-deleted"] * 2
    assert [event.type for event in accounts.store.read_stream(f"user-{user_id}")][2:] == [
        "command-remembered.v1"
    ]


def test_a_cancelled_change_takes_no_address(accounts: Accounts) -> None:
    user_id = accounts.a_user(ADA)
    asked = change(user_id, ALAN, uuid4())

    assert code(accounts, asking(asked, cancel=True)) == "command-cancelled"
    assert code(accounts, asked) == "command-cancelled"
    accounts.a_user(ALAN)  # raises if the address is taken


def test_a_registration_cannot_be_remembered(accounts: Accounts) -> None:
    assert code(accounts, asking(create(ADA), remember=True)) == "invalid-input"
    assert code(accounts, asking(create(ADA), cancel=True)) == "invalid-input"


def test_a_registration_is_refused_under_the_id_of_another(accounts: Accounts) -> None:
    command: UUID = uuid4()
    accounts.done(create(ADA, command))

    assert code(accounts, create(GRACE, command)) == "command-id-reused"
    accounts.a_user(GRACE)  # raises if the address is taken
