"""A command class as an `es` command: its options, its bulk form and its answer are derived from the class."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import render, session
from domain.kernel.commands import Command, Input, inputs_of, optional_inputs, personal_inputs
from domain.kernel.errors import InvalidInput
from domain.kernel.messages import Body

if TYPE_CHECKING:
    from cli.confirm import Describe

From = Annotated[
    str | None,
    typer.Option("--from", metavar="FILE|-", help="One JSON object per line from a file or standard input."),
]
_ENVELOPE = ("command_id", "version", "position")


class MissingInput(InvalidInput):
    """Options or arguments of a command are missing; all of them are named."""


def derived(
    command: type[Command], role: str, name: str, describe: Callable[[], Describe] | None = None
) -> Any:
    """An `es` command: an argument or option for each input, --from, --command-id, --json, and --yes if it asks."""

    # No input of a command has these names.
    def run(es_source: str | None, es_command_id: str | None, es_json: bool, **given: Any) -> None:
        source, command_id, as_json = es_source, es_command_id, es_json
        yes = given.pop("es_yes", True)
        if source is not None:
            _run_bulk(command, role, source, command_id, given, yes=yes)
        _require(command, given)
        fields = {name: session.from_argument(value) for name, value in given.items() if value is not None}
        if not yes:
            _ask(command, fields, describe)
        reply = session.send(role, command.request, fields, given_id=command_id)
        render.answer(reply, as_json=as_json, human=lambda: render.sentence(_shown(command, fields, reply)))

    run.__signature__ = inspect.Signature(_parameters(command))  # type: ignore[attr-defined]
    lines = ", ".join(f'"{field}"' for field in inputs_of(command))
    prints = "Prints its id." if command.creates else "In a pipe it prints the position of the change."
    app = typer.Typer(add_completion=False)
    app.command(
        name,
        help=f"{inspect.getdoc(command)} {prints} With --from: lines of {{{lines}}}.",
        epilog=f"Example: {_example(command)}",
    )(run)
    made = typer.main.get_command(app)
    made.name = name
    return made


def _parameters(command: type[Command]) -> list[inspect.Parameter]:
    personal = personal_inputs(command)
    found = [
        _parameter(field, _annotation(command, field, taken, is_personal=field in personal))
        for field, taken in inputs_of(command).items()
    ]
    found += [_parameter("es_source", From), _parameter("es_command_id", render.CommandId)]
    if command.question:
        found.append(_parameter("es_yes", render.Yes, default=False))
    return [*found, _parameter("es_json", render.Json, default=False)]


def _parameter(name: str, annotation: Any, *, default: object = None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _annotation(command: type[Command], field: str, taken: Input, *, is_personal: bool) -> Any:
    text = (
        f"{taken.help.removesuffix('.')}, or - to read it from standard input." if is_personal else taken.help
    )
    if command.creates or field in optional_inputs(command):
        return Annotated[str | None, typer.Option(_option(field), metavar=taken.metavar, help=text)]
    return Annotated[str | None, typer.Argument(metavar=taken.metavar, help=text)]


def _option(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def _example(command: type[Command]) -> str:
    words = ["es", *command.request.split(".")]
    for field, taken in inputs_of(command).items():
        if field in optional_inputs(command):
            continue
        words += [_option(field)] if command.creates else []
        words.append(shlex.quote(taken.example or taken.metavar))
    return " ".join(words)


def _require(command: type[Command], given: Mapping[str, str | None]) -> None:
    """Raise MissingInput if an input is missing."""
    inputs = inputs_of(command)
    missing = [
        f"{_option(field)} {inputs[field].metavar}" if command.creates else inputs[field].metavar
        for field, value in given.items()
        if value is None and field not in optional_inputs(command)
    ]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        hint = f"For example `{_example(command)}`; or --from FILE|- for many."
        raise MissingInput(" and ".join(missing), f"{verb} missing", hint)


def _ask(command: type[Command], fields: Mapping[str, str], describe: Callable[[], Describe] | None) -> None:
    from cli.confirm import ask_on_terminal

    named = ", ".join(f"{name} {value}" for name, value in fields.items())
    about = describe() if describe else lambda _: named
    ask_on_terminal(command.question, yes=False, about=lambda: about(fields))


def _shown(command: type[Command], fields: Mapping[str, str], reply: Body) -> str:
    """A reply for reading: the new id; or what happened on a terminal, the position of the change in a pipe."""
    if command.creates:
        return next(str(value) for name, value in reply.items() if name not in _ENVELOPE)
    if not render.is_terminal():
        return str(reply["position"])
    done = command.done.format_map({**fields, **reply}) or f"{command.request.replace('.', ' ')}: done"
    return f"{done} (version {reply['version']}, position {reply['position']})"


def _run_bulk(
    command: type[Command],
    role: str,
    source: str,
    command_id: str | None,
    given: Mapping[str, str | None],
    *,
    yes: bool,
) -> None:
    if command_id is not None or any(value is not None for value in given.values()):
        raise InvalidInput("--from", "takes all input from its lines; leave out the other arguments")
    from cli.bulk import Bulk
    from cli.input_lines import open_input

    lines = open_input(source)
    if not yes and source != "-":  # standard input holds the lines, so it cannot hold an answer
        from cli.confirm import ask_on_terminal

        ask_on_terminal(
            command.question, yes=False, about=lambda: f"this is about every line of {source}, not one only"
        )
    raise typer.Exit(Bulk(role, command.request).run(lines))
