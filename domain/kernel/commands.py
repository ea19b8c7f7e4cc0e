"""Commands. The annotations of a command class define its parser, its bulk format and its options of `es`.

    @dataclass(frozen=True, slots=True)
    class RenameUser(Command):
        user_id: Annotated[int, Input(parse_user_id, "The user's id.", "ID")]
        name: Annotated[Personal, Input(parse_name, "The new name.", "NAME")]
        wire: ClassVar[str] = "rename-user"
        request: ClassVar[str] = "users.rename"

The worker fills in a field without an `Input`. An input whose field has a default may be left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, replace
from typing import Any, ClassVar, TypeVar, get_args, get_type_hints
from uuid import UUID

from domain.kernel.errors import InvalidInput
from domain.kernel.personal import Personal

NEW = 0
"""Stands for the id of a new instance, which the worker draws."""
ACTOR_LIMIT = 100
_ACTOR = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._:/+-]{{0,{ACTOR_LIMIT - 1}}}")


def written(value: Any) -> str | bool:
    """A parsed value as a caller gives it: text, which every input accepts, as `es` gives it; or a boolean.

    Raises TypeError for a personal value: it would be stored or logged on its way.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str | int | UUID):
        return str(value)
    raise TypeError(f"a value of the class {type(value).__name__} cannot be sent in a command")


@dataclass(frozen=True, slots=True)
class Input:
    """A field that the caller gives. `parse` takes its JSON value, or its text from `es`, and raises InvalidInput.

    An InvalidInput that names no field gets the name of this one, so one parser serves fields of several names.
    """

    parse: Callable[[object], Any]
    help: str = ""
    """One sentence. Without it the name of the field stands there."""
    metavar: str = ""
    """What stands for a value in the help of `es`. Without it the name of the field does."""
    example: str = ""
    """A value for the example in the help of `es`. Without it the metavar stands there."""
    write: Callable[[Any], Any] = written
    """The inverse of `parse`: the JSON value of a parsed value. Raises TypeError for a personal value."""


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
_personal: dict[type[Command], frozenset[str]] = {}


def inputs_of(command: type[Command]) -> Mapping[str, Input]:
    """The fields that the caller gives, in the order of the class."""
    found = _inputs.get(command)
    if found is None:  # once for each class: reading annotations is too slow for every request
        hints = get_type_hints(command, include_extras=True)
        found = _inputs[command] = {
            name: _described(name, note)
            for name, hint in hints.items()
            for note in get_args(hint)[1:]
            if isinstance(note, Input)
        }
    return found


def _described(name: str, field: Input) -> Input:
    """The input with a help and a metavar."""
    if field.help and field.metavar:
        return field
    words = name.replace("_", " ")
    if name.endswith("_id"):
        words = f"{words.removesuffix(' id')}'s id"
    return replace(field, help=field.help or f"The {words}.", metavar=field.metavar or name.upper())


def optional_inputs(command: type[Command]) -> frozenset[str]:
    """The inputs that a caller may leave out, because their fields have defaults."""
    return defaulted(command) & inputs_of(command).keys()


def defaulted(command: type[Command]) -> frozenset[str]:
    """The fields with defaults."""
    known: Mapping[str, Any] = getattr(command, "__dataclass_fields__", {})
    return frozenset(
        name
        for name, field in known.items()
        if field.default is not MISSING or field.default_factory is not MISSING
    )


def personal_inputs(command: type[Command]) -> frozenset[str]:
    """The inputs that are personal data. `es` can read them from standard input: the process list shows arguments."""
    found = _personal.get(command)
    if found is None:
        hints = get_type_hints(command)
        found = _personal[command] = frozenset(n for n in inputs_of(command) if hints[n] is Personal)
    return found


def parse_command(command: type[C], given: object, **filled: object) -> C:
    """Make a command of the caller's JSON object and the fields that the worker fills in.

    Raises InvalidInput with the name of the wrong, missing or unknown field.
    """
    inputs = inputs_of(command)
    if not isinstance(given, dict):
        raise InvalidInput("input", "must be a JSON object")
    if given.keys() != inputs.keys():
        for name in sorted(inputs.keys() - given.keys() - optional_inputs(command)):
            raise InvalidInput(name, "is missing")
        if given.keys() - inputs.keys():
            raise InvalidInput("input", f"has an unknown field; the fields are {', '.join(sorted(inputs))}")
    parsed = {name: _parsed(name, field, given[name]) for name, field in inputs.items() if name in given}
    return command(**parsed, **filled)


def _parsed(name: str, field: Input, value: object) -> Any:
    try:
        return field.parse(value)
    except InvalidInput as error:
        if error.field:
            raise
        raise InvalidInput(name, error.reason, error.hint) from error


def to_input(command: Command) -> dict[str, Any]:
    """The JSON object of a command: the inverse of `parse_command`.

    Raises TypeError for a personal value, and for a field that a worker has filled in: neither can be sent. `NEW` in a
    command that creates is left out: its worker draws the id.
    """
    inputs = inputs_of(type(command))
    for name, field in getattr(command, "__dataclass_fields__", {}).items():
        is_drawn = command.creates and getattr(command, name) == NEW
        if name not in inputs and not is_drawn and getattr(command, name) != field.default:
            raise TypeError(f"{type(command).__name__}.{name} is no input, so it cannot be sent")
    return {name: field.write(getattr(command, name)) for name, field in inputs.items()}


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
