"""`es logs`: print what the workers have logged."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from cli import render, session
from cli.supervisor import POLL_S
from domain.kernel.errors import InvalidInput

app = typer.Typer(add_completion=False)


@app.command()
def logs(
    role: Annotated[str | None, typer.Argument(help="One role, for example users; all if left out.")] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on printing what is added.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="How many lines of each log.")] = 200,
) -> None:
    """Print the workers' logs: one JSON object a line, oldest first."""
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
    """`users` for the logs of every worker of that role: users.log, users-2.log."""
    return log.stem.partition("-")[0]


def _last_lines(path: Path, count: int) -> list[str]:
    return path.read_text("utf-8", "replace").splitlines()[-count:] if count else []


def _added(paths: list[Path]) -> Iterator[str]:
    """Lines as they are added; a rotated file is opened anew."""
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
            time.sleep(POLL_S * 4)
