"""The parts of `make bench`, and how much of each a run measures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from scripts.bench import (
    distributed,
    embedded,
    eventstoredb,
    goals,
    hot,
    ids,
    projections,
    rabbitmq,
    rebuild_memory,
    runs,
)
from scripts.bench.growth import Sizes
from scripts.bench.report import Figures, Section
from scripts.bench.samples import Samples


@dataclass(frozen=True)
class Plan:
    """How much is measured. `limit_s` ends the run; the largest numbers of users are left out if time is short."""

    limit_s: int
    rounds: int
    users: Sequence[int]
    users_limit_s: float
    bulk: int
    singles: int
    seconds: float
    idle_s: float
    lengths: Sequence[int]
    length_limit_s: float
    ids_turns: int
    ids_pauses: int
    over_servers: Sequence[int]
    """The numbers of users over RabbitMQ and PostgreSQL."""
    over_servers_limit_s: float
    projected: int
    """The number of events that each projection is filled with."""
    rebuilt: Sequence[int]
    """The numbers of events of which a rebuild's memory is measured."""
    eventstoredb: runs.Sizes
    parts: Sequence[str]


QUICK = Plan(
    limit_s=275,
    rounds=5,
    users=(1_000, 10_000),
    users_limit_s=170.0,
    bulk=1_024,
    singles=80,
    seconds=0.5,
    idle_s=2.0,
    lengths=(1_000, 10_000),
    length_limit_s=15.0,
    ids_turns=10,
    ids_pauses=2,
    over_servers=(1_000,),
    over_servers_limit_s=25.0,
    projected=20_000,
    rebuilt=(20_000,),
    eventstoredb=eventstoredb.QUICK,
    parts=("embedded", "hot", "distributed", "projections", "ids"),
)
FULL = Plan(
    limit_s=10_800,
    rounds=5,
    users=(10_000, 100_000, 1_000_000),
    users_limit_s=3_600.0,
    bulk=8_192,
    singles=400,
    seconds=3.0,
    idle_s=5.0,
    lengths=(1_000, 10_000, 100_000),
    length_limit_s=180.0,
    ids_turns=40,
    ids_pauses=7,
    over_servers=(10_000, 100_000, 1_000_000),
    over_servers_limit_s=3_000.0,
    projected=100_000,
    rebuilt=(1_000_000, 5_000_000),
    eventstoredb=eventstoredb.FULL,
    parts=("embedded", "hot", "distributed", "projections", "eventstoredb", "rabbitmq", "ids", "rebuild"),
)


@dataclass
class Part:
    """One part of a run: what it has measured so far, and why something was not."""

    measure: Callable[[Plan, Any, list[str]], None]
    section: Callable[[Any, list[str]], Section]
    measured: Any
    notes: list[str]

    def run(self, plan: Plan) -> None:
        self.measure(plan, self.measured, self.notes)

    def found(self) -> Section:
        return self.section(self.measured, self.notes)

    def figures(self) -> dict[str, Any]:
        """Every figure, as JSON has it."""
        if isinstance(self.measured, Samples):
            return {name: [vars(each) for each in runs] for name, runs in self.measured.runs.items()}
        return {
            name: {str(size): found for size, found in by_size.items()}
            for name, by_size in self.measured.by_name.items()
        }


def part(name: str) -> Part:
    measure, section, figures = _PARTS[name]
    return Part(measure, section, figures(), [])


def _embedded(plan: Plan, figures: Figures, notes: list[str]) -> None:
    sizes = _sizes(plan, plan.users)
    embedded.measure(sizes, figures, notes, until_s=time.monotonic() + plan.users_limit_s)


def _sizes(plan: Plan, users: Sequence[int]) -> Sizes:
    return Sizes(users, plan.rounds, plan.bulk, plan.singles, plan.seconds, plan.idle_s)


def _hot(plan: Plan, figures: Figures, notes: list[str]) -> None:
    hot.Hot(plan.lengths, plan.rounds, figures, notes, limit_s=plan.length_limit_s).all()


def _distributed(plan: Plan, figures: Figures, notes: list[str]) -> None:
    sizes = _sizes(plan, plan.over_servers)
    distributed.measure(sizes, figures, notes, until_s=time.monotonic() + plan.over_servers_limit_s)


def _eventstoredb(plan: Plan, samples: Samples, _notes: list[str]) -> None:
    eventstoredb.measure(samples, plan.eventstoredb)


def _projections(plan: Plan, figures: Figures, _notes: list[str]) -> None:
    projections.measure(figures, events=plan.projected, rounds=plan.rounds)


def _rabbitmq(plan: Plan, figures: Figures, _notes: list[str]) -> None:
    rabbitmq.measure(figures, seconds=plan.seconds, rounds=plan.rounds)


def _ids(plan: Plan, figures: Figures, notes: list[str]) -> None:
    ids.measure(figures, notes, turns=plan.ids_turns, pauses=plan.ids_pauses)


def _rebuild(plan: Plan, figures: Figures, _notes: list[str]) -> None:
    rebuild_memory.measure(plan.rebuilt, figures)


_PARTS: dict[str, tuple[Any, Any, Callable[[], Any]]] = {
    "embedded": (_embedded, goals.section, Figures),
    "hot": (_hot, hot.section, Figures),
    "distributed": (_distributed, distributed.section, Figures),
    "projections": (_projections, projections.section, Figures),
    "eventstoredb": (_eventstoredb, eventstoredb.section, Samples),
    "rabbitmq": (_rabbitmq, rabbitmq.section, Figures),
    "ids": (_ids, ids.section, Figures),
    "rebuild": (_rebuild, rebuild_memory.section, Figures),
}
PARTS = tuple(_PARTS)
