"""The documents get the figures of a run, between their markers only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from scripts.bench.plan import PARTS
from scripts.bench.report import Line, Section, as_json
from scripts.bench.scaling import scaling
from scripts.bench.written import PAGES, renewed, write
from tests.support.processes import ROOT

PAGE = """# Performance

Before.

<!-- bench embedded: written by `make bench`, do not edit -->

former figures

<!-- end of bench embedded -->

Between.

<!-- bench ids: written by `make bench`, do not edit -->

former ids

<!-- end of bench ids -->

<!-- bench run: written by `make bench`, do not edit -->
<!-- end of bench run -->
After.
"""


@pytest.fixture
def run() -> dict[str, Any]:
    """A made-up run of one part."""
    section = Section("The embedded profile", [Line("creates", {10: [5.0]}, {0: 4})], counts="users")
    return {
        "machine": {
            "date": "2026-11-30",
            "commit": "abc",
            "machine": "two cores",
            "load at start": "0.10",
        },
        "warnings": ["the machine was busy"],
        "is_complete": True,
        "sections": {"embedded": as_json(section)},
        "figures": {"embedded": {"bulk": {"10": [5.0]}}},
    }


def test_a_block_gets_the_figures_of_the_run(run: dict[str, Any]) -> None:
    page = renewed(PAGE, run)

    assert "former figures" not in page
    assert "| creates | ≥ 4 | 5 | 5–5 | 1.25 |  |" in page
    assert "- machine: two cores\n- load at start: 0.10\n- **the machine was busy**" in page
    assert "\n\nRun: 2026-11-30, abc, two cores\n\n<!-- end of bench embedded -->" in page


def test_text_outside_and_what_was_not_measured_stay(run: dict[str, Any]) -> None:
    page = renewed(PAGE, run)

    assert "former ids" in page
    assert page.startswith("# Performance\n\nBefore.\n\n<!-- bench embedded:")
    assert "\n\nBetween.\n\n" in page
    assert page.endswith("<!-- end of bench run -->\nAfter.\n")
    assert renewed(page, run) == page, "a second time changes nothing"


def test_pages_are_written_only_if_they_change(run: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for name in PAGES:
        (tmp_path / name).write_text("no blocks\n")
    (tmp_path / PAGES[0]).write_text(PAGE)

    assert write(tmp_path, run) == [PAGES[0]]
    assert write(tmp_path, run) == []


def test_the_pages_have_one_block_for_each_part_and_no_other() -> None:
    begins = re.compile(r"^<!-- bench ([\w-]+): ", re.MULTILINE)
    ends = re.compile(r"^<!-- end of bench ([\w-]+) -->$", re.MULTILINE)
    pages = [(ROOT / name).read_text("utf-8") for name in PAGES]

    assert [begins.findall(page) for page in pages] == [ends.findall(page) for page in pages]
    assert sorted(name for page in pages for name in begins.findall(page)) == sorted(
        [*PARTS, "run", "scaling"]
    )


# --- carried forward ------------------------------------------------------------------------------


def cells(table: str, title: str) -> list[str]:
    (row,) = [line for line in table.splitlines() if line.startswith(f"| {title}")]
    return [cell.strip() for cell in row.split("|")][2:-1]


def test_stored_bytes_are_multiplied() -> None:
    table = scaling({"stored in events": {"1000": [600.0]}, "stored in vault": {"1000": [400.0]}})

    assert cells(table, "events.db")[-1] == "60"
    assert cells(table, "disk, GB") == ["", "1", "10", "100"]
    assert cells(table, "disk with a rebuild")[-1] == "140", "and a copy of the vault"
    assert cells(table, "inner pages")[1:] == ["38", "380", "3,800"], "a hundredth, and 8 % of the vault"


def test_a_rate_is_carried_forward_by_its_growth() -> None:
    falling = scaling({"bulk": {"10000": [2000.0], "1000000": [500.0]}})
    rising = scaling({"bulk": {"10000": [500.0], "1000000": [2000.0]}})

    assert cells(falling, "bulk creates per second")[1:] == ["500", "250", "125"]
    assert cells(rising, "bulk creates per second")[1:] == ["2,000", "2,000", "2,000"], "it got better"


def test_a_time_is_carried_forward_by_its_growth() -> None:
    table = scaling({"create p50": {"1000": [1.0], "10000": [2.0]}})

    assert cells(table, "create, one in flight")[1:] == ["8", "16", "32"]
