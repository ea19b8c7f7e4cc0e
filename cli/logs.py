"""`es logs`: print the logs of the workers.

Promise: a pipe, and --json, get the lines as they were written. A terminal gets time, level, worker and message.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from cli import render, session
from cli.completion import levels
from cli.completion import logs as logs_of
from cli.times import parse_since_us
from domain.features import registry
from domain.kernel.errors import InvalidInput
from domain.kernel.ids import time_text

app = typer.Typer(add_completion=False)
_POLL_S = 0.2
_LINES = 200
_LEVELS = ("info", "warning", "error")
Lines = Annotated[
    int | None,
    typer.Option(
        "-n",
        "--lines",
        metavar="N",
        min=0,
        help=f"The number of last lines of each log. Default: {_LINES}, with --since all.",
    ),
]
Since = Annotated[
    str | None,
    typer.Option(
        "--since", metavar="TIME", help="Only lines since a time (RFC 3339), or the last 10m, 2h, 1d."
    ),
]
Level = Annotated[
    str,
    typer.Option(
        "--level",
        metavar="LEVEL",
        autocompletion=levels,
        help="Only lines of this level or a worse one: info, warning, error.",
    ),
]


@app.command(epilog="Example: es logs users --since 10m --level warning")
def logs(
    role: Annotated[
        str | None,
        typer.Argument(
            metavar="ROLE",
            autocompletion=logs_of,
            help="One role, for example users; without it all of them.",
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Continue with new lines.")] = False,
    lines: Lines = None,
    since: Since = None,
    level: Level = "info",
    as_json: Annotated[bool, typer.Option("--json", help="Print the lines as they were written.")] = False,
) -> None:
    """Print the logs of the workers, oldest first: readable on a terminal, JSON lines in a pipe."""
    if level not in _LEVELS:
        raise InvalidInput("--level", f"must be one of {', '.join(_LEVELS)}")
    wanted = _Wanted(set(_LEVELS[_LEVELS.index(level) :]), since and _time(since))
    paths = _logs_of(role)
    count = lines if lines is not None else None if since else _LINES
    show = _show_readable if render.is_terminal() and not as_json else render.line
    entries = [pair for path in paths for pair in _placed(_last_lines(path, count, wanted))]
    for _, entry in sorted(entries, key=lambda pair: pair[0]):
        show(entry)
    if follow:
        for entry in filter(wanted, _added(paths)):
            show(entry)


class _Wanted:
    """Whether a line has one of the levels and is not older than a time. A line that is no JSON is always wanted."""

    def __init__(self, levels: set[str], since: str | None) -> None:
        self._levels = levels
        self._since = since
        self._is_everything = since is None and len(levels) == len(_LEVELS)

    def __call__(self, entry: str) -> bool:
        if self._is_everything:
            return True
        found = _parsed(entry)
        if found is None:
            return True
        is_recent = self._since is None or str(found.get("time")) >= self._since
        return is_recent and found.get("level") in self._levels


def _time(since: str) -> str:
    return time_text(parse_since_us(since, "--since"))


def _logs_of(role: str | None) -> list[Path]:
    """The logs of a role, or all of them. Raises InvalidInput if there are none."""
    settings = session.settings()
    features = registry(settings.features)
    known = ("supervisor", *features.role_names)
    found = sorted(settings.log.glob("*.log"))
    paths = [path for path in found if role is None or _role_of(path) == role]
    if paths:
        return paths
    if role is not None and role not in known:
        unknown = InvalidInput(
            "ROLE", f"must be one of {', '.join(known)}", "Without it, all logs are printed."
        )
        raise features.unknown(unknown)
    with_log = (
        ", ".join(sorted({_role_of(path) for path in found})) or "none yet: start the workers with `es up`"
    )
    raise InvalidInput("ROLE", f"has no log in {settings.log}", f"Roles with a log: {with_log}.")


def _show_readable(entry: str) -> None:
    from cli import terminal

    found = _parsed(entry)
    for shown in [render.safe(entry)] if found is None else terminal.log_lines(found, render.safe):
        render.drawn(shown)


def _parsed(entry: str) -> dict[str, object] | None:
    try:
        found = json.loads(entry)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _role_of(log: Path) -> str:
    """The role `users` for the logs of all its workers: users.log, users-2.log."""
    role, _, instance = log.stem.rpartition("-")
    return role if role and instance.isdecimal() else log.stem


def _last_lines(path: Path, count: int | None, wanted: _Wanted) -> list[str]:
    """The last wanted lines of a log, the rotated files included. None means all of them."""
    last: list[str] = []
    for each in [path, *sorted(path.parent.glob(f"{path.name}.*"), key=lambda each: each.suffix)]:
        if count is not None and len(last) >= count:
            break
        try:
            text = each.read_text("utf-8", "replace")
        except FileNotFoundError:  # rotated away meanwhile
            continue
        last[:0] = filter(wanted, text.splitlines())
    return last if count is None else last[max(len(last) - count, 0) :]


def _placed(entries: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each line with its place in time: a line that is no JSON, as of a traceback, follows the one before it."""
    place = ""
    for entry in entries:
        place = entry if entry.startswith("{") else place
        yield place, entry


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
