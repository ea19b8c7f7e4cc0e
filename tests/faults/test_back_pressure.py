"""More load than a worker can carry: bulks slow down, other callers are told, nothing grows, and nothing accepted is lost."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from scripts.bench.cpu import cpu_s
from tests.support.people import command_ids, confirmed, people
from tests.support.runs import finish
from tests.support.system import System
from tests.support.waiting import DEADLINE_S

CROWD = 6
COUNT = 700
SINGLES = 24
GROWTH_LIMIT_MIB = 48

pytestmark = pytest.mark.slow


@contextmanager
def slowed(pid: int) -> Iterator[None]:
    """Let a process run for a tenth of the time: until it has had that time, which it waits for on a busy machine."""
    over = threading.Event()

    def stop_and_go() -> None:
        while not over.is_set():
            os.kill(pid, signal.SIGSTOP)
            over.wait(0.18)
            os.kill(pid, signal.SIGCONT)
            enough_s, latest_s = cpu_s(pid) + 0.02, time.monotonic() + 0.18
            while not over.wait(0.02) and cpu_s(pid) < enough_s and time.monotonic() < latest_s:
                pass

    thread = threading.Thread(target=stop_and_go)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def memory_mib(pid: int) -> float:
    """The largest memory of a process so far."""
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def test_more_load_than_a_worker_carries_slows_callers_down_and_loses_nothing(running: System) -> None:
    inputs = [people(COUNT, prefix=f"crowd{number}-") for number in range(CROWD)]
    singles = {str(uuid4()): f"single{number}@example.com" for number in range(SINGLES)}
    before = {worker["pid"]: memory_mib(worker["pid"]) for worker in running.supervised()}
    with slowed(running.pid_of("users")):
        bulks = [running.start_bulk("create", each) for each in inputs]
        started = {
            id_: running.start("users", "create", "--email", email, "--name", "S", "--command-id", id_)
            for id_, email in singles.items()
        }
        codes = {id_: finish(each, deadline_s=DEADLINE_S).code for id_, each in started.items()}
        for bulk in bulks:
            bulk.reached(COUNT // 2)
    answers = [answer for bulk in bulks for answer in bulk.end().ok().objects]

    assert len(confirmed(answers)) == CROWD * COUNT, "the bulks were slowed down, and no line failed"
    assert set(codes.values()) <= {0, 4}
    grown = {pid: memory_mib(pid) - mib for pid, mib in before.items()}
    assert max(grown.values()) < GROWTH_LIMIT_MIB, grown
    for id_, email in singles.items():  # also if its caller was told that the outcome is unknown
        running.retry("users", "create", "--email", email, "--name", "S", "--command-id", id_)
    stored = [event["command_id"] for event in running.registrations()]
    assert sorted(stored) == sorted([*singles, *(id_ for each in inputs for id_ in command_ids(each))])
