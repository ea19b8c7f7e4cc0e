"""How `es projections rebuild` watches a rebuild that a worker runs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from cli import projections, session


class Workers:
    """The rebuild makes no progress until it was requested `needed` times."""

    def __init__(self, *, needed: int) -> None:
        self._needed = needed
        self.requests = 0

    def ask(self, role: str, kind: str, body: Any, **_: Any) -> Any:
        if kind == "projections.rebuild":
            self.requests += 1
            return {"projection": "users", "generation": 2, "head": 10}
        done = 10 if self.requests >= self._needed else 0
        state = {"projection": "users", "generation": 2, "state": "current" if done else "building"}
        return {
            "projections": [
                {**state, "position": done, "head": 10, "lag": 10 - done, "events": done, "parked": 0}
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
