"""Leases: a grant in the memory of its worker, which issues ids from it.

Promise: a lease gives each position at most once, in ascending order, inside its grant and at most a second
ahead of the store's clock. Refusal: no clock is read; `now` is an argument, a position.
"""

from __future__ import annotations

from dataclasses import dataclass

from domain.kernel.events import Event
from domain.kernel.ids import compose, position_of
from domain.lanes import grants
from domain.lanes.errors import AheadLimit
from domain.lanes.events import LaneGranted, LaneReleased
from domain.lanes.grants import Worker
from domain.lanes.limits import AHEAD


@dataclass(slots=True)
class Lease:
    """A grant while its worker issues ids from it. Mutable, so that an id costs no allocation.

    `version` is the lane's version with the grant. Ids instead of positions, because each issued id is compared
    with them: `last_id` is the last one issued, under this lease or an earlier one; the lease is renewed from
    `renew_id` on; `offset_id` turns a position of the monotonic clock into an id.
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
        """The last position issued, under this lease or an earlier one."""
        return position_of(self.last_id)

    def is_due(self, now: int) -> bool:
        """Whether to renew: at half, and only a lease in use. An idle worker writes nothing."""
        return self.last_id != self.unused_last_id and now >= position_of(self.renew_id)

    def take(self, count: int, now: int, at_least: int = 0) -> int | None:
        """Issue `count` consecutive positions and return the first; None, without any effect, if that is impossible.

        They come strictly after all positions issued before, not before `now` or `at_least`, lie inside
        [from, until), and are at most a second ahead of `now`.
        """
        first = max(position_of(self.last_id) + 1, now, at_least)
        end = first + count
        if end > self.until or end > now + AHEAD:
            return None
        self.last_id = compose(end - 1, self.lane)
        return first

    def advance_to(self, position: int) -> None:
        """Never issue the positions up to and including this one."""
        self.last_id = max(self.last_id, compose(position, self.lane))

    def follow_clock(self, offset: int) -> None:
        """Set how many positions the store's clock is ahead of the monotonic clock."""
        self.offset_id = compose(offset, self.lane)

    def renew_at(self, position: int) -> None:
        """Do not renew before this position."""
        self.renew_id = compose(position, 0)


def lease_of(grant: LaneGranted, lane: int, version: int, *, last: int, offset: int) -> Lease:
    """The lease of a stored grant, to be renewed at half.

    `last` is the last position that its owner has issued so far. `offset` is the position of the store's clock
    minus that of the monotonic clock.
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
    """Release the rest of a lease and grant a full one from there, in one append.

    In one append, because a grant after the end of the old one would start more than a second ahead. The caller
    appends at the lease's version: if it is still the last, the lane is as the lease says.
    """
    start = max(lease.last + 1, now)
    if not grants.within_reach(start, now) or start > lease.until:
        return grants.ahead_limit(start, now)
    released = LaneReleased(lease.owner, start)
    return [released, LaneGranted(lease.owner, worker.host, worker.pid, start, start + length)]


def decide_release(lease: Lease) -> list[LaneReleased]:
    """Release the positions that were not issued, if there are any."""
    return [LaneReleased(lease.owner, lease.last + 1)] if lease.last + 1 < lease.until else []
