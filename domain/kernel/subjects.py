"""Whose data the personal fields of an aggregate are: the rules that every feature keeps.

Promise: every personal value that an aggregate can store belongs to a person whose erasure reaches it. Refusal: nothing is
raised here. Each problem names its field.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any, get_type_hints

from domain.kernel.aggregate import Aggregate
from domain.kernel.commands import inputs_of
from domain.kernel.events import Event
from domain.kernel.personal import Personal, PersonalText, subject_fields

_HINT = 'Annotate it with `Of("…")`, the name of the field of the type int with the id of a user.'


def subject_problems(aggregate: Aggregate[Any, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong with the persons of personal fields, each with a hint."""
    for event in aggregate.events:
        personal = _personal(event)
        yield from _wrong_notes(event, personal)
        if not aggregate.is_person:
            for name in sorted(personal - subject_fields(event).keys()):
                yield f"{_place(event)}.{name} is personal without a person", _HINT
    for command in aggregate.commands:
        hints = get_type_hints(command)
        yield from _wrong_notes(command, {name for name in inputs_of(command) if hints[name] is Personal})


def names_people(aggregate: Aggregate[Any, Any]) -> bool:
    """Whether its events can hold data of persons other than the one whose stream it is."""
    return any(map(subject_fields, aggregate.events))


def _personal(event: type[Event]) -> set[str]:
    hints = get_type_hints(event)
    return {field.name for field in fields(event) if hints[field.name] == PersonalText}


def _wrong_notes(declared: type[Any], personal: set[str]) -> Iterator[tuple[str, str]]:
    hints = get_type_hints(declared)
    for name, of in subject_fields(declared).items():
        if name not in personal:
            yield f"{_place(declared)}.{name} has an Of and is not personal", "Remove the annotation."
        elif hints.get(of) is not int:
            yield f"{_place(declared)}.{name} is of {of!r}, which is no field of the type int", _HINT


def _place(declared: type[Any]) -> str:
    return f"{declared.__module__}.{declared.__qualname__}"
