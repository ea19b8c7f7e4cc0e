"""One process that generates load: started by `load.run`, with the settings in its environment.

Its standard input is two lines of JSON, the part (`Part`) and the start, `{"start_s", "started_us"}`; its end stops the
arrivals. Its standard output is lines of JSON:

    {"ready": true}
    {"tick": 3, "in_flight": 12, "seconds": […]}       once a second: what is new, see `load.counts.News`
    {"done": {"cpu_s", "memory_mb", "requests", "late"}}, or {"error": {…}}   the last line

Promise: the last line is `done` only if every request was answered or has timed out. Refusal: it prints nothing else.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
import threading
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from adapters.settings import Settings, load_settings
from domain.kernel.errors import EsError
from load.arrivals import arrivals
from load.counts import Counts
from load.data import Data
from load.journal import Journal
from load.people import People, read_people
from load.records import build
from load.scenario import Scenario
from load.scenario_file import parse_scenario
from load.schedule import Clock, Failures, Schedule
from load.senders import ClientSender, ProcessSender

_SWITCH_S = 0.0005
"""How long a thread computes before another may: the default of 5 ms would be a part of the latency."""


@dataclass(frozen=True, slots=True)
class Part:
    """What a load process is told."""

    text: str
    path: str
    """The scenario and its file."""
    folder: str
    """The run's folder."""
    process: int
    processes: int
    tag: str
    """In all made-up addresses of the run."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class JournalFailed(EsError):
    """The journal cannot be written, so no further request is sent."""

    folder: str
    reason: str
    code = "journal-failed"
    hint = "Free some space, or run it in another folder."

    def __str__(self) -> str:
        return f"the journal in {self.folder} cannot be written: {self.reason}"


class _Output:
    """Standard output, by lines."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def tell(self, line: dict[str, Any]) -> None:
        raw = f"{json.dumps(line, separators=(',', ':'))}\n".encode()
        with self._lock:
            while raw:
                raw = raw[os.write(1, raw) :]


def main() -> int:
    stop, output = threading.Event(), _Output()
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # a terminal sends it to all; the coordinator closes our input
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    sys.setswitchinterval(_SWITCH_S)
    try:
        part = build(Part, json.loads(sys.stdin.readline()))
        settings = load_settings()
        scenario = parse_scenario(part.text, Path(part.path), features=settings.features)
        _generate(part, scenario, settings, stop, output)
    except EsError as error:
        output.tell({"error": error.to_wire()})
        return 1
    except OSError as error:
        output.tell({"error": JournalFailed(part.folder, error.strerror or "unknown").to_wire()})
        return 1
    return 0


def _generate(
    part: Part, scenario: Scenario, settings: Settings, stop: threading.Event, output: _Output
) -> None:
    failures, counts = Failures(stop), Counts()
    callers = _share(scenario.callers, part)
    given = read_people(scenario.people) if scenario.people else None
    people = People(scenario.seed, part.tag, process=part.process, processes=part.processes, given=given)
    with closing(Journal(Path(part.folder), part.process)) as journal:
        schedule = Schedule(
            scenario,
            callers=callers,
            random=_random("operations", scenario, part),
            data=Data(scenario.operations, people, _random("data", scenario, part)),
            journal=journal,
            counts=counts,
            stop=stop,
        )
        roles = dict.fromkeys(operation.role for operation in scenario.operations)
        sender: ClientSender | ProcessSender
        if scenario.mode == "client":
            sender = ClientSender(settings, roles, scenario.timeout_s, schedule.answered, failures)
        else:
            sender = ProcessSender(settings, callers, scenario.timeout_s, schedule.answered, failures)
        gc.freeze()
        output.tell({"ready": True})
        start = json.loads(sys.stdin.readline() or "null")
        if start is None:
            return
        cpu_s = _cpu_s()
        threading.Thread(target=_until_closed, args=(stop,), daemon=True).start()
        with _Teller(counts, output, start["start_s"]):
            times = arrivals(scenario.phases, process=part.process, processes=part.processes)
            failures.guard(lambda: schedule.run(times, sender, **start))
            sender.close()
        if failures.first is not None:
            raise failures.first
    output.tell({"done": _cost(counts, cpu_s)})


def _share(callers: int, part: Part) -> int:
    """The callers of this process. All shares together are `callers`."""
    return callers // part.processes + (part.process < callers % part.processes)


def _random(use: str, scenario: Scenario, part: Part) -> Random:
    return Random(f"{use}:{scenario.seed}:{part.process}")  # noqa: S311  # no secret


def _until_closed(stop: threading.Event) -> None:
    """Stop the arrivals at the end of standard input, also if the coordinator was killed."""
    while sys.stdin.readline():
        pass
    stop.set()


class _Teller:
    """Tells what is new after each second, in a thread of its own; the rest at the end of the block."""

    def __init__(self, counts: Counts, output: _Output, start_s: float) -> None:
        self._counts = counts
        self._output = output
        self._start_s = start_s
        self._tick = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="teller", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        self._tell()

    def _run(self) -> None:
        clock = Clock()
        while not self._ending.wait(max(self._start_s + self._tick + 1 - clock.now_s(), 0)):
            self._tell()

    def _tell(self) -> None:
        tick, self._tick = self._tick, self._tick + 1
        in_flight = self._counts.in_flight
        self._output.tell({"tick": tick, "in_flight": in_flight, "seconds": self._counts.news()})


def _cpu_s() -> float:
    """The processor time of this process and its children so far."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in both)


def _cost(counts: Counts, cpu_s: float) -> dict[str, float]:
    """`cpu_s` is what was used before the start."""
    to_mb = 1 / (1 << 20) if sys.platform == "darwin" else 1 / 1024
    return {
        "cpu_s": _cpu_s() - cpu_s,
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * to_mb,
        "requests": counts.started,
        "late": counts.late,
    }


if __name__ == "__main__":
    sys.exit(main())
