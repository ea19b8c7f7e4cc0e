"""Whether a load run kept the limits of its scenario, at its end and while it runs.

Promise: a limit that was never measured is not kept. Latencies, errors and drops are those of the measured phases, without
the warm-up. Refusal: nothing is judged early that more requests could still turn by chance (`failing`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from load.histograms import Histogram
from load.results import Run, ServerSide, Tally, Verdict, add_tallies
from load.scenario import Threshold

PERCENTILES = {"p50_ms": 50.0, "p95_ms": 95.0, "p99_ms": 99.0, "p999_ms": 99.9, "max_ms": 100.0}
"""In %. All are from the intended start of a request to its reply, and include replies that are errors."""

SERVER_SIDE = ("lag_ms", "lag")
"""Figures of the whole system, never of one operation: the longest lag of a projection, in ms and in events."""

FIGURES = (*PERCENTILES, "error_rate", "dropped", "dropped_rate", "per_s", *SERVER_SIDE)
"""What a threshold may limit. `error_rate` is a share of the replies, `dropped_rate` of the arrivals; `dropped` is a count;
`per_s` are successful replies in a second, and its limit is the least that is wanted."""

_BEYOND = 10
"""Replies beyond a percentile from which on it is judged during a run: 20 replies for p50, 1,000 for p99."""
_FOR_RATES = 100
"""Requests from which on a rate is judged during a run."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What was measured so far, without the warm-up."""

    totals: Mapping[str, Tally]
    measured_s: float
    server: Sequence[ServerSide]

    @classmethod
    def of(cls, run: Run) -> Seen:
        """What a whole run measured."""
        measured = {second.number for second in run.measured}
        return cls(run.totals, len(measured), [each for each in run.server if each.number in measured])

    def tally(self, operation: str) -> Tally:
        """Of one operation, or of all if it is empty."""
        return self.totals.get(operation, Tally()) if operation else add_tallies(self.totals.values())


def judge(thresholds: Iterable[Threshold | Verdict], seen: Seen) -> list[Verdict]:
    """A verdict for each threshold. The verdicts of a run can be judged anew: they contain its thresholds."""
    return [_verdict(each, seen) for each in thresholds]


def failing(thresholds: Iterable[Threshold], seen: Seen) -> Verdict | None:
    """The first threshold with `abort_on_fail` that the run has failed already; None if there is none.

    Counts and maxima cannot recover, so they fail at once. A percentile is judged when 10 replies are expected beyond it
    (20 replies for p50, 200 for p95, 1,000 for p99, 10,000 for p99.9), a rate from 100 requests on. `per_s` is judged at
    the end alone, because a ramp begins below it.
    """
    for threshold in thresholds:
        if threshold.abort_on_fail and _is_decided(threshold, seen):
            verdict = _verdict(threshold, seen)
            if not verdict.passed:
                return verdict
    return None


def _verdict(threshold: Threshold | Verdict, seen: Seen) -> Verdict:
    operation, figure, limit = threshold.operation, threshold.figure, threshold.limit
    measured = _measured(operation, figure, seen)
    passed = measured is not None and (measured >= limit if figure == "per_s" else measured <= limit)
    return Verdict(operation, figure, limit, measured, passed)


def _measured(operation: str, figure: str, seen: Seen) -> float | None:
    if figure in SERVER_SIDE:
        return _SERVER_SIDE[figure](seen.server)
    tally = seen.tally(operation)
    if figure in PERCENTILES:
        return Histogram(tally.latency).at_ms(PERCENTILES[figure])
    replies = _replies(tally)
    if figure == "error_rate":
        return sum(tally.errors.values()) / replies if replies else None
    if figure == "dropped":
        return tally.dropped
    if figure == "dropped_rate":
        return tally.dropped / tally.wanted if tally.wanted else None
    return tally.succeeded / seen.measured_s if seen.measured_s else None


def _is_decided(threshold: Threshold, seen: Seen) -> bool:
    figure = threshold.figure
    if figure == "per_s":
        return False
    if figure in PERCENTILES and figure != "max_ms":
        beyond = _replies(seen.tally(threshold.operation)) * (100 - PERCENTILES[figure]) / 100
        return round(beyond, 6) >= _BEYOND
    tally = seen.tally(threshold.operation)
    if figure == "error_rate":
        return _replies(tally) >= _FOR_RATES
    # A count, a maximum: one that was not measured yet has not failed.
    least = _FOR_RATES if figure == "dropped_rate" else 0
    return tally.wanted >= least and _measured(threshold.operation, figure, seen) is not None


def _replies(tally: Tally) -> int:
    return tally.succeeded + sum(tally.errors.values())


def _longest_ms(server: Sequence[ServerSide]) -> float | None:
    return max((each.lag_ms for each in server if each.lag_ms is not None), default=None)


def _longest(server: Sequence[ServerSide]) -> float | None:
    return max((events for each in server for events in each.lag.values()), default=None)


_SERVER_SIDE: Mapping[str, Callable[[Sequence[ServerSide]], float | None]] = {
    "lag_ms": _longest_ms,
    "lag": _longest,
}
