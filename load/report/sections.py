"""The parts of the report that are text and tables: tiles, thresholds, ledger, operations, phases, the run itself.

Every value of a run is escaped here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from load.histograms import Histogram
from load.report.scales import clock, figure, length, percent
from load.report.series import PERCENTILES, PhaseSum
from load.report.words import NAMES, amount, dropped_in_words, headline, ledger_in_words
from load.results import Ledger, Run, Tally, Verdict, add_tallies


def table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1, kind: str = ""
) -> str:
    """A table of HTML cells. The first columns are text, the others figures. The first cell names its row."""
    head = "".join(
        f'<th scope="col"{_text(index, text_columns)}>{name}</th>' for index, name in enumerate(heads)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<th scope="row" class="text">{cell}</th>'
            if index == 0
            else f"<td{_text(index, text_columns)}>{cell}</td>"
            for index, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def verdict(run: Run) -> str:
    """The headline, and why."""
    found = headline(run)
    kind, sign = ("good", "✓") if found.is_good else ("bad", "✗")
    told = [*found.reasons]
    if run.ledger is None or run.ledger.is_clean:
        told.append(("Ledger: " if run.ledger else "") + ledger_in_words(run.ledger))
    told += [*(run.ledger.unproven if run.ledger else ()), dropped_in_words(run)]
    lines = "".join(f"<li>{escape(text)}</li>" for text in told)
    return f'<p class="state {kind}"><span aria-hidden="true">{sign}</span> {found.state}</p><ul class="why">{lines}</ul>'


def tiles(run: Run) -> str:
    """The figures that readers look for first, over all operations."""
    total = add_tallies(run.totals.values())
    latency = Histogram(total.latency)
    seconds = len(run.measured)
    replies = total.succeeded + sum(total.errors.values())
    per_s = total.succeeded / seconds if seconds else None
    wanted = total.wanted / seconds if seconds else None
    shown = [
        ("Throughput", figure(per_s), "/s", f"wanted {figure(wanted)} /s"),
        ("p50", figure(latency.at_ms(50)), "ms", "half of the replies"),
        ("p99", figure(latency.at_ms(99)), "ms", f"longest {figure(latency.at_ms(100))} ms"),
        (
            "Errors",
            percent(sum(total.errors.values()) / replies if replies else None),
            "",
            f"{replies:,} replies",
        ),
        (
            "Dropped",
            percent(total.dropped / total.wanted if total.wanted else None),
            "",
            f"{total.wanted:,} arrivals",
        ),
    ]
    return (
        '<dl class="tiles">'
        + "".join(
            f'<div><dt>{name}</dt><dd>{value}<small> {unit}</small></dd><dd class="under">{under}</dd></div>'
            for name, value, unit, under in shown
        )
        + "</dl>"
    )


def thresholds(verdicts: Sequence[Verdict]) -> str:
    """The limits of the scenario and what was measured."""
    if not verdicts:
        return '<p class="none">The scenario has no thresholds.</p>'
    rows = [
        (
            escape(each.operation or "all"),
            escape(NAMES.get(each.figure, (each.figure, ""))[0]),
            f"{'≥' if each.figure == 'per_s' else '≤'} {escape(amount(each.figure, each.limit))}",
            escape(amount(each.figure, each.measured)) if each.measured is not None else "not measured",
            '<span class="good">✓ kept</span>' if each.passed else '<span class="bad">✗ not kept</span>',
        )
        for each in sorted(verdicts, key=lambda each: each.passed)
    ]
    return table(["operation", "figure", "limit", "measured", "verdict"], rows, text_columns=2)


def ledger(found: Ledger | None) -> str:
    """What the system kept of what was sent."""
    if found is None:
        return f'<p class="none">{escape(ledger_in_words(None))}</p>'
    must_be_none = {
        "lost": found.lost,
        "twice": found.twice,
        "wrong rows": found.wrong,
        "shared ids": found.shared_ids,
    }
    counted = {
        "commands": found.commands,
        "accepted": found.accepted,
        "refused": found.refused,
        "unanswered": found.unanswered,
        "— carried out": found.unanswered_carried_out,
        "ids": found.ids,
    }
    sound = [
        (name, f'<b class="{"bad" if count else "good"}">{count:,}</b>')
        for name, count in must_be_none.items()
    ]
    shown = _counts(sound) + _counts([(name, f"{count:,}") for name, count in counted.items()])
    names = list(dict.fromkeys(name for each in found.findings for name in each))
    findings = [[escape(str(each.get(name, ""))) for name in names] for each in found.findings]
    unproven = "".join(f'<p class="note">{escape(text)}</p>' for text in found.unproven)
    shown = f'<div class="counts">{shown}</div>'
    return shown + unproven + (table([*map(escape, names)], findings, text_columns=9) if findings else "")


def operations(run: Run) -> str:
    """One line for each operation and one for all."""
    heads = [
        "operation",
        "wanted",
        "started",
        "dropped",
        "ok",
        "ok /s",
        "errors",
        *PERCENTILES,
        "max",
        "errors by code",
    ]
    seconds = len(run.measured)
    rows = [_summary(escape(name), tally, seconds) for name, tally in run.totals.items()]
    rows.append(_summary("<b>all</b>", add_tallies(run.totals.values()), seconds))
    return (
        table(heads, rows, kind="summary") + '<p class="note">Latencies in ms. The warm-up is left out.</p>'
    )


def phases(sums: Sequence[PhaseSum]) -> str:
    """One line for each phase, over all operations."""
    heads = ["phase", "from", "to", "wanted /s", "ok /s", "dropped", "errors", *PERCENTILES, "max"]
    rows = []
    for each in sums:
        seconds = each.seconds or 1
        rows.append(
            [
                escape(each.phase.name) + (" <small>not measured</small>" if each.phase.is_warm_up else ""),
                clock(each.phase.from_s),
                clock(each.phase.to_s),
                figure(each.tally.wanted / seconds),
                figure(each.tally.succeeded / seconds),
                f"{each.tally.dropped:,}",
                f"{sum(each.tally.errors.values()):,}",
                *_latencies(each.latency),
            ]
        )
    return table(heads, rows)


def about(run: Run) -> str:
    """The machine, the versions, the profile, the scenario's settings and the tool's own cost."""
    scenario = {name: run.scenario.get(name) for name in ("name", "seed", "mode", "processes", "callers")}
    times = {"started": run.started_at, "duration": length(run.duration_s), "ended": run.ended}
    groups: list[tuple[str, Mapping[str, Any]]] = [
        ("Run", {**scenario, **times}),
        ("Profile", run.profile),
        *((_machine_name(index, len(run.machines)), each) for index, each in enumerate(run.machines, 1)),
        ("Versions", run.versions),
        ("Cost of the tool itself", {_tool_name(name): figure(value) for name, value in run.tool.items()}),
    ]
    return (
        '<div class="groups">' + "".join(_group(name, values) for name, values in groups if values) + "</div>"
    )


def _summary(name: str, tally: Tally, seconds: int) -> list[str]:
    codes = sorted(tally.errors.items(), key=lambda each: (-each[1], each[0]))
    dropped = f'<span class="bad">{tally.dropped:,}</span>' if tally.dropped else "0"
    errors = sum(tally.errors.values())
    return [
        name,
        f"{tally.wanted:,}",
        f"{tally.wanted - tally.dropped:,}",
        dropped,
        f"{tally.succeeded:,}",
        figure(tally.succeeded / seconds if seconds else None),
        f'<span class="bad">{errors:,}</span>' if errors else "0",
        *_latencies(Histogram(tally.latency)),
        f'<span class="codes">{", ".join(f"{escape(code)}&nbsp;{count:,}" for code, count in codes)}</span>',
    ]


def _latencies(latency: Histogram) -> list[str]:
    return [figure(ms) for ms in latency.percentiles_ms([*PERCENTILES.values(), 100])]


def _counts(values: Iterable[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<div><dt>{name}</dt><dd>{cell}</dd></div>" for name, cell in values) + "</dl>"


def _group(name: str, values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<dt>{escape(str(key).replace('_', ' '))}</dt><dd>{escape(_plain(value))}</dd>"
        for key, value in values.items()
    )
    return f"<section><h3>{escape(name)}</h3><dl>{rows}</dl></section>"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return "–" if value is None else str(value)


def _machine_name(index: int, count: int) -> str:
    return f"Machine {index}" if count > 1 else "Machine"


def _tool_name(name: str) -> str:
    return {
        "cpu_s": "CPU time, s",
        "cpu_us_per_request": "CPU time per request, µs",
        "memory_mb": "memory, MB",
        "dropped_late": "dropped because it was late",
    }.get(name, name)


def _text(index: int, text_columns: int) -> str:
    return ' class="text"' if index < text_columns else ""
