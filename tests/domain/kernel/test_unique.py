"""What an aggregate declares as unique: which commands take it, and what a stream says about it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.kernel.commands import Command
from domain.kernel.events import Event
from domain.kernel.personal import Personal
from domain.kernel.unique import Unique, normal_text, takers
from tests.support.wallets import (
    WALLET,
    CloseWallet,
    OpenWallet,
    RenameWallet,
    WalletClosed,
    WalletOpened,
    WalletRenamed,
)

LABEL, NUMBER = WALLET.unique
OPENED, RENAMED, CLOSED = WalletOpened(1, "main", "5"), WalletRenamed("other"), WalletClosed()


def test_a_command_takes_a_value_if_all_its_fields_are_inputs() -> None:
    taken = {
        command: [rule.name for rule in WALLET.unique if rule.is_taken_with(command)]
        for command in (OpenWallet, RenameWallet, CloseWallet)
    }

    assert taken == {OpenWallet: ["label", "number"], RenameWallet: ["label"], CloseWallet: []}


def test_a_command_that_takes_a_value_must_have_its_person() -> None:
    with pytest.raises(TypeError, match="RenameWallet takes label, but has no keeper_id"):
        replace(LABEL, person="keeper_id").is_taken_with(RenameWallet)


def test_the_claim_of_an_instance_without_a_person_has_its_negative_id() -> None:
    command = OpenWallet(5, 7, "main", "50")

    assert (LABEL.subject(command, 5), NUMBER.subject(command, 5)) == (7, -5)


@dataclass(frozen=True, slots=True)
class _Take(Command):
    first: Any
    second: Any = ""


_values = st.one_of(st.text(), st.integers(), st.booleans(), st.none())
_RULE = Unique("rule", ("first", "second"), taken_by=(), normal=str)


@given(st.tuples(_values, _values), st.tuples(_values, _values))
def test_two_lists_of_values_have_one_text_only_if_they_are_equal(
    left: tuple[Any, Any], right: tuple[Any, Any]
) -> None:
    texts = [_RULE.text("thing", _Take(*values)) for values in (left, right)]
    are_equal = [(type(value), value) for value in left] == [(type(value), value) for value in right]

    assert (texts[0] == texts[1]) is are_equal
    assert texts[0] != replace(_RULE, name="other").text("thing", _Take(*left))
    assert texts[0] != _RULE.text("another", _Take(*left))


@given(st.text())
def test_a_personal_text_is_compared_in_one_form_as_any_other(text: str) -> None:
    rule = replace(_RULE, normal=normal_text)

    assert normal_text(normal_text(text)) == normal_text(text)
    assert rule.text("thing", _Take(Personal(text))) == rule.text("thing", _Take(f"  {normal_text(text)} "))


def _commands(*events: Event | None) -> list[int]:
    history = [(event, UUID(int=number)) for number, event in enumerate(events)]
    return [command.int for command in takers(LABEL, history)]


@pytest.mark.parametrize(
    ("events", "commands"),
    [
        ((), []),
        ((OPENED,), [0]),
        ((OPENED, RENAMED), [1, 0]),
        ((OPENED, None, RENAMED, None), [2, 0]),
        ((OPENED, CLOSED), []),
        ((OPENED, RENAMED, CLOSED, OPENED), [3]),
    ],
)
def test_the_last_commands_that_took_a_value_count_until_it_is_released(
    events: tuple[Event | None, ...], commands: list[int]
) -> None:
    assert _commands(*events) == commands


def test_the_followed_types_are_those_of_any_version() -> None:
    assert LABEL.followed() == ("wallet-opened.v", "wallet-renamed.v", "wallet-closed.v")
