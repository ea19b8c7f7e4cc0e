"""The core of a load process over a clock and a sender that the test moves."""

from __future__ import annotations

import heapq
import json
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import es
from domain.kernel.errors import Kind
from load.arrivals import arrivals
from load.counts import Counts
from load.data import Data
from load.journal import Journal, journals_of
from load.people import People
from load.scenario import Scenario
from load.scenario_file import parse_scenario
from load.schedule import Clock, Job, Schedule
from tests.support.effort import EXAMPLES

START_S = 1000.0


class Driven(Clock):
    """A clock that only waiting and `work` move. Replies arrive when it passes their times."""

    def __init__(self) -> None:
        self.s = START_S
        self.due: list[tuple[float, int, Callable[[], None]]] = []

    def now_s(self) -> float:
        return self.s

    def wait(self, duration_s: float, stop: threading.Event) -> None:
        self.pass_until(self.s + duration_s)

    def pass_until(self, time_s: float) -> None:
        while self.due and self.due[0][0] <= time_s:
            self.s, _, act = heapq.heappop(self.due)
            act()
        self.s = max(self.s, time_s)


class Workers:
    """Replies after the time that `takes` says of a job, or fails it. `on_send` runs first."""

    def __init__(self, clock: Driven, takes: Callable[[float], float]) -> None:
        self.clock = clock
        self.takes = takes
        self.sent: list[Job] = []
        self.schedule: Schedule
        self.on_send: Callable[[Job], None] = lambda _: None

    def send(self, job: Job) -> None:
        self.on_send(job)
        self.sent.append(job)
        number = len(self.sent)
        reply: Any = {"command_id": job.command_id, "user_id": str(number), "version": 0, "position": number}
        if number % 10 == 0:
            reply = es.Unavailable("unavailable", Kind.UNAVAILABLE, "no reply", "Retry.")
        due_s = self.clock.s + self.takes(self.clock.s - START_S)
        heapq.heappush(self.clock.due, (due_s, number, lambda: self.schedule.answered(job, reply)))


class Made:
    """A schedule of a scenario, its workers and its counts."""

    def __init__(self, folder: Path, text: str, takes: Callable[[float], float]) -> None:
        self.scenario: Scenario = parse_scenario(text, Path("test.toml"))
        self.clock, self.counts = Driven(), Counts()
        self.workers = Workers(self.clock, takes)
        self.journal = Journal(folder, 0)
        self.stop = threading.Event()
        data = Data(self.scenario.operations, People(1, "tag"), Random(1))
        self.schedule = self.workers.schedule = Schedule(
            self.scenario,
            callers=self.scenario.callers,
            random=Random(1),
            data=data,
            journal=self.journal,
            counts=self.counts,
            stop=self.stop,
            clock=self.clock,
        )

    def run(self) -> dict[int, dict[str, Any]]:
        """Run it to its last reply. What was counted, summed over operations, by second."""
        self.schedule.run(arrivals(self.scenario.phases), self.workers, start_s=START_S, started_us=0)
        self.clock.pass_until(START_S + 10_000)
        self.journal.close()
        return {news["number"]: summed(news["operations"].values()) for news in self.counts.news()}


def summed(operations: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"wanted": 0, "dropped": 0, "succeeded": 0, "errors": 0, "us": []}
    for each in operations:
        for name in ("wanted", "dropped", "succeeded"):
            found[name] += each[name]
        found["errors"] += sum(each["errors"].values())
        found["us"] += each["us"]
    return found


def text(rate: str, duration: str = "5s", callers: int = 512, **more: str) -> str:
    lines = [f'{name} = "{value}"' for name, value in more.items()]
    return "\n".join(
        [
            *lines,
            f"callers = {callers}",
            "[[phases]]",
            f'duration = "{duration}"',
            f"rate = {rate}",
            "[mix]",
            "create = 2",
            "get = 3",
            "ids = 1",
        ]
    )


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.integers(1, 200),
    st.integers(0, 200),
    st.integers(1, 40),
    st.lists(st.floats(0.0, 3.0), min_size=1, max_size=10),
)
def test_each_arrival_is_dropped_or_answered_at_its_intended_second(
    tmp_path_factory: pytest.TempPathFactory, first: int, last: int, callers: int, times_s: list[float]
) -> None:
    made = Made(
        tmp_path_factory.mktemp("run"),
        text(f"[{first}, {last}]", "3s", callers),
        lambda at_s: times_s[int(at_s * 7) % len(times_s)],
    )
    in_flight: list[int] = []
    made.workers.on_send = lambda _: in_flight.append(made.counts.in_flight)

    found = made.run()

    wanted = [int(time_s) for time_s in arrivals(made.scenario.phases)]
    assert {number: each["wanted"] for number, each in found.items()} == {
        second: wanted.count(second) for second in set(wanted)
    }
    for each in found.values():
        assert each["wanted"] == each["dropped"] + each["succeeded"] + each["errors"]
        assert len(each["us"]) == each["succeeded"] + each["errors"]
    assert max(in_flight, default=0) <= callers
    assert made.counts.in_flight == 0
    assert made.counts.late == 0


def test_a_stall_shows_in_every_request_that_was_meant_to_start_meanwhile(
    tmp_path: Path,
) -> None:
    # Coordinated omission would show one slow request, because the next would be sent after its reply.
    made = Made(
        tmp_path, text("100", "3s"), lambda at_s: max(2.0 - at_s, 0.0) if 1.0 <= at_s < 2.0 else 0.001
    )

    found = made.run()

    stalled = sorted(found[1]["us"])
    assert len(stalled) == 100
    assert stalled == pytest.approx([5_000 + 10_000 * number for number in range(100)], abs=1_500)
    assert max(found[0]["us"] + found[2]["us"]) < 2_000


def test_latency_runs_from_the_intended_start_if_the_load_process_was_late(tmp_path: Path) -> None:
    made = Made(tmp_path, text("100", "2s"), lambda _: 0.001)

    def be_busy(job: Job) -> None:
        if len(made.workers.sent) == 97:
            made.clock.s += 0.08  # less than `start_within`: what should have been sent meanwhile is sent now

    made.workers.on_send = be_busy

    found = made.run()

    assert [(found[second]["wanted"], found[second]["dropped"]) for second in (0, 1)] == [(100, 0), (100, 0)]
    late = [us for second in (0, 1) for us in found[second]["us"] if us > 5_000]
    assert sorted(late) == pytest.approx([11_000 + 10_000 * n for n in range(7)] + [81_000], abs=1_500)


def test_an_arrival_that_cannot_start_in_time_is_dropped_and_counted(tmp_path: Path) -> None:
    made = Made(tmp_path, text("100", "1s"), lambda _: 0.001)

    def stop_a_while(job: Job) -> None:
        if len(made.workers.sent) == 10:
            made.clock.s += 0.5

    made.workers.on_send = stop_a_while

    found = made.run()

    assert found[0]["wanted"] == 100
    assert found[0]["dropped"] == made.counts.late == 40
    assert max(found[0]["us"]) < 502_000


def test_an_arrival_while_all_callers_are_busy_is_dropped(tmp_path: Path) -> None:
    made = Made(tmp_path, text("100", "1s", callers=10), lambda _: 10.0)

    found = made.run()

    assert (found[0]["wanted"], found[0]["dropped"]) == (100, 90)
    assert made.counts.late == 0


def test_a_request_is_in_the_journal_before_it_is_sent(tmp_path: Path) -> None:
    made = Made(tmp_path, text("100", "1s"), lambda _: 0.001)
    [journal] = journals_of(tmp_path)

    def look(job: Job) -> None:
        written = [json.loads(line) for line in journal.read_text().splitlines()]
        ids = {line.get("id") for line in written if "op" in line}
        if job.prepared.operation.is_command:
            assert job.command_id in ids
        elif job.prepared.operation.is_journaled:
            assert any(line["n"] == job.number for line in written if "op" in line)

    made.workers.on_send = look
    made.run()

    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    sent, answered = [x for x in lines if "op" in x], [x for x in lines if "op" not in x]
    assert [line["n"] for line in sent] == list(range(len(sent)))
    assert sorted(line["n"] for line in answered) == list(range(len(sent)))
    assert {line["kind"] for line in sent} == {"users.create", "ids.next"}, "queries have no effect"
    create = next(line for line in sent if line["op"] == "create")
    assert create["in"].keys() == {"email", "name"}
    assert create["at"] % 10_000 == 5_000, "the intended start in µs"
    failed = next(line for line in answered if "error" in line)
    assert (failed["error"], failed["kind"]) == ("unavailable", "unavailable")


def test_the_journal_is_private_and_never_continued(tmp_path: Path) -> None:
    Journal(tmp_path, 3).close()

    [path] = journals_of(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        Journal(tmp_path, 3)


def test_a_stop_ends_the_arrivals(tmp_path: Path) -> None:
    made = Made(tmp_path, text("100", "1h"), lambda _: 0.001)

    def stop(job: Job) -> None:
        if len(made.workers.sent) == 150:
            made.stop.set()

    made.workers.on_send = stop

    found = made.run()

    assert sum(each["wanted"] for each in found.values()) == 151
    assert made.counts.in_flight == 0


def test_the_same_seed_gives_the_same_order_of_operations_and_the_same_names(tmp_path: Path) -> None:
    runs = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        made = Made(tmp_path / folder, text("200", "2s"), lambda _: 0.001)
        made.run()
        runs.append(
            [(job.prepared.operation.name, job.prepared.input.get("name")) for job in made.workers.sent]
        )

    assert runs[0] == runs[1]
    assert {name for name, _ in runs[0]} == {"create", "get", "ids"}
