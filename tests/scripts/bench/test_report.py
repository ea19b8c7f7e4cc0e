"""A report compares medians with goals, sizes with each other, and figures with those of the same round."""

from __future__ import annotations

import json

from scripts.bench.report import (
    Figures,
    Line,
    Section,
    Wanted,
    as_json,
    from_json,
    lines_of,
    markdown,
    number,
    table,
)

RATE = Line(
    "creates per second", {10: [90.0, 100.0, 110.0], 1000: [79.0, 60.0, 80.0]}, {0: 50, 1000: 75}, loss=0.2
)
"""It has 0.79 of its first rate at the largest size."""


def figures(**found: dict[int, list[float]]) -> Figures:
    made = Figures()
    for name, by_size in found.items():
        for size, each in by_size.items():
            for figure in each:
                made.add(name, figure, size)
    return made


def test_a_goal_counts_from_its_size_on() -> None:
    assert [RATE.goal(size) for size in (10, 999, 1000)] == [50, 50, 75]
    assert Line("without", {0: [1.0]}).goal(0) is None


def test_a_missed_goal_is_marked_at_any_size() -> None:
    assert Line("rate", {10: [49.0], 1000: [100.0]}, {0: 50}).mark == "missed"
    assert Line("ms", {10: [1.0], 1000: [6.1]}, {0: 6}, at_most=True).mark == "missed"
    assert Line("ms", {10: [1.0], 1000: [6.0]}, {0: 6}, at_most=True).mark == ""
    assert Line("%", {0: [1.0 + 1e-12]}, {0: 1}, at_most=True).mark == "", "an error of floating point"


def test_a_line_that_gets_worse_with_size_is_marked() -> None:
    assert RATE.mark == "worsens"
    assert Line("rate", {10: [100.0], 1000: [81.0]}, loss=0.2).mark == ""
    assert Line("ms", {10: [100.0], 1000: [121.0]}, at_most=True, loss=0.2).mark == "worsens"
    assert Line("ms", {10: [100.0], 1000: [50.0]}, at_most=True, loss=0.2).mark == "", "it got better"
    assert Line("ms", {10: [100.0], 1000: [900.0]}, at_most=True).mark == "", "no limit is set"


def test_a_ratio_compares_the_figures_of_one_round_at_one_size() -> None:
    found = figures(own={1: [10.0, 30.0], 2: [5.0]}, bare={1: [20.0, 20.0]})

    assert Wanted("to bare", "own", over="bare").line(found).figures == {1: [0.5, 1.5]}


def test_lines_without_figures_are_left_out() -> None:
    wanted = [Wanted("a", "a"), Wanted("b", "b"), Wanted("a to b", "a", over="b")]

    assert [line.title for line in lines_of(wanted, figures(a={0: [1.0]}))] == ["a"]


def test_the_table_has_a_column_for_each_size_the_growth_and_the_mark() -> None:
    heads, row = table(Section("embedded", [RATE], counts="users")).splitlines()[1:]

    assert heads.split() == ["goal", "10", "users", "1,000", "users", "growth", "spread", "to", "goal"]
    assert row.split()[3:] == ["≥", "50;", "≥", "75", "100", "79", "×", "0.79", "60–80", "1.05", "worsens"]


def test_the_table_of_one_size_has_no_growth() -> None:
    text = table(Section("ids", [Line("ns", {0: [3.0]})], notes=["x: not installed"]))

    assert "growth" not in text
    assert "median" in text
    assert text.endswith("  x: not installed")


def test_markdown_has_the_cells_of_the_table() -> None:
    section = Section("s", [RATE], counts="users", matrix={"create": {"users": 0.25}}, matrix_title="CPU, ms")
    lines = markdown(section).splitlines()

    assert lines[0] == "|  | goal | 10 users | 1,000 users | growth | spread | to goal |  |"
    assert lines[2] == "| creates per second | ≥ 50; ≥ 75 | 100 | 79 | × 0.79 | 60–80 | 1.05 | worsens |"
    assert lines[-1] == "| create | 0.25 |"


def test_json_holds_everything_that_a_table_shows() -> None:
    section = Section("s", [RATE], counts="users", matrix={"create": {"users": 0.25}}, notes=["n"])
    found = json.loads(json.dumps(as_json(section)))

    assert table(from_json(found)) == table(section)
    assert found["lines"][0]["median"] == {"10": 100.0, "1000": 79.0}
    assert found["lines"][0]["mark"] == "worsens"


def test_numbers_are_shown_with_three_digits() -> None:
    assert [number(figure) for figure in (0.01234, 9.876, 99.94, 123.4, 12345.6)] == [
        "0.0123",
        "9.88",
        "99.9",
        "123",
        "12,346",
    ]
