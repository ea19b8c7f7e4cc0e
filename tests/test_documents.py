"""Documents name only what exists: files, functions, tests and pages. The map shows every folder.

Promise: a file, function or test that was moved or renamed is found in the documents. Refusal: the prose is measured in
tests/test_prose.py, and commands are checked in tests/test_operations.py.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("adapters", "cli", "docs", "domain", "es", "examples", "load", "scripts", "tests", "workers")
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

_PATH = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[\w./*-]*)(?:::([\w.]+))?`")
_LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES)
def test_every_path_and_link_of_a_page_exists(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    named = [(path, name) for path, name in _PATH.findall(text) if not _exists(path, name)]
    links = [link for link in _LINK.findall(text) if not ((ROOT / page).parent / link).exists()]

    assert (named, links) == ([], [])


def _exists(path: str, name: str) -> bool:
    """Whether the path exists and, if a name is given, the class, function or method of that name in it."""
    if not any(ROOT.glob(path)):
        return False
    if not name:
        return True
    bodies = [ast.parse((ROOT / path).read_text("utf-8")).body]
    for part in name.split("."):
        bodies = [body for block in bodies for body in _bodies_named(part, block)]
    return bool(bodies)


def _bodies_named(name: str, block: list[ast.stmt]) -> Iterator[list[ast.stmt]]:
    for node in block:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            yield node.body


def test_a_missing_file_function_or_method_is_found() -> None:
    assert _exists("domain/kernel/ports/", "")
    assert _exists("adapters/*/event_store.py", "")
    assert _exists("cli/session.py", "ask")
    assert _exists("workers/users/service.py", "UsersService.handle")
    assert not _exists("domain/missing.py", "")
    assert not _exists("cli/session.py", "UsersService")
    assert not _exists("workers/users/service.py", "UsersService.ask")


# --- docs/guarantees.md ----------------------------------------------------------------------


def test_every_promise_names_a_test() -> None:
    rows = [line for line in (ROOT / "docs/guarantees.md").read_text().splitlines() if line.startswith("| ")]
    promises = [row for row in rows if not row.startswith(("| promise", "| ---"))]

    assert promises
    assert [row for row in promises if not re.search(r"`tests/[^`]+\.py::test_\w+`", row)] == []


# --- docs/architecture.md --------------------------------------------------------------------


def test_the_map_shows_every_folder() -> None:
    page = (ROOT / "docs/architecture.md").read_text("utf-8")
    shown = set(re.findall(r"^\| `([\w/]+/)` \|", page, re.MULTILINE))

    assert shown == set(_folders())


def _folders() -> Iterator[str]:
    """Folders with files of the project. A folder of tests that is named after sources is not on the map."""
    for top in FOLDERS:
        for folder in [ROOT / top, *(ROOT / top).rglob("*/")]:
            path = folder.relative_to(ROOT)
            mirrored = top == "tests" and (ROOT / path.relative_to("tests")).is_dir()
            has_files = folder.is_dir() and any(file.is_file() for file in folder.glob("*.*"))
            if has_files and path.name != "__pycache__" and (not mirrored or path == Path("tests")):
                yield f"{path.as_posix()}/"
