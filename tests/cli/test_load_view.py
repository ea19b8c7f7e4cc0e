"""The view of a running load run fits its terminal, and elsewhere is one plain line every 10 s."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from rich.console import Console

from cli.load_text import ledger_texts, threshold_text
from cli.load_view import View, drawn, ms, plain_line, rate
from load.recent import Recent
from load.results import Ledger, Second, ServerSide, Tally, Verdict
from load.scenario import Scenario
from load.scenario_file import parse_scenario

ROLES = ("ids", "users", "projections", "erasures")


SCENARIO = """
[[phases]]
name = "warm-up"
duration = "10s"
rate = 1000
warm_up = true
[[phases]]
name = "climb"
duration = "590s"
rate = [1000, 20000]
[mix]
create = 1
change-email = 1
ids-range = 1
"""


def _scenario() -> Scenario:
    return parse_scenario(SCENARIO, Path("ramp.toml"))


def _busy() -> Recent:
    recent = Recent(_scenario())
    workers: list[Mapping[str, Any]] = [
        {"role": role, "instance": 1, "host": "a", "pid": 1, "cpu_percent": 99.6, "memory_mb": 1044.2}
        for role in ROLES
    ]
    server = ServerSide(30, workers, {"users": 100_000}, {"users": 123_456, "erasures": 0}, lag_ms=7654.3)
    errors = {"email-taken": 123_456, "unavailable": 7}
    operations = {name: Tally(20_000, 123_456, 9, errors) for name in ("create", "change-email", "ids-range")}
    recent.add(Second(29, operations, in_flight=4096), server)
    return recent


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("stopping", [False, True])
def test_the_screen_fits_its_terminal_without_a_broken_word(columns: int, stopping: bool) -> None:
    output = io.StringIO()
    console = Console(file=output, width=columns, force_terminal=True, color_system=None)
    console.print(drawn("ramp", _busy(), stopping=stopping))
    lines = output.getvalue().splitlines()

    assert max(len(line) for line in lines) <= columns
    text = " ".join(re.sub(r"\s+", " ", line).strip() for line in lines)
    for word in (
        "change-email",
        "p99 ms",
        "dropped",
        "projections",
        "7654 ms",
        "123456 events behind",
        "Ctrl-C",
    ):
        assert word in text, output.getvalue()
    assert "…" not in text
    assert ("without a report" in text) == stopping


def test_elsewhere_a_plain_line_is_printed_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    view = View(_scenario(), Event())
    for number in range(35):
        view.show(Second(number, {"create": Tally(5, 1, 4)}, in_flight=3), None)
    lines = capsys.readouterr().err.splitlines()

    assert len(lines) == 3
    assert (
        lines[0] == "es: 0:11 climb: 4.0/s of 5.0/s; p50 - p95 - p99 - ms; 3 in flight, 11 dropped, 0 errors"
    )


def test_the_plain_line_tells_queues_and_lag() -> None:
    line = plain_line(_busy())

    assert "100000 waiting for users" in line
    assert "events are readable after 7654 ms, users 123456 events behind" in line


def test_figures_have_three_digits() -> None:
    assert [ms(None), ms(0.1234), ms(12.34), ms(123.4)] == ["-", "0.12", "12.3", "123"]
    assert [rate(0), rate(0.25), rate(1234.5)] == ["0", "0.2", "1234"]


def test_a_threshold_names_operation_figure_and_limit() -> None:
    assert threshold_text(Verdict("create", "p99_ms", 50, 91.234, False)) == "create p99_ms 91.23, limit 50"
    assert threshold_text(Verdict("", "lag_ms", 50, None, False)) == "lag_ms was not measured, limit 50"


def test_the_ledger_tells_its_sums_and_what_it_cannot_tell() -> None:
    ledger = Ledger(
        10, 7, 1, 2, 1, lost=3, ids=100, shared_ids=4, unproven=["two machines may have shared ids"]
    )

    assert list(ledger_texts(ledger)) == [
        "ledger: 10 commands: 7 accepted, 1 refused, 2 unanswered (1 of them carried out); 3 lost, 0 twice, 0 wrong rows;"
        " 100 ids, 4 given twice",
        "two machines may have shared ids",
    ]
