"""Measure vague words in the prose of this repository, and fail above a limit.

Promise: every docstring, comment, document and message text is read; a failure lists file and line.
Refusal: nothing is edited, and docs/glossary.md is not measured, because it quotes the words it advises against.

`python -m tests.test_prose [PREFIX…]` prints the rates, for example of `adapters` or `docs/ids.md`.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROGRAM_FOLDERS = ("adapters", "cli", "domain", "es", "examples", "load", "scripts", "workers")
"""Folders with Python that is not a test. A folder that does not exist is skipped."""
TEST_FOLDERS = ("tests",)
DOCUMENTS = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs/**/*.md")
COMMENTED = (
    "Makefile",
    "Dockerfile",
    "pyproject.toml",
    "*.yml",
    ".*.yaml",
    ".ci/*",
    "scripts/*.sh",
    "adapters/**/*.sql",
)
"""Files that are no Python and have comments from `# ` or `-- ` to the end of the line."""
NOT_MEASURED = ("docs/glossary.md",)

LIMIT_PER_1000_WORDS = 0.2
NAME_LIMIT_CHARACTERS = 80

# "whichever" and "whenever" are allowed: they choose among things that the sentence names.
VAGUE = re.compile(
    r"\b(?:who(?:m|so)?ever|what(?:so)?ever|(?:some|any|every)(?:body|one)|nobody|no(?:\s+|-)one)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_FENCED_CODE = re.compile(r"^ *(```|~~~).*?^ *\1[^\n]*$", re.MULTILINE | re.DOTALL)
_END_OF_LINE_COMMENT = re.compile(r"(?:^|\s)(?:#+|--) (.*)$")
_INLINE_CODE = re.compile(r"(`+)[^`].*?\1")
_LINK_TARGET = re.compile(r"(?<=\])\([^)\s]*\)")


@dataclass(frozen=True)
class Passage:
    """Consecutive prose of one file. `line` is the number of its first line, from 1."""

    path: str
    line: int
    text: str


@dataclass(frozen=True, order=True)
class Finding:
    """One vague word."""

    path: str
    line: int
    word: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.word}"


@dataclass(frozen=True)
class Measure:
    """How many words some passages have, and which of them are vague."""

    words: int
    findings: tuple[Finding, ...]

    @property
    def per_1000_words(self) -> float:
        return 1000 * len(self.findings) / self.words if self.words else 0.0


def measure(passages: Iterable[Passage]) -> Measure:
    words = 0
    findings: list[Finding] = []
    for passage in passages:
        words += len(_WORD.findall(passage.text))
        for match in VAGUE.finditer(passage.text):
            line = passage.line + passage.text.count("\n", 0, match.start())
            findings.append(Finding(passage.path, line, " ".join(match[0].split())))
    return Measure(words, tuple(sorted(findings)))


def complaint(group: str, found: Measure) -> str:
    """An empty text within the limit; above it the rate and every finding."""
    if found.per_1000_words <= LIMIT_PER_1000_WORDS:
        return ""
    return "\n".join(
        [
            f"{group}: {found.per_1000_words:.2f} vague words per 1,000, limit {LIMIT_PER_1000_WORDS}.",
            "Name the actor instead: caller, client, worker, operator. See docs/glossary.md.",
            *map(str, found.findings),
        ]
    )


# --- passages of a file ----------------------------------------------------------------------


def comments_of(path: str, source: str) -> Iterator[Passage]:
    """The comments of a Python source. Comments on consecutive lines are one passage."""
    lines: list[str] = []
    start = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        if lines and token.start[0] != start + len(lines):
            yield Passage(path, start, "\n".join(lines))
            lines = []
        start = start if lines else token.start[0]
        lines.append(token.string.lstrip("#!"))
    if lines:
        yield Passage(path, start, "\n".join(lines))


def docstrings_of(path: str, source: str) -> Iterator[Passage]:
    """Every string that is a statement: docstrings, and descriptions below constants and fields."""
    for constant in _described(ast.parse(source)):
        yield Passage(path, constant.lineno, str(constant.value))


def texts_of(path: str, source: str) -> Iterator[Passage]:
    """The other strings that contain a space: errors, hints, help and logged texts.

    A text that is written over several lines is reported at its first line.
    """
    tree = ast.parse(source)
    described = {id(constant) for constant in _described(tree)}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and " " in node.value
            and id(node) not in described
        ):
            # On one line, because a line break in the text is no line break in the source.
            yield Passage(path, node.lineno, " ".join(node.value.split()))


def _described(tree: ast.Module) -> Iterator[ast.Constant]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            constant = node.value
            if isinstance(constant.value, str):
                yield constant


def document_of(path: str, markdown: str) -> Passage:
    """A Markdown file without its code and link targets. Line numbers stay the same."""
    for pattern in (_FENCED_CODE, _INLINE_CODE, _LINK_TARGET):
        markdown = pattern.sub(lambda match: "\n" * match[0].count("\n"), markdown)
    return Passage(path, 1, markdown)


def line_comments_of(path: str, text: str) -> Iterator[Passage]:
    for number, line in enumerate(text.splitlines(), start=1):
        if comment := _END_OF_LINE_COMMENT.search(line):
            yield Passage(path, number, comment[1])


# --- groups ----------------------------------------------------------------------------------


def _sources(folders: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Path and content of every Python file below some folders."""
    for folder in folders:
        for file in sorted((ROOT / folder).rglob("*.py")):
            yield file.relative_to(ROOT).as_posix(), file.read_text("utf-8")


def descriptions(folders: Sequence[str]) -> Iterator[Passage]:
    """The docstrings and comments below some folders."""
    for path, source in _sources(folders):
        yield from docstrings_of(path, source)
        yield from comments_of(path, source)


def texts(folders: Sequence[str]) -> Iterator[Passage]:
    for path, source in _sources(folders):
        yield from texts_of(path, source)


def _matching(patterns: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Path and content of every file that matches, but for those that are not measured."""
    for file in sorted({file for pattern in patterns for file in ROOT.glob(pattern)}):
        path = file.relative_to(ROOT).as_posix()
        if path not in NOT_MEASURED:
            yield path, file.read_text("utf-8")


def documents() -> Iterator[Passage]:
    for path, markdown in _matching(DOCUMENTS):
        yield document_of(path, markdown)
    for path, text in _matching(COMMENTED):
        yield from line_comments_of(path, text)


def names_of_tests() -> Iterator[Passage]:
    """The name of every test function, as one word."""
    for path, source in _sources(TEST_FOLDERS):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                yield Passage(path, node.lineno, node.name)


def words_of_test_names() -> Iterator[Passage]:
    for name in names_of_tests():
        yield replace(name, text=name.text.replace("_", " "))


PROSE: dict[str, Callable[[], Iterator[Passage]]] = {
    "program, docstrings and comments": lambda: descriptions(PROGRAM_FOLDERS),
    "tests, docstrings and comments": lambda: descriptions(TEST_FOLDERS),
    "documents": documents,
    "program, texts": lambda: texts(PROGRAM_FOLDERS),
    "test names": words_of_test_names,
}
"""The groups that have to stay within the limit."""


# --- the tests -------------------------------------------------------------------------------


@pytest.mark.parametrize("group", PROSE)
def test_prose_names_its_actors(group: str) -> None:
    found = measure(PROSE[group]())

    assert found.words > 1000, f"{group}: too few words were found; the folders may have moved"
    if message := complaint(group, found):
        pytest.fail(message, pytrace=False)


def test_no_test_name_is_longer_than_the_limit() -> None:
    long = [
        f"{name.path}:{name.line}: {name.text} ({len(name.text)})"
        for name in names_of_tests()
        if len(name.text) > NAME_LIMIT_CHARACTERS
    ]

    if long:
        message = f"A test name says subject and outcome in at most {NAME_LIMIT_CHARACTERS} characters."
        pytest.fail("\n".join([message, *long]), pytrace=False)


MADE_UP_SOURCE = '''"""Close the door.

Whoever comes late waits for no
one.
"""

nobody = 1  # Somebody's number,
# or anyone's.
LIMIT = 2
"""Whatever it takes."""


class TooLate(Exception):
    hint = "Ask everybody \\n" + f"and {nobody} else, or someone"
    code = "nobody"
'''


def test_a_vague_word_is_found_in_every_kind_of_prose() -> None:
    docstrings = measure(docstrings_of("a.py", MADE_UP_SOURCE))
    comments = measure(comments_of("a.py", MADE_UP_SOURCE))
    strings = measure(texts_of("a.py", MADE_UP_SOURCE))

    assert list(map(str, docstrings.findings)) == ["a.py:3: Whoever", "a.py:3: no one", "a.py:10: Whatever"]
    assert list(map(str, comments.findings)) == ["a.py:7: Somebody", "a.py:8: anyone"]
    assert list(map(str, strings.findings)) == ["a.py:14: everybody", "a.py:14: someone"]
    assert (docstrings.words, comments.words, strings.words) == (13, 4, 6)


def test_code_in_a_document_is_not_prose() -> None:
    markdown = "Ask `nobody`.\n\n```sh\nchown nobody\n```\n\nSee [this](for-everybody.md).\n\nAnybody else\n"

    found = measure([document_of("a.md", markdown)])

    assert found == Measure(5, (Finding("a.md", 9, "Anybody"),))


def test_comments_of_other_files_are_prose() -> None:
    makefile = "# Ask everybody\nlist: ## Show all, or someone\n\techo $#nobody\nSELECT 1 -- anyone\n"

    found = measure(line_comments_of("Makefile", makefile))

    assert list(map(str, found.findings)) == [
        "Makefile:1: everybody",
        "Makefile:2: someone",
        "Makefile:4: anyone",
    ]


def test_a_group_above_the_limit_is_refused_with_each_place() -> None:
    calm = [Passage("a.md", 1, "word " * 4999)]
    vague = Passage("b.md", 7, "whoever")

    assert complaint("made up", measure([*calm, vague])) == ""
    refused = complaint("made up", measure([*calm, vague, vague]))
    assert refused.startswith("made up: 0.40 vague words per 1,000, limit 0.2.")
    assert refused.count("b.md:7: whoever") == 2


# --- the thermometer -------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the rate of each folder and the worst files; with a prefix also each finding."""
    parser = argparse.ArgumentParser(prog="python -m tests.test_prose", description=main.__doc__)
    parser.add_argument("prefixes", nargs="*", metavar="PREFIX", help="measure only paths that start with it")
    parser.add_argument("--files", type=int, default=15, metavar="N", help="how many files to list")
    chosen = parser.parse_args(arguments)
    found_in: dict[str, list[Passage]] = {
        group: [p for p in passages() if not chosen.prefixes or p.path.startswith(tuple(chosen.prefixes))]
        for group, passages in PROSE.items()
    }
    for group, passages in found_in.items():
        _print_rates(group, passages)
    if not any(found_in.values()):
        parser.error(f"no prose is below {' '.join(chosen.prefixes)}")
    everything = [passage for passages in found_in.values() for passage in passages]
    _print_worst(everything, chosen.files)
    if chosen.prefixes:
        print("", *measure(everything).findings, sep="\n")
    return 0


def _print_rates(group: str, passages: Sequence[Passage]) -> None:
    if not passages:
        return
    by_folder = defaultdict(list)
    for passage in passages:
        by_folder[passage.path.rpartition("/")[0] or "."].append(passage)
    print(f"{group}\n{'vague':>8}{'words':>8}{'per 1,000':>11}")
    for folder, inside in sorted(by_folder.items()):
        print(_row(measure(inside), folder))
    if len(by_folder) > 1:
        print(_row(measure(passages), "all of these"))
    print()


def _print_worst(passages: Sequence[Passage], count: int) -> None:
    by_file = defaultdict(list)
    for passage in passages:
        by_file[passage.path].append(passage)
    measured = [(measure(inside), path) for path, inside in by_file.items()]
    worst = sorted(measured, key=lambda item: (-len(item[0].findings), item[1]))[:count]
    print("the worst files")
    for found, path in worst:
        if found.findings:
            print(_row(found, path))


def _row(found: Measure, name: str) -> str:
    return f"{len(found.findings):>8}{found.words:>8}{found.per_1000_words:>11.1f}  {name}"


if __name__ == "__main__":
    raise SystemExit(main())
