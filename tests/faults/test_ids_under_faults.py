"""Four `ids` workers, eight clients, `kill -9` and a store whose clock steps: no id comes twice.

The moments are drawn from a seed, which is printed: ES_TEST_SEED repeats them. ES_TEST_IDS_SECONDS is for how
long clients draw.
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

from tests.acceptance.conftest import DEADLINE_S, System, wait_until
from tests.simulation.ledger import Ledger
from tests.support.builders import ROOT

SECONDS = float(os.environ.get("ES_TEST_IDS_SECONDS", "8"))
SEED = int(os.environ.get("ES_TEST_SEED", random.randrange(1 << 32)))
WORKERS, CLIENTS = 4, 8
KINDS = {"single", "block", "range", "after"}
STEPS_US = [-3600_000_000, -30_000_000, -1_500_000, 0, 1_500_000, 30_000_000, 3600_000_000]
STEPPED_CLOCK = Path(__file__).with_name("stepped_clock")

pytestmark = pytest.mark.slow


class Clients:
    """Eight processes that draw; what they were answered is in their files."""

    def __init__(self, system: System, seed: int) -> None:
        self._stop = system.root / "stop"
        self._answers = [system.root / f"answers-{number}" for number in range(CLIENTS)]
        self._processes = []
        for number, path in enumerate(self._answers):
            arguments = ("tests.faults.ids_client", str(seed + number), str(self._stop))
            with path.open("wb") as answers:
                self._processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", *arguments],
                        cwd=ROOT,
                        env=system.environment,
                        stdout=answers,
                        stderr=subprocess.PIPE,
                    )
                )

    def answered(self) -> int:
        """How much was answered so far, in bytes of lines."""
        return sum(path.stat().st_size for path in self._answers)

    def kinds(self) -> set[str]:
        """The kinds of draws that were answered so far."""
        lines = [line for path in self._answers for line in path.read_text().splitlines()]
        return {line.split()[0] for line in lines if line} - {"refused"}

    def end(self) -> list[list[str]]:
        """Every line of theirs, in words."""
        self._stop.touch()
        for process in self._processes:
            _, errors = process.communicate(timeout=DEADLINE_S)
            assert (process.returncode, errors) == (0, b"")
        return [line.split() for path in self._answers for line in path.read_text().splitlines()]

    def kill(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()


def _strike(system: System, clock: Path, chance: random.Random, struck: Counter[str]) -> None:
    """Kill a worker, or step the clock; what it was is counted."""
    if chance.random() < 0.6:
        pids = [w["pid"] for w in system.status()["workers"] if w["role"] == "ids" and w["pid"]]
        with suppress(ProcessLookupError, IndexError):  # each may be dead already, or all be starting
            os.kill(chance.choice(pids), signal.SIGKILL)
            struck["kill"] += 1
    else:
        new = clock.with_suffix(".new")
        new.write_text(str(chance.choice(STEPS_US)))
        new.replace(clock)  # at once: a worker may be reading it
        struck["step"] += 1


def test_no_id_comes_twice_while_workers_are_killed_and_the_clock_steps(system: System) -> None:
    clock = system.root / "clock"
    clock.write_text("0")
    system.environment |= {
        "PYTHONPATH": os.pathsep.join([str(STEPPED_CLOCK), str(ROOT)]),
        "ES_TEST_CLOCK": str(clock),
        "ES_AUTOSTART": "0",
    }
    chance, struck = random.Random(SEED), Counter[str]()
    system.es("up", "--scale", f"ids={WORKERS}").ok()
    clients = Clients(system, SEED)
    try:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline or not (
            clients.kinds() == KINDS and set(struck) == {"kill", "step"}
        ):
            moment = clients.answered() + chance.randrange(20_000, 200_000)
            wait_until(lambda moment=moment: clients.answered() >= moment, "ids are drawn")
            _strike(system, clock, chance, struck)
        lines = clients.end()
    finally:
        clients.kill()

    ledger, kinds, refused = Ledger(), Counter[str](), Counter[str]()
    for kind, first, count in lines:
        if kind == "refused":
            refused[first] += 1
            continue
        kinds[kind] += 1
        ledger.issued(int(first), int(count))
    said = (
        f"{ledger.ids} ids in {ledger.ranges} ranges {dict(kinds)}, refused {dict(refused)}, {dict(struck)}"
    )
    print(f"ES_TEST_SEED={SEED} ES_TEST_IDS_SECONDS={SECONDS:g}: {said}")

    assert not ledger.problems
    assert set(kinds) == KINDS
    assert set(refused) <= {"clock-rejected", "ahead-limit", "no-free-lane", "lease-exhausted", "unavailable"}
    verdict = system.es("ids", "verify", "--json").ok().object
    assert verdict["ok"]
    assert verdict["grants"] > WORKERS
