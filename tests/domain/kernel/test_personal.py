"""Personal values are shown only by `.value`: not in logs, tracebacks or representations."""

from __future__ import annotations

import json
import logging
import pprint
import traceback
from dataclasses import FrozenInstanceError, fields
from typing import Any, get_type_hints
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.kernel.personal import ERASED, Erased, Personal, Sealed
from domain.kernel.ports.vault import ClaimRequest, LivingKey
from domain.users import account, commands
from tests.support.builders import a_sample, event_classes

CANARY = "canary-4f1c@example.com"

_WAYS_TO_SHOW = {
    "repr": repr,
    "str": str,
    "f-string": lambda value: f"{value}",
    "f-string with !r": lambda value: f"{value!r}",
    "format": lambda value: "{}".format(value),  # noqa: UP032 - a way of its own
    "percent": lambda value: "%s %r" % (value, value),  # noqa: UP031 - a way of its own
    "in a list": lambda value: str([value, {"key": value}]),
    "pprint": pprint.pformat,
    "json with default": lambda value: json.dumps([value], default=str),
    "log line": lambda value: logging.LogRecord("n", 10, "p", 1, "%s %r", (value, value), None).getMessage(),
}


@pytest.mark.parametrize("show", _WAYS_TO_SHOW.values(), ids=_WAYS_TO_SHOW)
@pytest.mark.parametrize(
    "holder",
    [
        Personal(CANARY),
        account.UserRegistered(Personal(CANARY), Personal(CANARY)),
        commands.RegisterUser(1, Personal(CANARY), Personal(CANARY), UUID(int=1)),
        commands.RenameUser(1, Personal(CANARY)),
        commands.ChangeEmail(1, Personal(CANARY)),
        account.User(email=Personal(CANARY), name=Personal(CANARY)),
        ClaimRequest(CANARY, 1, UUID(int=1), UUID(int=2), registers=True),
    ],
    ids=lambda holder: type(holder).__name__,
)
def test_a_personal_value_is_never_shown(holder: object, show: Any) -> None:
    shown = show(holder)

    assert CANARY not in shown
    assert CANARY.encode().hex() not in shown


@pytest.mark.parametrize("show", _WAYS_TO_SHOW.values(), ids=_WAYS_TO_SHOW)
def test_a_data_key_is_never_shown(show: Any) -> None:
    secret = b"\x01canary-of-thirty-two-bytes-long"

    shown = show(LivingKey(secret))

    assert "canary" not in shown
    assert secret.hex() not in shown


def test_a_traceback_with_locals_does_not_show_personal_values() -> None:
    def fail(command: commands.RenameUser) -> None:
        state = account.User(name=command.name)
        raise RuntimeError(f"{command} on {state}")

    try:
        fail(commands.RenameUser(1, Personal(CANARY)))
    except RuntimeError as error:
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())

    assert "RenameUser" in shown
    assert CANARY not in shown


@pytest.mark.parametrize("event_class", event_classes(), ids=lambda event_class: event_class.type)
def test_an_event_does_not_show_its_personal_fields(event_class: type[Any]) -> None:
    shown = repr(a_sample(event_class))

    assert "Ada" not in shown
    assert "ada@" not in shown


def test_every_name_and_address_of_a_command_is_personal() -> None:
    personal = {"name", "email"}
    for command in (commands.RegisterUser, commands.RenameUser, commands.ChangeEmail):
        hints = get_type_hints(command)
        held = [field.name for field in fields(command) if field.name in personal]
        assert held, command
        assert all(hints[name] is Personal for name in held), command


@given(st.text(), st.text())
def test_personal_values_are_equal_if_their_texts_are(one: str, other: str) -> None:
    assert (Personal(one) == Personal(other)) == (one == other)
    assert hash(Personal(one)) == hash(Personal(one))


def test_values_of_different_forms_are_never_equal() -> None:
    forms: list[Any] = [Personal(""), Sealed(""), ERASED]

    assert all((one == other) == (one is other) for one in forms for other in forms)
    assert Erased() == ERASED


@pytest.mark.parametrize(("value", "field"), [(Personal("x"), "value"), (Sealed("x"), "text")])
def test_a_value_cannot_be_changed(value: object, field: str) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(value, field, "y")
