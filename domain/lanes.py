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
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import reduce
from typing import ClassVar
from uuid import UUID

from domain.errors import EsError, Kind, Refusal
from domain.events import NO_STREAM, Event
from domain.ids import EPOCH_US, LANES, POSITIONS_PER_MS, compose, position_of, time_text

POSITIONS_PER_S = 1000 * POSITIONS_PER_MS
AHEAD = POSITIONS_PER_S
"""How far a position may lie ahead of the store's clock: one second, 4,096,000 positions."""
MAX_LEASE_MS = 300_000
MAX_LEASE = MAX_LEASE_MS * POSITIONS_PER_MS
"""The longest grant, in positions."""
ORDERED_COUNT = 65_536
"""Requests of up to so many ids are answered in strict order by each worker; larger ones are bulk."""
PROBES = 50
"""How many lanes drawn at random are looked at before all of them are."""
TAIL = 3
"""The last events of a lane that tell its state: at most a grant, its release and a quarantine mark."""

# --- stream names ----------------------------------------------------------------------------

STREAM_PREFIX = "lane-"
WORKER_PREFIX = "ids-worker-"
FENCE_PREFIX = "ids-fence-"
LAYOUT_STREAM = "ids-layout"


def stream_of(lane: int) -> str:
    return f"{STREAM_PREFIX}{lane}"


def worker_stream(token: UUID) -> str:
    return f"{WORKER_PREFIX}{token}"


def fence_stream(command_id: UUID) -> str:
    return f"{FENCE_PREFIX}{command_id}"


# --- errors ----------------------------------------------------------------------------------


@dataclass
class LeaseExhausted(EsError):
    """A worker has no positions left and can't get more. `until_us` is where its last lease ended."""

    until_us: int | None
    store: str
    code = "lease-exhausted"
    hint = "Bring the store back; workers take a new lease by themselves. Repeating is safe."

    def __str__(self) -> str:
        had = f"the lease ended at {time_text(self.until_us)}" if self.until_us else "there is no lease yet"
        return f"no ids: {had} and the event store {self.store} cannot be reached"


@dataclass
class NoFreeLane(EsError):
    """Every lane is held. `free_at_us` is when the first becomes free, as far as that was seen."""

    lanes: int
    free_at_us: int | None
    code = "no-free-lane"
    hint = "Look at `es ids lanes`. Repeat later, run fewer `ids` workers, or ask for smaller blocks."

    def __str__(self) -> str:
        when = f"; the first becomes free at {time_text(self.free_at_us)}" if self.free_at_us else ""
        return f"none of the {self.lanes} lanes of ids is free{when}"


@dataclass
class ClockRejected(EsError):
    """The store's clock is behind this worker's last id by `offset_us`: its ids would not sort any more."""

    offset_us: int
    code = "clock-rejected"
    hint = "Mend the clock of the store's machine. Repeating is answered by a worker that starts afresh."

    def __str__(self) -> str:
        return f"the event store's clock is {self.offset_us / 1_000_000:.1f} s behind ids that were already issued"


@dataclass
class LayoutMismatch(EsError):
    """The store was pinned to another layout, epoch or range of lanes than this worker's."""

    stored: str
    ours: str
    code = "layout-mismatch"
    kind = Kind.DAMAGED
    hint = "Start this worker with the stored layout and lanes, or give it a store of its own."

    def __str__(self) -> str:
        return f"the event store holds ids of layout {self.stored}; this worker makes {self.ours}"


@dataclass
class StoreWentBack(EsError):
    """The store has forgotten events that this worker has seen: an older copy was restored."""

    stream: str
    known: int
    actual: int
    code = "store-went-back"
    kind = Kind.DAMAGED
    hint = "Restore a newer copy, or run `es ids fence` so that ids of the lost time are never issued again."

    def __str__(self) -> str:
        return f"{self.stream} is at version {self.actual}, but version {self.known} was seen before"


@dataclass
class AheadLimit(Refusal):
    """Rule: ids lie at most a second ahead of the store's clock."""

    ahead_us: int
    limit_us: int
    code = "ahead-limit"
    hint = "Repeat once that time has come, or look where the id given with --after comes from."

    def __str__(self) -> str:
        ahead_s, limit_s = self.ahead_us / 1_000_000, self.limit_us / 1_000_000
        return f"the ids asked for would lie {ahead_s:.3f} s ahead of the clock; the limit is {limit_s:.3f} s"


# --- events ----------------------------------------------------------------------------------


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
class LayoutPinned(Event):
    """The genesis of a store's ids: how they are laid out and which lanes are this store's."""

    layout: str
    epoch_us: int
    namespace: str
    type: ClassVar[str] = "ids-layout-pinned.v1"

    def __str__(self) -> str:
        return f"{self.layout}, epoch {time_text(self.epoch_us)}, {self.namespace}"


@dataclass(frozen=True, slots=True)
class WorkerSeen(Event):
    """A worker looked at the store's clock: the recorded time of this event is what it saw."""

    host: str
    pid: int
    type: ClassVar[str] = "ids-worker-seen.v1"


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

# --- state -----------------------------------------------------------------------------------


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


# --- decisions -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Worker:
    """Who asks for a grant. `token` is new for every start and every fork of a process."""

    token: UUID
    host: str
    pid: int


@dataclass(frozen=True, slots=True)
class LaneRange:
    """The lanes that a store may grant. Two stores whose ranges are disjoint never issue the same id."""

    first: int = 0
    last: int = LANES - 1

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last < LANES:
            raise ValueError(f"lanes are numbers from 0 to {LANES - 1}, the first not after the last")

    def __len__(self) -> int:
        return self.last - self.first + 1

    def numbers(self) -> range:
        return range(self.first, self.last + 1)


def layout(lanes: LaneRange) -> LayoutPinned:
    """How this version of the program makes ids, for the lanes it was given."""
    return LayoutPinned(
        "53-bit position of 1/4096 ms, 10-bit lane", EPOCH_US, f"lanes {lanes.first}-{lanes.last}"
    )


def decide_layout(pinned: LayoutPinned | None, lanes: LaneRange) -> list[LayoutPinned] | LayoutMismatch:
    """Pin the layout of a new store; go on with the same one; refuse any other."""
    ours = layout(lanes)
    if pinned is None:
        return [ours]
    return [] if pinned == ours else LayoutMismatch(str(pinned), str(ours))


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


def decide_renewal(lease: Lease, worker: Worker, *, now: int, length: int) -> list[Event] | AheadLimit:
    """Give the rest of a lease back and take a whole one from there, in one append.

    Together, because a grant that only followed the old one would start further ahead than a second.
    The caller appends at the lease's version: if that is still the last, the lane is as the lease says.
    """
    start = max(lease.last + 1, now)
    if not within_reach(start, now) or start > lease.until:
        return ahead_limit(start, now)
    released = LaneReleased(lease.owner, start)
    return [released, LaneGranted(lease.owner, worker.host, worker.pid, start, start + length)]


def decide_release(lease: Lease) -> list[LaneReleased]:
    """Give back what was not issued. Nothing to say when everything was."""
    return [LaneReleased(lease.owner, lease.last + 1)] if lease.last + 1 < lease.until else []


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


def choose_lanes(lanes: LaneRange, draws: Iterable[int], scan_from: int) -> Iterable[int]:
    """The order in which lanes are looked at: at random, each once, then all others from a random one on.

    Never from the first on: workers that start together would fight over it.
    """
    seen: set[int] = set()
    for draw in draws:
        if draw not in seen:
            seen.add(draw)
            yield lanes.first + draw
    size = len(lanes)
    for index in range(size):
        if (drawn := (scan_from + index) % size) not in seen:
            yield lanes.first + drawn


# --- the lease in memory ---------------------------------------------------------------------


@dataclass(slots=True)
class Lease:
    """A grant while its owner issues from it. Mutable, because one id must not cost an allocation.

    `version` is the lane's version of the grant. What is compared for every single id is kept as ids:
    `last_id`, the last one issued here or before; `renew_id`, from which on the lease wants to be renewed;
    `offset_id`, which makes an id of a position of the monotonic clock.
    """

    lane: int
    version: int
    owner: str
    from_position: int
    until: int
    last_id: int
    unused_last_id: int
    renew_id: int
    offset_id: int

    @property
    def last(self) -> int:
        """The last position issued, here or before."""
        return position_of(self.last_id)

    @property
    def issued(self) -> bool:
        return self.last_id != self.unused_last_id

    def take(self, count: int, now: int, at_least: int = 0) -> int | None:
        """The first of `count` consecutive positions; None, and nothing changed, when they can't be had.

        Strictly after everything taken before, not before now, inside of [from, until), and not further
        ahead of now than a second.
        """
        first = max(position_of(self.last_id) + 1, now, at_least)
        end = first + count
        if end > self.until or end > now + AHEAD:
            return None
        self.last_id = compose(end - 1, self.lane)
        return first

    def advance_to(self, position: int) -> None:
        """Issue nothing up to and including a position any more."""
        self.last_id = max(self.last_id, compose(position, self.lane))

    def follow_clock(self, offset: int) -> None:
        """The store's clock was looked at: its position is so much more than the monotonic clock's."""
        self.offset_id = compose(offset, self.lane)

    def renew_at(self, position: int) -> None:
        self.renew_id = compose(position, 0)


def lease_of(grant: LaneGranted, lane: int, version: int, *, last: int, offset: int) -> Lease:
    """The lease of a grant that is known to be in the store. It is renewed at half.

    `last` is the last position its owner issued before, `offset` the position of the store's clock minus
    that of the monotonic clock.
    """
    start, until = grant.from_position, grant.until_position
    last_id = compose(max(last, start - 1), lane)
    return Lease(
        lane,
        version,
        grant.owner,
        start,
        until,
        last_id,
        last_id,
        renew_id=compose((start + until) // 2, 0),
        offset_id=compose(offset, lane),
    )


# --- the proof -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Grant:
    """One grant of a lane, with what its owner gave back already taken off."""

    lane: int
    version: int
    owner: str
    host: str
    pid: int
    granted_at_us: int
    from_position: int
    until: int


@dataclass(slots=True)
class LaneHistory:
    """Folds the whole stream of a lane, checking that its grants are disjoint and that none is missing."""

    lane: int
    version: int = NO_STREAM
    until: int = 0
    grants: list[Grant] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    quarantines: int = 0
    _open: bool = False

    def add(self, version: int, recorded_at_us: int, event: Event) -> None:
        if version != self.version + 1:
            self._problem(version, f"follows version {self.version}: events in between were deleted")
        self.version = version
        match event:
            case LaneGranted():
                self._granted(version, recorded_at_us, event)
            case LaneReleased(owner=owner, until_position=until):
                self._released(version, owner, until)
            case LaneFenced(floor=floor):
                if floor < self.until:
                    self._problem(version, f"lowers the floor from {self.until} to {floor}")
                self.until, self._open = max(floor, self.until), False
            case LaneQuarantined():
                self.quarantines += 1
                self._open = False

    def _granted(self, version: int, recorded_at_us: int, event: LaneGranted) -> None:
        if event.from_position < self.until:
            self._problem(version, f"grants from {event.from_position}, but {self.until} was already reached")
        if event.until_position <= event.from_position:
            self._problem(version, "grants nothing")
        self.until, self._open = max(self.until, event.until_position), True
        self.grants.append(
            Grant(
                self.lane,
                version,
                event.owner,
                event.host,
                event.pid,
                recorded_at_us,
                event.from_position,
                event.until_position,
            )
        )

    def _released(self, version: int, owner: str, until: int) -> None:
        grant = self.grants[-1] if self.grants and self._open else None
        if grant is None or grant.owner != owner or not grant.from_position <= until <= grant.until:
            self._problem(version, "releases what its owner did not hold")
            return
        self.until, self._open = until, False
        self.grants[-1] = replace(grant, until=until)

    def _problem(self, version: int, text: str) -> None:
        self.problems.append(f"{stream_of(self.lane)} version {version} {text}")

    def covering(self, position: int) -> Grant | None:
        """The grant under which a position may have been issued."""
        return next((grant for grant in self.grants if grant.from_position <= position < grant.until), None)
