"""Annotations of inputs: each accepts JSON and the text of `es`, refuses by field, and is written back."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import es
from domain.kernel.commands import Command, inputs_of, optional_inputs
from domain.users.commands import EraseUser, RegisterUser
from tests.support.shelves import PutBook


class Colour(StrEnum):
    RED = "red"
    GREEN = "green"


@es.command("things.change")
class ChangeThing(es.Command):
    """Change a thing."""

    thing_id: es.Id
    size: Annotated[int, es.whole(-5, 10**30 - 1, "Its size.")]
    label: Annotated[str, es.text(20)]
    colour: Annotated[Colour, es.choice(Colour)]
    is_open: es.Flag
    since: es.Time
    note: es.Text = "none"


@es.command("things.name")
class NameThing(es.Command):
    thing_id: es.Id
    name: Annotated[es.Personal, es.personal(50, "Its name.")]


GIVEN: dict[str, Any] = {
    "thing_id": "252562058352301107",
    "size": 7,
    "label": " Ångström ",
    "colour": "red",
    "is_open": True,
    "since": "2026-01-31T12:00:00+01:00",
}
US_PER_YEAR = 31_556_952_000_000
things = st.builds(
    ChangeThing,
    thing_id=st.integers(1, (1 << 63) - 1),
    size=st.integers(-5, 10**30 - 1),
    label=st.text("abc Å", min_size=1, max_size=20).map(str.strip).filter(bool),
    colour=st.sampled_from(Colour),
    is_open=st.booleans(),
    since=st.integers(-1000 * US_PER_YEAR, 7000 * US_PER_YEAR),
    note=st.text("xyz", min_size=1, max_size=200),
)


# --- reading ---------------------------------------------------------------------------------


def test_every_kind_of_field_is_parsed() -> None:
    assert es.parse_command(ChangeThing, GIVEN) == ChangeThing(
        252562058352301107, 7, "Ångström", Colour.RED, True, 1_769_857_200_000_000, "none"
    )
    assert es.parse_command(NameThing, {"thing_id": 1, "name": "Ada"}) == NameThing(1, es.Personal("Ada"))


def test_the_text_of_the_shell_means_the_same_as_json() -> None:
    from_shell = {name: json.dumps(value).strip('"') for name, value in (GIVEN | {"label": "x"}).items()}

    assert es.parse_command(ChangeThing, from_shell) == es.parse_command(ChangeThing, GIVEN | {"label": "x"})


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("thing_id", "seven", "thing_id is not an id"),
        ("thing_id", True, "thing_id is not an id"),
        ("size", -6, "size must be a whole number from -5"),
        ("size", 10**30, "size must be a whole number from -5"),
        ("size", 1.5, "size must be a whole number"),
        ("size", True, "size must be a whole number"),
        ("size", "1e3", "size must be a whole number"),
        ("size", "٣", "size must be a whole number"),
        ("size", "9" * 5000, "size must be a whole number"),
        ("label", "", "label is empty"),
        ("label", "x" * 21, "label is longer than 20 characters"),
        ("label", 7, "label must be text"),
        ("colour", "blue", "colour must be one of red, green"),
        ("colour", ["red"], "colour must be one of red, green"),
        ("is_open", "maybe", "is_open must be true or false"),
        ("is_open", 1, "is_open must be true or false"),
        ("since", "yesterday", "since is not a time"),
        ("since", 12, "since is not a time"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_field(field: str, value: object, said: str) -> None:
    with pytest.raises(es.InvalidInput) as raised:
        es.parse_command(ChangeThing, GIVEN | {field: value})

    assert raised.value.field == field
    assert str(raised.value).startswith(said)


def test_an_input_with_a_default_may_be_left_out_and_no_other() -> None:
    assert optional_inputs(ChangeThing) == {"note"}
    with pytest.raises(es.InvalidInput, match="size is missing"):
        es.parse_command(ChangeThing, {name: value for name, value in GIVEN.items() if name != "size"})
    with pytest.raises(es.InvalidInput, match="unknown field"):
        es.parse_command(ChangeThing, GIVEN | {"weight": 1})


def test_help_and_metavar_come_from_the_name_of_the_field() -> None:
    found = inputs_of(ChangeThing)

    assert (found["thing_id"].help, found["thing_id"].metavar) == ("The thing's id.", "THING_ID")
    assert (found["size"].help, found["size"].metavar) == ("Its size.", "SIZE")
    assert (found["is_open"].help, found["is_open"].metavar) == ("The is open.", "true|false")
    assert (found["colour"].help, found["colour"].metavar) == ("One of red, green.", "red|green")


# --- writing ---------------------------------------------------------------------------------


@given(things)
def test_what_is_written_is_parsed_to_the_same_command(command: ChangeThing) -> None:
    written = json.loads(json.dumps(es.to_input(command)))

    assert es.parse_command(ChangeThing, written) == command


@given(st.integers(1, (1 << 63) - 1), st.text("abc", min_size=1))
def test_commands_with_parsers_of_their_own_are_written_as_well(id_: int, title: str) -> None:
    for command in (PutBook(id_, title), EraseUser(id_, "gdpr-request")):
        assert es.parse_command(type(command), es.to_input(command)) == command


def test_ids_are_written_as_text() -> None:
    assert es.to_input(PutBook(1 << 60, "North")) == {"shelf_id": str(1 << 60), "title": "North"}


@pytest.mark.parametrize(
    "command", [NameThing(1, es.Personal("Ada")), RegisterUser(1, es.Personal("a"), es.Personal("b"))]
)
def test_a_personal_value_is_never_written(command: Command) -> None:
    with pytest.raises(TypeError) as raised:
        es.to_input(command)

    assert "Ada" not in str(raised.value)


@es.command("things.make", creates=True)
class MakeThing(es.Command):
    thing_id: es.NewId
    label: es.Text


def test_the_id_that_a_worker_draws_is_left_out() -> None:
    assert es.to_input(MakeThing(es.NEW, "new")) == {"label": "new"}
    with pytest.raises(TypeError, match="thing_id is no input"):
        es.to_input(MakeThing(7, "new"))


def test_a_field_that_a_worker_fills_in_is_not_sent() -> None:
    with pytest.raises(TypeError, match=r"EraseUser\.is_known is no input"):
        es.to_input(EraseUser(1, "gdpr-request", is_known=True))
