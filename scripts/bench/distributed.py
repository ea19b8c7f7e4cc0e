"""The distributed profile over RabbitMQ and PostgreSQL, with its events in SQLite: bulk, get and rebuild."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing

from scripts.bench.bulks import People, percentile
from scripts.bench.clients import Client, timed_ms
from scripts.bench.parts import IN_HOME, throw_away
from scripts.bench.report import Figures, Section, Wanted, lines_of
from scripts.bench.runs import Runs, Sizes
from scripts.bench.samples import Samples

LINES = (
    Wanted("bulk creates per second", "bulk", goals={0: 3000}),
    Wanted("get, one in flight, p50 ms", "get p50", at_most=True),
    Wanted("get, one in flight, p99 ms", "get p99", at_most=True),
    Wanted("events rebuilt per second", "rebuild"),
)


def section(figures: Figures, notes: Sequence[str]) -> Section:
    lines = lines_of(LINES, figures)
    return Section("RabbitMQ and PostgreSQL, events in SQLite", lines, notes=notes)


def measure(users: int, singles: int, rounds: int, figures: Figures) -> None:
    """`users` are created in each round."""
    with throw_away(IN_HOME) as parts:
        runs = Runs(parts, Sizes(rounds, commands=0, throughput=users, idle_s=0.0), Samples())
        client = Client(parts.system.settings, People("single"))
        with closing(client):
            runs.warm_up()
            for number in range(rounds):
                print(f"RabbitMQ and PostgreSQL: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
                figures.add("bulk", runs.create().rate)
                user_ids = [client.create()["user_id"] for _ in range(10)]
                ms = [timed_ms(client.get, user_ids[n % 10]) for n in range(singles)]
                figures.add("get p50", percentile(ms, 0.5))
                figures.add("get p99", percentile(ms, 0.99))
                figures.add("rebuild", runs.rebuild().rate)
