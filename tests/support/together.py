"""Processes and threads that begin at the same moment."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tests.support.processes import start_python
from tests.support.waiting import DEADLINE_S

T = TypeVar("T")
R = TypeVar("R")


def start_together(code: str, arguments: Sequence[Sequence[str]]) -> list[subprocess.Popen[str]]:
    """Start one process for each list of arguments. `code` prints "ready" and then waits for a line."""
    processes = [start_python(code, *each) for each in arguments]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate(timeout=DEADLINE_S)[1]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return processes


def outputs(processes: Sequence[subprocess.Popen[str]]) -> list[str]:
    """Wait for processes that must end without an error; their standard outputs."""
    try:
        ends = [process.communicate(timeout=DEADLINE_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [(err, process.returncode) for (_, err), process in zip(ends, processes, strict=True)] == [
        ("", 0) for _ in processes
    ]
    return [out for out, _ in ends]


def run_together(code: str, arguments: Sequence[Sequence[str]]) -> list[str]:
    return outputs(start_together(code, arguments))


def at_once(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """The results of `work` in one thread for each item."""
    starting = threading.Barrier(len(items))

    def run(item: T) -> R:
        starting.wait(DEADLINE_S)
        return work(item)

    with ThreadPoolExecutor(len(items)) as pool:
        return list(pool.map(run, items))
