"""The four kinds of streams that record who may issue which ids, and the events of each.

Promise: wire names and fields are stored data and never change. Refusal: this module contains no rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar
from uuid import UUID

from domain.kernel.events import Event
from domain.kernel.ids import time_text

# --- a lane: which worker may issue which of its positions -----------------------------------

LANE_PREFIX = "lane-"


def lane_stream(number: int) -> str:
    return f"{LANE_PREFIX}{number}"


@dataclass(frozen=True, slots=True)
class LaneGranted(Event):
    """The worker `owner` may issue the positions [from_position, until_position)."""

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
    """No position before `floor` will be granted: a restored store may have lost its grant."""

    floor: int
    type: ClassVar[str] = "lane-fenced.v1"


@dataclass(frozen=True, slots=True)
class LaneQuarantined(Event):
    """The lane must not be granted, because its end is too far ahead or part of its stream is missing."""

    reason: str
    type: ClassVar[str] = "lane-quarantined.v1"


# --- the layout: the one event that a store's ids begin with ---------------------------------

LAYOUT_STREAM = "ids-layout"


@dataclass(frozen=True, slots=True)
class LayoutPinned(Event):
    """How the ids of this store are laid out, and which lanes it may grant."""

    layout: str
    epoch_us: int
    namespace: str
    type: ClassVar[str] = "ids-layout-pinned.v1"

    def __str__(self) -> str:
        return f"{self.layout}, epoch {time_text(self.epoch_us)}, {self.namespace}"


# --- a worker: when it asked the store for the time ------------------------------------------


def worker_stream(token: UUID) -> str:
    return f"ids-worker-{token}"


@dataclass(frozen=True, slots=True)
class WorkerSeen(Event):
    """A worker read the store's clock: the recorded time of this event is the time that it read."""

    host: str
    pid: int
    type: ClassVar[str] = "ids-worker-seen.v1"


# --- a fence: the floor that one command decided ---------------------------------------------


def fence_stream(command_id: UUID) -> str:
    return f"ids-fence-{command_id}"


@dataclass(frozen=True, slots=True)
class IdsFenced(Event):
    """The floor of a fence, stored before the first lane is raised to it: a retry finds the same floor."""

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
