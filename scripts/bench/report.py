"""What a benchmark has measured, as a table for a terminal, as Markdown and as JSON.

A section has lines. A line has figures: one for each round, at one size or several. A size is what the section counts, for
example users; a section without sizes has the size 0 alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Matrix = Mapping[str, Mapping[str, float]]
"""A figure for each row and column, for example CPU time by command and role."""


class Figures:
    """The figures by name and size."""

    def __init__(self) -> None:
        self.by_name: dict[str, dict[int, list[float]]] = {}

    def add(self, name: str, figure: float, size: int = 0) -> None:
        self.by_name.setdefault(name, {}).setdefault(size, []).append(figure)

    def of(self, name: str) -> dict[int, list[float]]:
        return self.by_name.get(name, {})

    def median(self, name: str, size: int = 0) -> float:
        return statistics.median(self.by_name[name][size])


@dataclass(frozen=True)
class Line:
    """The figures of one line, and the goals they are compared with.

    `goals` has the goal from a size on. `loss` is how much worse the largest size may be than the smallest, as a share.
    """

    title: str
    figures: Mapping[int, Sequence[float]]
    goals: Mapping[int, float] = field(default_factory=dict)
    at_most: bool = False
    loss: float | None = None

    @property
    def sizes(self) -> list[int]:
        return sorted(self.figures)

    def median(self, size: int) -> float:
        return statistics.median(self.figures[size])

    def goal(self, size: int) -> float | None:
        return next((self.goals[start] for start in sorted(self.goals, reverse=True) if start <= size), None)

    def misses(self, size: int) -> bool:
        goal = self.goal(size)
        if goal is None:
            return False
        # Beyond the error of floating point: 100 * 0.02 / 2.0 is 1.
        ratio = self.median(size) / goal
        return ratio > 1 + 1e-9 if self.at_most else ratio < 1 - 1e-9

    @property
    def growth(self) -> float | None:
        """The largest size to the smallest; None with one size."""
        first = self.median(self.sizes[0])
        return self.median(self.sizes[-1]) / first if len(self.sizes) > 1 and first else None

    @property
    def worsens(self) -> bool:
        if self.growth is None or self.loss is None:
            return False
        return self.growth > 1 + self.loss if self.at_most else self.growth < 1 - self.loss

    @property
    def mark(self) -> str:
        missed = any(map(self.misses, self.sizes))
        return ", ".join([*["missed"] * missed, *["worsens"] * self.worsens])


@dataclass(frozen=True)
class Wanted:
    """A line that a section should have: the figures `of` a name, or their ratios `over` another name, by round."""

    title: str
    of: str
    over: str = ""
    goals: Mapping[int, float] = field(default_factory=dict)
    at_most: bool = False
    loss: float | None = None

    def line(self, figures: Figures) -> Line:
        found: dict[int, list[float]] = figures.of(self.of)
        if self.over:
            others = figures.of(self.over)
            found = {
                size: [own / other for own, other in zip(found[size], others[size], strict=False) if other]
                for size in found
                if size in others
            }
        measured = {size: each for size, each in found.items() if each}
        return Line(self.title, measured, self.goals, self.at_most, self.loss)


@dataclass(frozen=True)
class Section:
    """One part of a benchmark. `counts` says what a size is, `notes` what was not measured and why."""

    title: str
    lines: Sequence[Line]
    counts: str = ""
    matrix: Matrix = field(default_factory=dict)
    matrix_title: str = ""
    notes: Sequence[str] = ()

    @property
    def missed(self) -> list[str]:
        return [line.title for line in self.lines if line.mark]


def lines_of(wanted: Iterable[Wanted], figures: Figures) -> list[Line]:
    """The lines for which there are figures."""
    return [line for each in wanted if (line := each.line(figures)).figures]


# --- cells, which a table and Markdown share -----------------------------------------------------


def _cells(section: Section) -> list[list[str]]:
    sizes = sorted({size for line in section.lines for size in line.sizes})
    shown = [f"{size:,} {section.counts}".rstrip() if size else "median" for size in sizes]
    growth = ["growth"] if len(sizes) > 1 else []
    heads = ["", "goal", *shown, *growth, "spread", "to goal", ""]
    return [heads, *(_row(line, sizes, has_growth=len(sizes) > 1) for line in section.lines)]


def _row(line: Line, sizes: Sequence[int], *, has_growth: bool) -> list[str]:
    sign = "≤" if line.at_most else "≥"
    goals = "; ".join(f"{sign} {number(goal)}" for _, goal in sorted(line.goals.items()))
    figures = [number(line.median(size)) if size in line.figures else "" for size in sizes]
    growth = [f"× {line.growth:.2f}" if line.growth is not None else ""] if has_growth else []
    last = line.sizes[-1]
    spread = f"{number(min(line.figures[last]))}–{number(max(line.figures[last]))}"
    goal = line.goal(last)
    return [
        line.title,
        goals,
        *figures,
        *growth,
        spread,
        f"{line.median(last) / goal:.2f}" if goal else "",
        line.mark,
    ]


def _matrix_cells(section: Section) -> list[list[str]]:
    columns = list(dict.fromkeys(column for row in section.matrix.values() for column in row))
    rows = [
        [name, *(number(row[column]) if column in row else "" for column in columns)]
        for name, row in section.matrix.items()
    ]
    return [[section.matrix_title, *columns], *rows]


def number(figure: float) -> str:
    return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.3g}"


def table(section: Section) -> str:
    parts = [section.title]
    if section.lines:
        parts.append(_aligned(_cells(section)))
    if section.matrix:
        parts.append(_aligned(_matrix_cells(section)))
    parts += [f"  {note}" for note in section.notes]
    return "\n".join(parts)


def _aligned(cells: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 or cell.startswith(("missed", "worsens")) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )


def markdown(section: Section) -> str:
    parts = []
    if section.lines:
        parts.append(_piped(_cells(section)))
    if section.matrix:
        parts.append(_piped(_matrix_cells(section)))
    if section.notes:
        parts.append("\n".join(f"- {note}" for note in section.notes))
    return "\n\n".join(parts)


def _piped(cells: Sequence[Sequence[str]]) -> str:
    heads, *rows = cells
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, rule, *rows))


# --- JSON -------------------------------------------------------------------------------------


def as_json(section: Section) -> dict[str, Any]:
    """The section, with the median, the growth and the mark of each line. `from_json` reads it back."""
    lines = [
        {
            "title": line.title,
            "figures": {str(size): list(line.figures[size]) for size in line.sizes},
            "median": {str(size): line.median(size) for size in line.sizes},
            "goals": {str(size): goal for size, goal in line.goals.items()},
            "at_most": line.at_most,
            "loss": line.loss,
            "growth": line.growth,
            "mark": line.mark,
        }
        for line in section.lines
    ]
    return {
        "title": section.title,
        "counts": section.counts,
        "lines": lines,
        "matrix_title": section.matrix_title,
        "matrix": {name: dict(row) for name, row in section.matrix.items()},
        "notes": list(section.notes),
    }


def from_json(found: Mapping[str, Any]) -> Section:
    lines = [
        Line(
            line["title"],
            {int(size): figures for size, figures in line["figures"].items()},
            {int(size): goal for size, goal in line["goals"].items()},
            line["at_most"],
            line["loss"],
        )
        for line in found["lines"]
    ]
    return Section(
        found["title"], lines, found["counts"], found["matrix"], found["matrix_title"], found["notes"]
    )
