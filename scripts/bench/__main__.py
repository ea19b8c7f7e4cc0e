"""Measure everything, and compare it with goals, limits and other libraries: `make bench`.

    python -m scripts.bench [--only embedded,hot,…] [--sizes 10000,100000] [--rounds 5] [--json FILE] [--write-docs]
    python -m scripts.bench --read build/bench.json --write-docs      # no run: renew the documents from an earlier one

QUICK=1 takes less than five minutes. Everything runs on this machine, in throw-away homes and servers that are removed at the
end, also after Ctrl-C. Linux only: it reads /proc. What was measured until an interruption is shown and written.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scripts.bench import machine, written
from scripts.bench.plan import FULL, PARTS, QUICK, Part, Plan, part
from scripts.bench.report import as_json, from_json, table
from scripts.bench.time_limit import TimeIsUp, is_quick, limited
from tests.support.processes import ROOT


def main(arguments: Sequence[str] | None = None) -> int:
    given = _arguments(arguments)
    if given.read:
        run = json.loads(given.read.read_text())
    else:
        run = measured(_plan(given))
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(run, indent=1) + "\n")
    print(shown(run))
    if given.write_docs:
        for name in written.write(given.root, run):
            print(f"wrote {name}", file=sys.stderr)
    return 0 if run["is_complete"] else 1


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scripts.bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", metavar="PART,…", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--sizes", metavar="N,…", help="numbers of users; of events in `rebuild`")
    parser.add_argument("--rounds", type=int, help="of each part")
    parser.add_argument("--limit", type=int, metavar="SECONDS", help="the longest that the run takes")
    parser.add_argument("--json", type=Path, metavar="FILE", default=ROOT / "build/bench.json")
    parser.add_argument(
        "--read", type=Path, metavar="FILE", help="measure nothing: take the JSON of an earlier run"
    )
    parser.add_argument("--write-docs", action="store_true", help="renew the figures in docs/")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if unknown := set((given.only or "").split(",")) - {*PARTS, ""}:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return given


def _plan(given: argparse.Namespace) -> Plan:
    plan = QUICK if is_quick() else FULL
    changes: dict[str, Any] = {}
    if given.only:
        changes["parts"] = given.only.split(",")
    if given.sizes:
        sizes = [int(size) for size in given.sizes.split(",")]
        changes |= {"users": sizes, "over_servers": sizes, "rebuilt": sizes}
    if given.rounds:
        changes["rounds"] = given.rounds
    if given.limit:
        changes["limit_s"] = given.limit
    return replace(plan, **changes)


def measured(plan: Plan) -> dict[str, Any]:
    """One run, as JSON: `{"machine", "warnings", "is_complete", "sections": {part: …}, "figures": {part: …}}`."""
    if warning := machine.warning():
        print(f"warning: {warning}", file=sys.stderr)
    found = {"machine": machine.described(), "warnings": [warning] if warning else []}
    parts: dict[str, Part] = {}
    failures: list[str] = []
    try:
        with limited(plan.limit_s):
            for name in plan.parts:
                parts[name] = part(name)
                _run(name, parts[name], plan, failures)
    except (TimeIsUp, KeyboardInterrupt, SystemExit) as end:
        failures.append(str(end) if isinstance(end, TimeIsUp) else "interrupted: the table is incomplete")
    return {
        **found,
        "warnings": [*found["warnings"], *failures],
        "is_complete": not failures,
        "sections": {name: as_json(each.found()) for name, each in parts.items()},
        "figures": {name: each.figures() for name, each in parts.items()},
    }


def _run(name: str, each: Part, plan: Plan, failures: list[str]) -> None:
    """One part. If it fails, the others go on; a missing server is no failure."""
    try:
        each.run(plan)
    except pytest.skip.Exception as skipped:
        each.notes.append(f"left out: {skipped.msg}")
    except Exception as error:
        failures.append(f"{name} failed: {type(error).__name__}: {error}")


def shown(run: dict[str, Any]) -> str:
    """Everything that a run has found, for a terminal."""
    about = [f"{name}: {value}" for name, value in run["machine"].items()]
    sections = [from_json(section) for section in run["sections"].values()]
    missed = sum(len(section.missed) for section in sections)
    ends = [
        f"{missed} lines miss a goal or get worse with size",
        *(f"warning: {each}" for each in run["warnings"]),
    ]
    return "\n\n".join(["\n".join(about), *map(table, sections), "\n".join(ends)])


if __name__ == "__main__":
    sys.exit(main())
