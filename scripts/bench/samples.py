"""Runs over servers: how many commands, in what time, with whose CPU time; and the lines that they give a report."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scripts.bench.report import Line, Matrix, Section

ROLES = ("ids", "users", "projections", "erasures", "relay", "processes")
BESIDE = ("client", "node", "PostgreSQL", "RabbitMQ")
FOLLOWERS = ("projections", "erasures", "relay")


@dataclass(frozen=True)
class Sample:
    """One run: how many commands, events or seconds it had, its time, and the CPU seconds by process."""

    count: float
    seconds: float
    cpu_s: dict[str, float]

    @property
    def rate(self) -> float:
        return self.count / self.seconds

    def cpu_ms(self, *names: str) -> float:
        """CPU milliseconds of these processes for each of `count`."""
        return 1000 * sum(self.cpu_s.get(name, 0.0) for name in names) / self.count


class Samples:
    """The samples by the name of the run."""

    def __init__(self) -> None:
        self.runs: dict[str, list[Sample]] = {}

    def add(self, name: str, sample: Sample) -> None:
        self.runs.setdefault(name, []).append(sample)

    def of(self, name: str) -> list[Sample]:
        return self.runs.get(name, [])


_CPU = (
    ("create", "create: CPU, ms", 0.8),
    ("rename", "rename: CPU, ms", 1.0),
    ("change-email", "change of address: CPU, ms", 1.0),
    ("delete", "deletion: CPU, ms", 1.0),
    ("refuse", "refused address: CPU, ms", 0.3),
    ("rebuild", "event rebuilt: CPU, ms", 0.08),
)
_RATIOS = (
    ("bulk create, to the bare append", "bulk create", "bare append", 0.3),
    ("rebuild, to the bare read", "rebuild", "bare read", 0.7),
    ("bulk with 10 ms more a round trip, to that without", "bulk with delay", "bulk through proxies", 0.7),
)


def goals(samples: Samples) -> Iterator[Line]:
    """The lines with a goal. One without figures was not measured."""
    for run, title, goal in _CPU:
        yield _line(title, [each.cpu_ms(*ROLES) for each in samples.of(run)], goal, at_most=True)
    idle = [each.cpu_ms(*FOLLOWERS) / 10 for each in samples.of("idle")]
    yield _line("followers at rest: % of a core", idle, 3.0, at_most=True)
    for title, run, yardstick, goal in _RATIOS:
        pairs = zip(samples.of(run), samples.of(yardstick), strict=False)
        yield _line(title, [own.rate / other.rate for own, other in pairs], goal, at_most=False)


def _line(title: str, figures: Sequence[float], goal: float, *, at_most: bool) -> Line:
    return Line(title, {0: figures} if figures else {}, {0: goal}, at_most)


def section(title: str, samples: Samples, notes: Sequence[str] = ()) -> Section:
    """The goals, then the rates, then the CPU time of each process."""
    lines = [line for line in goals(samples) if line.figures]
    lines += [
        Line(f"{name}, per second", {0: [each.rate for each in runs]})
        for name, runs in samples.runs.items()
        if name != "idle"
    ]
    return Section(
        title, lines, matrix=_cpu(samples), matrix_title="CPU, ms each (idle: ms a second)", notes=notes
    )


def _cpu(samples: Samples) -> Matrix:
    return {
        name: {
            process: statistics.median(each.cpu_ms(process) for each in runs)
            for process in (*ROLES, *BESIDE)
            if any(process in each.cpu_s for each in runs)
        }
        for name, runs in samples.runs.items()
    }
