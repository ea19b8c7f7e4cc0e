"""Text from outside, such as the actor of an event or an argument, never controls the terminal that it is printed on."""

from __future__ import annotations

import ast
import json
from typing import Any

import pytest

from cli import render, session
from domain.kernel.errors import InvalidInput
from tests.support.processes import ROOT

HOSTILE = "\x1b[2J\x9b31m\x07\x7f\u202eevil\u2028\ud800\r"
ESCAPED = r"\u001b[2J\u009b31m\u0007\u007f\u202eevil\u2028\ud800\u000d"
EVENT = {"position": 1, "time": "t", "stream": HOSTILE, "version": 0, "type": HOSTILE, "data": {"a": HOSTILE}}


@pytest.mark.parametrize(
    "show",
    [
        lambda: render.line(HOSTILE),
        lambda: render.fields({"name": HOSTILE}),
        lambda: render.table(["name"], [[HOSTILE], [f"{HOSTILE}\t\n"]]),
        lambda: render.event(EVENT, as_json=False),
        lambda: render.event(EVENT, as_json=True),
        lambda: render.show_error(InvalidInput(HOSTILE, "is wrong", HOSTILE), as_json=False),
        lambda: render.show_error(InvalidInput(HOSTILE, "is wrong", HOSTILE), as_json=True),
        lambda: session.note(HOSTILE),
    ],
    ids=["line", "fields", "table", "event", "event as JSON", "error", "error as JSON", "note"],
)
@pytest.mark.parametrize("on_terminal", [True, False])
def test_control_characters_are_printed_escaped(
    show: Any, on_terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: on_terminal, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")  # no style of our own

    show()

    printed = "".join(capsys.readouterr())
    assert ESCAPED in printed.replace(r"\r", r"\u000d")
    assert [character for character in HOSTILE if not character.isascii() and character in printed] == []
    assert {character for character in printed if ord(character) < 32} <= {"\n", "\t"}


def test_json_with_escaped_characters_is_the_same_value(capsys: pytest.CaptureFixture[str]) -> None:
    render.json_line({"actor": HOSTILE, "name": "Zoë ☃ 👨\u200d👩\u200d👧"})

    printed = capsys.readouterr().out
    assert json.loads(printed) == {"actor": HOSTILE, "name": "Zoë ☃ 👨\u200d👩\u200d👧"}
    assert "Zoë ☃ 👨\u200d👩\u200d👧" in printed


def test_only_these_modules_print() -> None:
    def prints(node: ast.AST) -> bool:
        return isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.stdout.write")

    found = {
        path.name
        for path in (ROOT / "cli").glob("*.py")
        if any(map(prints, ast.walk(ast.parse(path.read_text()))))
    }

    # `__init__` and `status` print constants, `progress` prints numbers, `load_view` safe lines.
    assert found == {"__init__.py", "load_view.py", "progress.py", "render.py", "session.py", "status.py"}
