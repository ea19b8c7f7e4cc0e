"""Lanes: who may issue which positions, decided by appends and never by a clock.

The right to issue the positions [from, until) of a lane is a grant: an event in the stream `lane-<n>`,
appended at the exact version that its grantee has read. Grants of a lane follow each other without
overlap, so ids are unique whatever clocks, pauses, partitions and restarts do. Clocks only influence how
well ids sort.

Promise: nothing decided here lets two grants overlap, and nothing reaches further ahead of the store's
clock than a second. Refusal: no clock is read and no number drawn; `now` is always an argument, a position.
"""

from __future__ import annotations

from dataclasses import dataclass

from domain.kernel.events import Event
from domain.kernel.ids import compose, position_of
from domain.lanes import grants
from domain.lanes.errors import AheadLimit
from domain.lanes.grants import LaneGranted, LaneReleased, Worker
from domain.lanes.layout import AHEAD


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


def decide_renewal(lease: Lease, worker: Worker, *, now: int, length: int) -> list[Event] | AheadLimit:
    """Give the rest of a lease back and take a whole one from there, in one append.

    Together, because a grant that only followed the old one would start further ahead than a second.
    The caller appends at the lease's version: if that is still the last, the lane is as the lease says.
    """
    start = max(lease.last + 1, now)
    if not grants.within_reach(start, now) or start > lease.until:
        return grants.ahead_limit(start, now)
    released = LaneReleased(lease.owner, start)
    return [released, LaneGranted(lease.owner, worker.host, worker.pid, start, start + length)]


def decide_release(lease: Lease) -> list[LaneReleased]:
    """Give back what was not issued. Nothing to say when everything was."""
    return [LaneReleased(lease.owner, lease.last + 1)] if lease.last + 1 < lease.until else []
