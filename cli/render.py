"""How answers and errors look. Standard output is the answer; everything else goes to standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer

from domain.kernel.errors import EsError, Kind
from domain.kernel.messages import to_json

Json = Annotated[
    bool, typer.Option("--json", help="Answer with JSON: one object, or one per line for lists.")
]
CommandId = Annotated[
    str | None,
    typer.Option("--command-id", metavar="UUID", help="Makes repeating safe. A new one is made if left out."),
]

EXIT_INTERRUPTED = 130
EXIT_OUTPUT_CLOSED = 141  # what a shell shows for a program ended by SIGPIPE


class OutputLost(EsError):
    """The answer can't be written where it has to go."""

    reason: str
    code = "output-lost"
    hint = "Repeat the command with a standard output that can be written to."

    def __str__(self) -> str:
        return f"standard output cannot be written: {self.reason}"


def line(text: str) -> None:
    """One line of the answer. Flushed: whoever reads us line by line shall not wait for more."""
    if sys.stdout is None:
        raise OutputLost("it is closed")
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        give_up_output()
        raise OutputLost(error.strerror or "it failed") from error


def json_line(value: Mapping[str, Any]) -> None:
    line(to_json(value))


def answer(value: Mapping[str, Any], *, as_json: bool, human: Callable[[], None]) -> None:
    if as_json:
        json_line(value)
    else:
        human()


def fields(value: Mapping[str, Any]) -> None:
    """An object for reading: a line per field."""
    width = max(map(len, value), default=0)
    for name, item in value.items():
        line(f"{name:<{width}}  {'' if item is None else item}".rstrip())


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Rows for reading: a table on a terminal, tab-separated lines in a pipe."""
    cells = ([_cell(item) for item in row] for row in rows)
    if sys.stdout is None or not sys.stdout.isatty():
        for row in cells:
            line("\t".join(row))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        # The first names the row and is what people copy: it is never cut or broken, and no other is cut.
        drawn.add_column(column, no_wrap=number == 0, overflow="fold")
    for row in cells:
        drawn.add_row(*(Text(cell) for cell in row))
    Console().print(drawn)


def _cell(item: object) -> str:
    return "" if item is None else str(item)


def error_object(error: EsError) -> dict[str, str]:
    return {"code": error.code, "message": str(error), "hint": error.hint}


def show_error(error: EsError, *, as_json: bool, command_id: str | None) -> None:
    """One line that says what happened, one that says what to do next."""
    if as_json:
        value: dict[str, Any] = {"command_id": command_id} if command_id else {}
        print(to_json({**value, "error": error_object(error)}), file=sys.stderr)
        return
    print(f"error: {error}", file=sys.stderr)
    if error.hint:
        print(f"  hint: {error.hint}", file=sys.stderr)
    if command_id and error.kind is Kind.UNAVAILABLE:
        print(f"  command id: {command_id}", file=sys.stderr)


def give_up_output() -> None:
    """The reader of our output has gone: keep the interpreter from complaining about it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
