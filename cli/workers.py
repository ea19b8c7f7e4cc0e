"""`es workers …`: workers in the foreground."""

import os
import sys
from typing import Annotated

import typer

from cli import session
from domain.features import registry
from domain.kernel.errors import InvalidInput

app = typer.Typer(no_args_is_help=True)


def _roles(incomplete: str = "") -> list[str]:
    """The roles of all features, also of those that `ES_FEATURES` names."""
    names = registry(session.settings().features).role_names
    return [name for name in names if name.startswith(incomplete)]


@app.command()
def run(
    roles: Annotated[
        list[str],
        typer.Argument(
            metavar="ROLE…",
            autocompletion=_roles,
            help=f"{', '.join(registry().role_names)}, or a role of a feature in ES_FEATURES.",
        ),
    ],
) -> None:
    """Run one or more roles in the foreground. Logs go to standard error. Ctrl-C or SIGTERM drains and stops."""
    known = _roles()
    for role in roles:
        if role not in known:
            raise InvalidInput("ROLE", f"must be one of {', '.join(known)}", "See `es workers run --help`.")
    home = ["--home", str(session.settings().home)]
    command = [sys.executable, "-P", "-m", "workers"]
    if len(roles) == 1:
        command += ["serve", roles[0], *home]
    else:
        named = [word for role in roles for word in ("--role", role)]
        command += ["supervise", "--foreground", *home, *named]
    os.execv(command[0], command)  # noqa: S606  # become the worker, so that signals reach it directly
