"""How `es projections rebuild` watches a rebuild that a worker runs."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from typer.testing import CliRunner

from cli import projections, session
from domain.kernel.errors import PartUnavailable

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
    monkeypatch.setattr(projections, "STALLED_S", 0.0)
    monkeypatch.setattr(projections, "POLL_S", 0.001)

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
        monkeypatch.setattr(projections, limit, 0.01)

    ran = CliRunner().invoke(projections.app, ["rebuild", "users"])

    assert isinstance(ran.exception, PartUnavailable)
    assert reason in str(ran.exception)
