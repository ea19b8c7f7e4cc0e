"""`es logs`: print the logs of the workers."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from cli import render, session
from domain.kernel.errors import InvalidInput

app = typer.Typer(add_completion=False)
_POLL_S = 0.2


@app.command(epilog="Example: es logs users --follow")
def logs(
    role: Annotated[
        str | None, typer.Argument(help="One role, for example users; without it all of them.")
    ] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Continue with new lines.")] = False,
    lines: Annotated[
        int, typer.Option("-n", "--lines", min=0, help="The number of last lines of each log.")
    ] = 200,
) -> None:
    """Print the logs of the workers: one JSON object per line, oldest first."""
    folder = session.settings().log
    paths = [path for path in sorted(folder.glob("*.log")) if role is None or _role_of(path) == role]
    if not paths:
        known = ", ".join(sorted({_role_of(path) for path in folder.glob("*.log")})) or "none yet"
        raise InvalidInput("role", f"has no log in {folder}", f"Roles with a log: {known}.")
    for entry in sorted(entry for path in paths for entry in _last_lines(path, lines)):
        render.line(entry)
    if follow:
        for entry in _added(paths):
            render.line(entry)


def _role_of(log: Path) -> str:
    """The role `users` for the logs of all its workers: users.log, users-2.log."""
    role, _, instance = log.stem.rpartition("-")
    return role if role and instance.isdecimal() else log.stem


def _last_lines(path: Path, count: int) -> list[str]:
    return path.read_text("utf-8", "replace").splitlines()[-count:] if count else []


def _added(paths: list[Path]) -> Iterator[str]:
    """New lines, also of the file that replaces a rotated one."""
    files = {path: path.open("rb") for path in paths}
    for file in files.values():
        file.seek(0, os.SEEK_END)
    rest = dict.fromkeys(paths, b"")
    while True:
        quiet = True
        for path, file in files.items():
            rest[path] += file.read()
            *whole, rest[path] = rest[path].split(b"\n")
            quiet = quiet and not whole
            yield from (entry.decode("utf-8", "replace") for entry in whole)
            if path.exists() and path.stat().st_ino != os.fstat(file.fileno()).st_ino:
                file.close()
                files[path] = path.open("rb")
        if quiet:
            time.sleep(_POLL_S)
