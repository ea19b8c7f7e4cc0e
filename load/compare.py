"""What got slower, faster, or cannot be told between two runs of one scenario, with the noise considered.

The method: the seconds that both runs measured are cut into slots, at most 60. A slot is long enough for 20 replies (p50),
100 (p95) or 300 (p99) of the operation. The percentile of a slot in the second run is divided by that of the same slot in
the first: the load is the same in both, so ramps and pauses cancel out. The middle of these ratios (Hodges and Lehmann) is the change, and
its 99 % interval is that of Wilcoxon's signed ranks, which a few outliers do not move. Shares of errors and dropped
arrivals are subtracted instead; their interval is three standard errors on each side of the mean.

A change counts if its whole interval lies beyond 10 %, or beyond 0.1 percentage points for shares. Two runs of one system
differ by a few percent for reasons that no figure within a run shows, such as the temperature of the machine. There is no
difference if the change is smaller, and its interval lies within 20 % (1 percentage point). All else cannot be told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations_with_replacement
from statistics import fmean, median, stdev
from typing import Any, TypeVar

from domain.kernel.errors import InvalidInput
from load.histograms import Histogram
from load.report.scales import figure as shown
from load.results import Run, Tally, add_tallies

T = TypeVar("T")

FIGURES = {"p50_ms": (50.0, 20), "p95_ms": (95.0, 100), "p99_ms": (99.0, 300)}
"""The percentile, and how many replies a slot needs."""
SHARES = ("error_rate", "dropped_rate")
MOST_SLOTS, FEWEST_SLOTS = 60, 8
RATIO_BEYOND, RATIO_WITHIN = 1.10, 1.20
BUSY_PER_CORE = 0.5
_QUANTILE = 2.576  # of the normal distribution, for 99 % on both sides
SHARE_BEYOND, SHARE_WITHIN = 0.001, 0.01

WORDS = {
    ("worse", True): "slower",
    ("better", True): "faster",
    ("worse", False): "more",
    ("better", False): "fewer",
    ("same", True): "no difference",
    ("same", False): "no difference",
    ("unknown", True): "cannot be told",
    ("unknown", False): "cannot be told",
}
NAMES = {
    "p50_ms": "p50",
    "p95_ms": "p95",
    "p99_ms": "p99",
    "error_rate": "errors",
    "dropped_rate": "dropped",
    "lag_ms": "projection lag",
}
METHOD = (
    "Slots of the same seconds in both runs are compared. The interval of a change is that of Wilcoxon's signed ranks, at 99 %. A change "
    "counts if all of it is beyond 10 % (0.1 percentage points for errors and dropped arrivals)."
)


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of one operation in both runs. `change`, `low` and `high` are shares: 0.2 is 20 % more."""

    operation: str
    """Empty for all operations."""
    figure: str
    before: float | None
    after: float | None
    change: float | None
    low: float | None
    high: float | None
    slots: int
    verdict: str
    """`worse`, `better`, `same` or `unknown`."""

    @property
    def word(self) -> str:
        return WORDS[self.verdict, self.figure.endswith("_ms")]


@dataclass(frozen=True, slots=True)
class Comparison:
    warnings: list[str]
    """What else differs between the runs, and may be the reason of a change."""
    changes: list[Change]

    @property
    def is_worse(self) -> bool:
        return any(each.verdict == "worse" for each in self.changes)

    def lines(self) -> list[str]:
        """The comparison for readers: changes first, then what cannot be told, then the count of the rest."""
        told = [f"warning: {text}" for text in self.warnings]
        for verdict in ("worse", "better", "unknown"):
            told += [_line(each) for each in self.changes if each.verdict == verdict and each.low is not None]
        for figure in NAMES:
            few = [
                each.operation or "all" for each in self.changes if each.figure == figure and each.low is None
            ]
            told += [f"{'too few replies':15} {NAMES[figure]} of {', '.join(few)}"] if few else []
        same = sum(each.verdict == "same" for each in self.changes)
        return [*told, f"{'no difference':15} {same} of {len(self.changes)} figures", METHOD]

    def to_json(self) -> dict[str, Any]:
        return {
            "worse": self.is_worse,
            "changes": [asdict(each) for each in self.changes],
            "warnings": self.warnings,
            "method": METHOD,
        }


def compare(before: Run, after: Run) -> Comparison:
    """How the second run differs from the first. Raises InvalidInput if their phases differ, or no operation is in both."""
    if _load(before) != _load(after):
        raise InvalidInput(
            "the second run", "has other phases than the first", "Compare runs of one scenario."
        )
    names = [name for name in before.totals if name in after.totals]
    if not names:
        raise InvalidInput("the second run", "has no operation of the first", "Compare runs of one scenario.")
    pairs = _Pairs.of(before, after, names)
    changes = [change for name in ["", *names] for change in _changes(name, pairs)]
    return Comparison(_warnings(before, after), [*changes, *_lag(before, after)])


@dataclass(frozen=True, slots=True)
class _Pairs:
    """The seconds that both runs measured, cut into slots: the tallies of each operation before and after."""

    slots: Sequence[tuple[Mapping[str, Tally], Mapping[str, Tally]]]

    @classmethod
    def of(cls, before: Run, after: Run, names: Sequence[str]) -> _Pairs:
        one = {each.number: each.operations for each in before.measured}
        other = {each.number: each.operations for each in after.measured}
        both = sorted(one.keys() & other.keys())
        length_s = max(math.ceil(len(both) / MOST_SLOTS), 1)
        return cls(
            [
                (_sums([one[each] for each in some], names), _sums([other[each] for each in some], names))
                for some in _parts(both, length_s)
            ]
        )

    def of_operation(self, name: str) -> list[tuple[Tally, Tally]]:
        return [(one[name], other[name]) for one, other in self.slots]


def _sums(seconds: Sequence[Mapping[str, Tally]], names: Sequence[str]) -> dict[str, Tally]:
    """The sum of each operation, and of all of them under the empty name."""
    sums = {name: add_tallies(each[name] for each in seconds if name in each) for name in names}
    return {**sums, "": add_tallies(sums.values())}


def _changes(name: str, pairs: _Pairs) -> Iterator[Change]:
    slots = pairs.of_operation(name)
    one, other = add_tallies(before for before, _ in slots), add_tallies(after for _, after in slots)
    for figure, (percentile, needed) in FIGURES.items():
        ratios = _ratios(slots, percentile, needed)
        before, after = Histogram(one.latency).at_ms(percentile), Histogram(other.latency).at_ms(percentile)
        yield _ratio(name, figure, before, after, ratios)
    for figure, share in _SHARES.items():
        differences = [
            after - before
            for before, after in ((share(first), share(second)) for first, second in slots)
            if before is not None and after is not None
        ]
        yield _difference(name, figure, share(one), share(other), differences)


def _ratios(slots: Sequence[tuple[Tally, Tally]], percentile: float, needed: int) -> list[float]:
    """The logarithm of after divided by before, for each slot with enough replies. Short slots are joined."""
    fewest = min((sum(map(_replies, each)) for each in zip(*slots, strict=True)), default=0)
    joined = math.ceil(needed * len(slots) / fewest) if fewest else len(slots) + 1
    found = []
    for some in _parts(slots, joined):
        before, after = (Histogram(add_tallies(each).latency) for each in zip(*some, strict=True))
        one, other = before.at_ms(percentile), after.at_ms(percentile)
        if one and other and min(before.count, after.count) >= needed / 2:
            found.append(math.log(other / one))
    return found


def _ratio(
    name: str, figure: str, before: float | None, after: float | None, ratios: Sequence[float]
) -> Change:
    if len(ratios) < FEWEST_SLOTS:
        return Change(name, figure, before, after, None, None, None, len(ratios), "unknown")
    middle, low, high = map(math.exp, _interval(ratios))
    if low > RATIO_BEYOND:
        verdict = "worse"
    elif high < 1 / RATIO_BEYOND:
        verdict = "better"
    else:
        is_small = 1 / RATIO_BEYOND < middle < RATIO_BEYOND and low > 1 / RATIO_WITHIN and high < RATIO_WITHIN
        verdict = "same" if is_small else "unknown"
    return Change(name, figure, before, after, middle - 1, low - 1, high - 1, len(ratios), verdict)


def _difference(
    name: str, figure: str, before: float | None, after: float | None, differences: Sequence[float]
) -> Change:
    if len(differences) < FEWEST_SLOTS:
        return Change(name, figure, before, after, None, None, None, len(differences), "unknown")
    middle = fmean(differences)
    error = 3 * stdev(differences) / math.sqrt(len(differences))
    low, high = middle - error, middle + error
    if low > SHARE_BEYOND:
        verdict = "worse"
    elif high < -SHARE_BEYOND:
        verdict = "better"
    else:
        verdict = "same" if low > -SHARE_WITHIN and high < SHARE_WITHIN else "unknown"
    return Change(name, figure, before, after, middle, low, high, len(differences), verdict)


def _interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The middle of the values and its 99 % interval, by Wilcoxon's signed ranks: those of the means of all pairs."""
    count = len(values)
    means = sorted((one + other) / 2 for one, other in combinations_with_replacement(values, 2))
    spread = _QUANTILE * math.sqrt(count * (count + 1) * (2 * count + 1) / 24)
    cut = max(int(count * (count + 1) / 4 - spread), 0)
    return median(means), means[cut], means[-1 - cut]


def _lag(before: Run, after: Run) -> Iterator[Change]:
    """How long projections took to show an event, if both runs probed it."""
    one, other = _lags(before), _lags(after)
    both = sorted(one.keys() & other.keys())
    if both:
        ratios = [
            math.log(median(other[each] for each in some) / median(one[each] for each in some))
            for some in _parts(both, max(math.ceil(len(both) / MOST_SLOTS), 1))
        ]
        yield _ratio(
            "", "lag_ms", median(one[each] for each in both), median(other[each] for each in both), ratios
        )


def _lags(run: Run) -> dict[int, float]:
    measured = {each.number for each in run.measured}
    return {each.number: each.lag_ms for each in run.server if each.lag_ms and each.number in measured}


def _load(run: Run) -> list[tuple[Any, ...]]:
    """The phases as far as they make the load."""
    return [
        tuple(each.get(name) for name in ("from_s", "to_s", "from_per_s", "to_per_s"))
        for each in run.scenario.get("phases", ())
    ]


def _warnings(before: Run, after: Run) -> list[str]:
    """Each circumstance that differs, by name, with both values if they are short."""
    compared = {
        f"the scenario's {name}": (before.scenario.get(name), after.scenario.get(name))
        for name in ("name", "seed", "mode", "processes", "callers")
    }
    compared["the profile"] = (_plain(before.profile), _plain(after.profile))
    compared["the machine"] = (_machines(before), _machines(after))
    found = [
        f"{name} differs: {one}, then {other}" for name, (one, other) in compared.items() if one != other
    ]
    if before.scenario.get("text") != after.scenario.get("text"):
        found.append("the scenario's text differs, in something else than its phases")
    if before.totals.keys() != after.totals.keys():
        found.append(f"only one run has: {', '.join(sorted(before.totals.keys() ^ after.totals.keys()))}")
    for name, run in (("the first run", before), ("the second run", after)):
        found += _busy(name, run)
        found += [f"{name} is not whole: {run.ended}"] if run.ended != "done" else []
    return found


def _machines(run: Run) -> str:
    return _plain(
        *(
            {name: each for name, each in machine.items() if name != "load_at_start"}
            for machine in run.machines
        )
    )


def _busy(name: str, run: Run) -> Iterator[str]:
    """A warning about each machine that had other work when the run began."""
    for machine in run.machines:
        load, cores = machine.get("load_at_start"), machine.get("cores")
        if isinstance(load, float | int) and isinstance(cores, int) and load > BUSY_PER_CORE * cores:
            yield f"{name} began on a busy machine: load average {load:g} on {cores} cores"


def _plain(*values: Mapping[str, Any]) -> str:
    return "; ".join(sorted(", ".join(f"{name} {each}" for name, each in value.items()) for value in values))


def _line(change: Change) -> str:
    subject = f"{change.word:15} {change.operation or 'all':14} {NAMES[change.figure]:8}"
    is_share = change.figure in SHARES
    unit, factor = (" %", 100) if is_share else (" ms", 1)
    both = " → ".join(
        shown(each if each is None else each * factor) for each in (change.before, change.after)
    )
    interval = (change.change or 0.0, change.low or 0.0, change.high or 0.0)
    amount, low, high = (f"{_rounded(each * 100):+g}" for each in interval)
    of = "points" if is_share else "%"
    return f"{subject} {both}{unit}, {amount} {of} ({low} to {high})"


def _rounded(value: float) -> float:
    return round(value, 2 if abs(value) < 1 else 1 if abs(value) < 10 else 0)


def _error_share(tally: Tally) -> float | None:
    replies = _replies(tally)
    return (replies - tally.succeeded) / replies if replies else None


def _dropped_share(tally: Tally) -> float | None:
    return tally.dropped / tally.wanted if tally.wanted else None


_SHARES: Mapping[str, Callable[[Tally], float | None]] = dict(
    zip(SHARES, (_error_share, _dropped_share), strict=True)
)


def _replies(tally: Tally) -> int:
    return tally.succeeded + sum(tally.errors.values())


def _parts(values: Sequence[T], size: int) -> list[Sequence[T]]:
    return [values[start : start + size] for start in range(0, len(values), size)]
