"""`es logs`: which lines are printed, and in which form."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from cli.times import parse_since_us
from domain.kernel.errors import InvalidInput
from domain.kernel.ids import time_text

NOW_US = parse_since_us("0s", "--since")
Run = Callable[[str], Result]


def line(minutes_ago: int, level: str, worker: str, **fields: str) -> str:
    time = time_text(NOW_US - minutes_ago * 60_000_000)[:23] + "Z"
    return json.dumps({"time": time, "level": level, "worker": worker, "action": "did", **fields})


OLD, ROTATED = line(600, "error", "users", message="was down"), line(90, "info", "users")
RECENT, OTHER = line(5, "warning", "users", hint="Wait.\x1b[2J"), line(3, "info", "ids")


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    (tmp_path / "log").mkdir()
    for name, lines in {
        "users.log.2": [OLD],
        "users.log.1": [ROTATED],
        "users.log": [RECENT, "no JSON"],
    }.items():
        (tmp_path / "log" / name).write_text("".join(f"{each}\n" for each in lines))
    (tmp_path / "log" / "ids.log").write_text(f"{OTHER}\n")
    monkeypatch.setenv("ES_HOME", str(tmp_path))
    return lambda options: CliRunner().invoke(app, ["logs", *options.split()])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("users", [OLD, ROTATED, RECENT, "no JSON"]),
        ("users -n 2", [RECENT, "no JSON"]),
        ("users -n 3", [ROTATED, RECENT, "no JSON"]),
        ("users -n 0", []),
        ("users --since 2h", [ROTATED, RECENT, "no JSON"]),
        ("users --since 80m --level info", [RECENT, "no JSON"]),
        ("users --since AN_HOUR_AGO", [RECENT, "no JSON"]),
        ("users --level warning", [OLD, RECENT, "no JSON"]),
        ("users --level error", [OLD, "no JSON"]),
        ("--level info", [OLD, ROTATED, RECENT, "no JSON", OTHER]),
    ],
)
def test_a_pipe_gets_the_wanted_lines_as_they_were_written(
    logs: Run, options: str, expected: list[str]
) -> None:
    # The time is no parameter: workers of pytest would name it differently.
    options = options.replace("AN_HOUR_AGO", time_text(NOW_US - 3600_000_000))

    assert logs(options).stdout.splitlines() == expected


def test_a_terminal_gets_time_level_worker_and_message(logs: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.render.is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")

    shown = logs("users").stdout.splitlines()

    assert shown[0] == f"{json.loads(OLD)['time'][:19]}Z error   users       did was down"
    assert shown[2].endswith(r"warning users       did hint=Wait.\u001b[2J")
    assert shown[3] == "no JSON"
    assert logs("users --json -n 2").stdout.splitlines() == [RECENT, "no JSON"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("foo", "must be one of supervisor, ids, users, projections, erasures, processes, relay"),
        ("erasures", "Roles with a log: ids, users."),
        ("--level worst", "must be one of info, warning, error"),
        ("--since yesterday", "10m"),
    ],
)
def test_a_wrong_value_is_answered_with_the_right_ones(logs: Run, options: str, said: str) -> None:
    ran = logs(options)
    assert (ran.exit_code, said in ran.stderr) == (2, True), ran.stderr


@pytest.mark.parametrize(("ago", "seconds"), [("30s", 30), ("10m", 600), ("2h", 7200), ("1d", 86400)])
def test_a_time_can_be_given_as_how_long_ago(ago: str, seconds: int) -> None:
    assert abs(parse_since_us("0s", "") - parse_since_us(ago, "") - seconds * 1_000_000) < 60_000_000
    with pytest.raises(InvalidInput):
        parse_since_us(f"{ago}x", "")
