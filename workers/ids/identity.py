"""The identity of an `ids` worker: its token, its clock, its lease and the last position that it issued.

Promise: an identity belongs to one process image. A fork, a clone and a rejected clock start with a new one.
"""

from __future__ import annotations

from dataclasses import dataclass

from domain.kernel.ids import time_us_of
from domain.lanes import leases
from domain.lanes.events import LaneGranted
from domain.lanes.grants import Worker
from domain.lanes.leases import Lease
from workers.ids.retrying_store import Attempt, Base
from workers.ids.store_clock import StoreClock


@dataclass(slots=True)
class PendingGrant:
    """The grant of a lease whose append was sent and not answered yet."""

    attempt: Attempt
    lane: int
    grant: LaneGranted


@dataclass(slots=True)
class Identity:
    worker: Worker
    clock: StoreClock
    last: int = -1  # the last position issued under earlier leases
    lease: Lease | None = None
    base: Base | None = None  # the event of the lease's grant
    pending: PendingGrant | None = None
    failures: int = 0  # of renewals, in a row
    retry_at_ns: int = 0
    lease_ended_us: int | None = None

    @property
    def last_issued(self) -> int:
        """The last position issued, over all leases; -1 before the first."""
        return self.last if self.lease is None else max(self.last, self.lease.last)

    def adopt(self, pending: PendingGrant, version: int) -> None:
        """Issue from a grant, now that it is known to be in the store at `version`."""
        self.drop_lease()
        self.lease = leases.lease_of(
            pending.grant, pending.lane, version, last=self.last, offset=self.clock.offset
        )
        append = pending.attempt.appends[0]
        self.base = Base(append.stream, version, append.events[-1].event_id)

    def drop_lease(self) -> None:
        # `last` outlives the lease: ids of the next one have to sort after it.
        if self.lease is not None:
            self.last = max(self.last, self.lease.last)
            self.lease_ended_us = time_us_of(self.lease.until)
            self.lease = None
