"""How `es projections rebuild` follows a rebuild that a worker carries out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from cli import projections, session


class Workers:
    """Answers as workers would: the rebuild stands still until it has been asked for often enough."""

    def __init__(self, *, needed: int) -> None:
        self._needed = needed
        self.asked = 0

    def ask(self, role: str, kind: str, body: Any, **_: Any) -> Any:
        if kind == "projections.rebuild":
            self.asked += 1
            return {"projection": "users", "generation": 2, "head": 10}
        done = self.asked >= self._needed
        state = {
            "projection": "users",
            "generation": 2,
            "state": "current" if done else "building",
            "position": 10 if done else 0,
            "head": 10,
            "lag": 0,
            "events": 10 if done else 0,
            "parked": 0,
        }
        return {"projections": [state]}


@pytest.mark.parametrize("needed", [1, 3])
def test_a_rebuild_that_stands_still_is_asked_for_again(monkeypatch: pytest.MonkeyPatch, needed: int) -> None:
    workers = Workers(needed=needed)
    monkeypatch.setattr(session, "ask", workers.ask)
    monkeypatch.setattr(projections, "_STALLED_S", 0.0)
    monkeypatch.setattr(projections, "_POLL_S", 0.001)

    ran = CliRunner().invoke(projections.app, ["rebuild", "users", "--json"])

    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout.splitlines()[-1])["state"] == "current"
    assert workers.asked == needed
