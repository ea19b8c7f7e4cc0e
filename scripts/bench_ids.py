"""Measure how fast ids are made, as ratios to `uuid.uuid4()` in the same run. Nothing is asserted.

    python scripts/bench_ids.py                 in this process, then through a worker and its local socket
    python scripts/bench_ids.py --in-process    without the worker

The peers are the optional extra `bench`: snowflake-id, sonyflake-turbo, python-ulid, uuid6.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from timeit import Timer
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from adapters.codec import JsonCodec
from adapters.memory.event_store import MemoryStore
from domain.kernel.ids import STEP
from domain.kernel.messages import Request
from domain.lanes import grants
from workers.ids.service import IdsService

ROUNDS = 200
BLOCK = 4096
MILLION = [Request("ids.next", {"count": 1_000_000})]
HOW_TO_HAVE_PEERS = "python -m pip install --editable '.[bench]'"


@dataclass
class Candidate:
    """A generator of ids. `calls` per round are so few that the rounds of all candidates are close in time."""

    name: str
    call: Callable[[], object]
    calls: int = 2500
    ids_per_call: int = 1
    best_ns: float = field(default=float("inf"), init=False)

    def __post_init__(self) -> None:
        # One timer per candidate: the interpreter specialises the code of a timer for the function that it calls.
        self._timer = Timer(self.call)

    def run(self) -> None:
        ns_per_id = self._timer.timeit(self.calls) * 1e9 / self.calls / self.ids_per_call
        self.best_ns = min(self.best_ns, ns_per_id)


def ours() -> Iterator[Candidate]:
    # Separate services: one that issues blocks runs ahead of the clock, which slows its next id.
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


def peers() -> Iterator[Candidate]:
    """The installed generators; a line on standard error says how to install the others."""
    found = {name: _module(name) for name in ("snowflake", "sonyflake_turbo", "ulid", "uuid6")}
    if absent := [name for name, module in found.items() if module is None]:
        print(
            f"left out, not installed: {', '.join(absent)}. To have them: {HOW_TO_HAVE_PEERS}",
            file=sys.stderr,
        )
    if found["snowflake"]:
        generator = found["snowflake"].SnowflakeGenerator(1)
        yield Candidate("snowflake-id, one per call, no lock", lambda: next(generator))
    if found["sonyflake_turbo"]:
        # Enough machine ids that it never has to sleep.
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
    service = IdsService(MemoryStore(), JsonCodec(grants.EVENTS), host="bench", pid=1, store_name="memory:")
    service.next_id()
    return service


def in_process() -> None:
    base = Candidate("uuid.uuid4()", uuid.uuid4)
    candidates = [base, *ours(), *peers()]
    # In turns, so that other processes disturb all candidates alike. The best round was disturbed least.
    for _ in range(ROUNDS):
        for candidate in candidates:
            candidate.run()
    print(f"{'what':<44}{'ns per id':>12}{'ratio':>9}")
    for candidate in candidates:
        print(f"{candidate.name:<44}{candidate.best_ns:>12.2f}{base.best_ns / candidate.best_ns:>9.2f}")
    blocks()


def blocks() -> None:
    """A block through `handle`. A lease gives four in a row; then its ids would be a second ahead of time.

    After a pause everything has left the processor's caches, for `uuid4` as well.
    """
    service = a_service()
    measured: dict[str, list[float]] = {}
    for _ in range(7):
        time.sleep(1.2)
        measured.setdefault("one uuid4 after a pause", []).append(_us(uuid.uuid4))
        time.sleep(1.2)
        measured.setdefault("10^6 ids after a pause", []).append(_us(lambda: service.handle(MILLION)))
        measured.setdefault("10^6 ids in a row", []).extend(
            _us(lambda: service.handle(MILLION)) for _ in range(2)
        )
    for name, us in measured.items():
        print(f"{name:<44}{median(us):>9.1f} us, longest {max(us):.1f} us")


def _us(call: Callable[[], object]) -> float:
    begun = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - begun) / 1000


def through_the_socket() -> None:
    """One `ids` worker, one client, requests pipelined over the local socket."""
    from adapters.settings import load_settings
    from adapters.wiring import open_caller

    with tempfile.TemporaryDirectory() as home:
        es = [sys.executable, "-c", "from cli.main import app; app()", "--home", home]
        subprocess.run([*es, "up"], check=True, stdout=subprocess.DEVNULL)
        caller = open_caller(load_settings(home_flag=home))
        try:
            for count, requests in ((1, 50_000), (1_000_000, 1000)):
                begun = time.perf_counter()
                questions = (("ids.next", {"count": count}) for _ in range(requests))
                answers = list(caller.pipeline("ids", questions, timeout_s=60.0))
                taken_s = time.perf_counter() - begun
                good = sum(isinstance(answer, dict) for answer in answers)
                print(
                    f"socket, {count} per request: {good / taken_s:,.0f} requests/s, "
                    f"{good / taken_s * count:,.0f} ids/s, {requests - good} refused"
                )
        finally:
            caller.close()
            subprocess.run([*es, "down"], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--in-process", action="store_true", help="without a worker and its local socket")
    options = parser.parse_args()
    in_process()
    if not options.in_process:
        through_the_socket()


if __name__ == "__main__":
    main()
