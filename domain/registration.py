"""What is refused of a feature before it is used: a name that is taken, or a part that would fail later.

Promise: a refusal names the module, the class and the field, and says what to do. Refusal: nothing of a refused feature
is used, so it cannot harm the others.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from domain.kernel.aggregate import Aggregate, Upcaster
from domain.kernel.commands import Command, defaulted, inputs_of
from domain.kernel.errors import InvalidSetting
from domain.kernel.events import Event
from domain.kernel.feature import COMMANDS, Feature
from domain.kernel.person_streams import NAME as PERSON_STREAMS
from domain.kernel.personal import PersonalText, Unreadable
from domain.kernel.process import Process
from domain.kernel.process_events import EVENTS as PROCESS_EVENTS
from domain.kernel.projection import Projection
from domain.kernel.projection_checks import problems_of
from domain.kernel.subjects import subject_problems
from domain.kernel.system import ASSIGNMENTS
from domain.kernel.system import EVENTS as SYSTEM_EVENTS

RESERVED_PREFIXES = ("lane-", "ids-", "process-", "system-", ASSIGNMENTS)
"""The prefixes of built-in streams without an aggregate."""
RESERVED_FEATURES = frozenset(
    [
        "adopt",
        "backup",
        "config",
        "dead",
        "doctor",
        "down",
        "help",
        "load",
        "logs",
        "restore",
        "status",
        "up",
        "version",
        "workers",
    ]
)
"""The names of `es` groups and commands that belong to no feature."""
RESERVED_ROLES = frozenset({"supervisor"})
_OPTIONS = frozenset(["command_id", "help", "json", "yes"])
DERIVED = ("get", "list", "history")
"""The `es` commands that every derived group has."""

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_JSON = (str, int, float, bool, NoneType, Any, object)


_HINT = "Correct the module, or remove it from ES_FEATURES or `features` in es.toml."


@dataclass(frozen=True)
class Parts:
    """What one feature brings. `module` is where it comes from, for messages."""

    module: str
    feature: Feature
    aggregates: Sequence[Aggregate[Any, Any]]
    events: Sequence[type[Event]]
    upcasters: Mapping[str, Upcaster]
    projections: Sequence[Projection]
    processes: Sequence[Process[Any]] = ()
    is_built_in: bool = False


def refuse(new: Parts, others: Sequence[Parts]) -> None:
    """Raise InvalidSetting for the first part of a feature that cannot be used beside the others."""
    try:
        _refuse_twice(new, others)
        _refuse_prefixes(new, others)
        _refuse_reserved(new, others)
        _refuse_persons(new, others)
        for event in new.events:
            _check_event(new, event)
        for aggregate in new.aggregates:
            _check_aggregate(new, aggregate)
        for projection in new.projections:
            _check_projection(new, projection)
    except InvalidSetting:
        raise
    except Exception as error:  # what another package defines may fail in any way
        raise _refused(new, f"which cannot be examined: {type(error).__name__}: {error}") from error


def _refused(new: Parts, problem: str, hint: str = _HINT) -> InvalidSetting:
    return InvalidSetting("features", f"name {new.module}, {problem}", hint)


def _place(class_: type) -> str:
    return f"{class_.__module__}.{class_.__qualname__}"


# --- names that are taken --------------------------------------------------------------------


_NAMES: Mapping[str, Callable[[Parts], Iterable[str]]] = {
    "feature": lambda parts: [parts.feature.name],
    "role": lambda parts: [role.name for role in parts.feature.roles],
    "aggregate": lambda parts: [aggregate.name for aggregate in parts.aggregates],
    # Together: an upcaster of another feature's event would hide its class.
    "event": lambda parts: [*(event.type for event in parts.events), *parts.upcasters],
    "command": lambda parts: [each.wire for each in _commands(parts) if hasattr(each, "wire")],
    "request": lambda parts: [each.request for each in _commands(parts) if each.request],
    "projection": lambda parts: [projection.name for projection in parts.projections],
    "process": lambda parts: [process.name for process in parts.processes],
}


def _commands(parts: Parts) -> Iterator[type[Command]]:
    for aggregate in parts.aggregates:
        yield from aggregate.commands


def _refuse_twice(new: Parts, others: Sequence[Parts]) -> None:
    for what, names_of in _NAMES.items():
        taken = {name: other.module for other in others for name in names_of(other)}
        if what == "event":
            kernel = (*SYSTEM_EVENTS, *PROCESS_EVENTS)
            taken |= dict.fromkeys((event.type for event in kernel), "a built-in part")
        for name in names_of(new):
            if name in taken:
                if taken[name] == new.module:
                    raise _refused(new, f"which declares the {what} {name!r} twice")
                raise _refused(new, f"which declares the {what} {name!r}, but {taken[name]} has it already")
            taken[name] = new.module


def _refuse_prefixes(new: Parts, others: Sequence[Parts]) -> None:
    """A stream belongs to one aggregate: no prefix may begin with another one."""
    taken = {} if new.is_built_in else dict.fromkeys(RESERVED_PREFIXES, "a built-in part")
    taken |= {
        each.prefix: f"the aggregate {each.name} of {other.module}"
        for other in others
        for each in other.aggregates
    }
    for aggregate in new.aggregates:
        if not _NAME.fullmatch(aggregate.name):
            hint = "Name it in lower-case letters, digits and hyphens, such as `wallet`."
            raise _refused(new, f"whose aggregate {aggregate.name!r} has no such name", hint)
        for prefix, owner in taken.items():
            if aggregate.prefix.startswith(prefix) or prefix.startswith(aggregate.prefix):
                problem = f"whose aggregate {aggregate.name} has streams {aggregate.prefix}…, like those of {owner}: {prefix}…"
                raise _refused(new, problem, "Give the aggregate another name.")
        taken[aggregate.prefix] = f"its aggregate {aggregate.name}"


def _refuse_persons(new: Parts, others: Sequence[Parts]) -> None:
    """Only one aggregate is of persons: the built-in one, whose instances have data keys."""
    persons = [
        aggregate.name for parts in (*others, new) for aggregate in parts.aggregates if aggregate.is_person
    ]
    if len(persons) > 1:
        problem = f"whose aggregate {persons[-1]} is of persons, but only the data of users can be erased"
        raise _refused(new, problem, "Remove `is_person`, and annotate personal fields with `Of`.")


def _refuse_reserved(new: Parts, others: Sequence[Parts]) -> None:
    name, roles = new.feature.name, [role.name for role in new.feature.roles]
    for each in (name, *roles):
        if not _NAME.fullmatch(each):
            raise _refused(new, f"whose feature or role {each!r} has no name of letters, digits and hyphens")
    if new.is_built_in:
        return
    if name in RESERVED_FEATURES:
        raise _refused(
            new, f"whose feature {name!r} has the name of a command of `es`", "Give the feature another name."
        )
    if twice := RESERVED_ROLES.intersection(roles):
        raise _refused(new, f"whose role {min(twice)!r} has a reserved name", "Give the role another name.")
    built_in = {
        taken
        for other in others
        for taken in (other.feature.name, *(role.name for role in other.feature.roles))
        if other.is_built_in
    }
    for projection in new.projections:
        if projection.name in built_in | RESERVED_ROLES or projection.name.startswith(PERSON_STREAMS):
            problem = f"whose projection {projection.name!r} has the name of a built-in part"
            raise _refused(new, problem, "Give the projection another name.")


# --- events and aggregates -------------------------------------------------------------------


def _check_event(new: Parts, event: type[Event]) -> None:
    if not (is_dataclass(event) and hasattr(event, "type")):
        raise _refused(
            new,
            f"whose event {_place(event)} is no dataclass with a `type`",
            "Declare it with `@es.event(…)`.",
        )
    hints = get_type_hints(event)
    for field in fields(event):
        if not (hints[field.name] == PersonalText or _is_json(hints[field.name])):
            problem = f"whose field {_place(event)}.{field.name} is no JSON value"
            hint = "An event holds text, numbers, booleans, None, lists and dicts of them, or `PersonalText`."
            raise _refused(new, problem, hint)


def _is_json(hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return all(map(_is_json, inner))
    if origin is Literal:
        return all(isinstance(value, str | int) for value in inner)
    if hint in (list, dict) or origin is list:
        return all(map(_is_json, inner))
    if origin is dict:
        return inner[0] is str and _is_json(inner[1])
    return hint in _JSON


def _check_aggregate(new: Parts, aggregate: Aggregate[Any, Any]) -> None:
    for problem, hint in subject_problems(aggregate):
        raise _refused(new, f"whose field {problem}", hint)
    for event in aggregate.events:
        if event not in aggregate.unfolded and _is_ignored(aggregate, event):
            problem = (
                f"whose aggregate {aggregate.name} has no case in `evolve` for the event {_place(event)}"
            )
            raise _refused(new, problem, "Add the case, or name the event in `unfolded` of the aggregate.")
    for older, upcaster in aggregate.upcasters.items():
        if not callable(upcaster):
            raise _refused(new, f"whose upcaster of {older!r} is no function")
    _check_unique(new, aggregate)
    is_generic = any(role.service == COMMANDS for role in new.feature.roles)
    for command in aggregate.commands:
        if command.request:
            _check_request(new, aggregate, command, is_generic=is_generic)


def _check_unique(new: Parts, aggregate: Aggregate[Any, Any]) -> None:
    """Each rule of unique values is about events and inputs of the aggregate."""
    for rule in aggregate.unique:
        where = f"whose unique value {rule.name!r} of the aggregate {aggregate.name}"
        for event in (*rule.taken_by, *rule.released_by):
            if event not in aggregate.events:
                raise _refused(
                    new, f"{where} names {_place(event)}, which is no event of it", "Name events of it."
                )
        if not any(rule.is_taken_with(command) for command in aggregate.commands):
            problem = f"{where} is taken by no command: none has the inputs {', '.join(rule.fields)}"
            raise _refused(new, problem, "Correct the names of the fields.")
    for name, count in Counter(rule.name for rule in aggregate.unique).items():
        if count > 1:
            problem = f"whose aggregate {aggregate.name} has two unique values {name!r}"
            raise _refused(new, problem, "Give each its own name.")


def _is_ignored(aggregate: Aggregate[Any, Any], event: type[Event]) -> bool:
    """Whether `evolve` has no case for an event: it returns the very same state for its outline."""
    outline = event(**{field.name: Unreadable("damaged") for field in fields(event)})
    try:
        return aggregate.evolve(aggregate.initial, outline) is aggregate.initial
    except Exception:  # it reads the fields, so it has a case
        return False


def _check_request(
    new: Parts, aggregate: Aggregate[Any, Any], command: type[Command], *, is_generic: bool
) -> None:
    inputs = inputs_of(command)
    group, _, verb = command.request.partition(".")
    if is_generic and group != new.feature.name:
        problem = (
            f"whose command {_place(command)} has the request {command.request!r}, not {new.feature.name}.…"
        )
        raise _refused(new, problem, "A request begins with the name of its feature.")
    if not new.feature.cli and verb in DERIVED:
        problem = f"whose command {_place(command)} takes the name {verb!r} of a query"
        raise _refused(new, problem, f"Give it another request than {command.request}.")
    for name in sorted(inputs.keys() & _OPTIONS):
        problem = f"whose field {_place(command)}.{name} has the name of an option of every `es` command"
        raise _refused(new, problem, "Give it another name.")
    if not is_generic:
        return
    if not is_dataclass(command):
        raise _refused(
            new, f"whose command {_place(command)} is no dataclass", "Declare it with `@es.command(…)`."
        )
    names = {field.name for field in fields(command)}
    is_drawn = command.creates and aggregate.id_field in names - inputs.keys()
    if is_drawn:
        _check_drawing(new, command)
    elif aggregate.id_field not in inputs:
        what = "creates an instance and" if command.creates else "is sent to an instance and"
        problem = f"whose command {_place(command)} {what} has no input {aggregate.id_field}"
        raise _refused(new, problem, f"Add the field `{aggregate.id_field}: es.Id`.")
    optional = defaulted(command)
    for name in sorted(names - inputs.keys() - optional - ({aggregate.id_field} if is_drawn else set())):
        problem = f"whose field {_place(command)}.{name} has no parser"
        raise _refused(new, problem, f"Annotate it, such as `{name}: es.Text`, or give it a default.")
    if aggregate.id_field in optional and not is_drawn:
        raise _refused(
            new, f"whose field {_place(command)}.{aggregate.id_field} has a default", "Remove the default."
        )


def _check_drawing(new: Parts, command: type[Command]) -> None:
    """The worker draws the id of what the command creates: its role must start after `ids`."""
    for role in new.feature.roles:
        if role.service == COMMANDS and "ids" not in role.needs:
            problem = (
                f"whose role {role.name!r} does not need `ids`, which draws the ids for {_place(command)}"
            )
            raise _refused(new, problem, 'Declare it as `Role("…", needs=("ids",))`.')


# --- projections -----------------------------------------------------------------------------


def _check_projection(new: Parts, projection: Projection) -> None:
    for problem, hint in problems_of(projection):
        raise _refused(new, f"whose projection {_place(type(projection))} {problem}", hint)
