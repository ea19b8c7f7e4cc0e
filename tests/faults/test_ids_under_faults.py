"""Four `ids` workers, eight clients, `kill -9` and a stepping store clock: no id is issued twice.

The seed of the faults is printed, and ES_TEST_SEED sets it. ES_TEST_IDS_SECONDS is how long the clients draw.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from tests.simulation.ledger import Ledger
from tests.support import effort
from tests.support.processes import ROOT
from tests.support.system import System
from tests.support.waiting import DEADLINE_S, eventually

SECONDS = float(os.environ.get("ES_TEST_IDS_SECONDS", effort.IDS_S))
SEED = effort.SEED
WORKERS, CLIENTS = 4, 8
KINDS = {"single", "block", "range", "after"}
FAULTS = {"kill", "step"}
STEPS_US = [-3600_000_000, -30_000_000, -1_500_000, 0, 1_500_000, 30_000_000, 3600_000_000]
STEPPED_CLOCK = Path(__file__).with_name("stepped_clock")

pytestmark = pytest.mark.slow


class Clients:
    """Processes that draw ids. Each prints the replies into a file of its own."""

    def __init__(self, system: System) -> None:
        self._stop = system.root / "stop"
        self._outputs = [system.root / f"client-{number}" for number in range(CLIENTS)]
        self._processes = []
        for number, output in enumerate(self._outputs):
            command = [sys.executable, "-m", "tests.faults.ids_client", str(SEED + number), str(self._stop)]
            with output.open("wb") as stdout:
                self._processes.append(
                    subprocess.Popen(
                        command, cwd=ROOT, env=system.environment, stdout=stdout, stderr=subprocess.PIPE
                    )
                )

    def _size(self) -> int:
        return sum(output.stat().st_size for output in self._outputs)

    def wait_for_output(self, size: int) -> None:
        """Wait until the clients have printed so many bytes more."""
        end = self._size() + size
        eventually(lambda: self._size() >= end, "ids are drawn")

    def lines(self) -> list[list[str]]:
        """The printed lines so far, in words. The last one of each client may be incomplete."""
        return [line.split() for output in self._outputs for line in output.read_text().splitlines()]

    def end(self) -> None:
        self._stop.touch()
        for process in self._processes:
            _, errors = process.communicate(timeout=DEADLINE_S)
            assert (process.returncode, errors) == (0, b"")

    def kill(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()


def _inject_fault(system: System, clock: Path, chance: random.Random) -> str:
    """Kill a worker or step the clock. Returns the name of the fault, empty if no worker was running."""
    if chance.random() < 0.6:
        pids = [w["pid"] for w in system.status()["workers"] if w["role"] == "ids" and w["pid"]]
        with suppress(ProcessLookupError, IndexError):
            os.kill(chance.choice(pids), signal.SIGKILL)
            return "kill"
        return ""
    new = clock.with_suffix(".new")
    new.write_text(str(chance.choice(STEPS_US)))
    new.replace(clock)  # atomically: a worker may be reading it
    return "step"


def test_no_id_is_issued_twice_while_workers_die_and_the_clock_steps(system: System) -> None:
    clock = system.root / "clock"
    clock.write_text("0")
    system.environment |= {
        "PYTHONPATH": os.pathsep.join([str(STEPPED_CLOCK), str(ROOT)]),
        "ES_TEST_CLOCK": str(clock),
        "ES_AUTOSTART": "0",
    }
    chance, faults = random.Random(SEED), Counter[str]()
    system.es("up", "--scale", f"ids={WORKERS}").ok()
    clients = Clients(system)
    try:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline or not (
            faults.keys() >= FAULTS and {line[0] for line in clients.lines() if line} >= KINDS
        ):
            clients.wait_for_output(chance.randrange(20_000, 200_000))
            faults[_inject_fault(system, clock, chance)] += 1
        clients.end()
    finally:
        clients.kill()

    ledger, kinds, refused = Ledger(), Counter[str](), Counter[str]()
    for kind, first, count in clients.lines():
        if kind == "refused":
            refused[first] += 1
            continue
        kinds[kind] += 1
        ledger.issued(int(first), int(count))
    replies = f"{ledger.ids} ids in {ledger.ranges} ranges {dict(kinds)}, refused {dict(refused)}"
    print(f"ES_TEST_SEED={SEED} ES_TEST_IDS_SECONDS={SECONDS:g}: {replies}, {dict(faults)}")

    assert not ledger.problems
    assert set(kinds) == KINDS
    assert set(refused) <= {"clock-rejected", "ahead-limit", "no-free-lane", "lease-exhausted", "unavailable"}
    audit = system.es("ids", "verify", "--json").ok().object
    assert audit["ok"]
    assert audit["grants"] > WORKERS
