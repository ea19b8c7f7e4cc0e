"""Lanes: who may issue which positions, decided by appends and never by a clock.

The right to issue the positions [from, until) of a lane is a grant: an event in the stream `lane-<n>`,
appended at the exact version that its grantee has read. Grants of a lane follow each other without
overlap, so ids are unique whatever clocks, pauses, partitions and restarts do. Clocks only influence how
well ids sort.

Promise: nothing decided here lets two grants overlap, and nothing reaches further ahead of the store's
clock than a second. Refusal: no clock is read and no number drawn; `now` is always an argument, a position.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar
from uuid import UUID

from domain.kernel.events import Event
from domain.kernel.ids import EPOCH_US, LANES, POSITIONS_PER_MS, time_text
from domain.lanes.errors import LayoutMismatch

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


def layout_for(lanes: LaneRange) -> LayoutPinned:
    """How this version of the program makes ids, for the lanes it was given."""
    return LayoutPinned(
        "53-bit position of 1/4096 ms, 10-bit lane", EPOCH_US, f"lanes {lanes.first}-{lanes.last}"
    )


def decide_layout(pinned: LayoutPinned | None, lanes: LaneRange) -> list[LayoutPinned] | LayoutMismatch:
    """Pin the layout of a new store; go on with the same one; refuse any other."""
    ours = layout_for(lanes)
    if pinned is None:
        return [ours]
    return [] if pinned == ours else LayoutMismatch(str(pinned), str(ours))


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
