"""How latencies are distributed: the plot of percentiles on a logarithmic axis, as HdrHistogram draws it, and a histogram.

The percentile axis gives each nine the same width: 90 %, 99 %, 99.9 %. It ends where one reply remains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from load.histograms import Histogram
from load.report.charts import Point, area, grid_lines, path, plot, table_alternative, x_label
from load.report.scales import Scale, figure, linear

NINES = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999)
_MINOR = (0.0, 50.0, 99.0, 99.99, 99.999)  # not labelled in a small chart
_POINTS = 80
_BARS = 36


def curve(latency: Histogram, scale: Scale, most: int) -> str:
    """The latencies by percentile as a path. `most` is the count of replies that the axis is made for."""
    return path(_points(latency, scale, _nines_of(most)))


def percentile_plot(
    title: str, latency: Histogram, scale: Scale, *, drawn: str, others: Sequence[str] = (), most: int
) -> str:
    """Latency by percentile. `drawn` is its curve; the curves of `others` are behind it in grey."""
    end = _nines_of(most)
    ticks = [(_place(percentile, end), percentile) for percentile in NINES if _place(percentile, end) <= 1]
    behind = "".join(f'<path class="other" d="{each}"/>' for each in others)
    lines = grid_lines(scale, [share for share, _ in ticks]) + behind + f'<path class="line c1" d="{drawn}"/>'
    named = [percentile for percentile in NINES if percentile and _place(percentile, end) <= 1]
    found = latency.percentiles_ms([*named, 100])
    described = ", ".join(
        f"{_percent(p)}: {figure(ms)} ms" for p, ms in zip([*named, 100], found, strict=True)
    )
    labels = "".join(x_label(share, _percent(each), is_minor=each in _MINOR) for share, each in ticks)
    rows = "".join(
        f"<tr><th scope=row>{_percent(each)}<td>{figure(ms)}"
        for each, ms in zip([*named, 100], found, strict=True)
    )
    return (
        f'<figure class="chart"><figcaption><h4>{escape(title)} <span class="unit">ms</span></h4></figcaption>'
        f"{plot(lines, title, described, scale, labels)}"
        f"{table_alternative('<tr><th scope=col>percentile<th scope=col>ms', rows, f'{title}, ms by percentile')}</figure>"
    )


def histogram(title: str, latency: Histogram, latencies: Scale) -> str:
    """How many replies took how long, as shares. The latency axis is the given one, laid flat."""
    bars = _bars(latency, latencies)
    shares = [count / max(latency.count, 1) * 100 for count in bars]
    scale = linear(shares, ticks=3)
    width = 1 / _BARS
    drawn = "".join(
        _bar(index * width, (index + 0.86) * width, scale.share(share))
        for index, share in enumerate(shares)
        if share
    )
    labels = "".join(
        x_label(latencies.share(tick), f"{figure(tick)} ms", is_minor=bool(index % 2))
        for index, tick in enumerate(latencies.ticks)
    )
    ends = [_edge(latencies, index) for index in range(_BARS + 1)]
    rows = "".join(
        f"<tr><th scope=row>{figure(ends[index])} to {figure(ends[index + 1])}<td>{count:,}"
        for index, count in enumerate(bars)
        if count
    )
    highest = max(range(_BARS), key=lambda index: bars[index])
    described = (
        f"{latency.count:,} replies. Most took {figure(ends[highest])} to {figure(ends[highest + 1])} ms."
    )
    return (
        f'<figure class="chart"><figcaption><h4>{escape(title)} <span class="unit">% of replies</span></h4>'
        f'</figcaption>{plot(grid_lines(scale) + f"""<path class="bars c1" d="{drawn}"/>""", title, described, scale, labels)}'
        f"{table_alternative('<tr><th scope=col>ms<th scope=col>replies', rows, f'{title}, replies by ms')}</figure>"
    )


def _nines_of(count: int) -> float:
    """How many nines a count of replies can show: 3 for 1,000."""
    return math.log10(max(count, 10))


def _place(percentile: float, end: float) -> float:
    return math.log10(100 / (100 - percentile)) / end


def _percent(percentile: float) -> str:
    return f"{percentile:g} %" if percentile < 100 else "max"


def _points(latency: Histogram, scale: Scale, end: float) -> list[Point | None]:
    """The latencies at places that are equally far apart on the axis, to the longest."""
    if not latency:
        return []
    last = min(_nines_of(latency.count), end)
    nines = [last * index / _POINTS for index in range(_POINTS)]
    found = latency.percentiles_ms([100 - 100 / 10**each for each in nines] + [100])
    return [
        (each / end, scale.share(ms))
        for each, ms in zip([*nines, last], found, strict=True)
        if ms is not None
    ]


def _bars(latency: Histogram, latencies: Scale) -> list[int]:
    bars = [0] * _BARS
    for ms, count in latency.buckets():
        bars[min(int(latencies.share(ms) * _BARS), _BARS - 1)] += count
    return bars


def _edge(latencies: Scale, index: int) -> float:
    return latencies.low * math.pow(latencies.high / latencies.low, index / _BARS)


def _bar(left: float, right: float, top: float) -> str:
    return area([(left, top), (right, top)], [(left, 0), (right, 0)])
