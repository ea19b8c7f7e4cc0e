"""scripts/load.sh reports what happened."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import ROOT
from tests.support.runs import ES
from tests.support.system import System
from tests.support.waiting import DEADLINE_S, eventually

pytestmark = pytest.mark.usually_over("embedded", because="it is about the script")

SCRIPT = str(ROOT / "scripts" / "load.sh")
SHELLS = [shell for shell in ("sh", "dash", "bash") if shutil.which(shell)]


def _environment(system: System) -> dict[str, str]:
    path = f"{Path(ES).parent}{os.pathsep}{system.environment.get('PATH', '')}"
    return {**system.environment, "PATH": path, "TMPDIR": str(system.root)}


def _load(system: System, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**_environment(system), **more}
    return subprocess.run(
        ["sh", SCRIPT, *arguments], capture_output=True, text=True, env=environment, timeout=DEADLINE_S
    )


def _report(text: str) -> dict[str, str]:
    return {name: value for name, _, value in (line.rpartition(" ") for line in text.splitlines())}


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_accepts_the_script(shell: str) -> None:
    assert subprocess.run([shell, "-n", SCRIPT], check=False).returncode == 0


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck_accepts_the_script() -> None:
    done = subprocess.run(["shellcheck", "--shell=sh", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("arguments", "commands", "users"),
    [
        ("-m single -p 3 -n 10", 10, 10),
        ("-m bulk -p 2 -n 1001 -b 300", 4, 1001),
        ("-m bulk -p 8 -n 3", 3, 3),
    ],
    ids=["single", "bulk", "more-processes-than-users"],
)
def test_a_load_run_reports_what_the_store_then_holds(
    running: System, arguments: str, commands: int, users: int
) -> None:
    done = _load(running, *arguments.split())
    assert (done.returncode, done.stderr) == (0, "")
    report = _report(done.stdout)

    assert (report["requests"], report["succeeded"], report["failed"]) == (str(users), str(users), "0")
    assert report["commands"] == str(commands)
    assert len(running.registrations()) == users
    assert float(report["seconds"]) > 0
    assert float(report["throughput_per_s"]) > 0
    latencies = [int(report[f"latency_{name}_ms"]) for name in ("p50", "p95", "p99", "max")]
    assert latencies == sorted(latencies)
    assert latencies[0] > 0
    assert not any(name.startswith("error ") for name in report)
    assert list(running.root.glob("es-load.*")) == []


@pytest.mark.parametrize("mode", ["single", "bulk"])
def test_errors_are_counted_by_their_code(system: System, mode: str) -> None:
    done = _load(system, "-m", mode, "-p", "2", "-n", "4", ES_AUTOSTART="0")
    report = _report(done.stdout)

    assert done.returncode == 1
    assert (report["requests"], report["succeeded"], report["failed"]) == ("4", "0", "4")
    assert report["error unavailable"] == "4"


def test_a_run_stops_when_its_time_is_up(running: System) -> None:
    done = _load(running, "-p", "2", "-n", "1000000", "-t", "1")
    report = _report(done.stdout)
    assert done.returncode == 1
    assert 0 < int(report["requests"]) < 1_000_000
    assert report["failed"] == "0"


def test_an_interrupted_run_finishes_its_commands_and_reports(running: System) -> None:
    run = subprocess.Popen(
        ["sh", SCRIPT, "-p", "2", "-n", "1000000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(running),
    )
    try:
        eventually(lambda: len(running.registrations()) >= 2, "the run has created users")
        run.send_signal(signal.SIGINT)
        out, _ = run.communicate(timeout=DEADLINE_S)
    finally:
        run.kill()
    assert run.returncode == 130
    assert _report(out)["succeeded"] == str(len(running.registrations()))


@pytest.mark.parametrize(
    "arguments", ["-p 0", "-p many", "-p 257", "-n -1", f"-n {'9' * 30}", "-m all", "-x", "-n", "x"]
)
def test_wrong_flags_are_answered_with_the_usage(system: System, arguments: str) -> None:
    done = _load(system, *arguments.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("load.sh: ")
    assert "usage: scripts/load.sh" in done.stderr


def test_the_usage_can_be_shown(system: System) -> None:
    done = _load(system, "-h")
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: scripts/load.sh" in done.stdout


def test_without_es_in_the_path_the_script_names_it(system: System) -> None:
    tools = system.root / "tools"
    tools.mkdir()
    done = _load(system, PATH=f"{tools}{os.pathsep}/usr/bin{os.pathsep}/bin")
    assert done.returncode == 2
    assert "no `es` in PATH" in done.stderr
