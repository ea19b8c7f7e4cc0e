"""The distributed profile over EventStoreDB: CPU per command and event, and throughput compared with a bare client.

    python -m scripts.bench.eventstoredb [--store esdb://127.0.0.1:2113?tls=false] [--json FILE]

QUICK=1 takes less than five minutes. It starts RabbitMQ and the EventStoreDB test node for itself, takes a database of the
PostgreSQL of this machine, runs `es` over them in a temporary home, and removes everything. `--store` names a real
server for tests instead of the node; its events stay there. No server of another machine is used.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from scripts.bench.parts import throw_away
from scripts.bench.report import Section, as_json, table
from scripts.bench.runs import Runs, Sizes
from scripts.bench.samples import Samples
from scripts.bench.samples import section as lines_and_cpu
from scripts.bench.time_limit import TimeIsUp, is_quick, limited

QUICK = Sizes(rounds=3, commands=1_500, throughput=3_000, idle_s=4.0)
FULL = Sizes(rounds=5, commands=4_000, throughput=10_000, idle_s=15.0)
_LIMIT_S = {True: 290, False: 3_000}


def measure(samples: Samples, sizes: Sizes, store: str | None = None) -> None:
    with throw_away(store) as parts:
        Runs(parts, sizes, samples).all()


def section(samples: Samples, notes: list[str]) -> Section:
    return lines_and_cpu("RabbitMQ, PostgreSQL and EventStoreDB", samples, notes)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--store", help="the URL of an EventStoreDB for tests, on this machine")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    given = parser.parse_args()
    samples, notes = Samples(), []
    try:
        with limited(_LIMIT_S[is_quick()]):
            measure(samples, QUICK if is_quick() else FULL, given.store)
    except TimeIsUp as over:
        notes.append(str(over))
    finally:
        found = section(samples, notes)
        print(table(found))
        if given.json:
            runs = {name: [vars(each) for each in runs] for name, runs in samples.runs.items()}
            given.json.write_text(json.dumps(as_json(found) | {"runs": runs}, indent=2) + "\n")
    return 1 if notes else 0


if __name__ == "__main__":
    sys.exit(main())
