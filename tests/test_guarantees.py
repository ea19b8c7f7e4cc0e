"""The table of promises names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_promise_names_a_test_that_exists() -> None:
    rows = [line for line in (ROOT / "docs/guarantees.md").read_text().splitlines() if line.startswith("| ")]
    promises = [row for row in rows if not row.startswith(("| promise", "| ---"))]
    named = [re.findall(r"`(tests/[^`]+)::(test_\w+)`", row) for row in promises]

    missing = [(file, name) for found in named for file, name in found if name not in _tests_in(ROOT / file)]

    assert promises
    assert all(named), "a promise without a test"
    assert missing == []


def _tests_in(file: Path) -> set[str]:
    if not file.exists():
        return set()
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)}
