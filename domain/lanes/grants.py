"""Grants: which worker may issue which positions of a lane, decided by appends and never by a clock.

The right to issue the positions [from, until) of a lane is a grant: an event in the stream `lane-<n>`,
appended at the exact version that its worker has read. Each grant of a lane starts at or after the end of the
one before it. So ids are unique, even if clocks step and processes pause or restart. Clocks only decide how
well ids sort.

Promise: two grants of a lane never overlap, and none starts more than a second ahead of the store's clock.
Refusal: no clock is read and no random number is drawn; `now` is always an argument, a position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import reduce
from uuid import UUID

from domain.kernel.events import NO_STREAM, Event
from domain.kernel.ids import POSITIONS_PER_MS
from domain.lanes.errors import AheadLimit
from domain.lanes.events import LaneFenced, LaneGranted, LaneQuarantined, LaneReleased
from domain.lanes.limits import AHEAD, MAX_LEASE, POSITIONS_PER_S

TAIL = 3
"""How many last events of a lane suffice for its state: at most a grant, its release and a quarantine mark."""


# --- state -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lane:
    """The state of a lane. No position at or after `until` was ever granted."""

    number: int
    version: int = NO_STREAM
    owner: str = ""
    from_position: int = 0
    until: int = 0
    fence: int = 0
    quarantined: str = ""
    hidden: bool = False


def evolve(lane: Lane, event: Event) -> Lane:
    """The state after one more event. An event that does not concern the state only raises the version."""
    version = lane.version + 1
    match event:
        case LaneGranted(owner=owner, from_position=start, until_position=until):
            until = max(lane.until, until)
            return Lane(lane.number, version, owner, start, until, lane.fence, hidden=lane.hidden)
        case LaneReleased(owner=owner, until_position=until) if owner == lane.owner and until < lane.until:
            return replace(lane, version=version, until=until)
        case LaneFenced(floor=floor):
            # The owner is cleared: a late release of its grant must not lower the fence.
            raised = max(floor, lane.until)
            return Lane(lane.number, version, "", raised, raised, max(floor, lane.fence), hidden=lane.hidden)
        case LaneQuarantined(reason=reason):
            return replace(lane, version=version, quarantined=reason)
    return replace(lane, version=version)


def lane_from_tail(number: int, tail: Sequence[tuple[int, Event]]) -> Lane:
    """The state from the last `TAIL` events as (version, event), oldest first: the same as from all events.

    `hidden` is set if versions are missing among them: the stream was deleted or truncated.
    """
    if not tail:
        return Lane(number)
    first = tail[0][0]
    whole = min(TAIL, tail[-1][0] + 1)
    contiguous = [version for version, _ in tail] == list(range(first, first + len(tail)))
    start = Lane(number, version=first - 1, hidden=not contiguous or len(tail) < whole)
    lane = reduce(evolve, (event for _, event in tail), start)
    return replace(lane, version=tail[-1][0]) if lane.hidden else lane


# --- whether a lane can be granted -----------------------------------------------------------


class Standing(StrEnum):
    """Whether a lane can be granted, and if not, why."""

    FREE = "free"
    HELD = "held"
    POISONED = "poisoned"  # its end is further ahead than a correct clock allows
    HIDDEN = "hidden"  # part of its stream is missing


def standing(lane: Lane, now: int) -> Standing:
    """A lane is free once the store's clock has passed its end. It is not checked whether its owner still runs."""
    if lane.hidden:
        return Standing.HIDDEN
    if lane.until <= now:
        return Standing.FREE
    if is_poisoned(lane, now):
        return Standing.POISONED
    return Standing.HELD


def is_poisoned(lane: Lane, now: int) -> bool:
    """Whether no worker with a correct clock can have granted the lane's end."""
    if lane.from_position == lane.until and lane.fence == lane.until:
        return lane.until > now + AHEAD + MAX_LEASE + AHEAD  # a fence reaches past the end of a lost lease
    return not within_reach(lane.from_position, now) or lane.until > lane.from_position + MAX_LEASE


def within_reach(position: int, now: int) -> bool:
    """Whether a grant may start at this position in time: at most one second ahead of the store's clock."""
    return position <= now + AHEAD


def ahead_limit(position: int, now: int) -> AheadLimit:
    """The refusal of a position that is too far ahead."""
    return AheadLimit((position - now) * 1000 // POSITIONS_PER_MS, AHEAD * 1000 // POSITIONS_PER_MS)


# --- decisions -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Worker:
    """The worker that a grant is for. Every start and every fork of a process gets a new `token`."""

    token: UUID
    host: str
    pid: int


def decide_grant(
    lane: Lane, worker: Worker, *, now: int, at_least: int, length: int
) -> list[LaneGranted] | Standing | AheadLimit:
    """Grant `length` positions, starting at the first free one that is not before `at_least` or `now`.

    A lane that is not free is refused with its standing.
    """
    if (state := standing(lane, now)) is not Standing.FREE:
        return state
    start = max(lane.until, at_least, now)
    if not within_reach(start, now) or not 0 < length <= MAX_LEASE:
        return ahead_limit(start, now)
    return [LaneGranted(str(worker.token), worker.host, worker.pid, start, start + length)]


def decide_quarantine(lane: Lane, now: int) -> list[LaneQuarantined]:
    """Mark an unusable lane, once. The lane is never rewound."""
    if lane.quarantined:
        return []
    match standing(lane, now):
        case Standing.POISONED:
            ahead_s = (lane.until - now) / POSITIONS_PER_S
            return [LaneQuarantined(f"its end was {ahead_s:.0f} s ahead of the store's clock")]
        case Standing.HIDDEN:
            return [LaneQuarantined("part of its history was deleted or truncated")]
    return []
