"""`es help …`: the help of a group or command, as `--help` after it prints it."""

from typing import Annotated

import typer

from cli import session

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: es help users create")
def show(
    context: typer.Context,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[COMMAND]...", help="For example `users create`.")
    ] = None,
) -> None:
    """Show the help of a group or command."""
    home = ["--home", session.options.home] if session.options.home else []  # its es.toml may name features
    context.find_root().command.main([*home, *(words or []), "--help"], prog_name="es")
