"""The keys of a scenario file, each taken once and checked.

Promise: a wrong value is named with its place, what is allowed there, and a hint. Refusal: an unknown key is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from domain.kernel.errors import EsError, Kind, shortened

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_LONGEST_S = 7 * 86_400.0


class InvalidScenario(EsError):
    """A scenario file is wrong. `place` is the path of a key; `reason` completes a sentence that begins with it."""

    file: str
    place: str
    reason: str
    hint: str
    code = "invalid-scenario"
    kind = Kind.INVALID

    def __str__(self) -> str:
        return f"{self.file}: {self.place} {self.reason}" if self.place else f"{self.file} {self.reason}"


class Keys:
    """A table of the file. The keys are taken by name; those that nothing takes are unknown."""

    def __init__(self, file: str, place: str, found: object, allowed: Iterable[str]) -> None:
        """Raises InvalidScenario if it is no table, or has a key that is not allowed."""
        self._file = file
        self._place = place
        self._allowed = tuple(allowed)
        if not isinstance(found, dict):
            raise self.wrong("", "is no table", f"Give it the keys {', '.join(self._allowed)}.")
        self._found: Mapping[str, Any] = found
        for name in found:
            if name not in self._allowed:
                raise self.unknown(name)

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def get(self, name: str) -> Any:
        """The value as it is in the file; None if it is missing."""
        return self._found.get(name)

    def at(self, name: str) -> str:
        return f"{self._place}.{name}" if self._place and name else self._place or name

    def wrong(self, name: str, reason: str, hint: str) -> InvalidScenario:
        return InvalidScenario(self._file, self.at(name), reason, hint)

    def unknown(self, name: str) -> InvalidScenario:
        near = get_close_matches(name, self._allowed, 1)
        did_you_mean = f"Did you mean {near[0]}? " if near else ""
        return self.wrong(
            shortened(name, 60), "is no key here", f"{did_you_mean}The keys are {', '.join(self._allowed)}."
        )

    def _missing(self, name: str, example: str) -> InvalidScenario:
        return self.wrong(name, "is missing", f"Add it: {example}, for example.")

    def text(self, name: str, default: str | None = None, *, example: str = "") -> str:
        value = self._found.get(name, default)
        if value is None:
            raise self._missing(name, example)
        if not isinstance(value, str) or not value.strip() or len(value) > 200 or not value.isprintable():
            raise self.wrong(name, "must be a text of 1 to 200 printable characters", "Correct it.")
        return value

    def one_of(self, name: str, default: str, allowed: tuple[str, ...]) -> str:
        value = self._found.get(name, default)
        if value not in allowed:
            raise self.wrong(name, f"must be {' or '.join(allowed)}", f"Leave it out for {default}.")
        return str(value)

    def yes_or_no(self, name: str) -> bool:
        value = self._found.get(name, False)
        if not isinstance(value, bool):
            raise self.wrong(name, "must be true or false", "Leave it out for false.")
        return value

    def whole(self, name: str, default: int, least: int, most: int) -> int:
        value = self._found.get(name, default)
        if type(value) is not int or not least <= value <= most:
            raise self.wrong(name, f"must be a whole number from {least} to {most}", "Correct it.")
        return value

    def number(self, name: str, value: object, least: float, most: float) -> float:
        """A given value of a key, as a number within limits."""
        if type(value) not in (int, float) or not least <= value <= most:  # type: ignore[operator]
            raise self.wrong(name, f"must be a number from {least:g} to {most:g}", "Correct it.")
        return float(value)  # type: ignore[arg-type]

    def duration_s(self, name: str, default: str | None = None, *, least_s: float = 0.001) -> float:
        value = self._found.get(name, default)
        if value is None:
            raise self._missing(name, f'{name} = "30s"')
        parts = _DURATION.findall(value) if isinstance(value, str) else []
        if not parts or "".join(number + unit for number, unit in parts) != value:
            raise self.wrong(
                name,
                "must be a duration",
                'Write a text with a unit (ms, s, m or h): "500ms", "90s", "1m30s".',
            )
        seconds = sum(float(number) * _UNITS_S[unit] for number, unit in parts)
        if not least_s <= seconds <= _LONGEST_S:
            raise self.wrong(
                name, f"must be from {least_s:g} s to {_LONGEST_S / 86_400:g} days", "Correct it."
            )
        return seconds
