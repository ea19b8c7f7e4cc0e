"""Grants without their one rule, to show that the tests which look for duplicates find them."""

from __future__ import annotations

import pytest

from domain.lanes import grants
from domain.lanes.grants import Lane, LaneGranted, Standing, Worker


def let_grants_overlap(patch: pytest.MonkeyPatch) -> None:
    """Every lane looks free, and is granted from now, whatever was granted before."""

    def grant_anyway(
        lane: Lane, worker: Worker, *, now: int, at_least: int, length: int
    ) -> list[LaneGranted]:
        start = max(now, at_least)
        return [LaneGranted(str(worker.token), worker.host, worker.pid, start, start + length)]

    patch.setattr(grants, "decide_grant", grant_anyway)
    patch.setattr(grants, "standing", lambda lane, now: Standing.FREE)
