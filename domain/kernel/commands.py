"""Commands and their input: the annotations of a command class are its parser, its bulk format and its CLI options.

    @dataclass(frozen=True, slots=True)
    class RenameUser(Command):
        user_id: Annotated[int, Input(parse_user_id, "The user's id.", "ID")]
        name: Annotated[Personal, Input(parse_name, "The new name.", "NAME")]
        wire: ClassVar[str] = "rename-user"
        request: ClassVar[str] = "users.rename"

A field without an `Input` is no input: the worker fills it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, get_args, get_type_hints
from uuid import UUID

from domain.kernel.errors import InvalidInput
from domain.kernel.personal import Personal


@dataclass(frozen=True, slots=True)
class Input:
    """How a field is read from a caller. `parse` takes a JSON value and raises InvalidInput; `help` and `metavar` show it."""

    parse: Callable[[object], Any]
    help: str
    metavar: str


class Command:
    """Base of all commands. Subclasses are frozen dataclasses."""

    __slots__ = ()

    wire: ClassVar[str]
    """The name in the metadata of events. It never changes."""
    request: ClassVar[str] = ""
    """The kind of the request, `<feature>.<verb>`; the verb is the name on the command line. Empty: no caller asks for it."""
    creates: ClassVar[bool] = False
    """Whether the command begins a stream. The command line then takes its fields as options, else as arguments."""
    in_group: ClassVar[bool] = True
    """Whether the command line offers the command in its feature's group; false when another command sends it."""


C = TypeVar("C", bound=Command)


_inputs: dict[type[Command], dict[str, Input]] = {}  # reading annotations is too slow for every request


def inputs_of(command: type[Command]) -> Mapping[str, Input]:
    """The fields that a caller gives, in the order in which the class declares them."""
    found = _inputs.get(command)
    if found is not None:
        return found
    found = _inputs[command] = {}
    for name, hint in get_type_hints(command, include_extras=True).items():
        for note in get_args(hint)[1:]:
            if isinstance(note, Input):
                found[name] = note
    return found


def personal_inputs(command: type[Command]) -> frozenset[str]:
    """The inputs that are personal data: a person may give them on standard input instead of in the process list."""
    hints = get_type_hints(command)
    return frozenset(name for name in inputs_of(command) if hints[name] is Personal)


def parse_command(command: type[C], given: object, **filled: object) -> C:
    """A command from a caller's JSON object, and from what the worker fills in. Raises InvalidInput naming the field."""
    inputs = inputs_of(command)
    if not isinstance(given, dict):
        raise InvalidInput("input", "must be a JSON object")
    for name in sorted(inputs.keys() - given.keys()):
        raise InvalidInput(name, "is missing")
    if given.keys() - inputs.keys():
        known = ", ".join(sorted(inputs))
        raise InvalidInput("input", f"has a field that is not known; known are {known}")
    return command(**{name: field.parse(given[name]) for name, field in inputs.items()}, **filled)


def parse_command_id(value: object, *, field: str = "command_id") -> UUID:
    """The idempotency key of a command. Raises InvalidInput unless it is the text of a UUID."""
    try:
        return UUID(value)  # type: ignore[arg-type]  # what is no text raises
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidInput(field, "is not a UUID") from error
