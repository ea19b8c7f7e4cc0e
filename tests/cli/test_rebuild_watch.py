"""How `es projections rebuild` watches a rebuild that a worker runs."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from typer.testing import CliRunner

from cli import projections, session, status, watching
from domain.features import registry
from domain.kernel.behaviour import behaviour_of
from domain.kernel.errors import PartUnavailable
from domain.users.projection import USERS

ERROR = {"code": "unavailable", "message": "the disk is full", "at": "2026-01-02T03:04:05.000000Z"}


class Workers:
    """The rebuild makes no progress until it was requested `needed` times. Every second reply has its error."""

    def __init__(self, *, needed: int, error: dict[str, str] | None = None) -> None:
        self._needed = needed
        self._errors = itertools.cycle([None, error])
        self.requests = 0

    def ask(self, role: str, kind: str, body: Any, **_: Any) -> Any:
        if kind == "projections.rebuild":
            self.requests += 1
            return {"projection": "users", "generation": 2, "head": 10}
        done = 10 if self.requests >= self._needed else 0
        state = {"projection": "users", "generation": 2, "state": "current" if done else "building"}
        return {
            "projections": [
                {
                    **state,
                    "position": done,
                    "head": 10,
                    "lag": 10 - done,
                    "events": done,
                    "parked": 0,
                    "last_error": next(self._errors),
                }
            ]
        }


@pytest.mark.parametrize("needed", [1, 3])
def test_a_stalled_rebuild_is_requested_again(monkeypatch: pytest.MonkeyPatch, needed: int) -> None:
    workers = Workers(needed=needed)
    monkeypatch.setattr(session, "ask", workers.ask)
    monkeypatch.setattr(watching, "STALLED_S", 0.0)
    monkeypatch.setattr(watching, "POLL_S", 0.001)

    ran = CliRunner().invoke(projections.app, ["rebuild", "users", "--json"])

    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout.splitlines()[-1])["state"] == "current"
    assert workers.requests == needed


@pytest.mark.parametrize(("error", "reason"), [(ERROR, "the disk is full"), (None, "no progress for")])
def test_a_rebuild_without_progress_ends_with_its_error(
    monkeypatch: pytest.MonkeyPatch, error: dict[str, str] | None, reason: str
) -> None:
    monkeypatch.setattr(session, "ask", Workers(needed=1000, error=error).ask)
    for limit in ("POLL_S", "FAILING_S", "SILENT_S"):
        monkeypatch.setattr(watching, limit, 0.01)

    ran = CliRunner().invoke(projections.app, ["rebuild", "users"])

    assert isinstance(ran.exception, PartUnavailable)
    assert reason in str(ran.exception)


# --- checks ------------------------------------------------------------------------------------

NONE = {"rows": 0, "keys": []}
SOME = {"rows": 4, "keys": ["7", "8", "9"]}
EQUAL = {
    "projection": "users",
    "generations": [1, 2],
    "position": 10,
    "result": "equal",
    "rows": [5, 5],
    "parked": [0, 0],
    "only_first": NONE,
    "only_second": NONE,
    "differ": NONE,
    "columns": {},
    "events": 10,
    "events_per_s": 123,
}
DIFFERS = {**EQUAL, "result": "differs", "differ": SOME, "columns": {"name": SOME}, "only_first": SOME}
UNTRUSTED = {**EQUAL, "result": "untrusted", "parked": [0, 1]}


class Checking:
    """A check that ends with a report, or with a state of its generation."""

    def __init__(self, report: Any, **state: str) -> None:
        self._report = report
        self._state = {"state": "checked", "why": "check", **state}

    def ask(self, role: str, kind: str, body: Any, **_: Any) -> Any:
        if kind == "projections.rebuild":
            assert body == {
                "name": "users",
                "check": True,
                "code": behaviour_of(USERS, registry().aggregates),
            }
            return {"projection": "users", "generation": 2, "head": 10}
        if kind == "projections.report":
            assert body == {"name": "users", "generation": 2}
            return self._report
        done = {"generation": 2, "position": 10, "head": 10, "events": 10}
        return {"projections": [{**done, **self._state}]}


@pytest.mark.parametrize(("report", "code"), [(EQUAL, 0), (DIFFERS, 1), (UNTRUSTED, 5)])
@pytest.mark.parametrize("form", ["--json", ""])
def test_the_exit_code_of_a_check_tells_its_result(
    monkeypatch: pytest.MonkeyPatch, report: Any, code: int, form: str
) -> None:
    monkeypatch.setattr(session, "ask", Checking(report).ask)

    ran = CliRunner().invoke(projections.app, ["rebuild", "users", "--check", *form.split()])

    assert ran.exit_code == code, ran.output
    if form:
        assert json.loads(ran.stdout) == report
        return
    assert "users: generations 1 and 2 at position 10: 5 and 5 rows; 10 events, 123/s" in ran.stdout
    assert ("different name: 4, for example 7, 8, 9" in ran.stdout) == (report is DIFFERS)
    assert ("only in generation 1: 4, for example 7, 8, 9" in ran.stdout) == (report is DIFFERS)
    assert ("generation 2 has 1 parked events" in ran.stdout) == (report is UNTRUSTED)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"state": "retired", "why": "cancelled"}, "it was cancelled"),
        ({"state": "current", "why": "other-history"}, "restored or replaced"),
    ],
)
def test_a_check_that_ends_otherwise_says_how(
    monkeypatch: pytest.MonkeyPatch, state: dict[str, str], reason: str
) -> None:
    monkeypatch.setattr(session, "ask", Checking(EQUAL, **state).ask)

    ran = CliRunner().invoke(projections.app, ["rebuild", "users", "--check"])

    assert isinstance(ran.exception, PartUnavailable)
    assert reason in str(ran.exception)


# --- what `list`, `status` and `es status` say -------------------------------------------------

OTHER = {
    "projection": "users",
    "generation": 1,
    "state": "current",
    "position": 5,
    "head": 10,
    "lag": 5,
    "events": 5,
    "parked": 0,
    "last_error": None,
    "other_code": True,
}
RUNNING = {
    **OTHER,
    "generation": 2,
    "state": "building",
    "why": "check",
    "events_per_s": 4321,
    "left_s": 12.3,
}


@pytest.mark.parametrize("command", ["list", "status"])
def test_a_list_says_that_other_code_built_a_projection(
    monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(session, "ask", lambda *_, **__: {"projections": [OTHER]})

    ran = CliRunner().invoke(projections.app, [command])

    assert "users was built by other code: `es projections rebuild users --check`" in ran.stderr


def test_es_status_shows_what_runs_with_its_rate_and_the_time_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = {"workers": [], "queues": [], "running": True, "followers": []}

    status._show_status({**found, "projections": [OTHER, RUNNING], "problems": []})

    shown = capsys.readouterr().out
    assert "users (generation 2, building)" in shown
    assert "check 4321/s, 12 s left" in shown
