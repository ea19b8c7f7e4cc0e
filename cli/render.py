"""The form of answers and errors, and the options that many commands share.

Promise: standard output holds the answer and nothing else; errors and remarks go to standard error. No value that came
from outside reaches a terminal with a character that the terminal would obey.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
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
Limit = Annotated[
    int, typer.Option("--limit", metavar="N", min=1, max=1000, help="The maximum number of results.")
]

_LINES = 1000
"""How many lines of a list are written at once."""
_SHOWN_CHARACTERS = 60  # how much of a sealed value is shown: the whole value is long
# Control characters, marks that turn the direction of text, and surrogates, which no output can encode.
_OBEYED = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"


# --- answers ---------------------------------------------------------------------------------


def safe(text: str, *, keep_lines: bool = False) -> str:
    """Text from outside for a terminal: control characters as \\u001b, which in JSON is the same text.

    `keep_lines` leaves tabs and line feeds as they are, because the caller has put them there.
    """
    if text.isprintable():
        return text
    pattern = f"[{_OBEYED}]" if keep_lines else f"[{_OBEYED}\t\n]"
    return re.sub(pattern, lambda found: f"\\u{ord(found[0]):04x}", text)


def line(text: str) -> None:
    """Print one line of the answer. It is flushed, so that a program that reads the lines gets each at once."""
    _write(safe(text, keep_lines=True))


def sentence(text: str, *, indent: str = "") -> None:
    """Print one line of the answer; a terminal gets it broken between words, with an indent from the second line on."""
    if not is_terminal():
        line(text)
        return
    from cli import terminal

    for part in terminal.wrapped(safe(text), indent):
        line(part)


def on_terminal(text: str) -> None:
    """Print a sentence on a terminal. A pipe gets nothing: there the exit code says it."""
    if is_terminal():
        sentence(text)


def drawn(text: str) -> None:
    """Print a line with escape sequences of ours. Everything from outside in it must be safe."""
    _write(text)


def _write(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def json_line(value: Mapping[str, Any]) -> None:
    line(to_json(value))


def json_lines(values: Iterable[Mapping[str, Any]]) -> None:
    """Print objects, a line each, and flush them together: each flush is a system call."""
    _write("\n".join([safe(to_json(value), keep_lines=True) for value in values]))


def answer(value: Mapping[str, Any], *, as_json: bool, human: Callable[[], None]) -> None:
    """Print an object as JSON, or call `human`, which prints it for reading."""
    if as_json:
        json_line(value)
    else:
        human()


def record(value: Mapping[str, Any], *, as_json: bool) -> None:
    """Print an object as JSON, or as one line per field."""
    answer(value, as_json=as_json, human=lambda: fields(value))


def rows(
    items: Iterable[Mapping[str, Any]],
    columns: Sequence[str],
    *,
    as_json: bool,
    first_dropped: Sequence[str] | None = None,
    whole_times: bool = False,
) -> None:
    """Print a list: every object as a line of JSON, or a table of the named fields; see `table`."""
    if not as_json:
        shown = ([item.get(column) for column in columns] for item in items)
        table(columns, shown, first_dropped=first_dropped, whole_times=whole_times)
        return
    found = iter(items)
    while some := list(islice(found, _LINES)):
        json_lines(some)


def event(stored: Mapping[str, Any], *, as_json: bool) -> None:
    """Print an event as JSON, as lines on a terminal, or as one tab-separated line with long values shortened."""
    if as_json:
        json_line(stored)
    elif is_terminal():
        from cli import terminal

        for text, indent in terminal.event_texts({**stored, "data": with_reasons(stored)}):
            for event_line in terminal.wrapped(safe(text), indent):
                line(event_line)
    else:
        data = {name: _shortened(value) for name, value in with_reasons(stored).items()}
        names = ("position", "time", "stream", "version", "type")
        line("\t".join([*(_cell(stored[name]) for name in names), json.dumps(data, ensure_ascii=False)]))


def last_error(state: Mapping[str, Any]) -> str:
    """The last error of background work with its time, or an empty text."""
    error = state.get("last_error")
    return f"{error['at'][:19]}Z {error['message']}" if error else ""


def with_reasons(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The data of an event for reading: a value that cannot be read is replaced by the reason."""
    reasons = stored.get("unreadable") or {}
    return {**stored["data"], **{name: f"(unreadable: {reason})" for name, reason in reasons.items()}}


def fields(value: Mapping[str, Any]) -> None:
    """Print an object for reading: one line per field."""
    width = max(map(len, value), default=0)
    for name, item in value.items():
        sentence(f"{name:<{width}}  {_cell(item)}".rstrip(), indent=" " * (width + 2))


def table(
    columns: Sequence[str],
    items: Iterable[Sequence[object]],
    *,
    first_dropped: Sequence[str] | None = None,
    whole_times: bool = False,
) -> None:
    """Print a list for reading: a table on a terminal, tab-separated lines in a pipe.

    A narrow terminal lacks the columns `first_dropped`, in that order; by default all but the first two, from the end.
    """
    cells = ([_cell(value) for value in item] for item in items)
    if not is_terminal():
        for row in cells:
            line("\t".join(row))
        return
    from cli import terminal

    shown = list(cells) if whole_times else [[terminal.to_the_second(cell) for cell in row] for row in cells]
    droppable = columns[:1:-1] if first_dropped is None else first_dropped
    drawn = terminal.Table(columns, shown, sys.stdout, first_dropped=droppable, cells=terminal.width())
    for drawn_line in drawn.lines:
        _write(drawn_line)
    if drawn.dropped:
        left_out = f"No room for: {', '.join(drawn.dropped)}. --json shows them."
        _write(terminal.paint("\n".join(terminal.wrapped(left_out)), "dim", sys.stdout))


def is_terminal() -> bool:
    """Whether standard output is a terminal: it gets tables, colour, and sentences where a pipe gets values."""
    return sys.stdout.isatty()


def _cell(value: object) -> str:
    return "" if value is None else safe(str(value))


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
        print(safe(to_json({**value, "error": error_object(error)})), file=sys.stderr)
        return
    print(f"{_alarm('error:')} {safe(str(error))}", file=sys.stderr)
    if error.hint:
        print(f"  hint: {safe(error.hint)}", file=sys.stderr)
    if error.command_id and error.kind in (Kind.UNAVAILABLE, Kind.DAMAGED):  # its outcome may be unknown
        print(f"  command id: {safe(error.command_id)}", file=sys.stderr)


def _alarm(text: str) -> str:
    """In red on a terminal."""
    if not sys.stderr.isatty():
        return text
    from cli import terminal

    return terminal.paint(text, "alarm", sys.stderr)
