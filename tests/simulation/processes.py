"""Workers as processes that draw ids until SIGKILL ends them, and the ledger of what they printed.

`python -m tests.simulation.processes URL SKEW_US` runs one such worker.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from adapters.clock import now_us
from adapters.codec import JsonCodec
from adapters.sqlite.event_store import SqliteStore
from domain.kernel.messages import Request
from domain.kernel.ports.event_store import EventStore
from domain.lanes.events import EVENTS
from domain.lanes.layout import LaneRange
from domain.lanes.limits import MIN_LEASE_MS
from tests.simulation.ledger import Ledger
from tests.support.builders import open_store
from tests.support.processes import ROOT
from workers.ids.service import IdsService

LANES = LaneRange(0, 31)
GENERATIONS = 3
_COUNTS = [1, 1, 1, 50, 3000, 100_000]


def draw_under_kills(url: str, skews_us: Sequence[int]) -> Ledger:
    """Run three workers at a time. Each round kills the oldest after all have worked, and starts a new one.

    `skews_us` are the errors of the workers' store clocks, where each process reads the store's clock itself.
    """
    skews = cycle(skews_us)
    processes = [_start(url, next(skews)) for _ in range(3)]
    ledger = Ledger()
    try:
        for generation in range(GENERATIONS):
            for process in processes[generation:]:
                assert process.stdout is not None
                for _ in range(30):  # an amount of work instead of a time
                    _note(ledger, process.stdout.readline())
            processes[generation].kill()
            processes.append(_start(url, next(skews)))
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            assert process.stdout is not None
            assert process.stderr is not None
            with process:
                # Not `communicate`: it reads the pipe past the lines that `readline` has already taken from it.
                for line in process.stdout:
                    _note(ledger, line)
                errors = process.stderr.read()
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
    # Skip an incomplete last line: no caller received the ids of a killed worker's unfinished reply.
    if line.endswith("\n"):
        first, count = line.split()
        ledger.issued(int(first), int(count))


def _store(url: str, skew_us: int) -> EventStore:
    if url.startswith("sqlite:"):
        return SqliteStore(Path(url.removeprefix("sqlite:")), now_us=lambda: now_us() + skew_us)
    return open_store(url)


def _main(url: str, skew_us: int) -> None:
    service = IdsService(
        _store(url, skew_us),
        JsonCodec(EVENTS),
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
        time.sleep(0.0005)  # yield the processor to the other workers


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]))
