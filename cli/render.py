"""The form of answers and errors, and the options that many commands share.

Promise: standard output holds the answer and nothing else; errors and remarks go to standard error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer

from domain.kernel.errors import EsError, Kind
from domain.kernel.messages import to_json

Json = Annotated[bool, typer.Option("--json", help="Print JSON: one object, or one per line for a list.")]
CommandId = Annotated[
    str | None,
    typer.Option(
        "--command-id",
        metavar="UUID",
        help="The idempotency key: a retry with it is safe. Default: a new one.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Wait until every stored event is included.")]
After = Annotated[
    int | None, typer.Option("--after", metavar="POSITION", help="Wait until this position is included.")
]
Limit = Annotated[int, typer.Option("--limit", min=1, max=1000, help="The maximum number of results.")]

_SHOWN_CHARACTERS = 60  # how much of a sealed value is shown: the whole value is long


# --- answers ---------------------------------------------------------------------------------


def line(text: str) -> None:
    """Print one line of the answer. It is flushed, so that a program that reads the lines gets each at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def json_line(value: Mapping[str, Any]) -> None:
    line(to_json(value))


def answer(value: Mapping[str, Any], *, as_json: bool, human: Callable[[], None]) -> None:
    """Print an object as JSON, or call `human`, which prints it for reading."""
    if as_json:
        json_line(value)
    else:
        human()


def record(value: Mapping[str, Any], *, as_json: bool) -> None:
    """Print an object as JSON, or as one line per field."""
    answer(value, as_json=as_json, human=lambda: fields(value))


def rows(items: Iterable[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Print a list: every object as a line of JSON, or a table of the named fields."""
    if not as_json:
        table(columns, ([item.get(column) for column in columns] for item in items))
        return
    for item in items:
        json_line(item)


def event(stored: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a stored event as JSON, or as one tab-separated line with long values shortened."""
    if as_json:
        json_line(stored)
        return
    data = {name: _shortened(value) for name, value in stored["data"].items()}
    names = ("position", "time", "stream", "version", "type")
    line("\t".join([*(str(stored[name]) for name in names), json.dumps(data, ensure_ascii=False)]))


def fields(value: Mapping[str, Any]) -> None:
    """Print an object for reading: one line per field."""
    width = max(map(len, value), default=0)
    for name, item in value.items():
        line(f"{name:<{width}}  {_cell(item)}".rstrip())


def table(columns: Sequence[str], items: Iterable[Sequence[object]]) -> None:
    """Print a list for reading: a table on a terminal, tab-separated lines in a pipe."""
    cells = ([_cell(value) for value in item] for item in items)
    if not sys.stdout.isatty():
        for row in cells:
            line("\t".join(row))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        # Users copy the first column, which names the row: never break it. Fold the others, never cut them.
        drawn.add_column(column, no_wrap=number == 0, overflow="fold")
    for row in cells:
        drawn.add_row(*(Text(cell) for cell in row))
    Console().print(drawn)


def _cell(value: object) -> str:
    return "" if value is None else str(value)


def _shortened(value: Any) -> Any:
    is_long = isinstance(value, str) and len(value) > _SHOWN_CHARACTERS
    return f"{value[:_SHOWN_CHARACTERS]}…" if is_long else value


# --- errors ----------------------------------------------------------------------------------


def error_object(error: EsError) -> dict[str, str]:
    return {"code": error.code, "message": str(error), "hint": error.hint}


def show_error(error: EsError, *, as_json: bool) -> None:
    """Print an error to standard error: a line with what happened, a line with what to do next."""
    if as_json:
        value: dict[str, Any] = {"command_id": error.command_id} if error.command_id else {}
        print(to_json({**value, "error": error_object(error)}), file=sys.stderr)
        return
    print(f"error: {error}", file=sys.stderr)
    if error.hint:
        print(f"  hint: {error.hint}", file=sys.stderr)
    if error.command_id and error.kind in (Kind.UNAVAILABLE, Kind.DAMAGED):  # its outcome may be unknown
        print(f"  command id: {error.command_id}", file=sys.stderr)
