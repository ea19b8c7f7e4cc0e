"""Charts as HTML and inline SVG, drawn once for any width.

The drawing is stretched to its place, and its lines keep their width; labels are text of the page, placed in percent. So
a chart is legible at every width and in print, and needs no script. Promise: every chart has a title, a description, a
legend and its figures as a table. Every text is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from load.report.scales import Scale, clock, figure, time_ticks
from load.report.series import Axis, Values

WIDTH, HEIGHT = 1000, 100
"""Of a drawing, in its own units."""

_BRIDGED = 3  # late samples in a row: more are an outage, and interrupt the line

Point = tuple[float, float]
"""Shares of the width and the height, from the lower left corner."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line or an area of a chart. `colour` is a class of the style sheet."""

    name: str
    values: Values
    colour: str
    kind: str = "line"
    """`line`, `dashed`, or `area`: areas lie on top of each other, in their order."""
    is_sampled: bool = False
    """Whether a missing value is a sample that came late, not a time without requests."""


@dataclass(frozen=True, slots=True)
class Chart:
    """What a chart over time shows. `unit` follows the figures of its legend and its description."""

    title: str
    unit: str
    lines: Sequence[Line]
    scale: Scale
    note: str = ""
    tall: bool = True


def over_time(chart: Chart, axis: Axis) -> str:
    """A chart over the time axis of the run, with the borders of its phases."""
    if not any(value is not None for line in chart.lines for value in line.values):
        return empty(chart.title, "nothing was measured")
    drawn = _phases(axis) + grid_lines(chart.scale) + _drawn(chart, axis)
    values = ",".join(
        "[" + ",".join("null" if value is None else f"{value:.5g}" for value in line.values) + "]"
        for line in chart.lines
    )
    size = "" if chart.tall else " small"
    return (
        f'<figure class="chart time{size}" data-values="[{values}]">'
        f"{_caption(chart)}{plot(drawn, chart.title, _description(chart, axis), chart.scale, _time_labels(axis, 10 if chart.tall else 4))}"
        f"{_table(chart, axis)}</figure>"
    )


def empty(title: str, why: str) -> str:
    """The place of a chart without figures."""
    return f'<figure class="chart"><figcaption><h4>{escape(title)}</h4></figcaption><p class="none">{escape(why)}</p></figure>'


def plot(drawn: str, title: str, description: str, scale: Scale, x_labels: str) -> str:
    """A drawing within its axes."""
    y_labels = "".join(
        f'<span style="bottom:{scale.share(tick) * 100:.2f}%">{figure(tick)}</span>' for tick in scale.ticks
    )
    return (
        f'<div class="plot"><div class="y" aria-hidden="true">{y_labels}</div><div class="area">'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img">'
        f"<title>{escape(title)}</title><desc>{escape(description)}</desc>{drawn}</svg></div>"
        f'<div class="x" aria-hidden="true">{x_labels}</div></div>'
    )


def path(points: Sequence[Point | None], *, bridged: int = 0) -> str:
    """A line through points. More missing ones than `bridged` interrupt it; a single one is drawn as a dash."""
    runs: list[list[Point]] = [[]]
    missing = 0
    for point in points:
        if point is None:
            missing += 1
            continue
        if missing > bridged and runs[-1]:
            runs.append([])
        runs[-1].append(point)
        missing = 0
    return "".join(_polyline(run) for run in runs if run)


def _polyline(points: Sequence[Point]) -> str:
    if len(points) == 1:
        (x, y) = points[0]
        points = [(x - 0.002, y), (x + 0.002, y)]
    return "M" + "L".join(f"{x} {y}" for x, y in map(_place, points))


def area(upper: Sequence[Point], lower: Sequence[Point]) -> str:
    """The area between two lines."""
    around = [_place(point) for point in (*upper, *reversed(lower))]
    return "M" + "L".join(f"{x} {y}" for x, y in around) + "Z"


def x_label(share: float, text: str, *, is_minor: bool = False) -> str:
    # The first and the last label stay within the width of the plot.
    kinds = {"minor": is_minor, "first": share < 0.01, "last": share > 0.95}
    kind = " ".join(name for name, holds in kinds.items() if holds)
    return f'<span class="{kind}" style="left:{share * 100:.2f}%">{escape(text)}</span>'


def grid_lines(scale: Scale, x_shares: Sequence[float] = ()) -> str:
    across = "".join(f"M0 {_place((0, scale.share(tick)))[1]}H{WIDTH}" for tick in scale.ticks)
    upright = "".join(f"M{_place((share, 0))[0]} 0V{HEIGHT}" for share in x_shares)
    return f'<path class="grid" d="{across}{upright}"/>'


def phase_strip(axis: Axis) -> str:
    """The names of the phases along the time axis. Sighted readers see them on top of the charts while they scroll."""
    names = "".join(
        f'<span class="{"warm" if phase.is_warm_up else ""}" title="{escape(phase.name)}" style="left:'
        f'{axis.share(phase.from_s) * 100:.2f}%;width:{(axis.share(phase.to_s) - axis.share(phase.from_s)) * 100:.2f}%">'
        f"{escape(phase.name)}</span>"
        for phase in axis.phases
    )
    return f'<div class="strip" aria-hidden="true"><div class="names">{names}</div></div>' if names else ""


def _place(point: Point) -> tuple[str, str]:
    return f"{point[0] * WIDTH:.1f}".removesuffix(".0"), f"{(1 - point[1]) * HEIGHT:.2f}".removesuffix(".00")


def _phases(axis: Axis) -> str:
    """The warm-up as a shade, and the borders between phases."""
    warm = "".join(
        f'<rect class="warm" x="{axis.share(phase.from_s) * WIDTH:.1f}" y="0" '
        f'width="{(axis.share(phase.to_s) - axis.share(phase.from_s)) * WIDTH:.1f}" height="{HEIGHT}"/>'
        for phase in axis.phases
        if phase.is_warm_up
    )
    borders = "".join(
        f"M{axis.share(phase.from_s) * WIDTH:.1f} 0V{HEIGHT}" for phase in axis.phases if phase.from_s > 0
    )
    return warm + (f'<path class="border" d="{borders}"/>' if borders else "")


def _drawn(chart: Chart, axis: Axis) -> str:
    centres = axis.centres()
    below, parts = [0.0] * len(centres), []
    for line in chart.lines:
        if line.kind == "area":
            above = [base + (value or 0.0) for base, value in zip(below, line.values, strict=True)]
            parts.append(f'<path class="area {line.colour}" d="{_band(axis, chart.scale, below, above)}"/>')
            below = above
        elif line.kind == "dashed":
            parts.append(
                f'<path class="dashed {line.colour}" d="{_stairs(axis, chart.scale, line.values)}"/>'
            )
        else:
            points = [
                None if value is None else (x, chart.scale.share(value))
                for x, value in zip(centres, line.values, strict=True)
            ]
            drawn = path(points, bridged=_BRIDGED if line.is_sampled else 0)
            parts.append(f'<path class="line {line.colour}" d="{drawn}"/>')
    return "".join(parts)


def _stairs(axis: Axis, scale: Scale, values: Values) -> str:
    return path(
        [
            None if value is None else (axis.share(side), scale.share(value))
            for value, step in zip(values, axis.steps, strict=True)
            for side in step
        ]
    )


def _band(axis: Axis, scale: Scale, below: Sequence[float], above: Sequence[float]) -> str:
    """An area in stairs, as wide as the steps: a count belongs to the whole of its step."""
    if above == list(below):
        return ""

    def stairs(values: Sequence[float]) -> list[Point]:
        return [
            (axis.share(side), scale.share(value))
            for value, step in zip(values, axis.steps, strict=True)
            for side in step
        ]

    return area(stairs(above), stairs(below))


def _time_labels(axis: Axis, most: int) -> str:
    return "".join(
        x_label(axis.share(at_s), clock(at_s), is_minor=most > 4 and bool(index % 2))
        for index, at_s in enumerate(time_ticks(axis.end_s, most))
    )


def _caption(chart: Chart) -> str:
    keys = "".join(
        f'<li><i class="key {line.kind} {line.colour}"></i>{escape(line.name)}<b></b></li>'
        for line in chart.lines
    )
    scale = ", log scale" if chart.scale.is_log and chart.tall else ""
    note = f'<p class="note">{escape(chart.note)}</p>' if chart.note else ""
    legend = f'<ul class="legend">{keys}</ul>' if chart.tall else ""
    return (
        f'<figcaption><h4>{escape(chart.title)} <span class="unit">{escape(chart.unit)}{scale}</span></h4>'
        f"{legend}{note}</figcaption>"
    )


def _description(chart: Chart, axis: Axis) -> str:
    """What the chart shows, in a sentence for each line."""
    sentences = [f"From 0:00 to {clock(axis.end_s)}."]
    for line in chart.lines:
        known = [
            (value, step[0]) for value, step in zip(line.values, axis.steps, strict=True) if value is not None
        ]
        if known:
            (high, at_s), (low, _) = max(known), min(known)
            sentences.append(
                f"{line.name}: {figure(low)} to {figure(high)} {chart.unit}, highest at {clock(at_s)}."
            )
    return " ".join(sentences)


def _table(chart: Chart, axis: Axis) -> str:
    heads = "".join(f"<th scope=col>{escape(line.name)}" for line in chart.lines)
    rows = "".join(
        f"<tr><th scope=row>{clock(first)}"
        + "".join(f"<td>{figure(line.values[index])}" for line in chart.lines)
        for index, (first, _) in enumerate(axis.steps)
    )
    return table_alternative(f"<tr><th scope=col>from{heads}", rows, f"{chart.title}, {chart.unit}")


def table_alternative(head: str, rows: str, caption: str) -> str:
    """The figures of a chart, folded away. Head and rows are HTML already."""
    return (
        f'<details><summary title="The figures as a table">table</summary><div class="scroll"><table><caption>{escape(caption)}</caption>'
        f"<thead>{head}</thead><tbody>{rows}</tbody></table></div></details>"
    )
