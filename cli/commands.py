"""Commands on the command line: their options, their bulk form and their answer come from the command classes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cli import render, session
from cli.lazy_group import LazyGroup
from domain.kernel.commands import Command, Input, inputs_of, personal_inputs
from domain.kernel.errors import InvalidInput
from domain.kernel.messages import Body

From = Annotated[
    str | None,
    typer.Option("--from", metavar="FILE|-", help="One JSON object per line from a file or standard input."),
]
_ENVELOPE = ("command_id", "version", "position")


def send(role: str, kind: str, fields: Mapping[str, Any], command_id: str | None) -> Body:
    """Send one command; an error carries the command id that makes repeating it safe."""
    chosen = session.command_id(command_id)
    body = {"command_id": chosen, "actor": session.actor(), "input": dict(fields)}
    with session.errors_of(chosen):
        return session.ask(role, kind, body)


def from_argument(value: str) -> str:
    """`-` stands for a line of standard input, so that personal values need not be in the process list."""
    if value != "-":
        return value
    try:
        return session.standard_input().readline(64 * 1024).decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InvalidInput("standard input", "is not valid UTF-8") from error


def command_group(role: str, load: Callable[[], Sequence[type[Command]]]) -> type[TyperGroup]:
    """A group with the commands that `load` gives beside those written by hand.

    They are loaded only when one of them is used, or all are listed. Those that create come first, the others last.
    """

    class CommandGroup(LazyGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            made = _in_group(load())
            creating = [name for name, command in made.items() if command.creates]
            return [*creating, *super().list_commands(ctx), *(name for name in made if name not in creating)]

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            by_hand = super().get_command(ctx, cmd_name)
            if by_hand is not None:
                return by_hand
            command = _in_group(load()).get(cmd_name)
            return None if command is None else _made(command, role, cmd_name)

    return CommandGroup


def commands_in(module: str) -> Callable[[], Sequence[type[Command]]]:
    """The `COMMANDS` of a module, which is imported when they are asked for."""

    def load() -> Sequence[type[Command]]:
        found: Sequence[type[Command]] = import_module(module).COMMANDS
        return found

    return load


def _in_group(commands: Sequence[type[Command]]) -> dict[str, type[Command]]:
    """The commands that a group offers, by name on the command line."""
    return {
        command.request.partition(".")[2]: command
        for command in commands
        if command.request and command.in_group
    }


def _made(command: type[Command], role: str, name: str) -> Any:
    """The command line's form of a command: an argument or option per input, --from, --command-id, --json."""

    def run(source: str | None, command_id: str | None, as_json: bool, **given: str | None) -> None:
        if source is not None:
            _run_bulk(role, command.request, source, command_id, given)
        for field, value in given.items():
            if value is None:
                raise InvalidInput(field.replace("_", "-"), "is missing; give it, or use --from")
        fields = {field: from_argument(value or "") for field, value in given.items()}
        reply = send(role, command.request, fields, command_id)
        render.answer(reply, as_json=as_json, human=lambda: render.line(_shown(command, reply)))

    personal = personal_inputs(command)
    parameters = [
        _parameter(field, annotation=_option(command, field, taken, field in personal))
        for field, taken in inputs_of(command).items()
    ]
    parameters += [
        _parameter("source", annotation=From),
        _parameter("command_id", annotation=render.CommandId),
        _parameter("as_json", annotation=render.Json, default=False),
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    lines = ", ".join(f'"{field}"' for field in inputs_of(command))
    prints = "its id" if command.creates else "the position of the change"
    app = typer.Typer(add_completion=False)
    app.command(
        name,
        help=f"{inspect.getdoc(command)} Prints {prints}. With --from: lines of {{{lines}}}.",
    )(run)
    made = typer.main.get_command(app)
    made.name = name
    return made


def _parameter(name: str, *, annotation: Any, default: object = None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _option(command: type[Command], field: str, taken: Input, is_personal: bool) -> Any:
    text = f"{taken.help}, or - to read it from standard input." if is_personal else taken.help
    if command.creates:
        return Annotated[
            str | None, typer.Option(f"--{field.replace('_', '-')}", metavar=taken.metavar, help=text)
        ]
    return Annotated[str | None, typer.Argument(metavar=taken.metavar, help=text)]


def _shown(command: type[Command], reply: Body) -> str:
    """What a person wants to see of an answer: the new id, or the position of the change."""
    if not command.creates:
        return str(reply["position"])
    return next(str(value) for name, value in reply.items() if name not in _ENVELOPE)


def _run_bulk(
    role: str, kind: str, source: str, command_id: str | None, given: Mapping[str, str | None]
) -> None:
    if command_id is not None or any(value is not None for value in given.values()):
        raise InvalidInput("--from", "takes everything from its lines; leave the other arguments out")
    from cli.bulk import Bulk, open_input

    raise typer.Exit(Bulk(role, kind).run(open_input(source)))
