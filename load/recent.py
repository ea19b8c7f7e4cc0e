"""What a running load run shows of itself: rates and latencies of the last seconds, errors and drops since its start.

Promise: memory does not grow with the run. Refusal: it decides nothing; thresholds are judged in `load/thresholds.py`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from load.histograms import Histogram
from load.results import Second, ServerSide, Tally
from load.scenario import Phase, Scenario

WINDOW = 5
"""How many seconds the rates and latencies cover."""
_PERCENTILES = (50.0, 95.0, 99.0)


@dataclass(frozen=True, slots=True)
class Figures:
    """One operation, or all of them. Rates and latencies are of the last seconds, counts since the start."""

    name: str
    wanted_per_s: float
    got_per_s: float
    """Replies, errors included."""
    percentiles_ms: Sequence[float | None]
    """p50, p95 and p99."""
    errors: int
    dropped: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run is in its phases."""

    phase: Phase | None
    """None after the last one, while replies are waited for."""
    number: int
    """Of the phase, from 1."""
    elapsed_s: float
    left_s: float
    """Of the whole run."""
    left_of_phase_s: float


class Recent:
    """The last seconds of a run, and its sums so far, the warm-up included."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._window: deque[tuple[int, Mapping[str, tuple[Tally, Histogram]]]] = deque()
        """What came, with the newest second at that time."""
        self._errors: dict[str, Counter[str]] = {each.name: Counter() for each in scenario.operations}
        self._dropped: Counter[str] = Counter()
        self.in_flight = 0
        self.server: ServerSide | None = None
        self.number = -1
        """The newest second."""

    def add(self, second: Second, server: ServerSide | None) -> None:
        """Add what is new. Replies of an earlier second that come late may be in a `Second` of their own."""
        if second.number > self.number:
            self.number, self.in_flight = second.number, second.in_flight
        # Decoded once: that takes a millisecond.
        decoded = {name: (tally, Histogram(tally.latency)) for name, tally in second.operations.items()}
        self._window.append((self.number, decoded))
        while self._window[0][0] <= self.number - WINDOW:
            self._window.popleft()
        self.server = server or self.server
        for name, tally in second.operations.items():
            self._errors.setdefault(name, Counter()).update(tally.errors)
            self._dropped[name] += tally.dropped

    @property
    def errors(self) -> dict[str, dict[str, int]]:
        """Errors since the start, by operation and code; operations without any are left out."""
        return {name: dict(found.most_common()) for name, found in self._errors.items() if found}

    def figures(self) -> list[Figures]:
        """One for each operation, in the order of the scenario, then one for all."""
        names = list(self._errors)
        latencies = {name: Histogram() for name in names}
        for _, second in self._window:
            for name, (_, latency) in second.items():
                latencies[name].add(latency)
        found = [self._figures(name, [name], latency) for name, latency in latencies.items()]
        everything = Histogram()
        for latency in latencies.values():
            everything.add(latency)
        return [*found, self._figures("all", names, everything)]

    def _figures(self, title: str, names: Sequence[str], latency: Histogram) -> Figures:
        recent = [each[name][0] for _, each in self._window for name in names if name in each]
        span_s = max(min(self.number + 1, WINDOW), 1)
        return Figures(
            title,
            sum(tally.wanted for tally in recent) / span_s,
            sum(tally.succeeded + sum(tally.errors.values()) for tally in recent) / span_s,
            latency.percentiles_ms(_PERCENTILES),
            sum(self._errors[name].total() for name in names),
            sum(self._dropped[name] for name in names),
        )

    def place(self) -> Place:
        """Where the run is after its newest second."""
        elapsed_s = float(self.number + 1)
        end_s, total_s = 0.0, sum(phase.duration_s for phase in self._scenario.phases)
        for number, phase in enumerate(self._scenario.phases, 1):
            end_s += phase.duration_s
            if elapsed_s < end_s:
                return Place(phase, number, elapsed_s, total_s - elapsed_s, end_s - elapsed_s)
        return Place(None, len(self._scenario.phases), min(elapsed_s, total_s), 0.0, 0.0)
