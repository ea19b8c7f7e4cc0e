"""Tables on a terminal: what is shortened, what is dropped, what is whole, and what is coloured."""

from __future__ import annotations

import io
import re

import pytest
from rich.cells import cell_len

from cli import terminal
from tests.support.terminal import plain

COLUMNS = ["user_id", "email", "name", "version", "registered_at"]
ROWS = [
    ["252562058352301107", "ada@example.com", "Ada", "0", "2026-11-28T22:31:27Z"],
    [
        "252562058352302131",
        f"{'a' * 60}@example.com",
        "日本語の名前 東京 👩‍👩‍👧 👍🏽",
        "12",
        "2026-11-28T22:31:28Z",
    ],
]


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def colourful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")


def drawn(cells: int, stream: Terminal | None = None) -> terminal.Table:
    return terminal.Table(
        COLUMNS, ROWS, stream or Terminal(), first_dropped=["version", "registered_at", "name"], cells=cells
    )


@pytest.mark.parametrize("cells", [200, 103, 80, 60, 40])
def test_every_line_fits_and_keys_numbers_and_times_are_whole(cells: int) -> None:
    table = drawn(cells)

    shown = [plain(line) for line in table.lines]

    assert max(map(cell_len, shown)) <= cells
    for row, line in zip(ROWS, shown[2:], strict=True):
        kept = {name: text for name, text in zip(COLUMNS, row, strict=True) if name not in table.dropped}
        assert line.startswith(row[0])
        assert all(text in line for name, text in kept.items() if name in ("version", "registered_at"))


@pytest.mark.parametrize(
    ("cells", "dropped"),
    [(200, []), (80, ["version", "registered_at"]), (40, ["version", "registered_at", "name"])],
)
def test_columns_are_dropped_in_their_order_before_texts_get_short(cells: int, dropped: list[str]) -> None:
    table = drawn(cells)

    assert table.dropped == dropped
    assert ("…" in table.lines[3]) == (cells < 200)


def test_the_next_column_begins_at_the_same_place_after_wide_characters() -> None:
    _, _, *lines = drawn(200).lines

    starts = [cell_len(plain(line)[: re.search(r"\d+  2026", plain(line)).start()]) for line in lines]  # type: ignore[union-attr]

    assert starts[0] == starts[1] + 1  # right-aligned: 0 below 12
    assert lines[1].count("\x1b[") == 1, (
        "the place after the emoji is named, as terminals disagree on their width"
    )


@pytest.mark.parametrize(
    ("column", "cell", "colour"),
    [
        ("state", "failed", "alarm"),
        ("parked", "2", "alarm"),
        ("dead", "0", None),
        ("state", "waiting", "warning"),
        ("name", "ready", None),
    ],
)
def test_cells_that_need_an_operator_are_coloured(column: str, cell: str, colour: terminal.Colour) -> None:
    assert terminal.colour_of(column, cell) == colour


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colour_can_be_turned_off(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    assert terminal.paint("failed", "alarm", Terminal()) != "failed"
    monkeypatch.setenv(name, value)
    assert terminal.paint("failed", "alarm", Terminal()) == "failed"


def test_a_terminal_without_the_marks_gets_others() -> None:
    stream = Terminal()
    stream.encoding = "latin-1"

    assert {"…", "─"} & set("".join(drawn(40, stream).lines)) == set()


def test_times_are_shown_to_the_second() -> None:
    assert terminal.to_the_second("2026-11-28T22:31:27.087321Z") == "2026-11-28T22:31:27Z"
    assert terminal.to_the_second("at 2026-11-28T22:31:27.087321Z") == "at 2026-11-28T22:31:27.087321Z"
