"""A run as lines over time: requests, latencies and the server side in the same steps.

Promise: a step never crosses the border of a phase, and its percentiles are those of its added histograms. A phase is the
sum of its steps. Refusal: nothing is smoothed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean

from load.histograms import Histogram
from load.results import Run, Second, ServerSide, Tally

PERCENTILES = {"p50": 50.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9}
MOST_STEPS = 150
_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)

Values = list[float | None]
"""One for each step; None where nothing was measured."""


@dataclass(frozen=True, slots=True)
class Phase:
    name: str
    from_s: float
    to_s: float
    is_warm_up: bool


@dataclass(frozen=True, slots=True)
class Axis:
    """The time axis of all charts. A step is a range of seconds: from the first to before the last."""

    steps: tuple[tuple[int, int], ...]
    step_s: int
    end_s: float
    phases: tuple[Phase, ...]

    def share(self, at_s: float) -> float:
        """Where a time is on the axis, from 0 to 1."""
        return min(max(at_s / self.end_s, 0.0), 1.0)

    def step_of(self, number: int) -> int:
        """The step of a second."""
        return max(bisect_right(self.steps, number, key=lambda step: step[0]) - 1, 0)

    def centres(self) -> list[float]:
        return [self.share((first + last) / 2) for first, last in self.steps]


@dataclass(slots=True)
class Requests:
    """Requests of one operation, or of all, by step: per second, and latencies in ms."""

    wanted: Values = field(default_factory=list)
    succeeded: Values = field(default_factory=list)
    failed: Values = field(default_factory=list)
    dropped: Values = field(default_factory=list)
    latency: dict[str, Values] = field(default_factory=lambda: {name: [] for name in PERCENTILES})


@dataclass(slots=True)
class PhaseSum:
    """All operations within one phase."""

    phase: Phase
    seconds: int = 0
    tally: Tally = field(default_factory=Tally)
    latency: Histogram = field(default_factory=Histogram)


@dataclass(frozen=True, slots=True)
class Lines:
    """Everything that the charts show."""

    axis: Axis
    all: Requests
    operations: Mapping[str, Requests]
    errors: Mapping[str, Values]
    """Per second, by code, the most frequent first."""
    in_flight: Values
    phases: Sequence[PhaseSum]


def axis_of(run: Run) -> Axis:
    """The time axis of a run."""
    warm = {second.number for second in run.seconds if second.warm_up}
    phases = tuple(
        Phase(str(each["name"]), float(each["from_s"]), float(each["to_s"]), _within(each["from_s"], warm))
        for each in run.scenario.get("phases", ())
    )
    numbers = [each.number for each in run.seconds] + [each.number for each in run.server]
    end_s = max([number + 1 for number in numbers], default=1)
    step_s = next((step for step in _STEPS_S if end_s / step <= MOST_STEPS), _STEPS_S[-1])
    borders = {0, end_s, *(round(phase.from_s) for phase in phases), *(round(phase.to_s) for phase in phases)}
    steps = [
        (start, min(start + step_s, last))
        for first, last in pairwise(sorted(border for border in borders if border <= end_s))
        for start in range(first, last, step_s)
    ]
    return Axis(tuple(steps), step_s, float(end_s), phases)


def lines_of(run: Run) -> Lines:
    """The lines of a run's requests. Each histogram is decoded once, and at most one step is in memory."""
    axis = axis_of(run)
    by_step = _by_step(axis, run.seconds)
    whole = Requests()
    operations = {name: Requests() for name in names_of(run)}
    codes = codes_of(run.seconds)
    errors: dict[str, Values] = {code: [] for code in codes}
    phases = [PhaseSum(phase) for phase in axis.phases]
    for (first, last), seconds in zip(axis.steps, by_step, strict=True):
        length_s = last - first
        total, latency = Tally(), Histogram()
        for name, requests in operations.items():
            tallies = [second.operations[name] for second in seconds if name in second.operations]
            tally, of_operation = _sum(tallies)
            _append(requests, tally, of_operation, length_s)
            _count(total, tally)
            latency.add(of_operation)
        _append(whole, total, latency, length_s)
        for code in codes:
            errors[code].append(total.errors.get(code, 0) / length_s)
        _add_to_phase(phases, first, last, total, latency)
    in_flight = [_most([float(each.in_flight) for each in seconds]) for seconds in by_step]
    return Lines(axis, whole, operations, errors, in_flight, phases)


def server_lines(
    axis: Axis,
    samples: Iterable[ServerSide],
    figures: Callable[[ServerSide], Mapping[str, float]],
    *,
    mean: bool = False,
) -> dict[str, Values]:
    """Figures of the server side by name: the highest of each step, or the mean."""
    by_step: list[dict[str, list[float]]] = [{} for _ in axis.steps]
    names: dict[str, None] = {}
    for sample in samples:
        for name, figure in figures(sample).items():
            names[name] = None
            by_step[axis.step_of(sample.number)].setdefault(name, []).append(figure)
    summed = _mean if mean else _most
    return {name: [summed(step.get(name, [])) for step in by_step] for name in sorted(names)}


def by_role(figure: str) -> Callable[[ServerSide], Mapping[str, float]]:
    """The sum of a figure of workers for each role, where it is known."""

    def figures(sample: ServerSide) -> Mapping[str, float]:
        roles: dict[str, float] = {}
        for worker in sample.workers:
            if isinstance(found := worker.get(figure), int | float):
                role = str(worker.get("role", "?"))
                roles[role] = roles.get(role, 0.0) + found
        return roles

    return figures


def names_of(run: Run) -> list[str]:
    """All operations, those without measured requests included, in the order of the run's totals."""
    names = dict.fromkeys(run.totals)
    names.update((name, None) for second in run.seconds for name in second.operations)
    return list(names)


def codes_of(seconds: Iterable[Second]) -> list[str]:
    """The codes of all errors, the most frequent first."""
    counts: dict[str, int] = {}
    for tally in (tally for second in seconds for tally in second.operations.values()):
        for code, count in tally.errors.items():
            counts[code] = counts.get(code, 0) + count
    return sorted(counts, key=lambda code: (-counts[code], code))


def _within(from_s: float, numbers: set[int]) -> bool:
    return round(from_s) in numbers


def _by_step(axis: Axis, seconds: Iterable[Second]) -> list[list[Second]]:
    found: list[list[Second]] = [[] for _ in axis.steps]
    for second in seconds:
        found[axis.step_of(second.number)].append(second)
    return found


def _sum(tallies: Sequence[Tally]) -> tuple[Tally, Histogram]:
    total, latency = Tally(), Histogram()
    for tally in tallies:
        _count(total, tally)
        latency.add(tally.latency)
    return total, latency


def _count(total: Tally, tally: Tally) -> None:
    """Add the counts; the histograms are added apart, without encoding them."""
    total.wanted += tally.wanted
    total.dropped += tally.dropped
    total.succeeded += tally.succeeded
    for code, count in tally.errors.items():
        total.errors[code] = total.errors.get(code, 0) + count


def _append(requests: Requests, tally: Tally, latency: Histogram, length_s: int) -> None:
    requests.wanted.append(tally.wanted / length_s)
    requests.succeeded.append(tally.succeeded / length_s)
    requests.failed.append(sum(tally.errors.values()) / length_s)
    requests.dropped.append(tally.dropped / length_s)
    for name, found in zip(PERCENTILES, latency.percentiles_ms(list(PERCENTILES.values())), strict=True):
        requests.latency[name].append(found)


def _add_to_phase(
    phases: Sequence[PhaseSum], first: int, last: int, tally: Tally, latency: Histogram
) -> None:
    for each in phases:
        if round(each.phase.from_s) <= first < round(each.phase.to_s):
            each.seconds += last - first
            _count(each.tally, tally)
            each.latency.add(latency)
            return


def _most(values: Sequence[float]) -> float | None:
    return max(values, default=None)


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
