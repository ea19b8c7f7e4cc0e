"""Workers as real processes that draw ids until they are killed with SIGKILL, and the ledger of what they said.

Run as a program this is one such worker: `python -m tests.simulation.processes URL SKEW_US`.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from adapters.codec import JsonCodec
from adapters.sqlite.event_store import SqliteStore
from domain.kernel.messages import Request
from domain.kernel.ports.event_store import EventStore
from domain.lanes import grants
from domain.lanes.layout import LaneRange
from tests.simulation.ledger import Ledger
from tests.support.builders import ROOT, open_store
from workers.ids.service import MIN_LEASE_MS, IdsService

LANES = LaneRange(0, 31)
GENERATIONS = 3
_COUNTS = [1, 1, 1, 50, 3000, 100_000]


def draw_under_kills(url: str, skews_us: Sequence[int]) -> Ledger:
    """Three workers at a time; the oldest is killed when each has worked, and a new one takes its place.

    `skews_us` are the errors of the workers' own store clocks, where the store's clock is the process's.
    """
    running = [_start(url, skew_us) for skew_us in (skews_us * 3)[:3]]
    ended: list[subprocess.Popen[str]] = []
    ledger = Ledger()
    try:
        for generation in range(GENERATIONS):
            for process in running:
                assert process.stdout is not None
                for _ in range(30):  # wait for real work rather than for a time
                    _note(ledger, process.stdout.readline())
            victim = running.pop(0)
            victim.send_signal(signal.SIGKILL)
            ended.append(victim)
            running.append(_start(url, skews_us[(generation + 3) % len(skews_us)]))
    finally:
        for process in running:
            process.kill()
        for process in [*ended, *running]:
            rest, errors = process.communicate()
            for line in rest.splitlines(keepends=True):
                _note(ledger, line)
            assert not errors, errors
    return ledger


def _start(url: str, skew_us: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.simulation.processes", url, str(skew_us)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _note(ledger: Ledger, line: str) -> None:
    """A killed worker may have said half a line: then nobody heard of those ids."""
    if line.endswith("\n"):
        first, count = line.split()
        ledger.issued(int(first), int(count))


# --- one worker ------------------------------------------------------------------------------


def _store(url: str, skew_us: int) -> EventStore:
    if url.startswith("sqlite:"):
        path = Path(url.removeprefix("sqlite:"))
        return SqliteStore(path, now_us=lambda: time.time_ns() // 1000 + skew_us)
    return open_store(url)


def _main(url: str, skew_us: int) -> None:
    service = IdsService(
        _store(url, skew_us),
        JsonCodec(grants.EVENTS),
        host="here",
        pid=os.getpid(),
        store_name=url,
        lane_range=LANES,
        lease_ms=MIN_LEASE_MS,
    )
    while True:
        (reply,) = service.handle([Request("ids.next", {"count": random.choice(_COUNTS)})])
        for item in reply["ranges"] if isinstance(reply, dict) else []:
            print(item["first"], item["count"], flush=True)
        time.sleep(0.0005)  # let the others have a turn


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]))
