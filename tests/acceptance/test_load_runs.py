"""`es load`: what a user of the command line gets from a load run, over real workers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from load.journal import journals_of
from load.results import Run, read_run
from tests.support.processes import ROOT
from tests.support.runs import ES, Ran
from tests.support.system import System
from tests.support.waiting import eventually

pytest.importorskip("hdrh", reason="the extra load is not installed")

SCENARIOS = ROOT / "scripts" / "scenarios"
NAMES = sorted(path.stem for path in SCENARIOS.glob("*.toml"))
STEADY = """
name = "steady"
[[phases]]
duration = "2s"
rate = 40
[mix]
create = 3
get = 1
rename = 1
ids-range = 1
"""
RUN_DEADLINE_S = 400.0


def shortened(text: str) -> str:
    """A scenario with phases of a second, few requests, and no limits: this machine may be busy."""
    text = text.partition("[thresholds]")[0]
    text = re.sub(r'(duration|pause) = "[^"]*"', r'\1 = "1s"', text)
    return re.sub(r"rate = .*", lambda found: re.sub(r"\d{3,}", "60", found[0]), text)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    def written(text: str) -> str:
        path = tmp_path / "scenario.toml"
        path.write_text(text)
        return str(path)

    return written


def _load(system: System, *arguments: str, **environment: str) -> Ran:
    return system.es("load", *arguments, environment=environment, deadline_s=RUN_DEADLINE_S)


def _kept(folder: Path) -> Run:
    return read_run(folder / "run.json")


def _assert_clean(run: Run) -> None:
    assert run.ledger is not None
    assert run.ledger.is_clean, run.ledger
    assert run.ledger.commands == run.ledger.accepted + run.ledger.refused + run.ledger.unanswered


# --- scenarios -------------------------------------------------------------------------------


def test_the_script_runs_a_scenario_and_nothing_is_lost(
    running: System, write: Callable[[str], str], tmp_path: Path
) -> None:
    scenario = write(shortened((SCENARIOS / "smoke.toml").read_text()))
    path = f"{Path(ES).parent}{os.pathsep}{running.environment['PATH']}"
    done = subprocess.run(
        ["sh", str(ROOT / "scripts" / "load.sh"), scenario, "--json", str(tmp_path / "result.json")],
        capture_output=True,
        text=True,
        env={**running.environment, "PATH": path},
        timeout=RUN_DEADLINE_S,
    )
    assert done.returncode == 0, done
    assert "0 lost, 0 twice, 0 wrong rows" in done.stdout
    run = read_run(tmp_path / "result.json")
    _assert_clean(run)
    assert run.ended == "done"
    assert set(run.totals) >= {"create", "get", "rename", "ids"}
    assert {worker["role"] for sample in run.server for worker in sample.workers} == {*running.roles}
    assert len(running.registrations()) >= run.totals["create"].succeeded

    (folder,) = (running.home / "load").iterdir()
    assert sorted(each.name for each in folder.iterdir()) == ["report.html", "run.json"]
    assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.slow
@pytest.mark.over("embedded", because="the scenarios are the same over other profiles")
@pytest.mark.parametrize("name", NAMES)
def test_each_scenario_runs_and_nothing_is_lost(
    system: System, write: Callable[[str], str], name: str, tmp_path: Path
) -> None:
    if name == "saga":
        system.environment |= {"ES_FEATURES": "examples.wallets", "PYTHONPATH": str(ROOT)}
    system.up()
    folder = tmp_path / "run"
    ran = _load(
        system, "run", write(shortened((SCENARIOS / f"{name}.toml").read_text())), "--folder", str(folder)
    )

    assert ran.code == 0, ran
    run = _kept(folder)
    _assert_clean(run)
    assert run.totals[{"erase-under-load": "erase", "saga": "transfer"}.get(name, "create")].succeeded
    assert journals_of(folder)  # in a folder of the user they stay


@pytest.mark.over("embedded", because="the scenario is refused before any request")
@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[mix]\ncreate = 1\n[[phases]]\nrate = 5", "phases[1].duration is missing"),
        (STEADY.replace("create = 3", "creat = 3"), "mix.creat is no key here"),
        ("= 5", "is no TOML"),
    ],
)
def test_a_wrong_scenario_is_refused_with_the_place(
    system: System, write: Callable[[str], str], text: str, place: str
) -> None:
    ran = _load(system, "run", write(text)).failed(2)

    assert "scenario.toml" in ran.err
    assert place in ran.err
    assert not system.home.exists()


@pytest.mark.over("embedded", because="the options are checked before any request")
def test_places_that_cannot_be_written_are_refused_before_the_run(
    system: System, write: Callable[[str], str], tmp_path: Path
) -> None:
    scenario, missing = write(STEADY), str(tmp_path / "missing" / "file")

    for option in ("--json", "--report"):
        assert option in _load(system, "run", scenario, option, missing).failed(2).err
    assert "cannot be read" in _load(system, "run", missing).failed(2).err
    system.up()
    assert "not empty" in _load(system, "run", scenario, "--folder", str(tmp_path)).failed(2).err


def test_without_workers_the_run_does_not_begin(
    system: System, write: Callable[[str], str], tmp_path: Path
) -> None:
    ran = _load(system, "run", write(STEADY), "--folder", str(tmp_path / "run"), ES_AUTOSTART="0")

    ran.failed(4)
    assert not (tmp_path / "run").exists()


@pytest.mark.over("embedded", because="a role without a worker is the same over a broker")
def test_a_role_without_a_worker_is_named(system: System, write: Callable[[str], str]) -> None:
    system.start("workers", "run", "users", "projections")
    system.ready()

    assert "the role ids" in _load(system, "run", write(STEADY)).failed(4).err


# --- ends ------------------------------------------------------------------------------------


@pytest.mark.over("embedded", because="limits are judged by the load process")
def test_failed_thresholds_are_named_and_exit_with_1(
    running: System, write: Callable[[str], str], tmp_path: Path
) -> None:
    limits = '[thresholds]\n"create.p50_ms" = 0.001\nper_s = 100000\nerror_rate = 0.5\n'
    ran = _load(running, "run", write(STEADY + limits), "--folder", str(tmp_path / "run"))

    ran.failed(1)
    (error,) = (line for line in ran.err.splitlines() if line.startswith("error: "))
    assert "create p50_ms" in error
    assert "per_s" in error
    assert "error_rate" not in error
    assert "threshold kept: error_rate" in ran.out
    assert len([verdict for verdict in _kept(tmp_path / "run").verdicts if not verdict.passed]) == 2


@pytest.mark.usually_over("embedded", because="it is about the command line")
def test_the_first_interrupt_ends_a_run_with_its_report(
    running: System, write: Callable[[str], str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    process = running.start("load", "run", write(STEADY.replace('"2s"', '"1h"')), "--folder", str(folder))
    eventually(lambda: any(b'"ok"' in each.read_bytes() for each in journals_of(folder)), "replies")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=RUN_DEADLINE_S)

    assert process.returncode == 130, err
    assert b"0 lost, 0 twice" in out
    assert (folder / "report.html").stat().st_size > 1000
    run = _kept(folder)
    assert run.ended == "interrupted"
    _assert_clean(run)


@pytest.mark.over("embedded", because="signals are handled by the load process")
def test_the_second_interrupt_ends_a_run_at_once(
    running: System, write: Callable[[str], str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    scenario = write('timeout = "10m"\n' + STEADY.replace('"2s"', '"1h"'))
    process = running.start("load", "run", scenario, "--folder", str(folder))
    eventually(lambda: any(b'"ok"' in each.read_bytes() for each in journals_of(folder)), "replies")
    with running.paused("users"):  # so that replies are waited for
        process.send_signal(signal.SIGINT)
        _read_until(process, b"stopping")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=RUN_DEADLINE_S)

    assert process.returncode == 130
    assert not (folder / "run.json").exists()


@pytest.mark.over("embedded", because="the ledger asks the same over other profiles")
def test_a_system_that_does_commands_twice_exits_with_5(
    system: System, write: Callable[[str], str], tmp_path: Path
) -> None:
    paths = os.pathsep.join([str(ROOT / "tests" / "load" / "broken"), str(ROOT)])
    system.es("up", environment={"PYTHONPATH": paths, "ES_TEST_BREAK": "doubled"}).ok()
    limits = '[thresholds]\n"create.p50_ms" = 0.001\n'
    folder = tmp_path / "run"
    ran = _load(system, "run", write(STEADY + limits), "--folder", str(folder)).failed(5)

    ledger = _kept(folder).ledger
    assert ledger is not None
    assert ledger.twice > 0
    assert f"error: the system did not keep what it accepted: 0 lost, {ledger.twice} twice" in ran.err
    assert "threshold FAILED" in ran.out  # the worst makes the exit code, and the rest is told as well


@pytest.mark.over("embedded", because="signals are handled by the load process")
def test_an_interrupted_ledger_leaves_the_figures(
    running: System, write: Callable[[str], str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    worker = running.pid_of("projections")  # now: to ask for it takes longer than a run on a busy machine
    process = running.start("load", "run", write(STEADY.replace('"2s"', '"5s"')), "--folder", str(folder))
    eventually(lambda: any(b'"ok"' in each.read_bytes() for each in journals_of(folder)), "replies")
    os.kill(worker, signal.SIGSTOP)
    try:
        _read_until(process, b"checking")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=RUN_DEADLINE_S)
    finally:
        os.kill(worker, signal.SIGCONT)

    assert process.returncode == 130
    assert _kept(folder).ledger is None
    assert _kept(folder).totals["create"].succeeded


def _read_until(process: subprocess.Popen[bytes], text: bytes) -> None:
    """Read what a run says until a line with the text."""
    assert process.stderr is not None
    while text not in (line := process.stderr.readline()):
        assert line, "the run has ended"


SLOW = """
import sys
if {"serve", "users"} <= {*sys.orig_argv}:
    import time
    from workers.users.service import UsersService
    begin = UsersService.begin
    def slow(self, requests):
        time.sleep(0.01 * len(requests))
        return begin(self, requests)
    UsersService.begin = slow
"""
"""A sitecustomize: the `users` worker carries 100 commands a second, so that the load process is not the limit."""


@pytest.mark.slow
@pytest.mark.over("embedded", "rabbitmq", because="the worker is the limit, whatever store it writes to")
def test_at_twice_the_capacity_requests_are_dropped_and_none_is_lost(
    system: System, write: Callable[[str], str], tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOW)
    system.es("up", environment={"PYTHONPATH": str(tmp_path)}).ok()
    scenario = write(
        'callers = 300\ntimeout = "2s"\n[[phases]]\nduration = "15s"\nrate = 200\n[mix]\ncreate = 3\nrename = 1\n'
    )
    folder = tmp_path / "run"
    ran = _load(system, "run", scenario, "--folder", str(folder))

    assert ran.code == 0, ran  # it has no thresholds
    run = _kept(folder)
    _assert_clean(run)
    assert sum(tally.dropped for tally in run.totals.values()) > 0
    assert sum(tally.errors.get("unavailable", 0) for tally in run.totals.values()) > 0
    assert run.ledger is not None
    assert run.ledger.unanswered > 0
    _assert_flat_memory(run)


def _assert_flat_memory(run: Run) -> None:
    """What waits is bounded, so no worker grows by more than its queue."""
    sizes: dict[str, list[float]] = {}
    for sample in run.server:
        for worker in sample.workers:
            if worker["memory_mb"] is not None:
                sizes.setdefault(worker["role"], []).append(worker["memory_mb"])
    assert {role: size for role, size in sizes.items() if size[-1] > size[len(size) // 3] + 30} == {}


@pytest.mark.usually_over("embedded", because="commands are sent as in any run")
@pytest.mark.parametrize(("how", "status"), [("delete", "deleted"), ("erase", "erased")])
def test_the_users_of_a_run_can_be_removed_afterwards(
    running: System, write: Callable[[str], str], how: str, status: str
) -> None:
    other = running.create("other@example.com", "Other")
    ran = _load(running, "run", write(STEADY), "--cleanup", how)

    assert ran.code == 0, ran
    statuses = {user["user_id"]: user["status"] for user in running.users()}
    assert statuses.pop(other) == "active"
    assert {*statuses.values()} == {status}
    assert f"{how}d {len(statuses)} of {len(statuses)} users" in ran.err


# --- results ---------------------------------------------------------------------------------


@pytest.mark.over("embedded", because="results are files")
def test_results_are_compared_merged_and_reported_again(
    running: System, write: Callable[[str], str], tmp_path: Path
) -> None:
    one, two, both = (str(tmp_path / f"{name}.json") for name in ("one", "two", "both"))
    scenario = write(STEADY)
    machines = [running.start("load", "run", scenario, "--json", result) for result in (one, two)]
    assert [machine.wait(RUN_DEADLINE_S) for machine in machines] == [0, 0]

    compared = _load(running, "compare", one, two).ok()
    assert "create" in compared.out
    assert isinstance(_load(running, "compare", one, two, "--json").ok().object, dict)
    assert _load(running, "compare", one, "missing.json").failed(2)

    merged = _load(running, "merge", one, two, "--json", both).ok()
    assert "create: " in merged.out
    wanted = [read_run(Path(path)).totals["create"].wanted for path in (one, two, both)]
    assert wanted[0] + wanted[1] == wanted[2]

    assert _load(running, "report", both).ok().out.strip() == str(tmp_path / "both.html")
    assert "<html" in (tmp_path / "both.html").read_text()
    printed = _load(running, "merge", one, two, "--json", "-").ok()
    assert json.loads(printed.out)["totals"]["create"]["wanted"] == wanted[2]


HIDE = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *given: None if name == "hdrh" else find(name, *given)
"""


@pytest.mark.over("embedded", because="the extra belongs to the command line")
def test_without_the_extra_the_command_says_how_to_install_it(
    system: System, write: Callable[[str], str], tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDE)
    ran = _load(system, "run", write(STEADY), PYTHONPATH=str(tmp_path)).failed(2)

    assert "a load run needs the extra load" in ran.err
    assert "es[load]" in ran.err
