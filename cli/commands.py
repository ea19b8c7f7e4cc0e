"""A command class as an `es` command: its options, its bulk form and its answer are derived from the class."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from cli import render, session
from domain.kernel.commands import Command, Input, inputs_of, personal_inputs
from domain.kernel.errors import InvalidInput
from domain.kernel.messages import Body

From = Annotated[
    str | None,
    typer.Option("--from", metavar="FILE|-", help="One JSON object per line from a file or standard input."),
]
_ENVELOPE = ("command_id", "version", "position")


def derived(command: type[Command], role: str, name: str) -> Any:
    """An `es` command: an argument or option for each input, --from, --command-id, --json."""

    def run(source: str | None, command_id: str | None, as_json: bool, **given: str | None) -> None:
        if source is not None:
            _run_bulk(role, command.request, source, command_id, given)
        for field, value in given.items():
            if value is None:
                raise InvalidInput(field.replace("_", "-"), "is missing; give it, or use --from")
        fields = {field: session.from_argument(value or "") for field, value in given.items()}
        reply = session.send(role, command.request, fields, given_id=command_id)
        render.answer(reply, as_json=as_json, human=lambda: render.line(_shown(command, reply)))

    inputs, personal = inputs_of(command), personal_inputs(command)
    parameters = [
        _parameter(field, _annotation(command, field, taken, is_personal=field in personal))
        for field, taken in inputs.items()
    ]
    parameters += [
        _parameter("source", From),
        _parameter("command_id", render.CommandId),
        _parameter("as_json", render.Json, default=False),
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    lines = ", ".join(f'"{field}"' for field in inputs)
    prints = "its id" if command.creates else "the position of the change"
    app = typer.Typer(add_completion=False)
    app.command(
        name,
        help=f"{inspect.getdoc(command)} Prints {prints}. With --from: lines of {{{lines}}}.",
    )(run)
    made = typer.main.get_command(app)
    made.name = name
    return made


def _parameter(name: str, annotation: Any, *, default: object = None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _annotation(command: type[Command], field: str, taken: Input, *, is_personal: bool) -> Any:
    text = f"{taken.help}, or - to read it from standard input." if is_personal else taken.help
    if command.creates:
        option = f"--{field.replace('_', '-')}"
        return Annotated[str | None, typer.Option(option, metavar=taken.metavar, help=text)]
    return Annotated[str | None, typer.Argument(metavar=taken.metavar, help=text)]


def _shown(command: type[Command], reply: Body) -> str:
    """A reply for reading: the new id, or the position of the change."""
    if not command.creates:
        return str(reply["position"])
    return next(str(value) for name, value in reply.items() if name not in _ENVELOPE)


def _run_bulk(
    role: str, kind: str, source: str, command_id: str | None, given: Mapping[str, str | None]
) -> None:
    if command_id is not None or any(value is not None for value in given.values()):
        raise InvalidInput("--from", "takes all input from its lines; leave out the other arguments")
    from cli.bulk import Bulk
    from cli.input_lines import open_input

    raise typer.Exit(Bulk(role, kind).run(open_input(source)))
