"""Add what the load processes tell: the seconds and totals of a run while it goes on.

Promise: a second is told to the caller once for each tick that has something new of it, and the whole run has it once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from load.arrivals import is_warm_up
from load.histograms import Histogram
from load.results import Second, Tally, add_operations, add_seconds
from load.scenario import Operation, Phase


class Adder:
    """The figures of one run."""

    def __init__(
        self, phases: Sequence[Phase], operations: Sequence[Operation], processes: int, seconds: int
    ) -> None:
        """`seconds` is the length of the run: no second begins after it. A run that is stopped gets a shorter one."""
        self._phases = phases
        self._processes = processes
        self.length = seconds
        self._ticks: dict[int, list[Mapping[str, Any]]] = {}
        self._next_tick = 0
        self._found: dict[int, list[Second]] = {}
        self.totals: dict[str, Tally] = {each.name: Tally() for each in operations if each.weight}
        """By operation, without the warm-up."""
        self.measured_s = 0
        """Seconds without those of a warm-up."""

    def tick(self, told: Mapping[str, Any]) -> Iterator[Second]:
        """Take a tick of one process. Yields what is new, by second in order, once all processes have told a tick."""
        self._ticks.setdefault(told["tick"], []).append(told)
        while len(self._ticks.get(self._next_tick, ())) == self._processes:
            yield from self._added(self._ticks.pop(self._next_tick))
            self._next_tick += 1

    def rest(self) -> Iterator[Second]:
        """What the ticks have that not all processes told, at the end."""
        for tick in sorted(self._ticks):
            yield from self._added(self._ticks.pop(tick))

    def _added(self, ticks: Sequence[Mapping[str, Any]]) -> Iterator[Second]:
        number = ticks[0]["tick"]
        parts: dict[int, list[Mapping[str, Any]]] = {}
        if number < self.length:
            parts[number] = []
        for each in ticks:
            for news in each["seconds"]:
                parts.setdefault(news["number"], []).append(news["operations"])
        for second, operations in sorted(parts.items()):
            in_flight = sum(each["in_flight"] for each in ticks) if second == number else 0
            yield self._note(
                Second(second, _tallies(operations), in_flight, is_warm_up(self._phases, second))
            )

    def _note(self, second: Second) -> Second:
        parts = self._found.setdefault(second.number, [])
        self.measured_s += not parts and not second.warm_up
        parts.append(second)
        if len(parts) > 2:  # replies of a second may come in many ticks
            parts[:] = add_seconds(parts)
        if not second.warm_up:
            self.totals = add_operations([self.totals, second.operations])
        return second

    def seconds(self) -> list[Second]:
        """All seconds so far, each once."""
        return add_seconds(part for parts in self._found.values() for part in parts)


def _tallies(parts: Iterable[Mapping[str, Mapping[str, Any]]]) -> dict[str, Tally]:
    """The tallies of what several processes told of one second."""
    tallies: dict[str, Tally] = {}
    latencies: dict[str, Histogram] = {}
    for part in parts:
        for name, told in part.items():
            tally = tallies.setdefault(name, Tally())
            tally.wanted += told["wanted"]
            tally.dropped += told["dropped"]
            tally.succeeded += told["succeeded"]
            for code, count in told["errors"].items():
                tally.errors[code] = tally.errors.get(code, 0) + count
            histogram = latencies.setdefault(name, Histogram())
            for latency_us in told["us"]:
                histogram.record(latency_us)
    for name, histogram in latencies.items():
        tallies[name].latency = histogram.encoded()
    return tallies
