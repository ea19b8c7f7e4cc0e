"""`es ids …` from the shell: the output of each command, its form, and its exit code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from adapters.clock import now_us
from cli.main import app
from domain.kernel.ids import MAX_ID, STEP, ceil_id, floor_id, lane_of, time_text
from domain.kernel.ports.event_store import Appended
from domain.lanes.events import LaneGranted
from tests.support.builders import an_event, append, open_store
from tests.support.people import people
from tests.support.runs import Ran
from tests.support.system import System
from tests.support.terminal import on_terminal

pytestmark = pytest.mark.usually_over("embedded", because="it is about the command line")

WHEN = "2026-01-31T12:00:00Z"
WHEN_US = 1_769_860_800_000_000
NOT_IDS = ["0", "-1", "abc", "1e18", "0x1", str(MAX_ID + 1), "", " 1", "١"]
NOT_TIMES = ["yesterday", "", "2024-12-31T23:59:59Z", "2095-01-01", "12"]
FAR_AHEAD = str(MAX_ID - 5)

Invoke = Callable[..., Ran]


@pytest.fixture
def ids(shared: System, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Runs a command of `es ids` in this process against the shared system."""
    for name, value in shared.environment.items():
        monkeypatch.setenv(name, value)

    def invoke(*arguments: str) -> Ran:
        result = CliRunner().invoke(app, ["ids", *arguments])
        return Ran(["ids", *arguments], result.exit_code, result.stdout_bytes, result.stderr_bytes)

    return invoke


def drawn(ids: Invoke, *arguments: str) -> list[int]:
    return [int(line) for line in ids("next", *arguments).ok().lines]


def test_next_prints_one_id_and_nothing_else(ids: Invoke) -> None:
    ran = ids("next")
    assert re.fullmatch(r"[1-9][0-9]{0,18}\n", ran.out)
    assert ran.err == ""


def test_next_prints_the_requested_number_of_ids_ascending(ids: Invoke) -> None:
    printed = drawn(ids, "-n", "10000") + drawn(ids, "--count", "5")
    assert len(printed) == 10_005
    assert printed == sorted(set(printed))


def test_next_as_json_prints_an_object_per_line_with_the_id_as_text(ids: Invoke) -> None:
    found = ids("next", "-n", "5000", "--json").ok().objects
    assert len({answer["id"] for answer in found}) == 5000
    assert all(answer.keys() == {"id"} and isinstance(answer["id"], str) for answer in found)


def test_ids_after_an_id_are_greater(ids: Invoke) -> None:
    (last,) = drawn(ids)
    assert all(id_ > last for id_ in drawn(ids, "-n", "3", "--after", str(last)))


def test_a_million_ids_are_one_range_of_one_lane(ids: Invoke) -> None:
    (only,) = ids("next", "-n", "1000000", "--ranges", "--json").ok().objects
    assert (only["step"], only["count"]) == (1024, 1_000_000)
    ((first, step, count),) = [
        line.split("\t") for line in ids("next", "-n", "1000000", "--ranges").ok().lines
    ]
    assert (int(step), int(count)) == (1024, 1_000_000)
    assert int(first) > int(only["first"])


def test_more_than_a_second_of_ids_comes_in_ranges_of_several_lanes(ids: Invoke) -> None:
    parts = ids("next", "-n", "10000000", "--ranges", "--json").ok().objects
    assert sum(part["count"] for part in parts) == 10_000_000
    assert len({lane_of(int(part["first"])) for part in parts}) == len(parts) == 3


MEASURED = """
import sys
from pathlib import Path
from cli.main import app
try:
    app(sys.argv[1:])
finally:
    status = Path("/proc/self/status").read_text().splitlines()
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")), file=sys.stderr)
"""


def _lines_and_peak_kib(system: System, *arguments: str) -> tuple[int, int]:
    """The number of lines that a command printed, and the peak memory of its process."""
    code = [sys.executable, "-c", MEASURED, "ids", "next", *arguments]
    with subprocess.Popen(
        code, env=system.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        return sum(1 for _ in process.stdout), int(process.stderr.read())


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the peak is read from /proc")
@pytest.mark.parametrize("form", [(), ("--json",)], ids=["lines", "json"])
def test_a_million_lines_take_no_more_memory_than_a_thousand(shared: System, form: tuple[str, ...]) -> None:
    few, peak_of_few = _lines_and_peak_kib(shared, "-n", "1000", *form)
    many, peak_of_many = _lines_and_peak_kib(shared, "-n", "1000000", *form)
    assert (few, many) == (1000, 1_000_000)
    # The text alone would be 20 MB, the numbers as much again.
    assert peak_of_many - peak_of_few < 4 * 1024


def _refused(code: int, text: str, *commands: tuple[str, ...]) -> list[Any]:
    return [pytest.param(code, text, command, id=" ".join(command)) for command in commands]


@pytest.mark.parametrize(
    ("code", "text", "command"),
    [
        *_refused(2, "", ("next", "-n", "0"), ("next", "-n", "-1"), ("next", "-n", "x"), ("next", "extra")),
        *_refused(2, "--after is not an id", ("next", "--after", "x"), ("next", "--after", "0")),
        *_refused(1, "ahead of the clock", ("next", "--after", FAR_AHEAD)),
        *_refused(2, "not an id", *((name, "1", "--", no) for name in ("decode", "check") for no in NOT_IDS)),
        *_refused(2, "  hint: ", *((name, no) for name in ("floor", "ceil") for no in NOT_TIMES)),
        *_refused(2, "--command-id", ("fence", "--yes", "--command-id", "x")),
    ],
)
def test_bad_input_is_refused_before_any_output(
    ids: Invoke, code: int, text: str, command: tuple[str, ...]
) -> None:
    refused = ids(*command).failed(code)
    assert refused.out == ""
    assert text in refused.err


def test_decode_shows_time_lane_and_position(ids: Invoke) -> None:
    id_ = floor_id(WHEN_US) + 7
    time = "2026-01-31T12:00:00.000000Z"
    expected = {"id": str(id_), "time": time, "lane": 7, "position": str(id_ >> 10)}
    assert ids("decode", str(id_), "--json").ok().object == expected
    assert ids("decode", str(id_)).out.split("\t")[:3] == [str(id_), time, "7"]


def test_decode_keeps_the_order_of_many_ids(ids: Invoke) -> None:
    many = [str(id_) for id_ in (MAX_ID, 1, 5 * STEP)]
    assert [found["id"] for found in ids("decode", *many, "--json").ok().objects] == many


def test_floor_and_ceil_are_the_bounds_of_a_time(ids: Invoke) -> None:
    assert ids("floor", WHEN).out == f"{floor_id(WHEN_US)}\n"
    assert ids("ceil", WHEN).out == f"{ceil_id(WHEN_US)}\n"
    low, high = (int(ids(name, WHEN, "--json").ok().object["id"]) for name in ("floor", "ceil"))
    assert low <= floor_id(WHEN_US) + 7 <= high


def test_an_id_drawn_now_lies_between_the_bounds_of_its_time(ids: Invoke) -> None:
    before_us = now_us()
    (id_,) = drawn(ids)
    after_us = now_us()
    # A worker may be late or ahead by a second.
    low = int(ids("floor", time_text(before_us - 1_000_000)).out)
    high = int(ids("ceil", time_text(after_us + 1_000_000)).out)
    assert low < id_ < high


@pytest.mark.parametrize("name", ["decode", "floor", "ceil"])
def test_a_command_that_needs_no_worker_starts_none(system: System, name: str) -> None:
    system.es("ids", name, "1" if name == "decode" else WHEN).ok()
    assert not system.processes()


def test_check_shows_the_grant_of_an_id(ids: Invoke, shared: System) -> None:
    (id_,) = drawn(ids)
    found = ids("check", str(id_), "--json").ok().object
    assert found["status"] == "granted"
    assert found["pid"] == shared.pid_of("ids")
    assert found["from"] <= found["time"] < found["until"]
    assert found["granted_at"] <= found["until"]
    assert found.keys() >= {"id", "lane", "worker", "host"}


def test_check_ends_with_1_if_an_id_was_never_granted(ids: Invoke) -> None:
    (id_,) = drawn(ids)
    ran = ids("check", str(id_), FAR_AHEAD, "--json")
    assert ran.code == 1
    assert [found["status"] for found in ran.objects] == ["granted", "never granted"]
    (row,) = ids("check", FAR_AHEAD).lines
    assert row.split("\t")[:2] == [FAR_AHEAD, "never granted"]


def test_check_takes_more_ids_than_one_request(ids: Invoke) -> None:
    many = [str(id_) for id_ in drawn(ids, "-n", "1500")]
    assert [found["id"] for found in ids("check", *many, "--json").ok().objects] == many


def test_lanes_shows_the_worker_and_the_end_of_each_lane(ids: Invoke, shared: System) -> None:
    (id_,) = drawn(ids)
    held = [lane for lane in ids("lanes", "--json").ok().objects if lane["lane"] == lane_of(id_)]
    assert [(lane["status"], lane["pid"]) for lane in held] == [("held", shared.pid_of("ids"))]
    row = next(line for line in ids("lanes").lines if line.startswith(f"{lane_of(id_)}\t"))
    assert row.split("\t")[1] == "held"


def test_verify_proves_that_no_two_grants_overlap(ids: Invoke) -> None:
    drawn(ids)  # so that there is a grant
    audit = ids("verify", "--json").ok().object
    assert audit["ok"] is True
    assert audit["grants"] >= audit["lanes"] >= 1
    assert audit["problems"] == []
    assert "problem" not in ids("verify").out


@pytest.mark.own_store("it stores a grant that overlaps another")
def test_verify_ends_with_1_and_names_an_overlap(running: System) -> None:
    running.es("ids", "next").ok()
    (lane,) = running.es("ids", "lanes", "--json").ok().objects
    overlapping = asdict(LaneGranted("another worker", "elsewhere", 1, 10, 20))
    event = an_event(LaneGranted.type, data=json.dumps(overlapping).encode())
    with closing(open_store(running.settings.store)) as store:
        assert isinstance(append(store, f"lane-{lane['lane']}", lane["version"], [event]), Appended)

    plain = running.es("ids", "verify").failed(1)
    assert f"problem: lane-{lane['lane']} version {lane['version'] + 1} grants from 10" in plain.out
    as_json = running.es("ids", "verify", "--json")
    assert (as_json.code, as_json.object["ok"]) == (1, False)
    assert as_json.error["code"] == "grants-not-disjoint"


def test_a_fence_without_a_terminal_needs_yes(running: System) -> None:
    running.es("ids", "next").ok()
    refused = running.es("ids", "fence").failed(2)
    assert "--yes" in refused.err
    running.es("ids", "next").ok()


def test_a_fence_on_a_terminal_asks_and_accepts_no(running: System) -> None:
    asked = on_terminal(running, "ids", "fence", typed=b"n\n")

    assert asked.code == 1
    assert "cannot be undone" in asked.out
    running.es("ids", "next").ok()


@pytest.mark.usually_over("embedded", "distributed", because="leases are events of the store")
@pytest.mark.own_store("a fence stops the ids of the whole store")
def test_a_fence_stops_ids_and_a_retry_finds_the_same_floor(running: System) -> None:
    (last,) = running.es("ids", "next").ok().lines
    command_id = str(uuid4())
    fence = ("ids", "fence", "--yes", "--command-id", command_id, "--json")
    fenced = running.es(*fence).ok().object
    assert fenced["command_id"] == command_id
    assert fenced["lanes"] == 1024
    assert int(fenced["floor"]) > int(last)
    assert running.es(*fence).ok().object == fenced

    refused = running.es("ids", "next", "--json")
    assert (refused.code, refused.out, refused.error["code"]) == (4, "", "no-free-lane")
    assert fenced["resumes_at"] in refused.error["message"]
    assert running.es("ids", "verify", "--json").ok().object["ok"]


@pytest.mark.own_store("a fence stops the ids of the whole store")
def test_a_fence_ends_in_seconds_if_the_workers_were_stopped(running: System) -> None:
    before = int(running.es("ids", "next").ok().out)
    floor = int(running.es("ids", "fence", "--yes", "--workers-stopped", "--json").ok().object["floor"])
    assert before < floor
    lines: list[str] = []
    deadline = time.monotonic() + 60
    while not lines and time.monotonic() < deadline:
        lines = running.es("ids", "next").lines
    assert int(lines[0]) >= floor


def test_a_bulk_of_users_takes_its_ids_in_blocks(running: System) -> None:
    count = 2000
    made = running.bulk("create", people(count)).ok().objects
    user_ids = sorted(int(answer["user_id"]) for answer in made)
    runs = 1 + sum(after - before != STEP for before, after in pairwise(user_ids))
    assert len(set(user_ids)) == count
    assert runs < count / 20, "they are not consecutive"


def _lane_of(running: System, user_id: str) -> dict[str, Any]:
    lanes = running.es("ids", "lanes", "--json").ok().objects
    return next(lane for lane in lanes if lane["lane"] == lane_of(int(user_id)))


@pytest.mark.usually_over("embedded", "distributed", because="leases are events of the store")
def test_a_stopping_worker_releases_the_rest_of_its_lease(running: System) -> None:
    user_id = running.create()
    held = _lane_of(running, user_id)
    assert held["status"] == "held"
    running.es("down").ok()
    running.up()

    lane = _lane_of(running, user_id)
    assert (lane["status"], lane["version"]) == ("free", held["version"] + 1)
    assert lane["until"] < held["until"]
    beyond = int(user_id) + 10_000 * STEP
    checked = running.es("ids", "check", user_id, str(beyond), "--json")
    assert (checked.code, [found["status"] for found in checked.objects]) == (1, ["granted", "never granted"])


@pytest.mark.parametrize(
    "command", [("next",), ("check", "1"), ("lanes",), ("verify",), ("fence", "--yes")], ids=" ".join
)
def test_a_command_that_needs_a_worker_fails_if_none_runs(system: System, command: tuple[str, ...]) -> None:
    refused = system.es("ids", *command, environment={"ES_AUTOSTART": "0"}).failed(4)
    assert refused.out == ""
