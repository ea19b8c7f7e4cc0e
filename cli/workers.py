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
    """Every role that starts so, those of features from outside included."""
    names = registry(session.settings().features).role_names
    return [name for name in names if name.startswith(incomplete)]


@app.callback()
def group() -> None:
    """Run workers in the foreground, for systemd and containers."""


@app.command()
def run(
    roles: Annotated[
        list[str],
        typer.Argument(
            metavar="ROLE…",
            autocompletion=_roles,
            help=f"{', '.join(registry().role_names)}, or of a feature in ES_FEATURES.",
        ),
    ],
) -> None:
    """Run one or more roles in the foreground; logs go to standard error. Ctrl-C or SIGTERM drains and stops."""
    settings = session.settings()
    for role in roles:
        if role not in _roles():
            raise InvalidInput("ROLE", f"must be one of {', '.join(_roles())}")
    home = ["--home", str(settings.home)]
    command = [sys.executable, "-P", "-m", "workers"]
    if len(roles) == 1:
        command += ["serve", roles[0], *home]
    else:
        command += [
            "supervise",
            "--foreground",
            *home,
            *(part for role in roles for part in ("--role", role)),
        ]
    os.execv(command[0], command)  # noqa: S606  # become the worker: signals then reach it directly
