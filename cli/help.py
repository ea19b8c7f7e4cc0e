"""`es help …`: the help of a group or command, as `--help` after it prints it."""

from typing import Annotated, Any

import typer

from cli import session

app = typer.Typer(add_completion=False)


def _names(context: typer.Context, incomplete: str) -> list[str]:
    """The groups and commands below the words that are typed already."""
    command: Any = context.find_root().command
    for word in context.params.get("words") or []:
        command = command.get_command(context, word) if hasattr(command, "get_command") else None
    found = command.list_commands(context) if hasattr(command, "list_commands") else []
    return [name for name in found if name.startswith(incomplete)]


@app.command(epilog="Example: es help users create")
def show(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[COMMAND]...", autocompletion=_names, help="For example `users create`."),
    ] = None,
) -> None:
    """Show the help of a group or command."""
    home = ["--home", session.options.home] if session.options.home else []  # its es.toml may name features
    context.find_root().command.main([*home, *(words or []), "--help"], prog_name="es")
