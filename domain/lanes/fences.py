"""Fences: how ids stay unique after an older copy of the store was restored.

The lost part of the store may have held grants, and their workers may still issue ids. A fence raises every
lane to a floor beyond all of them.

Promise: a fence never lowers a lane and never revokes a grant. Refusal: no clock is read; `now` is an
argument, a position.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from domain.kernel.events import Event
from domain.lanes import grants
from domain.lanes.events import IdsFenced, LaneFenced
from domain.lanes.grants import Lane, Standing
from domain.lanes.limits import AHEAD, MAX_LEASE


@dataclass(frozen=True, slots=True)
class Known:
    """The highest version of a lane that a worker has read or appended, with the end of the lane there."""

    version: int
    until: int


def went_back(known_version: int, version: int) -> bool:
    """Whether a stream is shorter than before. A store never loses events; an older copy of it lacks some."""
    return version < known_version


def numbering_is_whole(version: int, expected: int) -> bool:
    """Whether an append got the expected version. A deleted stream looks empty, but keeps its numbering."""
    return version == expected


def fence_covers(history: Iterable[Event], known: Known) -> bool:
    """Whether a fence in a lane's history reaches the end of the lane that was known before the restore."""
    return any(isinstance(event, LaneFenced) and event.floor >= known.until for event in history)


def decide_floor(known: Iterable[Known], *, now: int, workers_stopped: bool) -> IdsFenced:
    """The floor of a fence: beyond the end of any lease that the lost part of the store may hold.

    If an operator vouches that all workers from before the restore are stopped, a floor beyond any id that
    they can have issued suffices.
    """
    lost = [item.until for item in known]
    return IdsFenced(max([now + 2 * AHEAD] if workers_stopped else [now + AHEAD + MAX_LEASE, *lost]))


def decide_fence(lane: Lane, floor: int, now: int) -> list[LaneFenced]:
    """Raise a lane to the floor, unless it is fenced there already or was granted beyond the floor since."""
    if lane.fence >= floor or (lane.until >= floor and grants.standing(lane, now) is not Standing.POISONED):
        return []
    return [LaneFenced(max(floor, lane.until))]
