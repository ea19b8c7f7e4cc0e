"""Lanes: who may issue which positions, decided by appends and never by a clock.

The right to issue the positions [from, until) of a lane is a grant: an event in the stream `lane-<n>`,
appended at the exact version that its grantee has read. Grants of a lane follow each other without
overlap, so ids are unique whatever clocks, pauses, partitions and restarts do. Clocks only influence how
well ids sort.

Promise: nothing decided here lets two grants overlap, and nothing reaches further ahead of the store's
clock than a second. Refusal: no clock is read and no number drawn; `now` is always an argument, a position.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import reduce
from typing import ClassVar
from uuid import UUID

from domain.kernel.events import NO_STREAM, Event
from domain.kernel.ids import POSITIONS_PER_MS
from domain.lanes.errors import AheadLimit
from domain.lanes.layout import AHEAD, MAX_LEASE, POSITIONS_PER_S, TAIL, LayoutPinned, WorkerSeen


@dataclass(frozen=True, slots=True)
class LaneGranted(Event):
    """The worker `owner` may issue [from_position, until_position); the boundary is the next grant's."""

    owner: str
    host: str
    pid: int
    from_position: int
    until_position: int
    type: ClassVar[str] = "lane-granted.v1"


@dataclass(frozen=True, slots=True)
class LaneReleased(Event):
    """The owner of the last grant will issue nothing at or after `until_position`."""

    owner: str
    until_position: int
    type: ClassVar[str] = "lane-released.v1"


@dataclass(frozen=True, slots=True)
class LaneFenced(Event):
    """Nothing before `floor` is granted any more: an older copy of the store may have forgotten who has it."""

    floor: int
    type: ClassVar[str] = "lane-fenced.v1"


@dataclass(frozen=True, slots=True)
class LaneQuarantined(Event):
    """The lane's end is further ahead than any honest grant: out of use until time has passed it."""

    reason: str
    type: ClassVar[str] = "lane-quarantined.v1"


@dataclass(frozen=True, slots=True)
class IdsFenced(Event):
    """The decision of a fence, before the first lane is lifted: repeating the command lifts to the same floor."""

    floor: int
    type: ClassVar[str] = "ids-fenced.v1"


EVENTS: tuple[type[Event], ...] = (
    LaneGranted,
    LaneReleased,
    LaneFenced,
    LaneQuarantined,
    LayoutPinned,
    WorkerSeen,
    IdsFenced,
)


@dataclass(frozen=True, slots=True)
class Lane:
    """What decisions need to know of a lane. No position at or after `until` was ever granted."""

    number: int
    version: int = NO_STREAM
    owner: str = ""
    from_position: int = 0
    until: int = 0
    fence: int = 0
    quarantined: str = ""
    hidden: bool = False


def evolve(lane: Lane, event: Event) -> Lane:
    """The next state, one version on. Total: an event that doesn't concern the state leaves the rest as it is."""
    version = lane.version + 1
    match event:
        case LaneGranted(owner=owner, from_position=start, until_position=until):
            until = max(lane.until, until)
            return Lane(lane.number, version, owner, start, until, lane.fence, hidden=lane.hidden)
        case LaneReleased(owner=owner, until_position=until) if owner == lane.owner and until < lane.until:
            return replace(lane, version=version, until=until)
        case LaneFenced(floor=floor):
            # No owner any more: a release of the grant before it must not lower the fence.
            lifted = max(floor, lane.until)
            return Lane(lane.number, version, "", lifted, lifted, max(floor, lane.fence), hidden=lane.hidden)
        case LaneQuarantined(reason=reason):
            return replace(lane, version=version, quarantined=reason)
    return replace(lane, version=version)


def lane_from_tail(number: int, tail: Sequence[tuple[int, Event]]) -> Lane:
    """The state from the last `TAIL` events (version, event), oldest first: the same as from all of them.

    `hidden` is set when fewer came than the versions say there are: somebody deleted or truncated the stream.
    """
    if not tail:
        return Lane(number)
    first = tail[0][0]
    whole = min(TAIL, tail[-1][0] + 1)
    contiguous = [version for version, _ in tail] == list(range(first, first + len(tail)))
    start = Lane(number, version=first - 1, hidden=not contiguous or len(tail) < whole)
    lane = reduce(evolve, (event for _, event in tail), start)
    return replace(lane, version=tail[-1][0]) if lane.hidden else lane


class Standing(StrEnum):
    """What a lane is to somebody who looks for one."""

    FREE = "free"
    HELD = "held"
    POISONED = "poisoned"  # its end lies further ahead than any honest grant could reach
    HIDDEN = "hidden"  # part of its history was deleted


def standing(lane: Lane, now: int) -> Standing:
    """A lane is free once its last grant has run out by the store's clock; nobody asks whether its owner lives."""
    if lane.hidden:
        return Standing.HIDDEN
    if lane.until <= now:
        return Standing.FREE
    if is_poisoned(lane, now):
        return Standing.POISONED
    return Standing.HELD


def is_poisoned(lane: Lane, now: int) -> bool:
    """Whether the lane's end could not have been granted by anybody whose clock was right."""
    if lane.from_position == lane.until and lane.fence == lane.until:
        return lane.until > now + AHEAD + MAX_LEASE + AHEAD  # a fence reaches as far as a lost lease could
    return not within_reach(lane.from_position, now) or lane.until > lane.from_position + MAX_LEASE


def within_reach(position: int, now: int) -> bool:
    """Whether a grant may start there: at most a second ahead of the store's clock."""
    return position <= now + AHEAD


@dataclass(frozen=True, slots=True)
class Known:
    """The furthest that a worker has seen a lane."""

    version: int
    until: int


def went_back(known: Known | None, version: int) -> bool:
    """Whether a stream is shorter than it was. The store never forgets; an older copy of it does."""
    return known is not None and version < known.version


def numbering_is_whole(version: int, expected: int) -> bool:
    """Whether an append landed where it was meant to. A deleted stream looks empty, but goes on counting."""
    return version == expected


def fence_covers(history: Iterable[Event], known: Known) -> bool:
    """Whether, after the store went back, a fence keeps everybody away from what was known to be granted."""
    return any(isinstance(event, LaneFenced) and event.floor >= known.until for event in history)


@dataclass(frozen=True, slots=True)
class Worker:
    """Who asks for a grant. `token` is new for every start and every fork of a process."""

    token: UUID
    host: str
    pid: int


def decide_grant(
    lane: Lane, worker: Worker, *, now: int, at_least: int, length: int
) -> list[LaneGranted] | Standing | AheadLimit:
    """Grant `length` positions from the first that is free, not before `at_least` nor before now.

    A standing other than free says why the lane can't be had.
    """
    if (state := standing(lane, now)) is not Standing.FREE:
        return state
    start = max(lane.until, at_least, now)
    if not within_reach(start, now) or not 0 < length <= MAX_LEASE:
        return ahead_limit(start, now)
    return [LaneGranted(str(worker.token), worker.host, worker.pid, start, start + length)]


def decide_quarantine(lane: Lane, now: int) -> list[LaneQuarantined]:
    """Mark a lane that nobody may use, once. It is never rewound."""
    if lane.quarantined:
        return []
    match standing(lane, now):
        case Standing.POISONED:
            ahead_s = (lane.until - now) / POSITIONS_PER_S
            return [LaneQuarantined(f"its end was {ahead_s:.0f} s ahead of the store's clock")]
        case Standing.HIDDEN:
            return [LaneQuarantined("part of its history was deleted or truncated")]
    return []


def decide_floor(known: Iterable[Known], *, now: int, workers_stopped: bool) -> IdsFenced:
    """Where ids go on after an older copy of the store was restored.

    Beyond the end of any lease that the lost part of the history may hold, whose owner may still issue;
    or, when somebody vouches that all those workers are stopped, beyond any id that they can have issued.
    """
    lost = [item.until for item in known]
    return IdsFenced(max([now + 2 * AHEAD] if workers_stopped else [now + AHEAD + MAX_LEASE, *lost]))


def decide_lift(lane: Lane, floor: int, now: int) -> list[LaneFenced]:
    """Lift a lane's floor. Nothing to do where it is lifted, or was granted beyond the floor since."""
    if lane.fence >= floor or (lane.until >= floor and standing(lane, now) is not Standing.POISONED):
        return []
    return [LaneFenced(max(floor, lane.until))]


def ahead_limit(position: int, now: int) -> AheadLimit:
    return AheadLimit((position - now) * 1000 // POSITIONS_PER_MS, AHEAD * 1000 // POSITIONS_PER_MS)
