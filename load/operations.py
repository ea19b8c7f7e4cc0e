"""The operations of a scenario: the built-in ones of users and ids, and the commands of any registered service.

Promise: a command exists, its fields are those of its class, and each literal value is one that the command accepts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from domain.features import outside_feature, registry
from domain.kernel.commands import Command, inputs_of, optional_inputs
from domain.kernel.errors import EsError, InvalidInput
from domain.kernel.feature import Feature
from load.keys import Keys
from load.scenario import Operation
from load.templates import Template, WrongPlaceholder
from load.thresholds import FIGURES

CREATE = "users.create"
IDS = "ids.next"
_IDS_RANGE = "ids-range"
_COUNT_MAX = 1_000_000
_PAGE = 20
_WEIGHT_MAX = 1e9
_OPERATIONS_LIMIT = 200

_USER = {"user_id": "{user}"}
_PERSON = {"email": "{person.email}", "name": "{person.name}"}
BUILT_IN: Mapping[str, Operation] = {
    name: Operation(name, kind, role, 0.0, input_)
    for name, kind, role, input_ in (
        ("create", CREATE, "users", _PERSON),
        # A read includes the user's creation: it waits for the projection, as a program that reads its own writes does.
        ("get", "users.get", "projections", {**_USER, "after_position": "{user.position}"}),
        ("find", "users.find", "projections", {"email": "{user.email}"}),
        ("list", "users.list", "projections", {"after": "{user}", "limit": _PAGE}),
        ("rename", "users.rename", "users", {**_USER, "name": "{person.name}"}),
        ("change-email", "users.change-email", "users", {**_USER, "email": "{person.email}"}),
        ("delete", "users.delete", "users", _USER),
        ("ids", IDS, "ids", {"count": 1}),
        (_IDS_RANGE, IDS, "ids", {"count": 1000}),
    )
}


def operations_of(keys: Keys, file: str, features: Iterable[str]) -> tuple[Operation, ...]:
    """The operations of `[mix]` and `[[operations]]`, and those that make the data that they need.

    Raises InvalidScenario.
    """
    found = [*_mix(keys, file), *_own(keys, file, tuple(features))]
    if not any(operation.weight for operation in found):
        raise keys.wrong("mix", "has no operation with a weight", "Add [mix] with create = 5 and get = 20.")
    names = [operation.name for operation in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise keys.wrong("operations", f"has two named {twice}", "Give one another name.")
    needed = {pool for operation in found for pool in Template(operation.input).pools}
    if CREATE in needed and "create" not in names:
        found.append(BUILT_IN["create"])
    _refuse_unmade(keys, found)
    return tuple(found)


def _mix(keys: Keys, file: str) -> Iterable[Operation]:
    mix = Keys(file, "mix", keys.get("mix") or {}, BUILT_IN)
    for name, operation in BUILT_IN.items():
        value = mix.get(name)
        if value is None:
            continue
        if name == _IDS_RANGE and isinstance(value, dict):
            inner = Keys(file, f"mix.{name}", value, ("weight", "count"))
            weight = inner.number("weight", inner.get("weight"), 0.0, _WEIGHT_MAX)
            yield replace(
                operation, weight=weight, input={"count": inner.whole("count", 1000, 1, _COUNT_MAX)}
            )
        else:
            yield replace(operation, weight=mix.number(name, value, 0.0, _WEIGHT_MAX))


def _own(keys: Keys, file: str, features: tuple[str, ...]) -> Iterable[Operation]:
    listed = keys.get("operations") or []
    if not isinstance(listed, list) or len(listed) > _OPERATIONS_LIMIT:
        raise keys.wrong("operations", "is no list of tables", "Write [[operations]] before each.")
    for number, each in enumerate(listed, 1):
        own = Keys(file, f"operations[{number}]", each, ("name", "command", "weight", "input"))
        kind = own.text("command", example='command = "wallets.deposit"')
        name = own.text("name", kind.rpartition(".")[2], example='name = "deposit"')
        if name in FIGURES or "." in name:
            raise own.wrong("name", "is a figure, or contains a dot", "Give the operation another name.")
        command, role = _command(own, kind, features)
        given = own.get("input") or {}
        if not isinstance(given, dict):
            raise own.wrong("input", "is no table", 'Write input = { amount = "{1..100}" }, for example.')
        _check_input(Keys(file, own.at("input"), given, inputs_of(command)), command, given)
        weight = own.number("weight", own.get("weight"), 0.0, _WEIGHT_MAX)
        yield Operation(name, kind, role, weight, given)


def _command(keys: Keys, kind: str, features: tuple[str, ...]) -> tuple[type[Command], str]:
    """The class of a command and the role that handles it."""
    group = kind.partition(".")[0]
    outside = outside_feature(group, features)
    known = registry(features if outside else ())
    feature = known.feature(group)
    if feature is None or not feature.roles:
        with_commands = ", ".join(each.name for each in registry(features).features if each.roles)
        raise keys.wrong(
            "command",
            f"is of the feature {group}, which does not exist here",
            f"The features are {with_commands}; ES_FEATURES names those of other packages.",
        )
    commands = commands_of(feature, features)
    if kind not in commands:
        raise keys.wrong("command", "does not exist", f"The commands are {', '.join(commands)}.")
    return commands[kind], feature.roles[0].name


def commands_of(feature: Feature, features: tuple[str, ...]) -> dict[str, type[Command]]:
    """The commands of a feature that a caller can send, by the kinds of their requests."""
    aggregates = registry(features).aggregates_of(feature)
    return {
        command.request: command
        for aggregate in aggregates
        for command in aggregate.commands
        if command.request.startswith(f"{feature.name}.")
    }


def _check_input(keys: Keys, command: type[Command], given: Mapping[str, Any]) -> None:
    """Raise InvalidScenario for a missing field, an unknown placeholder, or a value that the command does not accept."""
    for name in inputs_of(command).keys() - optional_inputs(command) - given.keys():
        raise keys.wrong(
            name, "is missing", f"{command.request} needs it: the fields are {', '.join(inputs_of(command))}."
        )
    for name, value in given.items():
        try:
            examples = Template({name: value}).examples(name)
        except WrongPlaceholder as error:
            raise keys.wrong(name, error.reason, error.hint) from error
        for example in examples:
            try:
                inputs_of(command)[name].parse(example)
            except InvalidInput as error:
                raise keys.wrong(name, error.reason, "Give a value that the command accepts.") from error
            except EsError as error:
                raise keys.wrong(name, f"is refused: {error}", error.hint) from error


def _refuse_unmade(keys: Keys, operations: list[Operation]) -> None:
    """Raise InvalidScenario if an operation needs ids that none makes, or only one that waits for itself."""
    makers = {operation.kind: operation for operation in operations}
    for operation in operations:
        waiting, seen = [operation], set[str]()
        while waiting:
            for pool in Template(waiting.pop().input).pools:
                if pool not in makers:
                    raise keys.wrong(
                        "operations",
                        f"has {operation.name}, which needs ids of {pool}",
                        f"Add an operation with the command {pool}.",
                    )
                if pool == operation.kind:
                    raise keys.wrong(
                        "operations",
                        f"has {operation.name}, which needs an id that it has to make itself",
                        "Take its id from another command.",
                    )
                if pool not in seen:
                    seen.add(pool)
                    waiting.append(makers[pool])
