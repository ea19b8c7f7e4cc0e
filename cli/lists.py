"""Lists that have more rows than are shown: the user is told so, with the command for the next ones."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from typing import Any

import typer

from cli import session


def remark_on_more(
    context: typer.Context,
    count: int,
    following: Mapping[str, Any] | None,
    total: Callable[[], int | None] = lambda: None,
) -> None:
    """Say on standard error that there are more than `count` rows. `following` are the options for the others.

    A script that chose its own `--limit` counts its rows, so it gets no remark. `total` tells how many rows there are
    in all, if that is known.
    """
    is_chosen = _is_given(context, "limit")
    if following is None or (is_chosen and not sys.stderr.isatty()):
        return
    known = total()
    in_all = "" if known is None else f" ({known} in all)"
    session.note(f"there are more than these {count}{in_all}; the others: {_command(context, following)}")


def _command(context: typer.Context, following: Mapping[str, Any]) -> str:
    """The command of this context once more, with other values of some options."""
    first, *path = context.command_path.split()
    words = [first, *(["--home", session.options.home] if session.options.home else []), *path]
    for param in context.command.params:
        name = str(param.name)
        if name not in following and not _is_given(context, name):
            continue
        value = following.get(name, context.params[name])
        if value is False:
            continue
        words += [param.opts[-1]] if param.opts[-1].startswith("-") else []
        words += [] if value is True else [shlex.quote(str(value))]
    return " ".join(words)


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
