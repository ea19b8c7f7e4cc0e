"""The report of a load run: one HTML file that opens offline, prints, and needs nothing from elsewhere.

Promise: it shows what was measured, with its scenario, machine and versions; every value is escaped, and the page may load
nothing and run no script but its own. Refusal: nothing is judged here; the verdicts are those of the run.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from string import Template

from load.histograms import Histogram
from load.report import sections
from load.report.charts import Chart, Line, empty, over_time, phase_strip
from load.report.distribution import curve, histogram, percentile_plot
from load.report.scales import linear, logarithmic
from load.report.series import Axis, Lines, Requests, Values, by_role, lines_of, server_lines
from load.report.words import headline
from load.results import Run, add_tallies

_HERE = Path(__file__).parent
_COLOURS = 8  # of the style sheet, c1 to c8
_MOST_CODES = 6


def html(run: Run) -> str:
    """The whole page."""
    lines = lines_of(run)
    script = (_HERE / "cursor.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    name = str(run.scenario.get("name", ""))
    return Template((_HERE / "page.html").read_text("utf-8")).substitute(
        title=escape(f"{headline(run).state}: {name}"),
        name=escape(name),
        when=escape(run.started_at.replace("T", " ").partition(".")[0]),
        profile=escape(" · ".join(f"{part} {kind}" for part, kind in run.profile.items())),
        style=(_HERE / "style.css").read_text("utf-8"),
        script=script,
        digest=digest,
        verdict=sections.verdict(run),
        tiles=sections.tiles(run),
        thresholds=sections.thresholds(run.verdicts),
        ledger=sections.ledger(run.ledger),
        operations=sections.operations(run),
        phases=sections.phases(lines.phases),
        strip=phase_strip(lines.axis),
        steps=json.dumps(lines.axis.steps, separators=(",", ":")),
        step=_step_in_words(lines.axis),
        requests=_requests(lines, run),
        server=_server(lines.axis, run),
        each=_each_operation(lines, run),
        about=sections.about(run),
        scenario=escape(str(run.scenario.get("text", ""))),
    )


def _step_in_words(axis: Axis) -> str:
    return "1 second" if axis.step_s == 1 else f"{axis.step_s} seconds"


def _requests(lines: Lines, run: Run) -> str:
    """The charts of all operations together."""
    callers = run.scenario.get("callers")
    limit = f"at most {callers} callers" if callers else ""
    codes = list(lines.errors.items())
    errors = dict(codes[:_MOST_CODES])
    if len(codes) > _MOST_CODES:
        errors["others"] = [
            sum(each) for each in zip(*(_known(v) for _, v in codes[_MOST_CODES:]), strict=True)
        ]
    charts = [
        _throughput("Throughput", lines.all),
        _latency("Latency", lines.all, tall=True),
        _areas("Errors by code", "/s", errors) if errors else None,
        Chart(
            "In flight",
            "requests",
            [Line("in flight", lines.in_flight, "c1")],
            linear(lines.in_flight),
            limit,
        ),
    ]
    drawn = [over_time(each, lines.axis) if each else empty("Errors by code", "no errors") for each in charts]
    return "".join(drawn)


def _server(axis: Axis, run: Run) -> str:
    """What the workers and the broker showed, under the same time axis."""
    of = partial(server_lines, axis, run.server)
    queues = of(lambda sample: sample.queues)
    lag = of(lambda sample: sample.lag)
    lag_ms = of(lambda sample: {} if sample.lag_ms is None else {"shown after": sample.lag_ms})
    cpu, memory = of(by_role("cpu_percent"), mean=True), of(by_role("memory_mb"))
    roles = sorted({*queues, *cpu, *memory})  # a role has one colour in all charts
    charts = [
        ("Queue depth", "waiting requests", queues, "without a broker no request waits in a queue", roles),
        ("Projection lag", "events", lag, "not measured", list(lag)),
        ("Projection lag", "ms until a stored event is shown", lag_ms, "not measured", list(lag_ms)),
        ("CPU by role", "% of one core", cpu, "not measured", roles),
        ("Memory by role", "MB", memory, "not measured", roles),
    ]
    return "".join(
        over_time(_plain_lines(title, unit, found, names), axis) if found else empty(title, why)
        for title, unit, found, why, names in charts
    )


def _each_operation(lines: Lines, run: Run) -> str:
    """A row of small charts for each operation. Their axes are the same, so that they can be compared."""
    latencies = {name: Histogram(run.totals[name].latency) for name in lines.operations if name in run.totals}
    known = [each for each in latencies.values() if each]
    of_time = logarithmic(
        ms for each in lines.operations.values() for name in ("p50", "p99") for ms in each.latency[name]
    )
    of_all = logarithmic(ms for each in known for ms in each.percentiles_ms([0.01, 100]))
    total = Histogram(add_tallies(run.totals.values()).latency)
    curves = {name: curve(each, of_all, total.count) for name, each in latencies.items()}
    parts = []
    for name, requests in lines.operations.items():
        latency = latencies.get(name, Histogram())
        of_latency = _latency("Latency", requests, tall=False)
        charts = [
            over_time(_throughput("Throughput", requests, tall=False), lines.axis),
            over_time(Chart(of_latency.title, "ms", of_latency.lines[:3], of_time, tall=False), lines.axis),
        ]
        if latency:
            others = [each for other, each in curves.items() if other != name]
            charts += [
                percentile_plot(
                    "Percentiles", latency, of_all, drawn=curves[name], others=others, most=total.count
                ),
                histogram("Histogram", latency, of_all),
            ]
        parts.append(f'<article><h3>{escape(name)}</h3><div class="four">{"".join(charts)}</div></article>')
    if total:
        drawn = curve(total, of_all, total.count)
        both = [
            percentile_plot("Percentiles", total, of_all, drawn=drawn, most=total.count),
            histogram("Histogram", total, of_all),
        ]
        parts.insert(0, f'<article><h3>All operations</h3><div class="two">{"".join(both)}</div></article>')
    return "".join(parts)


def _throughput(title: str, requests: Requests, *, tall: bool = True) -> Chart:
    lines = [
        Line("ok", requests.succeeded, "ok", "area"),
        Line("errors", requests.failed, "error", "area"),
        Line("dropped", requests.dropped, "dropped", "area"),
        Line("wanted", requests.wanted, "ink", "dashed"),
    ]
    return Chart(title, "/s", lines, linear(requests.wanted, ticks=4 if tall else 3), tall=tall)


def _latency(title: str, requests: Requests, *, tall: bool) -> Chart:
    lines = [
        Line(name, values, f"p{index}") for index, (name, values) in enumerate(requests.latency.items(), 1)
    ]
    return Chart(title, "ms", lines, logarithmic(ms for line in lines for ms in line.values), tall=tall)


def _areas(title: str, unit: str, values: Mapping[str, Values]) -> Chart:
    lines = [Line(name, each, _colour(index), "area") for index, (name, each) in enumerate(values.items())]
    return Chart(
        title, unit, lines, linear(sum(each) for each in zip(*map(_known, values.values()), strict=True))
    )


def _plain_lines(title: str, unit: str, values: Mapping[str, Values], names: Sequence[str]) -> Chart:
    lines = [Line(name, each, _colour(names.index(name)), is_sampled=True) for name, each in values.items()]
    return Chart(title, unit, lines, linear(value for each in values.values() for value in each))


def _known(values: Values) -> Sequence[float]:
    return [value or 0.0 for value in values]


def _colour(index: int) -> str:
    return f"c{index % _COLOURS + 1}"
