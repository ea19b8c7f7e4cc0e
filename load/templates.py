"""Placeholders in the input of an operation, filled for each request.

    {person.name} {person.email}                    of a new made-up person
    {user} {user.email} {user.position}             of one user that this run created
    {wallets.open}                                  an id that this command of the run made; each occurrence is another id
    {1..100}                                        a whole number in this range

They stand in texts, alone or within other text. A value is filled in as text, except `{user.position}` alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

USERS = "users.create"
"""The command that makes the ids of `{user}`."""

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})")
_KIND = re.compile(r"(?!person\.|user\.)[a-z][a-z0-9-]*\.[a-z][a-z0-9-]*")
_PERSON = ("person.name", "person.email")
_USER = ("user", "user.email", "user.position")


class WrongPlaceholder(ValueError):
    """`reason` completes a sentence that begins with the field."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


class Made:
    """What a command of this run made: a user, a wallet."""

    __slots__ = ("email", "id", "position", "uses")

    def __init__(self, id_: str, email: str, position: int) -> None:
        self.id = id_
        self.email = email
        """Empty for anything but a user."""
        self.position = position
        """Of the last event that is known of it."""
        self.uses = 0
        """Requests in flight that use it. Guarded by its pool."""


@dataclass(frozen=True, slots=True)
class Person:
    name: str
    email: str


class Template:
    """The input of one operation. Raises WrongPlaceholder for an unknown one."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._literals = {name: value for name, value in given.items() if not _has_placeholder(value)}
        self._filled = {name: _parts(value) for name, value in given.items() if _has_placeholder(value)}
        used = [part for parts in self._filled.values() for part in parts[1::2]]
        self.needs_person = any(part in _PERSON for part in used)
        self.needs_user = any(part in _USER for part in used)
        self.pools: tuple[str, ...] = tuple(
            part for part in used if _KIND.fullmatch(part) and part not in (*_PERSON, *_USER)
        )
        """The commands whose ids it needs, once for each id. The user comes last."""
        if self.needs_user:
            self.pools = (*self.pools, USERS)

    def examples(self, name: str) -> list[Any]:
        """Values that a field may get: what can be checked before a run."""
        if name in self._literals:
            return [self._literals[name]]
        parts = self._filled[name]
        found = _RANGE.fullmatch(parts[1])
        return [f"{parts[0]}{end}{parts[2]}" for end in found.groups()] if found and len(parts) == 3 else []

    def fill(self, random: Random, person: Person | None, made: Sequence[Made]) -> dict[str, Any]:
        """The input of one request. `made` is in the order of `pools`."""
        filled = dict(self._literals)
        ids = iter(made)
        for name, parts in self._filled.items():
            values = [self._value(part, random, person, made, ids) for part in parts[1::2]]
            if len(values) == 1 and not parts[0] and not parts[2]:
                filled[name] = values[0]
            else:
                texts = [*parts]
                texts[1::2] = map(str, values)
                filled[name] = "".join(texts)
        return filled

    def _value(
        self, part: str, random: Random, person: Person | None, made: Sequence[Made], ids: Any
    ) -> str | int:
        if part in _PERSON:
            assert person is not None
            return person.name if part == "person.name" else person.email
        if part in _USER:
            user = made[-1]
            return {"user": user.id, "user.email": user.email}.get(part, user.position)
        if found := _RANGE.fullmatch(part):
            return str(random.randint(int(found[1]), int(found[2])))
        return str(next(ids).id)


def _has_placeholder(value: object) -> bool:
    return isinstance(value, str) and ("{" in value or "}" in value)


def _parts(text: str) -> list[str]:
    """Text and placeholders in turn: `["", "user", ""]`."""
    parts = _PLACEHOLDER.split(text)
    for part in parts[1::2]:
        found = _RANGE.fullmatch(part)
        if found and int(found[1]) > int(found[2]):
            raise WrongPlaceholder(f"has the empty range {{{part}}}", "Write the smaller number first.")
        if not found and part not in (*_PERSON, *_USER) and not _KIND.fullmatch(part):
            raise WrongPlaceholder(f"has the unknown placeholder {{{part[:60]}}}", _PLACEHOLDERS)
    if any("{" in part or "}" in part for part in parts[::2]):
        raise WrongPlaceholder("has a brace without its partner", _PLACEHOLDERS)
    return parts


_PLACEHOLDERS = (
    f"The placeholders are {', '.join(f'{{{each}}}' for each in (*_PERSON, *_USER))}, {{1..100}} for a number, and a command"
    " of the scenario for an id that it made: {wallets.open}."
)
