"""`python -m tests.simulation --seeds 1-20 --ids 100000000`: run seeded histories of any length."""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.random_world import RandomWorld


def parse_seeds(text: str) -> list[int]:
    """`7`, `1-20`, `1,5,9-12`."""
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        seeds += range(int(first), int(last or first) + 1)
    return seeds


def main(arguments: list[str] | None = None) -> int:
    """Print what happened in each history, and the problems on standard error. Exit code 1 if there is any."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=parse_seeds, default=parse_seeds("1-10"), help="1-20 or 3,7")
    parser.add_argument("--ids", type=int, default=20_000_000, help="how many ids, over all seeds")
    options = parser.parse_args(arguments)
    begun_s, total, failed = time.perf_counter(), 0, False
    for seed in options.seeds:
        world = RandomWorld(seed)
        world.run(-(-options.ids // len(options.seeds)))
        total += world.ledger.ids
        events = ", ".join(f"{count} {name}" for name, count in sorted(world.counts.items()))
        print(f"seed {seed}: {world.ledger.ids} ids in {world.ledger.ranges} ranges; {events}", flush=True)
        for problem in world.verify()[:10]:
            failed = True
            print(f"seed {seed}: {problem}", file=sys.stderr)
    verdict = "FAILED" if failed else "no problem found"
    print(f"{total} ids, {len(options.seeds)} seeds, {time.perf_counter() - begun_s:.1f} s: {verdict}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
