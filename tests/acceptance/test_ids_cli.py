"""`es ids …` from the shell: what each command prints, in which form, and with which exit code it ends."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from adapters.codec import JsonCodec
from adapters.wiring import open_store
from cli.main import app
from domain.kernel.ids import MAX_ID, ceil_id, floor_id, lane_of, time_text
from domain.kernel.ports.event_store import Append, Appended
from domain.lanes import grants
from domain.lanes.grants import LaneGranted
from tests.acceptance.conftest import System, people
from tests.support.builders import metadata

STEP = 1024
WHEN = "2026-01-31T12:00:00Z"
WHEN_US = 1_769_860_800_000_000
NOT_IDS = ["0", "-1", "abc", "1e18", "0x1", str(MAX_ID + 1), "", " 1", "١"]
FAR_AHEAD = str(MAX_ID - 5)

Invoke = Callable[..., Any]


@pytest.fixture
def invoke(shared: System, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Run a command in this process against the shared system."""
    for name, value in shared.environment.items():
        monkeypatch.setenv(name, value)
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, ["ids", *arguments])


def answers(ran: Any) -> list[dict[str, Any]]:
    assert ran.exit_code == 0, (ran.stdout, ran.stderr)
    return [json.loads(line) for line in ran.stdout.splitlines()]


def drawn(invoke: Invoke, *arguments: str) -> list[int]:
    ran = invoke("next", *arguments)
    assert ran.exit_code == 0, ran.stderr
    return [int(line) for line in ran.stdout.splitlines()]


# --- next ------------------------------------------------------------------------------------


def test_next_prints_one_id_and_nothing_else(invoke: Invoke) -> None:
    ran = invoke("next")
    assert re.fullmatch(r"[1-9][0-9]{0,18}\n", ran.stdout)
    assert ran.stderr == ""


def test_next_prints_as_many_as_were_asked_for_ascending(invoke: Invoke) -> None:
    ids = drawn(invoke, "-n", "10000") + drawn(invoke, "--count", "5")
    assert len(ids) == 10_005
    assert ids == sorted(set(ids))


def test_next_in_json_is_an_object_a_line_with_the_id_as_text(invoke: Invoke) -> None:
    found = answers(invoke("next", "-n", "5000", "--json"))
    assert len({answer["id"] for answer in found}) == 5000
    assert all(answer.keys() == {"id"} and isinstance(answer["id"], str) for answer in found)


def test_after_an_id_come_only_greater_ones(invoke: Invoke) -> None:
    (last,) = drawn(invoke)
    assert all(id_ > last for id_ in drawn(invoke, "-n", "3", "--after", str(last)))


def test_after_an_id_of_the_future_nothing_comes(invoke: Invoke) -> None:
    refused = invoke("next", "--after", FAR_AHEAD)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "ahead of the clock" in refused.stderr


def test_a_million_ids_are_one_range_of_one_lane(invoke: Invoke) -> None:
    (only,) = answers(invoke("next", "-n", "1000000", "--ranges", "--json"))
    assert (only["step"], only["count"]) == (STEP, 1_000_000)
    ((first, step, count),) = [
        line.split("\t") for line in invoke("next", "-n", "1000000", "--ranges").stdout.splitlines()
    ]
    assert (int(step), int(count)) == (STEP, 1_000_000)
    assert int(first) > int(only["first"])


def test_more_than_a_second_of_ids_comes_in_ranges_of_different_lanes(invoke: Invoke) -> None:
    parts = answers(invoke("next", "-n", "10000000", "--ranges", "--json"))
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


def _peak_kib(shared: System, *arguments: str) -> tuple[int, int]:
    """How many lines a command printed, and the most memory that its process ever had."""
    code = [sys.executable, "-c", MEASURED, "ids", "next", *arguments]
    process = subprocess.Popen(
        code, env=shared.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        lines = sum(1 for _ in process.stdout)
        peak = int(process.stderr.read())
    return lines, peak


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the peak is read from /proc")
@pytest.mark.parametrize("form", [(), ("--json",)], ids=["lines", "json"])
def test_a_million_lines_take_no_more_memory_than_a_thousand(shared: System, form: tuple[str, ...]) -> None:
    few, peak_of_few = _peak_kib(shared, "-n", "1000", *form)
    many, peak_of_many = _peak_kib(shared, "-n", "1000000", *form)
    assert (few, many) == (1000, 1_000_000)
    # The text alone would be 20 MB, the numbers as much again.
    assert peak_of_many - peak_of_few < 4 * 1024


@pytest.mark.parametrize(
    "arguments", [("-n", "0"), ("-n", "-1"), ("-n", "x"), ("--after", "x"), ("--after", "0"), ("extra",)]
)
def test_next_refuses_what_makes_no_sense(invoke: Invoke, arguments: tuple[str, ...]) -> None:
    refused = invoke("next", *arguments)
    assert (refused.exit_code, refused.stdout) == (2, "")


# --- decode, floor, ceil ---------------------------------------------------------------------


def test_decode_tells_time_lane_and_position(invoke: Invoke) -> None:
    id_ = floor_id(WHEN_US) + 7
    (found,) = answers(invoke("decode", str(id_), "--json"))
    assert found == {
        "id": str(id_),
        "time": "2026-01-31T12:00:00.000000Z",
        "lane": 7,
        "position": str(id_ >> 10),
    }
    assert invoke("decode", str(id_)).stdout.split("\t")[:3] == [str(id_), found["time"], "7"]


def test_decode_takes_many_and_keeps_their_order(invoke: Invoke) -> None:
    ids = [str(id_) for id_ in (MAX_ID, 1, 5 * STEP)]
    assert [found["id"] for found in answers(invoke("decode", *ids, "--json"))] == ids


def test_floor_and_ceil_bound_a_time(invoke: Invoke) -> None:
    assert invoke("floor", WHEN).stdout == f"{floor_id(WHEN_US)}\n"
    assert invoke("ceil", WHEN).stdout == f"{ceil_id(WHEN_US)}\n"
    (low,), (high,) = (answers(invoke(name, WHEN, "--json")) for name in ("floor", "ceil"))
    assert int(low["id"]) <= floor_id(WHEN_US) + 7 <= int(high["id"])


def test_an_id_drawn_now_lies_between_the_bounds_of_its_time(invoke: Invoke) -> None:
    before_us = time.time_ns() // 1000
    (id_,) = drawn(invoke)
    after_us = time.time_ns() // 1000
    # By so much the worker may be late or ahead.
    low = int(invoke("floor", time_text(before_us - 1_000_000)).stdout)
    high = int(invoke("ceil", time_text(after_us + 1_000_000)).stdout)
    assert low < id_ < high


@pytest.mark.parametrize("name", ["floor", "ceil"])
@pytest.mark.parametrize("when", ["yesterday", "", "2024-12-31T23:59:59Z", "2095-01-01", "12"])
def test_a_time_that_no_id_has_is_refused(invoke: Invoke, name: str, when: str) -> None:
    refused = invoke(name, when)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "  hint: " in refused.stderr


@pytest.mark.parametrize("name", ["decode", "check"])
@pytest.mark.parametrize("text", NOT_IDS, ids=repr)
def test_what_is_no_id_is_refused_before_anything_is_printed(invoke: Invoke, name: str, text: str) -> None:
    refused = invoke(name, "1", "--", text)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "not an id" in refused.stderr


@pytest.mark.parametrize("name", ["decode", "floor", "ceil"])
def test_what_needs_no_worker_starts_none(system: System, name: str) -> None:
    system.es("ids", name, "1" if name == "decode" else WHEN).ok()
    assert not system.processes()


# --- check, lanes, verify --------------------------------------------------------------------


def test_check_names_the_grant_of_an_id(invoke: Invoke, shared: System) -> None:
    (id_,) = drawn(invoke)
    (found,) = answers(invoke("check", str(id_), "--json"))
    assert found["status"] == "granted"
    assert found["pid"] == shared.pid_of("ids")
    assert found["from"] <= found["time"] < found["until"]
    assert found["granted_at"] <= found["until"]
    assert found.keys() >= {"id", "lane", "worker", "host"}


def test_check_ends_with_1_when_an_id_was_never_granted(invoke: Invoke) -> None:
    (id_,) = drawn(invoke)
    ran = invoke("check", str(id_), FAR_AHEAD, "--json")
    assert ran.exit_code == 1
    assert [json.loads(line)["status"] for line in ran.stdout.splitlines()] == ["granted", "never granted"]
    assert [line.split("\t")[:2] for line in invoke("check", FAR_AHEAD).stdout.splitlines()] == [
        [FAR_AHEAD, "never granted"]
    ]


def test_check_takes_more_ids_than_a_request_does(invoke: Invoke) -> None:
    ids = [str(id_) for id_ in drawn(invoke, "-n", "1500")]
    assert [found["id"] for found in answers(invoke("check", *ids, "--json"))] == ids


def test_lanes_shows_who_has_which_until_when(invoke: Invoke, shared: System) -> None:
    (id_,) = drawn(invoke)
    held = [lane for lane in answers(invoke("lanes", "--json")) if lane["lane"] == lane_of(id_)]
    assert [(lane["status"], lane["pid"]) for lane in held] == [("held", shared.pid_of("ids"))]
    row = next(line for line in invoke("lanes").stdout.splitlines() if line.startswith(f"{lane_of(id_)}\t"))
    assert row.split("\t")[1] == "held"


def test_verify_proves_that_no_two_grants_overlap(invoke: Invoke) -> None:
    drawn(invoke)  # whoever draws ids needs a grant
    (verdict,) = answers(invoke("verify", "--json"))
    assert verdict["ok"] is True
    assert verdict["grants"] >= verdict["lanes"] >= 1
    assert verdict["problems"] == []
    assert "problem" not in invoke("verify").stdout


@pytest.mark.own_store("it stores a grant that overlaps another")
def test_verify_ends_with_1_and_names_what_it_found(running: System) -> None:
    overlapping = LaneGranted("nobody", "nowhere", 1, 10, 20)
    about = metadata()
    event = JsonCodec(grants.EVENTS).encode(
        overlapping, event_id=about.command_id, subject=None, metadata=about, sealer=None
    )
    running.es("ids", "next").ok()
    (lane,) = running.es("ids", "lanes", "--json").ok().objects
    with closing(open_store(running.settings.store)) as store:
        (result,) = store.append([Append(f"lane-{lane['lane']}", lane["version"], [event])])
    assert isinstance(result, Appended)

    plain = running.es("ids", "verify").failed(1)
    assert f"problem: lane-{lane['lane']} version {lane['version'] + 1} grants from 10" in plain.out
    as_json = running.es("ids", "verify", "--json")
    assert (as_json.code, as_json.object["ok"]) == (1, False)
    assert as_json.error["code"] == "grants-not-disjoint"


# --- fence -----------------------------------------------------------------------------------


def test_a_fence_without_a_terminal_needs_yes_and_changes_nothing_before(running: System) -> None:
    running.es("ids", "next").ok()
    refused = running.es("ids", "fence").failed(2)
    assert "--yes" in refused.err
    running.es("ids", "next").ok()


def test_a_fence_on_a_terminal_asks_and_no_is_taken_for_an_answer(running: System) -> None:
    near, far = pty.openpty()
    process = running.start("ids", "fence", stdin=far)
    os.write(near, b"n\n")
    out, err = process.communicate(timeout=60)
    os.close(near)
    os.close(far)
    assert (process.returncode, out.strip()) == (1, b"")
    assert b"cannot be undone" in err
    running.es("ids", "next").ok()


@pytest.mark.own_store("a fence stops the ids of everybody")
def test_a_fence_stops_ids_until_its_time_and_repeating_it_finds_the_same_floor(running: System) -> None:
    (last,) = running.es("ids", "next").ok().lines
    command_id = str(uuid4())
    fence = ("ids", "fence", "--yes", "--command-id", command_id, "--json")
    answer = running.es(*fence).ok().object
    assert answer["command_id"] == command_id
    assert answer["lanes"] == 1024
    assert int(answer["floor"]) > int(last)
    assert running.es(*fence).ok().object == answer

    refused = running.es("ids", "next", "--json")
    assert (refused.code, refused.out, refused.error["code"]) == (4, "", "no-free-lane")
    assert answer["resumes_at"] in refused.error["message"]
    assert running.es("ids", "verify", "--json").ok().object["ok"]


@pytest.mark.own_store("a fence stops the ids of everybody")
def test_with_the_workers_stopped_a_fence_is_over_in_seconds(running: System) -> None:
    before = int(running.es("ids", "next").ok().out)
    floor = int(running.es("ids", "fence", "--yes", "--workers-stopped", "--json").ok().object["floor"])
    assert before < floor
    ids: list[int] = []
    deadline = time.monotonic() + 60
    while not ids and time.monotonic() < deadline:
        ids = [int(line) for line in running.es("ids", "next").lines]
    assert ids
    assert ids[0] >= floor


def test_a_fence_with_a_wrong_command_id_is_refused(shared: System) -> None:
    assert "--command-id" in shared.es("ids", "fence", "--yes", "--command-id", "x").failed(2).err


# --- blocks for users, and what a stopping worker gives back ---------------------------------


def test_a_bulk_of_users_takes_its_ids_in_blocks(running: System) -> None:
    count = 2000
    made = running.bulk("create", people(count)).ok().objects
    ids = sorted(int(answer["user_id"]) for answer in made)
    runs = 1 + sum(after - before != STEP for before, after in pairwise(ids))
    assert len(set(ids)) == count
    assert runs < count / 20, "they don't follow each other"


def _lane_of(running: System, user_id: str) -> dict[str, Any]:
    lanes_ = running.es("ids", "lanes", "--json").ok().objects
    return next(lane for lane in lanes_ if lane["lane"] == lane_of(int(user_id)))


def test_a_stopping_worker_releases_the_rest_of_its_lease(running: System) -> None:
    user_id = running.create()
    held = _lane_of(running, user_id)
    assert held["status"] == "held"
    running.es("down").ok()
    running.up()

    lane = _lane_of(running, user_id)
    assert lane["status"] == "free"
    assert lane["until"] < held["until"]
    assert lane["version"] == held["version"] + 1
    beyond = int(user_id) + 10_000 * STEP
    checked = running.es("ids", "check", user_id, str(beyond), "--json")
    assert (checked.code, [found["status"] for found in checked.objects]) == (1, ["granted", "never granted"])


# --- without workers -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [("next",), ("check", "1"), ("lanes",), ("verify",), ("fence", "--yes")], ids=" ".join
)
def test_what_needs_a_worker_says_so_when_none_runs(system: System, arguments: tuple[str, ...]) -> None:
    refused = system.es("ids", *arguments, environment={"ES_AUTOSTART": "0"}).failed(4)
    assert refused.out == ""
