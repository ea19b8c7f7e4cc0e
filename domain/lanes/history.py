"""The audit of a lane: its whole stream, with the grant of each position and every violation of the rules.

Promise: overlapping grants, missing versions, a lowered floor and a release by a worker that held nothing are
reported. Refusal: nothing is repaired, and nothing but the stream is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from domain.kernel.events import NO_STREAM, Event
from domain.lanes.events import LaneFenced, LaneGranted, LaneQuarantined, LaneReleased, lane_stream


@dataclass(frozen=True, slots=True)
class Grant:
    """One grant of a lane, shortened to the part that its owner did not release."""

    owner: str
    host: str
    pid: int
    granted_at_us: int
    from_position: int
    until: int


@dataclass(slots=True)
class LaneHistory:
    """The fold of the whole stream of one lane. `problems` has a sentence for each violation."""

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
        self.problems.append(f"{lane_stream(self.lane)} version {version} {text}")

    def covering(self, position: int) -> Grant | None:
        """The grant that allowed its worker to issue a position."""
        return next((grant for grant in self.grants if grant.from_position <= position < grant.until), None)
