"""`es workers …`: workers in the foreground."""

import os
import sys
from typing import Annotated

import typer

from cli import session
from cli.completion import roles
from domain.features import registry
from domain.kernel.errors import InvalidInput

app = typer.Typer(no_args_is_help=True, epilog="Example: es workers run ids users")


@app.command(epilog="Example: es workers run ids users")
def run(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="ROLE…",
            autocompletion=roles,
            help=f"{', '.join(registry().role_names)}, or a role of a feature in ES_FEATURES.",
        ),
    ],
) -> None:
    """Run one or more roles in the foreground. Logs go to standard error. Ctrl-C or SIGTERM drains and stops."""
    known = registry(session.settings().features)
    for role in names:
        if known.role(role) is None:
            roles = ", ".join(known.role_names)
            raise known.unknown(
                InvalidInput("ROLE", f"must be one of {roles}", "See `es workers run --help`.")
            )
    home = ["--home", str(session.settings().home)]
    command = [sys.executable, "-P", "-m", "workers"]
    if len(names) == 1:
        command += ["serve", names[0], *home]
    else:
        named = [word for role in names for word in ("--role", role)]
        command += ["supervise", "--foreground", *home, *named]
    os.execv(command[0], command)  # noqa: S606  # become the worker, so that signals reach it directly
