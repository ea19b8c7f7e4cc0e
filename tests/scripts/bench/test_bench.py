"""A run of few users measures every line with real workers, and leaves nothing behind, also if it is interrupted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.bench import goals, hot
from scripts.bench.__main__ import main, measured, shown
from scripts.bench.plan import QUICK
from tests.support.processes import ROOT, all_processes
from tests.support.waiting import eventually

TINY = replace(
    QUICK,
    rounds=1,
    users=(40, 80),
    users_limit_s=600.0,
    bulk=64,
    singles=8,
    seconds=0.01,
    idle_s=0.05,
    lengths=(10,),
    length_limit_s=60.0,
    limit_s=600,
    parts=("embedded", "hot"),
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a short path, in which the homes of a benchmark are made. `tmp_path` lies outside of it."""
    made = Path(tempfile.mkdtemp(prefix="b-"))
    monkeypatch.setattr(tempfile, "tempdir", str(made))
    yield made
    shutil.rmtree(made)


def processes_of(folder: Path) -> list[int]:
    return [
        pid for pid, arguments in all_processes() if any(str(folder) in argument for argument in arguments)
    ]


@pytest.mark.slow
def test_a_small_run_measures_every_line_at_every_size(folder: Path) -> None:
    run = measured(TINY)

    assert run["warnings"] == [] or "load average" in run["warnings"][0]
    found = {line["title"]: line for line in run["sections"]["embedded"]["lines"]}
    ours = {wanted.title for wanted in goals.LINES if "eventsourcing" not in f"{wanted.over}{wanted.of}"}
    ours -= {wanted.title for wanted in goals.LINES if "sourcery" in wanted.over}
    assert ours - set(found) == set()
    assert {title for title in ours if set(found[title]["figures"]) != {"40", "80"}} == set()
    assert [line["title"] for line in run["sections"]["hot"]["lines"]] == [each.title for each in hot.LINES]
    failed = [note for note in run["sections"]["embedded"]["notes"] if "failed" in note]
    assert failed == []
    assert "The embedded profile" in shown(run)
    assert processes_of(folder) == []
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_an_interrupted_run_cleans_up_and_writes_what_it_has(folder: Path, tmp_path: Path) -> None:
    result = tmp_path / "run.json"
    program = [
        sys.executable,
        "-m",
        "scripts.bench",
        "--only",
        "embedded",
        "--sizes",
        "40",
        "--json",
        str(result),
    ]
    environment = {**os.environ, "TMPDIR": str(folder), "QUICK": "1"}
    running = subprocess.Popen(
        program, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert running.stderr is not None
        eventually(
            lambda: "round 1" in str(running.stderr and running.stderr.readline()), "the first round began"
        )
        running.send_signal(signal.SIGINT)
        output, _ = running.communicate(timeout=240)
        run = json.loads(result.read_text())
    finally:
        running.kill()
        running.communicate()

    assert running.returncode == 1
    assert "interrupted: the table is incomplete" in output
    assert not run["is_complete"]
    assert "fill" in run["figures"]["embedded"]
    assert processes_of(folder) == []
    assert list(folder.iterdir()) == []


def test_an_earlier_run_is_shown_without_measuring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = {"machine": {"commit": "abc"}, "warnings": [], "is_complete": True, "sections": {}, "figures": {}}
    (tmp_path / "run.json").write_text(json.dumps(run))

    assert main(["--read", str(tmp_path / "run.json")]) == 0
    assert "commit: abc" in capsys.readouterr().out


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "embedded,nothing"])
    assert "there is no part nothing" in capsys.readouterr().err
