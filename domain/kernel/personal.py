"""Personal values and their four forms.

A field of an event that holds personal data is declared as `PersonalText`. Its value is one of

- `Personal`  the readable value; `repr` and `str` hide it from logs and tracebacks,
- `Sealed`    the encrypted text, as events and read models store it; projections copy it unopened,
- `ERASED`    the placeholder after the data key was destroyed,
- `Unreadable` the placeholder for a value that cannot be opened, with the reason. It is shown, and never stored.

It is sealed with the data key of the person whose data it is: its subject. In a stream of a person that is this person. In
any other event the field says so: `holder: Annotated[PersonalText, Of("owner_id")]` is of the user in `owner_id`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints


@dataclass(frozen=True, slots=True, repr=False)
class Personal:
    """A readable personal value. Read `.value` only where it is needed, never to log it."""

    value: str

    def __repr__(self) -> str:
        return "Personal(…)"

    def __str__(self) -> str:
        return "Personal(…)"


@dataclass(frozen=True, slots=True)
class Sealed:
    """An encrypted personal value with its subject and event id. It is safe to copy; only the data key opens it."""

    text: str


@dataclass(frozen=True, slots=True)
class Erased:
    """The placeholder for a value whose data key was destroyed by an erasure."""


ERASED = Erased()


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The placeholder for a value that is damaged, or whose key is, or that a newer version sealed.

    `reason` is the code of the error: `tampered`, `sealed-by-newer`, `key-damaged`, `key-missing` or `damaged`.
    """

    reason: str


PersonalText = Personal | Sealed | Erased | Unreadable


@dataclass(frozen=True, slots=True)
class Of:
    """Names the field with the id of the user whose data a personal field is. Both are of one event, or of one command."""

    field: str


_subject_fields: dict[type[Any], Mapping[str, str]] = {}


def subject_fields(declared: type[Any]) -> Mapping[str, str]:
    """The field with the subject of each field that has an `Of`, in the order of the class."""
    found = _subject_fields.get(declared)
    if found is None:  # once for each class: reading annotations is slow
        hints = get_type_hints(declared, include_extras=True)
        notes = ((name, note) for name, hint in hints.items() for note in get_args(hint)[1:])
        found = {name: note.field for name, note in notes if isinstance(note, Of)}
        _subject_fields[declared] = found
    return found


def readable(value: PersonalText) -> str | None:
    """The text of a personal value, or None if it is erased or unreadable. Raises TypeError if it is sealed."""
    match value:
        case Personal(value=text):
            return text
        case Erased() | Unreadable():
            return None
    raise TypeError("a sealed value can't be shown")
