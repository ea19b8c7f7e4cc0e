"""Addresses with a domain beyond ASCII: one user for all spellings, also beside the claims of earlier versions."""

from __future__ import annotations

from uuid import uuid4

from domain.kernel.events import Metadata
from domain.kernel.orders import Done, Order
from domain.kernel.personal import Personal
from domain.kernel.ports.vault import ClaimId, ClaimRequest
from domain.users.account import USER
from domain.users.commands import RegisterUser, UserCommand
from domain.users.errors import EmailTaken
from tests.support.accounts import Accounts, change, create, delete
from tests.support.read_side import ReadSide
from tests.support.vaults import holder

UNICODE, PUNYCODE = "ada@exämple.com", "ada@xn--exmple-cua.com"


def registered_by_an_earlier_version(accounts: Accounts, email: str) -> int:
    """A user whose address is stored and claimed as it was given."""
    (user_id,), command_id, reservation = accounts.take_ids(1), uuid4(), uuid4()
    claim = ClaimRequest(email, user_id, command_id, reservation, registers=True)
    accounts.vault.reserve([claim], now_us=accounts.now_us)
    command = RegisterUser(user_id, Personal(email), Personal("Ada"), reservation)
    metadata = Metadata(command_id, command.wire, command_id, command_id, "uid:1000")
    order: Order[UserCommand] = Order(command, USER.stream_of(user_id), user_id, metadata)
    assert isinstance(accounts.handler().handle([order])[0], Done)
    accounts.vault.settle_claims(confirmed=[ClaimId(user_id, reservation)], now_us=accounts.now_us)
    return user_id


def test_one_user_has_an_address_in_all_its_spellings(accounts: Accounts) -> None:
    user_id = accounts.a_user(PUNYCODE)

    assert accounts.handle(create(UNICODE), create(PUNYCODE)) == [EmailTaken(), EmailTaken()]
    assert accounts.active() == [(user_id, UNICODE)]


def test_the_claim_of_an_earlier_version_holds_for_every_spelling(accounts: Accounts) -> None:
    user_id, other = registered_by_an_earlier_version(accounts, PUNYCODE), accounts.a_user()

    assert accounts.handle(create(UNICODE), create(PUNYCODE), change(other, UNICODE)) == [EmailTaken()] * 3
    assert accounts.with_keys() - {user_id, other} == {
        subject for subject in accounts.with_keys() if accounts.is_erased(subject)
    }, "no key is left for the refused registrations"
    accounts.done(change(user_id, UNICODE))
    assert (holder(accounts.vault, UNICODE), holder(accounts.vault, PUNYCODE)) == (user_id, None)
    assert accounts.handle(create(PUNYCODE), change(other, PUNYCODE)) == [EmailTaken()] * 2

    accounts.done(delete(user_id))
    accounts.claims().settle([user_id])
    assert accounts.done(create(PUNYCODE))["user_id"] != str(user_id)


def test_a_deleted_user_of_an_earlier_version_frees_every_spelling(accounts: Accounts) -> None:
    user_id = registered_by_an_earlier_version(accounts, PUNYCODE)
    accounts.done(delete(user_id))

    assert accounts.done(create(UNICODE))["user_id"] != str(user_id), "its claim is settled on demand"


def test_a_repeated_registration_of_an_earlier_version_returns_its_user(accounts: Accounts) -> None:
    user_id = registered_by_an_earlier_version(accounts, PUNYCODE)
    (registered,) = accounts.store.read_stream(USER.stream_of(user_id))
    command_id = accounts.codec.metadata(registered).command_id

    reply = accounts.done(create(PUNYCODE, command_id))

    assert (reply["user_id"], reply["version"]) == (str(user_id), 0)


def test_a_user_is_found_by_every_spelling(read_side: ReadSide) -> None:
    earlier = registered_by_an_earlier_version(read_side, PUNYCODE)
    now = read_side.a_user("grace@bücher.example")
    read_side.project()

    found = [
        read_side.answer("users.find", email=email)["user_id"]
        for email in (UNICODE, PUNYCODE, "GRACE@xn--bcher-kva.example", "grace@bücher.example")
    ]

    assert found == [str(earlier)] * 2 + [str(now)] * 2
