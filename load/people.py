"""The people of a load run: made from its seed, or read from a file.

Promise: every address of made-up people contains the tag of the run, so two runs never share one. The names depend on the
seed alone. Refusal: no error names a value of the file, because it may be personal data.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

from domain.kernel.errors import InvalidInput
from domain.users.commands import parse_email, parse_name
from load.keys import InvalidScenario
from load.templates import Person

# fmt: off
_FIRST = ("Ada", "Alan", "Barbara", "Chien", "Donald", "Dorothy", "Edsger", "Edith", "Frances", "Grace", "Hedy", "Jean", "Joan", "John", "Karen",
    "Katherine", "Ken", "Leslie", "Margaret", "Mary", "Niklaus", "Radia", "Robin", "Shafi", "Sophie", "Tim", "Tony", "Vint", "Whitfield", "Yvonne")
_LAST = ("Allen", "Backus", "Bartik", "Berners", "Cerf", "Clarke", "Codd", "Diffie", "Dijkstra", "Easley", "Floyd", "Goldwasser", "Hamilton", "Hoare", "Hopper",
    "Jackson", "Johnson", "Kay", "Knuth", "Lamarr", "Lamport", "Liskov", "Lovelace", "Milner", "Perlman", "Ritchie", "Shannon", "Thompson", "Vaughan", "Wilson")
# fmt: on
_LOCAL_KEPT = 30
"""Characters of an address of the file that are kept before the @ when the file is used again."""


class People:
    """An endless supply for one load process."""

    def __init__(
        self, seed: int, tag: str, *, process: int = 0, processes: int = 1, given: list[Person] | None = None
    ) -> None:
        """Of `given` people this process takes each `processes`-th. Used up, they get new addresses with the tag."""
        self._random = Random(f"people:{seed}:{process}")  # noqa: S311  # no secret
        self._tag = f"{tag}-{process}"
        self._given = (given or [])[process::processes] or given or []
        self._count = 0

    def next(self) -> Person:
        number, self._count = self._count, self._count + 1
        if not self._given:
            first, last = self._random.choice(_FIRST), self._random.choice(_LAST)
            address = f"{first}.{last}.{self._tag}-{number}@load.example".lower()
            return Person(f"{first} {last}", address)
        person = self._given[number % len(self._given)]
        if number < len(self._given):
            return person
        local, _, domain = person.email.rpartition("@")
        return Person(person.name, f"{local[:_LOCAL_KEPT]}+{self._tag}-{number}@{domain}")


def read_people(file: Path) -> list[Person]:
    """The people of a file: CSV with a header, or one JSON object a line, with `name` and `email`.

    Raises InvalidScenario with the number of the wrong line.
    """
    people = []
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            for number, row in _rows(file, lines):
                try:
                    people.append(
                        Person(parse_name(row.get("name")).value, parse_email(row.get("email")).value)
                    )
                except InvalidInput as error:
                    raise _wrong(file, f"line {number}", str(error)) from error
    except OSError as error:
        raise _wrong(file, "", f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _wrong(file, "", "is not UTF-8") from error
    if not people:
        raise _wrong(file, "", "has no people")
    return people


def _rows(file: Path, lines: Iterator[str]) -> Iterator[tuple[int, dict[str, object]]]:
    """The rows with their line numbers."""
    if file.suffix.lower() == ".csv":
        reader = csv.DictReader(lines)
        for row in reader:
            yield reader.line_num, dict(row)
        return
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise _wrong(file, f"line {number}", "is no JSON object")
        yield number, found


def _wrong(file: Path, place: str, reason: str) -> InvalidScenario:
    return InvalidScenario(
        str(file),
        place,
        reason,
        'Give a CSV with the header name,email, or lines like {"name": …, "email": …}.',
    )
