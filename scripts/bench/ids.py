"""How fast ids are issued, beside `uuid.uuid4()` and other generators in the same run.

    python -m scripts.bench.ids

In a process the candidates take turns of a few milliseconds; the best turn of a round is the undisturbed one. `make bench`
runs this module in .venv-bench, which has the other generators: snowflake-id, sonyflake-turbo, python-ulid, uuid6. Then one
JSON object is printed: `{"ns": {candidate: [each round]}, "us": {block: [each]}, "missing": [library]}`.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from timeit import Timer
from typing import TYPE_CHECKING, Any

from adapters.codec import JsonCodec
from adapters.memory.event_store import MemoryStore
from domain.kernel.ids import STEP
from domain.kernel.messages import Request
from domain.lanes.events import EVENTS
from workers.ids.service import IdsService

if TYPE_CHECKING:
    from scripts.bench.report import Figures, Section

ROUNDS = 5
BLOCK = 4096
MILLION = [Request("ids.next", {"count": 1_000_000})]
_BASE = "uuid.uuid4()"
_SOCKET = ((1, 20_000), (1_000_000, 1000))
"""Ids in a request, and requests."""


@dataclass
class Candidate:
    """One way to make ids. `calls` per round are few, so that the rounds of all candidates alternate quickly."""

    name: str
    call: Callable[[], object]
    calls: int = 2500
    ids_per_call: int = 1
    best_ns: float = field(default=float("inf"), init=False)

    def __post_init__(self) -> None:
        # One timer, and so one code object, for each candidate: the interpreter specialises calls per code object.
        self._timer = Timer(self.call)

    def run(self) -> None:
        ns_per_id = self._timer.timeit(self.calls) * 1e9 / self.calls / self.ids_per_call
        self.best_ns = min(self.best_ns, ns_per_id)


def ours() -> Iterator[Candidate]:
    # Two services: one that issues blocks runs ahead of the clock, which makes its next single id slower.
    single, service = a_service(), a_service()
    first = service.next_id()
    request = [Request("ids.next", {"count": BLOCK})]
    yield Candidate("this, one per call: lock, lease, clock", single.next_id)
    yield Candidate(
        f"this, list of {BLOCK} from its range",
        lambda: list(range(first, first + BLOCK * STEP, STEP)),
        20,
        BLOCK,
    )
    yield Candidate(f"this, a request for {BLOCK} ids", lambda: service.handle(request), 5, BLOCK)


def peers(missing: list[str]) -> Iterator[Candidate]:
    """The installed libraries. The others are added to `missing`."""
    found = {name: _module(name) for name in ("snowflake", "sonyflake_turbo", "ulid", "uuid6")}
    missing += [name for name, module in found.items() if module is None]
    if found["snowflake"]:
        generator = found["snowflake"].SnowflakeGenerator(1)
        yield Candidate("snowflake-id, one per call, no lock", lambda: next(generator))
    if found["sonyflake_turbo"]:
        # So many machine ids that it never sleeps.
        one, many = (found["sonyflake_turbo"].SonyFlake(*range(start, 60_000, 7)) for start in (0, 1))
        yield Candidate("sonyflake-turbo (C), one per call", lambda: next(one))
        yield Candidate(f"sonyflake-turbo (C), list of {BLOCK}", lambda: many(BLOCK), 20, BLOCK)
    if found["ulid"]:
        yield Candidate("python-ulid, one per call", found["ulid"].ULID)
    if found["uuid6"]:
        yield Candidate("uuid6.uuid7, one per call", found["uuid6"].uuid7)


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def a_service() -> IdsService:
    service = IdsService(MemoryStore(), JsonCodec(EVENTS), host="bench", pid=1, store_name="memory:")
    service.next_id()
    return service


def in_process(turns: int, pauses: int) -> dict[str, Any]:
    """The figures that the docstring of this module names. `turns` of each candidate make a round."""
    missing: list[str] = []
    candidates = [Candidate(_BASE, uuid.uuid4), *ours(), *peers(missing)]
    ns: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for candidate in candidates:
            candidate.best_ns = float("inf")
        # Alternating, so that other load on the machine affects all candidates.
        for _ in range(turns):
            for candidate in candidates:
                candidate.run()
        for candidate in candidates:
            ns.setdefault(candidate.name, []).append(candidate.best_ns)
    return {"ns": ns, "us": blocks(pauses), "missing": missing}


def blocks(pauses: int) -> dict[str, list[float]]:
    """Blocks through `handle`, in microseconds. A lease yields four in a row, then it is a second ahead of the clock.

    After a pause the processor's caches are cold, for `uuid4` as well.
    """
    service = a_service()
    measured: dict[str, list[float]] = {}
    for _ in range(pauses):
        time.sleep(1.2)
        measured.setdefault("one uuid4 after a pause", []).append(_us(uuid.uuid4))
        time.sleep(1.2)
        measured.setdefault("10^6 ids after a pause", []).append(_us(lambda: service.handle(MILLION)))
        measured.setdefault("10^6 ids in a row", []).extend(
            _us(lambda: service.handle(MILLION)) for _ in range(2)
        )
    return measured


def _us(call: Callable[[], object]) -> float:
    begun = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - begun) / 1000


# --- as a section ------------------------------------------------------------------------------


def measure(figures: Figures, notes: list[str], *, turns: int, pauses: int) -> None:
    """In a process of its own in the environment of the other generators, then through a worker and its socket."""
    from scripts.bench.beside import PEERS_PYTHON
    from tests.support.processes import ROOT

    python = str(PEERS_PYTHON) if PEERS_PYTHON.exists() else sys.executable
    program = [python, "-m", "scripts.bench.ids", str(turns), str(pauses)]
    ran = subprocess.run(program, cwd=ROOT, stdout=subprocess.PIPE, check=True, timeout=600)
    found = json.loads(ran.stdout)
    for unit in ("ns", "us"):
        for name, each in found[unit].items():
            for figure in each:
                figures.add(f"{name}, {unit}", figure)
    notes += [
        f"{name}: not installed; `make bench` installs it into .venv-bench" for name in found["missing"]
    ]
    _through_the_socket(figures)


def _through_the_socket(figures: Figures) -> None:
    """One `ids` worker, one client, requests pipelined over the local socket."""
    from adapters.wiring import open_caller
    from scripts.bench.home import throw_away_home

    with throw_away_home() as system, closing(open_caller(system.settings)) as caller:
        for _ in range(ROUNDS):
            for count, requests in _SOCKET:
                began_s = time.perf_counter()
                questions = (("ids.next", {"count": count}) for _ in range(requests))
                answers = list(caller.pipeline("ids", questions, timeout_s=60.0))
                taken_s = time.perf_counter() - began_s
                good = sum(isinstance(answer, dict) for answer in answers)
                figures.add(f"socket, {count:,} per request", good / taken_s)


def section(figures: Figures, notes: Sequence[str]) -> Section:
    from scripts.bench.report import Section, Wanted, lines_of

    wanted: list[Wanted] = []
    for name in figures.by_name:
        if name.endswith(", ns"):
            wanted.append(Wanted(f"{name} per id", name, at_most=True))
            wanted.append(Wanted("  of that of uuid.uuid4()", name, over=f"{_BASE}, ns", at_most=True))
        elif name.endswith(", us"):
            wanted.append(Wanted(name, name, at_most=True))
        else:
            wanted.append(Wanted(f"{name}: requests per second", name))
    return Section("Ids", lines_of(wanted, figures), notes=notes)


def main() -> None:
    turns, pauses = (int(given) for given in (sys.argv[1:] or ("40", "7")))
    print(json.dumps(in_process(turns, pauses)))


if __name__ == "__main__":
    main()
