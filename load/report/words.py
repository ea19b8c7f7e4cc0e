"""The verdict on a run in words: whether it passed, why not, and what the ledger says."""

from __future__ import annotations

from dataclasses import dataclass

from load.report.scales import figure, length, percent
from load.results import Ledger, Run, Verdict, add_tallies

NAMES = {
    "p50_ms": ("p50", "ms"),
    "p95_ms": ("p95", "ms"),
    "p99_ms": ("p99", "ms"),
    "p999_ms": ("p99.9", "ms"),
    "max_ms": ("longest reply", "ms"),
    "error_rate": ("error rate", "%"),
    "dropped": ("dropped arrivals", ""),
    "dropped_rate": ("dropped arrivals", "%"),
    "per_s": ("throughput", "/s"),
    "lag_ms": ("projection lag", "ms"),
    "lag": ("projection lag", "events"),
}
"""A figure's name for readers, and its unit."""


@dataclass(frozen=True, slots=True)
class Headline:
    state: str
    """`Passed`, `Failed`, `Aborted` or `Interrupted`."""
    is_good: bool
    reasons: list[str]
    """Why it is not good, one sentence each. For a good run, what it was judged by."""


def headline(run: Run) -> Headline:
    """The verdict on a run."""
    failed = [sentence(each) for each in run.verdicts if not each.passed]
    losses = run.ledger is not None and not run.ledger.is_clean
    reasons = ([f"The ledger is not clean: {ledger_in_words(run.ledger)}"] if losses else []) + failed
    if run.ended.startswith("aborted"):
        because = run.ended.partition(":")[2].strip()
        stopped = f"The run was aborted after {length(run.duration_s)}" + (
            f": {because}." if because else "."
        )
        return Headline("Aborted", False, [stopped, *reasons])
    if run.ended == "interrupted":
        stopped = f"The run was interrupted after {length(run.duration_s)}; its figures are those until then."
        return Headline("Failed" if reasons else "Interrupted", False, [*reasons, stopped])
    if reasons:
        return Headline("Failed", False, reasons)
    kept = len(run.verdicts)
    judged = {0: "The scenario has no thresholds.", 1: "Its threshold was kept."}
    return Headline("Passed", True, [judged.get(kept, f"All {kept} thresholds were kept.")])


def sentence(verdict: Verdict) -> str:
    """A threshold that was not kept."""
    name, _ = NAMES.get(verdict.figure, (verdict.figure, ""))
    subject = f"{verdict.operation or 'all operations'}: {name}"
    if verdict.measured is None:
        return f"{subject} not measured; the limit is {amount(verdict.figure, verdict.limit)}."
    beyond = "below" if verdict.figure == "per_s" else "above"
    return (
        f"{subject} {amount(verdict.figure, verdict.measured)}, "
        f"{beyond} the limit of {amount(verdict.figure, verdict.limit)}."
    )


def amount(name: str, value: float | None) -> str:
    """A figure of a threshold with its unit."""
    unit = NAMES.get(name, ("", ""))[1]
    if unit == "%":
        return percent(value)
    return f"{figure(value)} {unit}".strip() if value is not None else "–"


def ledger_in_words(ledger: Ledger | None) -> str:
    """`0 lost, 0 twice of 23,400 commands.`, with what else is wrong."""
    if ledger is None:
        return "No ledger: what the system kept was not checked."
    parts = [f"{ledger.lost:,} lost, {ledger.twice:,} twice"]
    if ledger.wrong:
        parts.append(f"{ledger.wrong:,} wrong rows")
    if ledger.shared_ids:
        parts.append(f"{ledger.shared_ids:,} shared ids")
    return f"{', '.join(parts)} of {ledger.commands:,} commands."


def dropped_in_words(run: Run) -> str:
    """How many arrivals were dropped, and for how many of them the load processes are to blame."""
    total = add_tallies(run.totals.values())
    told = f"{total.dropped:,} of {total.wanted:,} arrivals dropped"
    if total.dropped:
        told += f" ({percent(total.dropped / total.wanted)})"
    if late := round(run.tool.get("dropped_late", 0)):
        told += f"; the load processes themselves were too late for {late:,}"
    return f"{told}."
