"""Unique values of any aggregate: what an aggregate declares, and what a stream says about its claims.

Promise: of the open instances of an aggregate at most one has a value. The vault reserves it, the append of a command decides, and
the vault confirms: see ADR 0018. Refusal: no error and no event tells a value. Only a keyed tag of it is stored, in the vault.

    WALLET = Aggregate(name="wallet", …, unique=(
        Unique("label", ("owner_id", "label"), taken_by=(WalletOpened,), released_by=(WalletClosed,), person="owner_id"),
    ))
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from domain.kernel.commands import Command, inputs_of
from domain.kernel.errors import Refusal
from domain.kernel.events import Event
from domain.kernel.personal import Personal


class UniqueTaken(Refusal):
    """Rule: a unique value belongs to one open instance. A subclass says it in the words of its aggregate.

    `fields` names the fields: "owner_id and label".
    """

    aggregate: str
    fields: str
    code = "unique-taken"
    hint = "Use another value, or release it where it is used."

    def __str__(self) -> str:
        return f"another {self.aggregate} has the same {self.fields}"


class UniqueReserved(Refusal):
    """Rule: a reserved value waits for the command that reserved it, 60 s at most."""

    aggregate: str
    fields: str
    code = "unique-reserved"
    hint = "If it was your command, retry it with its command id; otherwise retry in a minute."

    def __str__(self) -> str:
        return f"the same {self.fields} of a {self.aggregate} is reserved by a command that has not finished"


def normal_text(text: str) -> str:
    """The form in which texts are compared: trimmed, without case, NFC."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text.strip()).casefold())


@dataclass(frozen=True, slots=True)
class Unique:
    """A rule: no two open instances of the aggregate have the same values in these fields.

    A command takes the value if all `fields` are its inputs. It then stores one of `taken_by`, or nothing. An event of
    `released_by` closes the instance. `person` names the field with the user who is erased with the value: each command that
    takes it has that field, and an instance keeps its person. None: it is no data of a person.
    """

    name: str
    fields: tuple[str, ...]
    taken_by: tuple[type[Event], ...]
    released_by: tuple[type[Event], ...] = ()
    person: str | None = None
    normal: Callable[[str], str] = normal_text
    """The form in which texts are compared."""
    taken: type[UniqueTaken] = UniqueTaken
    """The refusal. A subclass has a code, a message and a hint of its own."""

    def is_taken_with(self, command: type[Command]) -> bool:
        """Whether a command takes the value. Raises TypeError if it does and lacks the field of the person."""
        if not {*self.fields} <= inputs_of(command).keys():
            return False
        if self.person is not None and self.person not in getattr(command, "__dataclass_fields__", ()):
            raise TypeError(f"{command.__name__} takes {self.name}, but has no {self.person}")
        return True

    def text(self, aggregate: str, command: Command) -> str:
        """What the vault makes the tag of. No two rules and no two lists of values have the same text, and no address has it."""
        values = [self._compared(getattr(command, name)) for name in self.fields]
        return f"{aggregate}\0{self.name}\0{json.dumps(values, ensure_ascii=True)}"

    def _compared(self, value: Any) -> Any:
        if isinstance(value, Personal):
            value = value.value
        if isinstance(value, str):
            return self.normal(value)
        return value if isinstance(value, int | float | None) else str(value)

    def subject(self, command: Command, instance: int) -> int:
        """The person with whom the claim is erased, or the negative id of the instance."""
        person = None if self.person is None else getattr(command, self.person)
        return -instance if person is None else int(person)

    def followed(self) -> tuple[str, ...]:
        """The beginnings of the types, in any version, after which a claim may have to be released."""
        return tuple(event.type.rpartition(".v")[0] + ".v" for event in (*self.taken_by, *self.released_by))


def takers(rule: Unique, history: Iterable[tuple[Event | None, UUID]]) -> list[UUID]:
    """The commands that took a value since the last one was released, the latest first.

    `history` is the stream: each event with the id of its command. The types of the events suffice. The instance has the value
    of the first of these commands that has a claim: one that took again what its instance had needs none of its own.
    """
    found: list[UUID] = []
    for event, command_id in history:
        if isinstance(event, rule.taken_by):
            found.append(command_id)
        elif isinstance(event, rule.released_by):
            found.clear()
    return list(dict.fromkeys(reversed(found)))
