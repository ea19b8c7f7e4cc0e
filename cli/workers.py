"""`es workers …`: workers in the foreground."""

import os
import sys
from enum import StrEnum
from typing import Annotated

import typer

from cli import session
from domain.features import ROLES

app = typer.Typer(no_args_is_help=True)


Role = StrEnum("Role", {role: role for role in ROLES})  # type: ignore[misc]  # made from the one list


@app.callback()
def group() -> None:
    """Run workers in the foreground, for systemd and containers."""


@app.command()
def run(
    roles: Annotated[
        list[Role], typer.Argument(metavar="ROLE…", help="ids, users, projections, erasures, relay.")
    ],
) -> None:
    """Run one or more roles in the foreground; logs go to standard error. Ctrl-C or SIGTERM drains and stops."""
    home = ["--home", str(session.settings().home)]
    command = [sys.executable, "-P", "-m", "workers"]
    if len(roles) == 1:
        command += ["serve", roles[0].value, *home]
    else:
        command += [
            "supervise",
            "--foreground",
            *home,
            *(part for role in roles for part in ("--role", role.value)),
        ]
    os.execv(command[0], command)  # noqa: S606  # become the worker: signals then reach it directly
