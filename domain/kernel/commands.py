"""Commands. The annotations of a command class define its parser, its bulk format and its options of `es`.

    @dataclass(frozen=True, slots=True)
    class RenameUser(Command):
        user_id: Annotated[int, Input(parse_user_id, "The user's id.", "ID")]
        name: Annotated[Personal, Input(parse_name, "The new name.", "NAME")]
        wire: ClassVar[str] = "rename-user"
        request: ClassVar[str] = "users.rename"

The worker fills in a field without an `Input`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, get_args, get_type_hints
from uuid import UUID

from domain.kernel.errors import InvalidInput
from domain.kernel.personal import Personal

ACTOR_LIMIT = 100
_ACTOR = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._:/+-]{{0,{ACTOR_LIMIT - 1}}}")


@dataclass(frozen=True, slots=True)
class Input:
    """A field that the caller gives. `parse` takes its JSON value and raises InvalidInput."""

    parse: Callable[[object], Any]
    help: str
    metavar: str
    example: str = ""
    """A value for the example in the help of `es`. Without it the metavar stands there."""


class Command:
    """Base of all commands. Subclasses are frozen dataclasses."""

    __slots__ = ()

    wire: ClassVar[str]
    """The command's name in the metadata of events. It never changes."""
    request: ClassVar[str] = ""
    """The kind of its request, `<feature>.<verb>`. `es <feature> <verb>` sends it. Empty: no caller can send it."""
    creates: ClassVar[bool] = False
    """Whether it begins a stream. `es` then takes its fields as options, otherwise as arguments."""
    reads: ClassVar[bool] = True
    """Whether its decision needs the data of events. If not, their types are enough: it works on a damaged stream."""
    in_group: ClassVar[bool] = True
    """Whether its feature's group of `es` offers it. False if a command of another group sends it."""
    done: ClassVar[str] = ""
    """What `es` says on a terminal after it, with inputs and fields of the answer: "renamed user {user_id}"."""
    question: ClassVar[str] = ""
    """What `es` asks on a terminal before it. Empty: it can be undone, so nothing is asked."""


C = TypeVar("C", bound=Command)


_inputs: dict[type[Command], Mapping[str, Input]] = {}


def inputs_of(command: type[Command]) -> Mapping[str, Input]:
    """The fields that the caller gives, in the order of the class."""
    found = _inputs.get(command)
    if found is None:  # once for each class: reading annotations is too slow for every request
        hints = get_type_hints(command, include_extras=True)
        found = _inputs[command] = {
            name: note
            for name, hint in hints.items()
            for note in get_args(hint)[1:]
            if isinstance(note, Input)
        }
    return found


def personal_inputs(command: type[Command]) -> frozenset[str]:
    """The inputs that are personal data. `es` can read them from standard input: the process list shows arguments."""
    hints = get_type_hints(command)
    return frozenset(name for name in inputs_of(command) if hints[name] is Personal)


def parse_command(command: type[C], given: object, **filled: object) -> C:
    """Make a command of the caller's JSON object and the fields that the worker fills in.

    Raises InvalidInput with the name of the wrong, missing or unknown field.
    """
    inputs = inputs_of(command)
    if not isinstance(given, dict):
        raise InvalidInput("input", "must be a JSON object")
    if given.keys() != inputs.keys():
        for name in sorted(inputs.keys() - given.keys()):
            raise InvalidInput(name, "is missing")
        raise InvalidInput("input", f"has an unknown field; the fields are {', '.join(sorted(inputs))}")
    return command(**{name: field.parse(given[name]) for name, field in inputs.items()}, **filled)


def parse_command_id(value: object, *, field: str = "command_id") -> UUID:
    """The command id in a request. Raises InvalidInput unless it is the text of a UUID."""
    try:
        return UUID(value)  # type: ignore[arg-type]  # a value of another type raises
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidInput(field, "is not a UUID") from error


def known_actor(stored: str) -> str:
    """The sender of a stored event for showing: `unknown` for a text that is no name, which earlier versions accepted."""
    return stored if _ACTOR.fullmatch(stored) else "unknown"


def parse_actor(value: object) -> str:
    """The sender in a request, `unknown` if it names none. Raises InvalidInput for any other text than a name.

    Every event of the command stores it, and it is shown: it must be short, and is no place for personal data.
    """
    if value is None:
        return "unknown"
    if not isinstance(value, str) or _ACTOR.fullmatch(value) is None:
        raise InvalidInput("actor", f"must be 1 to {ACTOR_LIMIT} letters, digits or ._:/+- such as uid:1000")
    return value
