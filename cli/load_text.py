"""What a load run found, on standard output: tables on a terminal, sentences with names and units in a pipe."""

from __future__ import annotations

from collections.abc import Iterator

from cli import render
from cli.load_view import ms, rate
from load.histograms import Histogram
from load.results import Ledger, Run, Tally, Verdict, add_tallies

_COLUMNS = ("operation", "wanted", "dropped", "ok", "errors", "ok/s", "p50", "p95", "p99", "max")
_PERCENTILES = (50.0, 95.0, 99.0, 100.0)


def show(run: Run) -> None:
    """Print the summary of a run."""
    parts = [
        f"{run.duration_s:.0f} s",
        ", ".join(dict.fromkeys(run.profile.values())),
        f"seed {run.scenario['seed']}",
    ]
    ended = "" if run.ended == "done" else f"; {run.ended}"
    render.sentence(f"{run.scenario['name']}, {run.started_at[:19]}Z: {', '.join(parts)}{ended}")
    _show_operations(run)
    for name, tally in run.totals.items():
        if tally.errors:
            codes = ", ".join(f"{code} {count}" for code, count in sorted(tally.errors.items()))
            render.sentence(f"errors of {name}: {codes}", indent="  ")
    if late := run.tool.get("dropped_late"):
        text = f"{late:.0f} of the dropped requests met a busy load process: raise `processes` or send from more machines"
        render.sentence(text, indent="  ")
    for verdict in run.verdicts:
        render.sentence(
            f"threshold {'kept' if verdict.passed else 'FAILED'}: {threshold_text(verdict)}", indent="  "
        )
    if run.ledger is not None:
        for text in ledger_texts(run.ledger):
            render.sentence(text, indent="  ")


def _show_operations(run: Run) -> None:
    measured_s = max(len(run.measured), 1)
    totals = dict(run.totals)
    if len(totals) > 1:
        totals["all"] = add_tallies(run.totals.values())
    rows = [[name, *_cells(tally, measured_s)] for name, tally in totals.items()]
    if render.is_terminal():
        render.table(_COLUMNS, rows, first_dropped=["max", "p50", "ok/s"])
        render.line("Latencies are in ms, from the intended start.")
        return
    for row in rows:
        named = [f"{value} {column}" for column, value in zip(_COLUMNS[1:6], row[1:6], strict=True)]
        named += [f"{column} {value} ms" for column, value in zip(_COLUMNS[6:], row[6:], strict=True)]
        render.line(f"{row[0]}: {', '.join(named)}")


def _cells(tally: Tally, measured_s: int) -> list[str]:
    counts = [tally.wanted, tally.dropped, tally.succeeded, sum(tally.errors.values())]
    latencies = Histogram(tally.latency).percentiles_ms(_PERCENTILES)
    return [*map(str, counts), rate(tally.succeeded / measured_s), *map(ms, latencies)]


def threshold_text(verdict: Verdict) -> str:
    """`create p99_ms 91.2, limit 50`."""
    measured = "was not measured" if verdict.measured is None else f"{verdict.measured:.4g}"
    return f"{f'{verdict.operation} ' if verdict.operation else ''}{verdict.figure} {measured}, limit {verdict.limit:g}"


def ledger_texts(ledger: Ledger) -> Iterator[str]:
    """The sums of a ledger, then what it cannot tell."""
    known = f"{ledger.commands} commands: {ledger.accepted} accepted, {ledger.refused} refused, {ledger.unanswered} unanswered"
    carried_out = f" ({ledger.unanswered_carried_out} of them carried out)" if ledger.unanswered else ""
    ids = f"; {ledger.ids} ids, {ledger.shared_ids} given twice" if ledger.ids else ""
    yield f"ledger: {known}{carried_out}; {ledger.lost} lost, {ledger.twice} twice, {ledger.wrong} wrong rows{ids}"
    yield from ledger.unproven
