"""A load run: start the load processes, add what they count, and end with a `Run`.

Promise: a run that was stopped, or that a threshold aborted, ends with all that was measured; requests in flight are waited
for, at most their timeout. Refusal: figures of a run with a failed load process are not returned.
"""

from __future__ import annotations

import math
import os
import secrets
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

from adapters.settings import Settings
from load.adding import Adder
from load.generator import Part
from load.machine import machine, profile, versions
from load.processes import LoadProcessFailed, Processes
from load.results import Run, Second, ServerSide, Verdict
from load.scenario import Phase, Scenario
from load.senders import environment_of
from load.server_side import Sampler
from load.thresholds import Seen, failing, judge

OnSecond = Callable[[Second, ServerSide | None], None]
_HEAD_START_S = 0.3
"""Between the start that all load processes are told and now."""
_END_S = 60.0


def run(
    scenario: Scenario,
    settings: Settings,
    *,
    folder: Path,
    on_second: OnSecond = lambda *_: None,
    stop: Event | None = None,
) -> Run:
    """Send the requests of a scenario. `folder` is empty and private: it gets a journal of each load process.

    `on_second` gets what is new of a second, in the caller's thread: first when it is over, again if replies to it
    arrive later. `stop` ends the arrivals; the run is then `interrupted`. Raises LoadProcessFailed, or the error of a
    load process.
    """
    tag = secrets.token_hex(4)
    parts = [
        Part(scenario.text, str(scenario.file), str(folder), number, scenario.processes, tag).to_json()
        for number in range(scenario.processes)
    ]
    about = machine()
    with Processes(parts, {**os.environ, **environment_of(settings)}, folder) as processes:
        processes.await_ready()
        start_s, started_us = _start()
        processes.begin({"start_s": start_s, "started_us": started_us})
        kinds = {operation.kind for operation in scenario.operations}
        with Sampler(settings, kinds, started_s=start_s) as sampler:
            course = _Course(scenario, processes, sampler, start_s, on_second, stop or Event())
            course.follow()
    found = course.adder
    done = Run(
        scenario=_described(scenario),
        started_at=datetime.fromtimestamp(started_us / 1e6, UTC).isoformat(timespec="microseconds"),
        duration_s=course.ended_s,
        ended=course.ended,
        machine=about,
        versions=versions(),
        profile=profile(settings),
        seconds=found.seconds(),
        totals=found.totals,
        server=sampler.samples,
        tool=_tool(course.costs),
    )
    done.verdicts = judge(scenario.thresholds, Seen.of(done))
    return done


def _start() -> tuple[float, int]:
    """The start of the run on the monotonic clock in s, and since 1970 in µs."""
    return time.monotonic() + _HEAD_START_S, round((time.time() + _HEAD_START_S) * 1e6)


class _Course:
    """A run from its start to its last reply."""

    def __init__(
        self,
        scenario: Scenario,
        processes: Processes,
        sampler: Sampler,
        start_s: float,
        on_second: OnSecond,
        stop: Event,
    ) -> None:
        self._scenario = scenario
        self._processes = processes
        self._sampler = sampler
        self._start_s = start_s
        self._on_second = on_second
        self._stop = stop
        self._limits = [each for each in scenario.thresholds if each.abort_on_fail]
        self.adder = Adder(
            scenario.phases, scenario.operations, scenario.processes, math.ceil(scenario.duration_s)
        )
        self.costs: list[Mapping[str, float]] = []
        self.ended = "done"
        self.ended_s = scenario.duration_s

    def follow(self) -> None:
        """Take what the processes tell until all are done."""
        deadline = self._start_s + self._scenario.duration_s + self._scenario.timeout_s + _END_S
        while not self._processes.are_done:
            for _, line in self._processes.lines():
                if "tick" in line:
                    for second in self.adder.tick(line):
                        self._on_second(second, self._sampler.latest)
                    self._judge()
                elif "done" in line:
                    self.costs.append(line["done"])
            if self._stop.is_set():
                self._end("interrupted")
            if time.monotonic() > deadline:
                raise LoadProcessFailed(
                    0, f"did not end within {_END_S:g} s after the run", "the run's folder"
                )
        for second in self.adder.rest():
            self._on_second(second, self._sampler.latest)

    def _judge(self) -> None:
        if self._limits and self.ended == "done":
            seen = Seen(self.adder.totals, self.adder.measured_s, self._sampler.samples)
            if verdict := failing(self._limits, seen):
                self._end(f"aborted: {_in_words(verdict)}")

    def _end(self, how: str) -> None:
        """End the arrivals. The first reason counts; a run whose arrivals are over is done."""
        passed_s = time.monotonic() - self._start_s
        if self.ended == "done" and passed_s < self._scenario.duration_s:
            self.ended, self.ended_s = how, max(passed_s, 0.0)
            self.adder.length = math.ceil(self.ended_s)
            self._processes.stop()


def _in_words(verdict: Verdict) -> str:
    figure = f"{verdict.operation}.{verdict.figure}" if verdict.operation else verdict.figure
    return f"{figure} is {verdict.measured:g}, the limit is {verdict.limit:g}"


def _described(scenario: Scenario) -> dict[str, Any]:
    return {
        "name": scenario.name,
        "text": scenario.text,
        "seed": scenario.seed,
        "mode": scenario.mode,
        "processes": scenario.processes,
        "callers": scenario.callers,
        "phases": _phases(scenario.phases),
    }


def _phases(phases: tuple[Phase, ...]) -> list[dict[str, Any]]:
    found, began_s = [], 0.0
    for phase in phases:
        found.append(
            {
                "name": phase.name,
                "from_s": began_s,
                "to_s": began_s + phase.duration_s,
                "from_per_s": phase.from_per_s,
                "to_per_s": phase.to_per_s,
            }
        )
        began_s += phase.duration_s
    return found


def _tool(costs: list[Mapping[str, float]]) -> dict[str, float]:
    """The cost of all load processes together. `dropped_late`: arrivals that they could not start in time themselves."""
    cpu_s, requests = sum(each["cpu_s"] for each in costs), sum(each["requests"] for each in costs)
    return {
        "cpu_s": round(cpu_s, 3),
        "cpu_us_per_request": round(cpu_s * 1e6 / requests, 1) if requests else 0.0,
        "memory_mb": round(sum(each["memory_mb"] for each in costs), 1),
        "dropped_late": sum(each["late"] for each in costs),
    }
