"""Inputs of commands. An annotation is the parser, the bulk format and the option of `es` in one.

    wallet_id: es.Id
    amount: Annotated[int, es.whole(1, 10**12, "Cents to move.")]
    colour: Annotated[str, es.choice(("red", "green"), "Its colour.")]
    name: Annotated[es.Personal, es.personal(200, "The owner's name.")]

Promise: each accepts what JSON gives and the text that `es` gives, and is written back as JSON, except a personal one.
Refusal: a refused value is not repeated in the error, which names the field.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from typing import Annotated, TypeVar

from domain.kernel.commands import Input
from domain.kernel.errors import InvalidInput
from domain.kernel.ids import parse_id, parse_time_us, time_text
from domain.kernel.personal import Personal
from domain.kernel.texts import one_line

_WHOLE = re.compile(r"-?[0-9]{1,30}", re.ASCII)
_FLAGS = {"true": True, "yes": True, "false": False, "no": False}
_NO_FIELD = ""
"""The name of the field is not known here: `parse_command` fills it in."""

S = TypeVar("S", bound=str)


def whole(low: int, high: int, help: str = "", *, metavar: str = "", example: str = "") -> Input:
    """A whole number from `low` to `high`, both included: a JSON number or its decimal text."""

    def parse(value: object) -> int:
        is_text = isinstance(value, str) and _WHOLE.fullmatch(value)
        is_number = isinstance(value, int) and not isinstance(value, bool)
        number = int(value) if is_text or is_number else None  # type: ignore[call-overload]
        if number is None or not low <= number <= high:
            raise InvalidInput(_NO_FIELD, f"must be a whole number from {low} to {high}")
        return int(number)

    return Input(parse, help, metavar, example or str(max(low, min(high, 100))))


def text(limit: int, help: str = "", *, metavar: str = "", example: str = "") -> Input:
    """One line of visible text of 1 to `limit` characters, trimmed and normalised (NFC)."""
    return Input(lambda value: one_line(_NO_FIELD, value, limit), help, metavar, example)


def choice(values: Iterable[str], help: str = "", *, metavar: str = "", example: str = "") -> Input:
    """One of some texts. Of a `StrEnum` class it is the member: `Annotated[Colour, es.choice(Colour)]`."""
    options = {str(value): value for value in values}
    if not options:
        raise ValueError("a choice needs values")
    names = ", ".join(options)

    def parse(value: object) -> str:
        if not isinstance(value, str) or value not in options:
            raise InvalidInput(_NO_FIELD, f"must be one of {names}")
        return options[value]

    return Input(
        parse, help or f"One of {names}.", metavar or "|".join(options), example or next(iter(options))
    )


def flag(help: str = "", *, metavar: str = "true|false", example: str = "true") -> Input:
    """A boolean: a JSON boolean, or the text true, yes, false or no."""

    def parse(value: object) -> bool:
        found = value if isinstance(value, bool) else _FLAGS.get(value) if isinstance(value, str) else None
        if found is None:
            raise InvalidInput(_NO_FIELD, "must be true or false")
        return found

    return Input(parse, help, metavar, example)


def time(help: str = "", *, metavar: str = "TIME", example: str = "2026-01-31T12:00:00Z") -> Input:
    """A time as RFC 3339, without an offset in UTC. The value is a number of microseconds since 1970, UTC."""
    return Input(partial(parse_time_us, field=_NO_FIELD), help, metavar, example, write=time_text)


def personal(limit: int, help: str = "", *, metavar: str = "", example: str = "") -> Input:
    """One line of personal data: `es` reads it from standard input for `-`. Its events declare a `PersonalText`."""
    return Input(lambda value: Personal(one_line(_NO_FIELD, value, limit)), help, metavar, example)


def _parse_id(value: object) -> int:
    return parse_id(value, field=_NO_FIELD)


Id = Annotated[int, Input(_parse_id, example="252562058352301107", write=str)]
"""The id of an instance of an aggregate: a decimal text or a JSON number. In JSON that is written it is text."""
NewId = int
"""The id of what a command creates, if its worker is to draw it: no input. In a program it is `es.NEW`."""
Text = Annotated[str, text(200)]
"""One line of 1 to 200 visible characters."""
Flag = Annotated[bool, flag()]
"""A boolean."""
Time = Annotated[int, time()]
"""A time, in microseconds since 1970, UTC."""
