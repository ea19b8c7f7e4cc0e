"""The keeper of the worker's lease: it takes, renews and releases the grant that ids come from.

Promise: a lease is used only after its grant is known to be in the store, and by one process image. Refusal:
an unanswered grant is neither used nor forgotten, and nothing is issued after the store went back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from uuid import UUID

from domain.kernel.errors import EsError, PartUnavailable
from domain.kernel.events import Event
from domain.kernel.ids import POSITIONS_PER_MS, Range, compose
from domain.kernel.messages import LATER, Later
from domain.lanes import grants, leases
from domain.lanes.errors import AheadLimit, ClockRejected, LeaseExhausted, NoFreeLane, StoreWentBack
from domain.lanes.events import LaneGranted, lane_stream
from domain.lanes.grants import Lane, Worker
from domain.lanes.layout import LaneRange
from domain.lanes.leases import Lease
from domain.lanes.limits import AHEAD, ORDERED_COUNT
from workers.ids.identity import Identity, PendingGrant
from workers.ids.known_lanes import KnownLanes
from workers.ids.lane_search import LaneSearch
from workers.ids.layout_pin import pin_layout
from workers.ids.retrying_store import CONFLICTS_MAX, TRIES, Attempt, RetryingStore
from workers.ids.store_clock import Machine, StoreClock


class LeaseKeeper:
    """Used under the service's lock, by one thread at a time."""

    def __init__(
        self,
        store: RetryingStore,
        machine: Machine,
        *,
        store_name: str,
        random_below: Callable[[int], int],
        new_token: Callable[[], UUID],
        lanes: LaneRange,
        lease_ms: int,
    ) -> None:
        self.store = store
        self.lanes = lanes
        self.known = KnownLanes(store)
        self.search = LaneSearch(store, self.known, lanes, random_below=random_below, now=self.now)
        self._machine = machine
        self._store_name = store_name
        self._new_token = new_token
        self._lease_length = lease_ms * POSITIONS_PER_MS
        self._layout_is_pinned = False
        self.become_new()

    def now(self) -> int:
        """The position of the store's clock, calculated without asking the store."""
        return self.me.clock.now()

    # --- identity ----------------------------------------------------------------------------

    def become_new(self) -> None:
        """Take a new identity, without a lease. Ids of the new one need not sort after those of the old one."""
        worker = Worker(self._new_token(), self._machine.host, self._machine.pid)
        self.me = Identity(worker, StoreClock(worker.token, self._machine, self.store))

    def become_child(self, pid: int) -> None:
        """Take a new identity after a fork: the parent continues with the lease."""
        self._machine = replace(self._machine, pid=pid)
        self.become_new()

    def read_clock(self, *, tries: int = TRIES) -> None:
        """Read the store's clock. Raises `LayoutMismatch` if the store is pinned to another layout."""
        if not self._layout_is_pinned:
            pin_layout(self.store, self.lanes, tries=tries)
            self._layout_is_pinned = True
        while not self.me.clock.read(tries=tries):
            self.become_new()
        if self.me.lease is not None:
            self.me.lease.follow_clock(self.me.clock.offset)

    def _reject_clock_behind(self, now: int) -> None:
        """Take a new identity and raise `ClockRejected` if the store's clock is far behind the last id.

        Waiting for the clock to catch up could take an hour. A restart would not wait either, so this does what
        a restart does, and reports it by refusing the current requests.
        """
        behind = self.me.last_issued - now - AHEAD
        if behind > AHEAD:
            self.become_new()
            raise ClockRejected(behind * 1000 // POSITIONS_PER_MS)

    # --- issuing -----------------------------------------------------------------------------

    def take(self, count: int, at_least: int) -> Range | Later | None:
        """Issue ids from the lease. None: they need grants of their own. LATER: time must pass first."""
        for _ in range(2):
            lease = self.me.lease
            if lease is not None:
                now = self.now()
                first = lease.take(count, now, at_least)
                if first is not None:
                    return Range(compose(first, lease.lane), count)
                if count > ORDERED_COUNT:
                    return None
                if max(at_least, lease.last + 1) + count > now + AHEAD:
                    return self._too_far(at_least, count, now)
            elif count > ORDERED_COUNT:
                return None
            try:
                self._acquire()
            except PartUnavailable as error:
                raise LeaseExhausted(self.me.lease_ended_us, self._store_name) from error
            if self.me.lease is None:
                return LATER
        return LATER

    def _too_far(self, at_least: int, count: int, now: int) -> Later:
        """Refuse a caller's minimum that is too far ahead; wait if only this worker's own ids are ahead."""
        if at_least + count > now + AHEAD:
            raise grants.ahead_limit(at_least + count, now)
        self._reject_clock_behind(now)
        return LATER

    # --- the lease ---------------------------------------------------------------------------

    def renew_if_due(self) -> None:
        """Renew the lease once half of its time has passed and ids were issued from it.

        While the store is unavailable, ids are still issued from the old lease. Raises `StoreWentBack` if this worker
        has halted because the store lost events that the worker had seen.
        """
        self._end_halt_if_fenced()
        me, lease = self.me, self.me.lease
        if lease is None:
            return
        if self.now() >= lease.until:
            me.drop_lease()
            return
        slept = me.clock.machine_slept()
        if not (slept or lease.is_due(self.now())) or self._machine.monotonic_ns() < me.retry_at_ns:
            return
        try:
            if slept:
                self.read_clock(tries=1)
            if self.me is me and lease.is_due(self.now()):
                self._renew(me, lease)
            me.failures = 0
        except PartUnavailable:
            me.failures += 1
            backoff_ns = int(self.store.backoff_s(me.failures) * 1_000_000_000)
            me.retry_at_ns = self._machine.monotonic_ns() + backoff_ns

    def _renew(self, me: Identity, lease: Lease) -> None:
        if me.pending is None:
            self.read_clock(tries=1)
            if self.me is not me:
                return
            now = self.now()
            self._reject_clock_behind(now)
            decided = leases.decide_renewal(lease, me.worker, now=now, length=self._lease_length)
            if isinstance(decided, AheadLimit):
                return
            grant = decided[-1]
            assert isinstance(grant, LaneGranted)
            # From here on ids come after the start of the renewed lease: the store may hold either of the two.
            lease.advance_to(grant.from_position - 1)
            me.pending = PendingGrant(self._after_lease(me, decided, "renew-lane"), lease.lane, grant)
        if not self._settle_pending(me, tries=1):
            lease.renew_at(
                lease.until
            )  # the lane was fenced or granted; the old lease stays valid to its end

    def _after_lease(self, me: Identity, events: Sequence[Event], command: str) -> Attempt:
        """An append after the lease's grant. The grant is its base: the store may have been restored since."""
        assert me.base is not None
        return self.store.attempt([(me.base.stream, me.base.version, events)], command, me.base)

    def _acquire(self) -> None:
        """Take a lease on a free lane. There is none afterwards if time must pass first."""
        me = self.me
        if me.pending is not None and self._settle_pending(me, tries=TRIES) and self._lease_serves(me):
            return
        me.drop_lease()
        for _ in range(CONFLICTS_MAX):
            self.read_clock()
            me, now = self.me, self.now()
            self._reject_clock_behind(now)
            if not grants.within_reach(me.last + 1, now):
                return
            found, free_at = self.search.find(1)
            if not found:
                raise NoFreeLane(len(self.lanes), free_at)
            if self._grant(me, found[0]):
                return
        raise NoFreeLane(len(self.lanes), None)

    def _grant(self, me: Identity, lane: Lane) -> bool:
        """Grant a lane and adopt the lease; False if another worker was granted it first."""
        decided = grants.decide_grant(
            lane, me.worker, now=self.now(), at_least=me.last + 1, length=self._lease_length
        )
        if not isinstance(decided, list):
            return False
        item = (lane_stream(lane.number), lane.version, decided)
        attempt = self.store.attempt([item], "grant-lane", self.search.base_of(lane))
        me.pending = PendingGrant(attempt, lane.number, decided[0])
        return self._settle_pending(me, tries=TRIES)

    def _settle_pending(self, me: Identity, *, tries: int) -> bool:
        """Retry the pending grant until its outcome is known, and adopt the lease if it was granted."""
        pending = me.pending
        assert pending is not None
        (version,) = self.store.settle(pending.attempt, tries=tries)
        me.pending = None
        if version is None:
            return False
        me.adopt(pending, version)
        self.known.note(pending.lane, version, pending.grant.until_position)
        return True

    def _lease_serves(self, me: Identity) -> bool:
        """Whether a lease whose grant was answered late can still be used."""
        lease, now = me.lease, self.now()
        return lease is not None and now < lease.until and grants.within_reach(lease.last + 1, now)

    def release(self) -> None:
        """Release the positions that were not issued. Raises `EsError` if the store is unavailable or went back."""
        me = self.me
        # While a renewal is unanswered, the store may hold either lease: let it run out.
        if me.lease is not None and me.pending is None and not self.known.is_halted:
            released = leases.decide_release(me.lease)
            if released:
                self.store.settle(self._after_lease(me, released, "release-lane"), tries=2)

    # --- a store that went back --------------------------------------------------------------

    def halt_if_store_went_back(self, error: EsError) -> EsError:
        """Stop issuing if the error says that the store went back. Returns the error, for the reply."""
        if isinstance(error, StoreWentBack):
            self.known.halt(error)
            self.me.drop_lease()
            self.me.pending = None
        return error

    def _end_halt_if_fenced(self) -> None:
        if self.known.is_halted:
            self.known.require_fence()
            self.start_over()

    def start_over(self) -> None:
        """Forget everything that was read from the store, and the lease with it."""
        self.known.forget()
        self._layout_is_pinned = False
        self.become_new()
