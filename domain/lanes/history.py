"""Lanes: who may issue which positions, decided by appends and never by a clock.

The right to issue the positions [from, until) of a lane is a grant: an event in the stream `lane-<n>`,
appended at the exact version that its grantee has read. Grants of a lane follow each other without
overlap, so ids are unique whatever clocks, pauses, partitions and restarts do. Clocks only influence how
well ids sort.

Promise: nothing decided here lets two grants overlap, and nothing reaches further ahead of the store's
clock than a second. Refusal: no clock is read and no number drawn; `now` is always an argument, a position.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from domain.kernel.events import NO_STREAM, Event
from domain.lanes.grants import LaneFenced, LaneGranted, LaneQuarantined, LaneReleased
from domain.lanes.layout import stream_of


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
