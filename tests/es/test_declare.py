"""Events, commands and refusals in few lines: what the decorators make, and what they refuse."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError
from typing import Annotated, Any

import pytest

import es
from domain.kernel.errors import AnsweredError, Kind
from tests.support.shelves import OpenShelf, PutBook, ShelfIsFull, ShelfNotOpen, ShelfOpened


@es.event("wallet-opened.v1")
class WalletOpened(es.Event):
    currency: str
    note: str = ""


@es.command("wallets.open", creates=True, done="opened {wallet_id}", question="Open it?", reads=False)
class OpenTheWallet(es.Command):
    """Open a wallet."""

    wallet_id: es.Id
    note: Annotated[str, es.text(20)] = "none"


@es.command()
class Tick(es.Command):
    pass


# --- events and commands ---------------------------------------------------------------------


def test_an_event_is_a_frozen_slotted_dataclass_with_its_wire_name() -> None:
    opened = WalletOpened("EUR")

    assert (opened.type, opened.currency, opened.note) == ("wallet-opened.v1", "EUR", "")
    assert opened == WalletOpened("EUR", "")
    assert "currency" in vars(WalletOpened)["__slots__"]
    with pytest.raises(FrozenInstanceError):
        opened.currency = "USD"  # type: ignore[misc]  # type checkers know it as well


def test_type_checkers_know_the_fields() -> None:
    with pytest.raises(TypeError):
        WalletOpened()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        OpenTheWallet(wallet=1)  # type: ignore[call-arg]


def test_a_command_has_its_names_and_texts() -> None:
    assert (OpenTheWallet.wire, OpenTheWallet.request) == ("open-the-wallet", "wallets.open")
    assert (OpenTheWallet.creates, OpenTheWallet.reads) == (True, False)
    assert (OpenTheWallet.done, OpenTheWallet.question) == ("opened {wallet_id}", "Open it?")
    assert (Tick.wire, Tick.request, Tick.creates, Tick.reads, Tick.in_group) == (
        "tick",
        "",
        False,
        True,
        True,
    )


@pytest.mark.parametrize(
    ("name", "wire"),
    [
        ("OpenWallet", "open-wallet"),
        ("Open", "open"),
        ("SendHTTPCall", "send-http-call"),
        ("Use2Keys", "use2-keys"),
    ],
)
def test_the_wire_name_of_a_command_is_its_class_name_in_kebab_case(name: str, wire: str) -> None:
    def class_() -> Any:
        return type(name, (es.Command,), {})

    assert es.command("wallets.do")(class_()).wire == wire
    assert es.command("wallets.do", wire="kept-name")(class_()).wire == "kept-name"


@pytest.mark.parametrize(
    "name", ["", "WalletOpened", "wallet-opened", "wallet opened.v1", "wallet-opened.v0", "a..v1"]
)
def test_an_event_type_of_another_form_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="has not the form"):
        es.event(name)


@pytest.mark.parametrize(
    "request_", ["wallets", "wallets.", "Wallets.open", "wallets.open.now", "wallets.o pen"]
)
def test_a_request_of_another_form_is_refused(request_: str) -> None:
    with pytest.raises(ValueError, match="has not the form"):
        es.command(request_)


def test_a_class_with_another_base_is_refused() -> None:
    class Neither:
        pass

    with pytest.raises(TypeError, match=r"must be a subclass of es\.Event"):
        es.event("wallet-opened.v1")(Neither)  # type: ignore[type-var]
    with pytest.raises(TypeError, match=r"must be a subclass of es\.Command"):
        es.command("wallets.open")(Neither)  # type: ignore[type-var]


# --- refusals --------------------------------------------------------------------------------

InsufficientFunds = es.refusal(
    "insufficient-funds", "the wallet holds {balance}, not {amount}", "Deposit {amount}."
)


def test_a_refusal_says_what_happened_and_what_to_do() -> None:
    refused = InsufficientFunds(balance=3, amount=5)

    assert str(refused) == "the wallet holds 3, not 5"
    assert refused.to_wire() == {
        "code": "insufficient-funds",
        "kind": "refused",
        "message": "the wallet holds 3, not 5",
        "hint": "Deposit 5.",
    }
    assert isinstance(refused, es.Refusal)
    assert AnsweredError.from_wire(refused.to_wire()).kind is Kind.REFUSED


def test_refusals_are_equal_by_their_fields_and_told_apart_by_their_class() -> None:
    assert InsufficientFunds(balance=3, amount=5) == InsufficientFunds(balance=3, amount=5)
    assert InsufficientFunds(balance=3, amount=5) != InsufficientFunds(balance=3, amount=6)
    assert ShelfIsFull(limit=3) != ShelfNotOpen()
    assert repr(InsufficientFunds(balance=3, amount=5)) == "InsufficientFunds(balance=3, amount=5)"


def test_a_thing_that_does_not_exist_has_the_kind_not_found() -> None:
    assert (ShelfNotOpen().kind, ShelfNotOpen().code) == (Kind.NOT_FOUND, "shelf-not-open")
    assert not isinstance(ShelfNotOpen(), es.Refusal)


@pytest.mark.parametrize("given", [{"balance": 3}, {"balance": 3, "amount": 5, "more": 1}, {}])
def test_missing_and_unknown_fields_are_refused_when_it_is_made(given: dict[str, int]) -> None:
    with pytest.raises(TypeError, match="takes the fields"):
        InsufficientFunds(**given)


@pytest.mark.parametrize("value", [es.Personal("Ada"), es.Sealed("…"), es.ERASED, es.Unreadable("tampered")])
def test_a_personal_value_is_refused_by_field(value: object) -> None:
    with pytest.raises(TypeError, match="amount is personal data"):
        InsufficientFunds(balance=3, amount=value)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("Insufficient", "no"),
        ("two words", "no"),
        ("ok", "{}"),
        ("ok", "{a.b}"),
        ("ok", "{kind}"),
        ("ok", "{command_id}"),
    ],
)
def test_a_code_or_a_field_of_another_form_is_refused(code: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"has not the form|is no name"):
        es.refusal(code, message)


# --- what the outside feature became ---------------------------------------------------------


def test_the_outside_feature_is_declared_with_it() -> None:
    assert (ShelfOpened.type, OpenShelf.wire, PutBook.wire) == ("shelf-opened.v1", "open-shelf", "put-book")
    assert pickle.loads(pickle.dumps(PutBook(1, "North"))) == PutBook(1, "North")
