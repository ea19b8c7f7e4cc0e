"""Bulks of `es`: input for new people, and the time, the answers and the client's CPU time of one run."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.support.people import ndjson
from tests.support.runs import ES
from tests.support.system import System

GROUP = 256
"""How many commands a worker handles at once, at most: bare clients use groups of the same size."""


class People:
    """Inputs of `users create`. No address is used twice."""

    def __init__(self, prefix: str = "ada") -> None:
        self._prefix = prefix
        self.made = 0

    def next(self, count: int) -> list[dict[str, str]]:
        first = self.made
        self.made += count
        return [self._person(number) for number in range(first, first + count)]

    def _person(self, number: int) -> dict[str, str]:
        return {"email": f"{self._prefix}-{number}@example.com", "name": f"Ada Lovelace {number}"}

    def named_again(self, emails: Sequence[str]) -> list[dict[str, str]]:
        """New people who want the addresses of others."""
        return [
            {**person, "email": email} for person, email in zip(self.next(len(emails)), emails, strict=True)
        ]


@dataclass(frozen=True)
class BulkRun:
    """`seconds` is from the first quarter of the answers on, for all: that quarter includes the start of Python."""

    replies: Sequence[dict[str, Any]]
    seconds: float
    client_cpu_s: float

    @property
    def rate(self) -> float:
        return len(self.replies) / self.seconds

    @property
    def user_ids(self) -> list[str]:
        return [reply["user_id"] for reply in self.replies]

    @property
    def succeeded(self) -> int:
        return sum("error" not in reply for reply in self.replies)

    @property
    def error_codes(self) -> set[str]:
        return {reply["error"]["code"] for reply in self.replies if "error" in reply}


def run_bulk(
    system: System, command: str, lines: Sequence[Mapping[str, str]], *, limit_s: float = 1200.0
) -> BulkRun:
    """One `es users COMMAND --from FILE`. After `limit_s` it is ended, and has fewer answers."""
    source = system.root / "input.ndjson"
    source.write_bytes(ndjson(lines))
    process = subprocess.Popen(
        [ES, "users", command, "--from", str(source)],
        env=system.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        output, at_s = _timed_output(process, limit_s)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        if process.returncode is None:
            process.kill()
            process.wait()
    replies = [json.loads(line) for line in output.splitlines()]
    assert replies, f"{command}: no answer"
    return BulkRun(replies, _seconds(at_s), usage.ru_utime + usage.ru_stime)


def _timed_output(process: subprocess.Popen[bytes], limit_s: float) -> tuple[bytes, list[tuple[int, float]]]:
    """What a process prints, and how many lines it had printed at which time."""
    assert process.stdout is not None
    began_s = time.perf_counter()
    chunks, at_s, count = [], [(0, began_s)], 0
    with process.stdout:
        while chunk := os.read(process.stdout.fileno(), 1 << 20):
            chunks.append(chunk)
            count += chunk.count(b"\n")
            at_s.append((count, time.perf_counter()))
            if at_s[-1][1] - began_s > limit_s:
                process.terminate()  # it waits for the answers of what it has sent, and ends
                limit_s = float("inf")
    return b"".join(chunks), at_s


def _seconds(at_s: Sequence[tuple[int, float]]) -> float:
    count, ended_s = at_s[-1]
    begun, began_s = next(each for each in at_s if each[0] >= count // 4)
    if begun == count:  # all of them came at once
        return ended_s - at_s[0][1]
    return (ended_s - began_s) / (count - begun) * count


def percentile(figures: Iterable[float], share: float) -> float:
    """The least figure that this share of the figures does not exceed."""
    ordered = sorted(figures)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]
