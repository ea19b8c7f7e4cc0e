"""Personal values and the three forms they take.

An event that carries a person's data declares the field as `PersonalText`. In memory such a field is

- `Personal`  the readable value; its `repr` hides it, so that logs and tracebacks can't leak it,
- `Sealed`    the encrypted text, as stored in events and read models; projections copy it unopened,
- `ERASED`    what is left once the person's key is destroyed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, repr=False)
class Personal:
    """A readable personal value. Ask for `.value` only where it is used, never to log it."""

    value: str

    def __repr__(self) -> str:
        return "Personal(…)"

    def __str__(self) -> str:  # an f-string must not leak it either
        return "Personal(…)"


@dataclass(frozen=True, slots=True)
class Sealed:
    """An encrypted personal value: carries its key id and event id, safe to copy, opened by its key alone."""

    text: str


@dataclass(frozen=True, slots=True)
class Erased:
    """The typed placeholder for a value whose key was destroyed on purpose."""


ERASED = Erased()

PersonalText = Personal | Sealed | Erased


def readable(value: PersonalText) -> str | None:
    """A personal value for showing; None once it is erased. Raises TypeError while it is sealed."""
    match value:
        case Personal(value=text):
            return text
        case Erased():
            return None
    raise TypeError("a sealed value can't be shown")
