"""What only a terminal gets: tables and lines that fit its width, and colour.

Promise: no line of a table is wider than the terminal. Numbers, times and the first column, which names the row, are
whole as long as they fit. Refusal: nothing here decides what is shown in a pipe or with --json.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TextIO

from rich.cells import cell_len, chop_cells, set_cell_size

Colour = Literal["alarm", "warning", "heading", "dim"]

ALARMS = frozenset({"error", "failed", "failing", "damaged", "tampered", "missing", "unreadable", "no reply"})
"""Words in a cell, and levels of logs, that need an operator."""
WARNINGS = frozenset({"warning", "waiting", "starting", "stopping", "building", "quarantined"})
"""Words in a cell, and levels of logs, that may pass."""
_ALARMING_COUNTS = frozenset({"parked", "dead", "silent"})
"""Columns in which every number but 0 needs an operator."""

_CODES: dict[Colour, str] = {"alarm": "1;31", "warning": "33", "heading": "1", "dim": "2"}
_WHOLE = re.compile(r"[\d.:TZ%+-]*")  # a number or a time: a part of it would be wrong
_NUMBER = re.compile(r"[\d.+-]*%?")
_FRACTION = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.\d+Z")
_GAP = "  "
_ENOUGH = 24
"""Columns are dropped rather than shortened to less than this."""
_LEAST = 4
_SEALED = re.compile(r"es\d+:[^:]*:[^:]*:(.+)", re.DOTALL)  # a personal value in an event
_SEALED_SHOWN = 12


def has_colour(stream: TextIO) -> bool:
    """Whether a terminal shows colour: `NO_COLOR` and a terminal without escape sequences turn it off."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and has_escapes()


def has_escapes() -> bool:
    return os.environ.get("TERM", "dumb") != "dumb"


def paint(text: str, colour: Colour | None, stream: TextIO) -> str:
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m" if colour and has_colour(stream) else text


def width() -> int:
    return shutil.get_terminal_size().columns


def to_the_second(text: str) -> str:
    """A time without its fraction; every other text as it is."""
    return _FRACTION.sub(r"\1Z", text) if _FRACTION.fullmatch(text) else text


def colour_of(column: str, cell: str) -> Colour | None:
    if cell in ALARMS or (column in _ALARMING_COUNTS and cell not in ("", "0")):
        return "alarm"
    return "warning" if cell in WARNINGS else None


def shortened(text: str, cells: int, mark: str = "…") -> str:
    """A text in at most so many cells; a cut text ends with the mark."""
    return text if cell_len(text) <= cells else set_cell_size(text, cells - 1).rstrip() + mark


def wrapped(text: str, indent: str = "") -> list[str]:
    """A sentence in lines that break between words; `indent` begins all but the first."""
    cells = max(width(), 20)
    lines = [""]
    for word in re.findall(" *[^ ]+", text):
        if lines[-1].strip() and cell_len(lines[-1] + word) > cells:
            lines.append(indent + word.lstrip())
        else:
            lines[-1] += word
        while cell_len(lines[-1]) > cells:
            first, *rest = chop_cells(lines.pop(), cells)
            lines += [first, indent + "".join(rest)]
    return lines


def event_texts(event: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """An event: its time, place, type and actor, then its data; with the indent of their further lines."""
    at = "" if event.get("position") is None else f"{event['position']}  "
    head = f"{to_the_second(str(event['time']))}  {at}{event['stream']}@{event['version']}  {event['type']}"
    head += f"  by {event['actor']}" if event.get("actor") else ""
    yield head, "  "
    data = "  ".join(f"{name}={_data(value)}" for name, value in event["data"].items())
    if data:
        yield f"    {data}", "      "


def _data(value: Any) -> str:
    if value is None:
        return "(erased)"
    sealed = _SEALED.fullmatch(value) if isinstance(value, str) else None
    return f"(sealed {sealed[1][:_SEALED_SHOWN]}…)" if sealed else str(value)


@dataclass
class _Column:
    name: str
    cells: Sequence[str]
    width: int = 0
    is_whole: bool = False
    """Whether it is never shortened."""
    is_number: bool = False

    def __post_init__(self) -> None:
        self.width = max(map(cell_len, (self.name, *self.cells)))
        self.is_whole = all(map(_WHOLE.fullmatch, self.cells))
        self.is_number = all(map(_NUMBER.fullmatch, self.cells))

    @property
    def enough(self) -> int:
        return self.width if self.is_whole else min(self.width, _ENOUGH)


class Table:
    """A table of texts for a terminal. `lines` are its lines, `dropped` the columns that had no room."""

    def __init__(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        stream: TextIO,
        *,
        first_dropped: Sequence[str],
        cells: int,
    ) -> None:
        """`first_dropped` are the columns that may be dropped, in that order."""
        self._stream = stream
        self._mark, self._rule = _marks(stream)
        self._columns = [_Column(name, [row[at] for row in rows]) for at, name in enumerate(columns)]
        self.dropped: list[str] = []
        for name in first_dropped:
            if self._total([column.enough for column in self._columns]) <= cells:
                break
            self._columns = [column for column in self._columns if column.name != name]
            self.dropped.append(name)
        self._shorten(cells)

    def _total(self, widths: Sequence[int]) -> int:
        return sum(widths) + len(_GAP) * (len(widths) - 1)

    def _shorten(self, cells: int) -> None:
        """Take from the widest column until the table fits; from the first only if nothing else can give."""
        for candidates in (self._columns[1:], self._columns[:1]):
            giving = [column for column in candidates if not column.is_whole and column.width > _LEAST]
            while giving and self._total([column.width for column in self._columns]) > cells:
                widest = max(giving, key=lambda column: column.width)
                widest.width -= 1
                giving = [column for column in giving if column.width > _LEAST]

    @property
    def lines(self) -> list[str]:
        total = self._total([column.width for column in self._columns])
        head = self._line([column.name for column in self._columns], is_head=True)
        count = len(self._columns[0].cells)
        body = [self._line([column.cells[at] for column in self._columns]) for at in range(count)]
        return [paint(head, "heading", self._stream), paint(self._rule * total, "dim", self._stream), *body]

    def _line(self, cells: Sequence[str], *, is_head: bool = False) -> str:
        line, end = "", 0
        for number, (column, text) in enumerate(zip(self._columns, cells, strict=True)):
            shown = shortened(text, column.width, self._mark)
            end += column.width + len(_GAP)
            padding = " " * (column.width - cell_len(shown))
            # Numbers are right-aligned, so that their sizes can be compared.
            before, after = (padding, "") if number and column.is_number else ("", padding)
            line += before + (shown if is_head else paint(shown, colour_of(column.name, text), self._stream))
            if number < len(cells) - 1:
                line += after + _GAP
                if not text.isascii() and has_escapes():
                    # Terminals disagree on the width of some emoji: name the place of the next column.
                    line += f"\x1b[{end + 1}G"
        return line.rstrip()


def _marks(stream: TextIO) -> tuple[str, str]:
    """The marks of a cut text and of a rule, in the characters that the terminal has."""
    try:
        "…─".encode(stream.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return "~", "-"
    return "…", "─"
