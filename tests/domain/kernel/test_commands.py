"""Command classes as parsers: their inputs, their fields by name, and the command id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.kernel.commands import (
    ACTOR_LIMIT,
    Command,
    Input,
    inputs_of,
    parse_actor,
    parse_command,
    parse_command_id,
    personal_inputs,
)
from domain.kernel.errors import InvalidInput
from domain.kernel.personal import Personal


def parse_number(value: object) -> int:
    if not isinstance(value, int):
        raise InvalidInput("number", "must be a whole number")
    return value


def parse_name(value: object) -> Personal:
    if not isinstance(value, str):
        raise InvalidInput("name", "must be text")
    return Personal(value)


NUMBER = Input(parse_number, "The number.", "N")
NAME = Input(parse_name, "The name.", "NAME")


@dataclass(frozen=True, slots=True)
class Rename(Command):
    """Rename a thing."""

    number: Annotated[int, NUMBER]
    name: Annotated[Personal, "another note", NAME]
    reservation_id: UUID
    reason: Annotated[str, "no input"] = "none"
    wire: ClassVar[str] = "rename"


@dataclass(frozen=True, slots=True)
class Tidy(Command):
    wire: ClassVar[str] = "tidy"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


# --- inputs ----------------------------------------------------------------------------------


def test_inputs_are_the_annotated_fields_in_the_order_of_the_class() -> None:
    assert list(inputs_of(Rename).items()) == [("number", NUMBER), ("name", NAME)]
    assert inputs_of(Tidy) == {}


def test_annotations_are_read_once_per_class() -> None:
    assert inputs_of(Rename) is inputs_of(Rename)


def test_personal_inputs_are_those_that_become_personal_values() -> None:
    assert personal_inputs(Rename) == {"name"}
    assert personal_inputs(Tidy) == frozenset()


# --- parsing ---------------------------------------------------------------------------------


@given(number=st.integers(), name=st.text())
def test_input_and_filled_fields_become_a_command(number: int, name: str) -> None:
    id_ = uuid4()

    command = parse_command(Rename, {"name": name, "number": number}, reservation_id=id_, reason="asked")

    assert command == Rename(number, Personal(name), id_, "asked")


def test_a_command_without_inputs_takes_an_empty_object() -> None:
    assert parse_command(Tidy, {}) == Tidy()


@given(given_=json_values.filter(lambda value: not isinstance(value, dict)))
def test_only_an_object_is_input(given_: object) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_command(Rename, given_, reservation_id=uuid4())

    assert refused.value == InvalidInput("input", "must be a JSON object")


FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "number": json_values,
        "name": json_values,
        "reservation_id": json_values,
        "colour": json_values,
    },
)


def expected_refusal(fields: dict[str, Any]) -> str | None:
    """The field that a refusal names: a missing one, then an unknown one, then one with a wrong value."""
    if missing := sorted({"number", "name"} - fields.keys()):
        return missing[0]
    if fields.keys() - {"number", "name"}:
        return "input"
    if not isinstance(fields["number"], int):
        return "number"
    return None if isinstance(fields["name"], str) else "name"


@given(fields=FIELDS)
def test_any_object_is_a_command_or_a_refusal_of_one_field(fields: dict[str, Any]) -> None:
    expected, refused = expected_refusal(fields), None
    try:
        command = parse_command(Rename, fields, reservation_id=uuid4())
    except InvalidInput as error:
        refused = error.field
    else:
        assert (command.number, command.name) == (fields["number"], Personal(fields["name"]))

    assert refused == expected


@pytest.mark.parametrize("unknown", ["ada@example.com", "reservation_id"])
def test_an_unknown_or_filled_field_is_refused_and_the_known_ones_are_named(unknown: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_command(Rename, {"number": 1, "name": "Ada", unknown: str(uuid4())}, reservation_id=uuid4())

    assert refused.value.field == "input"
    assert "name, number" in str(refused.value)
    assert unknown not in str(refused.value)


# --- command ids -----------------------------------------------------------------------------


@given(id_=st.uuids())
def test_a_command_id_is_read_from_every_text_form_of_a_uuid(id_: UUID) -> None:
    for text in (str(id_), str(id_).upper(), id_.hex, f"{{{id_}}}", id_.urn):
        assert parse_command_id(text) == id_


def _is_uuid(text: str) -> bool:
    hexadecimal = text.replace("urn:", "").replace("uuid:", "").strip("{}").replace("-", "")
    try:
        return len(hexadecimal) == 32 and int(hexadecimal, 16) >= 0
    except ValueError:
        return False


@given(value=json_values.filter(lambda value: not (isinstance(value, str) and _is_uuid(value))))
def test_another_value_is_no_command_id(value: object) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_command_id(value, field="--command-id")

    assert refused.value == InvalidInput("--command-id", "is not a UUID")


def test_a_refused_command_id_is_named_by_the_field_of_requests() -> None:
    with pytest.raises(InvalidInput, match="command_id is not a UUID"):
        parse_command_id("seven")


def test_an_actor_is_a_short_name() -> None:
    assert [parse_actor(name) for name in ("uid:1000", "process:claims", "x" * ACTOR_LIMIT, None)] == [
        "uid:1000",
        "process:claims",
        "x" * ACTOR_LIMIT,
        "unknown",
    ]
    for wrong in ("", "x" * (ACTOR_LIMIT + 1), "a\x1b[2J", "a b", "ada@example.com", "é", "a\n", 7, ["a"]):
        with pytest.raises(InvalidInput, match="actor must be"):
            parse_actor(wrong)
