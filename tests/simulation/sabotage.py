"""Grants without their one rule: tests that look for duplicate ids have to find them under this."""

from __future__ import annotations

import pytest

from domain.lanes import grants
from domain.lanes.events import LaneGranted
from domain.lanes.grants import Lane, Standing, Worker


def let_grants_overlap(patch: pytest.MonkeyPatch) -> None:
    """Make every lane free, and every grant start now, without regard to the grant before."""

    def grant_now(lane: Lane, worker: Worker, *, now: int, at_least: int, length: int) -> list[LaneGranted]:
        start = max(now, at_least)
        return [LaneGranted(str(worker.token), worker.host, worker.pid, start, start + length)]

    patch.setattr(grants, "decide_grant", grant_now)
    patch.setattr(grants, "standing", lambda lane, now: Standing.FREE)
