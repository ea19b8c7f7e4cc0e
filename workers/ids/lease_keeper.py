"""The store-facing half of the `ids` worker: takes, renews and releases the lease that ids come from.

Promise: a lease is used only after its grant is known to be in the store, and never by two process images.
Refusal: an unanswered grant is neither used nor forgotten; a store that forgot something ends all issuing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from domain.kernel.errors import EsError, PartUnavailable
from domain.kernel.events import NO_STREAM, Event
from domain.kernel.ids import POSITIONS_PER_MS, Range, compose, position_of, time_us_of
from domain.kernel.messages import LATER, Later
from domain.lanes import grants, layout, leases
from domain.lanes.errors import (
    AheadLimit,
    ClockRejected,
    LayoutMismatch,
    LeaseExhausted,
    NoFreeLane,
    StoreWentBack,
)
from domain.lanes.grants import Known, Lane, LaneGranted, Standing, Worker
from domain.lanes.layout import AHEAD, ORDERED_COUNT, LaneRange, LayoutPinned
from domain.lanes.leases import Lease
from workers.ids.store_clock import Machine, StoreClock
from workers.ids.sure_store import TRIES, Attempt, Base, SureStore

RACES = 20
"""Appends lost to other workers in a row before giving up."""


@dataclass(slots=True)
class _Pending:
    """A grant for the lease that was sent and not yet answered."""

    attempt: Attempt
    lane: int
    grant: LaneGranted


@dataclass(slots=True)
class Identity:
    """All that is this worker's alone. A fork, a clone and a rejected clock start over with a new one."""

    worker: Worker
    clock: StoreClock
    last: int = -1  # the last position issued, over all leases
    lease: Lease | None = None
    granted_by: UUID | None = None  # the event of the lease's grant
    pending: _Pending | None = None
    failures: int = 0  # to renew, in a row
    retry_at_ns: int = 0
    lease_ended_us: int | None = None

    def drop_lease(self) -> None:
        if self.lease is not None:
            self.last = max(self.last, self.lease.last)
            self.lease_ended_us = time_us_of(self.lease.until)
            self.lease = None

    @property
    def last_issued(self) -> int:
        return self.last if self.lease is None else max(self.last, self.lease.last)


class LaneKeeper:
    """Used under the service's lock, by one thread at a time."""

    def __init__(
        self,
        store: SureStore,
        machine: Machine,
        *,
        store_name: str,
        draw: Callable[[int], int],
        new_token: Callable[[], UUID],
        lane_range: LaneRange,
        lease_ms: int,
    ) -> None:
        self.store = store
        self.range = lane_range
        self.known: dict[int, Known] = {}
        """The furthest that each lane was seen."""
        self._heads: dict[int, UUID] = {}  # the last event of each lane as it was last read
        self._machine = machine
        self._store_name = store_name
        self._draw = draw
        self._new_token = new_token
        self._lease_length = lease_ms * POSITIONS_PER_MS
        self._halted: StoreWentBack | None = None
        self._layout_pinned = False
        self.become_new()

    def become_new(self) -> None:
        worker = Worker(self._new_token(), self._machine.host, self._machine.pid)
        self.me = Identity(worker, StoreClock(worker.token, self._machine, self.store))

    def become_child(self, pid: int) -> None:
        """One grant belongs to one process image: the parent goes on with the lease, the child starts over."""
        self._machine = replace(self._machine, pid=pid)
        self.become_new()

    def now(self) -> int:
        """The position of the store's clock, as far as it is known without asking."""
        return self.me.clock.now()

    # --- issuing -----------------------------------------------------------------------------

    def take(self, count: int, at_least: int) -> Range | Later | None:
        """Ids from the lease; None when they have to be grants of their own; LATER when time must pass first."""
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
        """Refuse what the caller wants too far ahead; wait where only this worker's own ids are in the way."""
        if at_least + count > now + AHEAD:
            raise grants.ahead_limit(at_least + count, now)
        self._reject_clock_behind(now)
        return LATER

    # --- the lease ---------------------------------------------------------------------------

    def look_after_lease(self) -> None:
        """At half of a lease that is in use, take a whole one from there. The store may be away: ids flow on."""
        self._stay_halted()
        me, lease = self.me, self.me.lease
        if lease is None:
            return
        if self.now() >= lease.until:
            me.drop_lease()
            return
        slept = me.clock.machine_slept()
        if not (slept or lease_is_due(lease, self.now())) or self._machine.monotonic_ns() < me.retry_at_ns:
            return
        try:
            if slept:
                self.look_at_clock(tries=1)
            if self.me is me and lease_is_due(lease, self.now()):
                self._renew(me, lease)
            me.failures = 0
        except PartUnavailable:
            me.failures += 1
            pause_ns = int(self.store.pause_s(me.failures) * 1_000_000_000)
            me.retry_at_ns = self._machine.monotonic_ns() + pause_ns

    def _renew(self, me: Identity, lease: Lease) -> None:
        if me.pending is None:
            self.look_at_clock(tries=1)
            if self.me is not me:
                return
            now = self.now()
            self._reject_clock_behind(now)
            decided = leases.decide_renewal(lease, me.worker, now=now, length=self._lease_length)
            if isinstance(decided, AheadLimit):
                return
            grant = decided[-1]
            assert isinstance(grant, LaneGranted)
            # From here on nothing is issued before the renewed lease, whichever of the two is in the store.
            lease.advance_to(grant.from_position - 1)
            me.pending = _Pending(self._from_lease(me, lease, decided, "renew-lane"), lease.lane, grant)
        if not self._conclude(me, tries=1):
            lease.renew_at(lease.until)  # somebody else wrote to the lane; what was granted stays granted

    def _from_lease(self, me: Identity, lease: Lease, events: Sequence[Event], command: str) -> Attempt:
        """An append decided from a lease that was granted long ago: the store may have been restored since."""
        assert me.granted_by is not None
        stream = layout.stream_of(lease.lane)
        base = Base(stream, lease.version, me.granted_by)
        return self.store.attempt([(stream, lease.version, events)], command, base)

    def _acquire(self) -> None:
        """Take a lease on a lane drawn at random; leaves none when time has to pass first."""
        me = self.me
        if me.pending is not None and self._conclude(me, tries=TRIES) and self._lease_serves(me):
            return
        me.drop_lease()
        for _ in range(RACES):
            self.look_at_clock()
            me, now = self.me, self.now()
            self._reject_clock_behind(now)
            if not grants.within_reach(me.last + 1, now):
                return
            found, free_at = self.search(1)
            if not found:
                raise NoFreeLane(len(self.range), free_at)
            lane = found[0]
            decided = grants.decide_grant(
                lane, me.worker, now=self.now(), at_least=me.last + 1, length=self._lease_length
            )
            if isinstance(decided, list):
                me.pending = _Pending(self._on_lane(lane, decided), lane.number, decided[0])
                if self._conclude(me, tries=TRIES):
                    return
        raise NoFreeLane(len(self.range), None)

    def _lease_serves(self, me: Identity) -> bool:
        """Whether a lease whose grant was answered late is still of use."""
        lease, now = me.lease, self.now()
        return lease is not None and now < lease.until and grants.within_reach(lease.last + 1, now)

    def _on_lane(self, lane: Lane, events: Sequence[LaneGranted]) -> Attempt:
        stream = layout.stream_of(lane.number)
        base = None if lane.version == NO_STREAM else Base(stream, lane.version, self._heads[lane.number])
        return self.store.attempt([(stream, lane.version, events)], "grant-lane", base)

    def _conclude(self, me: Identity, *, tries: int) -> bool:
        """Send what is pending until the answer is definite; adopt the lease if it was granted to us."""
        pending = me.pending
        assert pending is not None
        (version,) = self.store.settle(pending.attempt, tries=tries)
        me.pending = None
        if version is None:
            return False
        me.drop_lease()
        me.lease = leases.lease_of(pending.grant, pending.lane, version, last=me.last, offset=me.clock.offset)
        me.granted_by = pending.attempt.appends[0].events[-1].event_id
        self.known[pending.lane] = Known(version, pending.grant.until_position)
        return True

    def release(self) -> None:
        """Give back what was not issued. Raises `EsError` when the store can't be reached or went back."""
        me = self.me
        # While a renewal is unanswered nobody knows which lease is in the store: let it run out.
        if me.lease is not None and me.pending is None and self._halted is None:
            released = leases.decide_release(me.lease)
            if released:
                self.store.settle(self._from_lease(me, me.lease, released, "release-lane"), tries=2)

    def _reject_clock_behind(self, now: int) -> None:
        """Never rewind: if the store's clock went back behind the last id, this worker starts over as a new one.

        Its ids would have to wait until the clock is there again. A restart would not wait either; so this
        does what a restart does, but loudly: what was asked meanwhile is refused once.
        """
        behind = self.me.last_issued - now - AHEAD
        if behind > AHEAD:
            self.become_new()
            raise ClockRejected(behind * 1000 // POSITIONS_PER_MS)

    # --- the store's clock and layout --------------------------------------------------------

    def look_at_clock(self, *, tries: int = TRIES) -> None:
        """Learn what the store's clock says. Raises `LayoutMismatch` when the store is not for this worker."""
        self._pin_layout(tries)
        while not self.me.clock.look(tries=tries):
            self.become_new()
        if self.me.lease is not None:
            self.me.lease.follow_clock(self.me.clock.offset)

    def _pin_layout(self, tries: int) -> None:
        """Refuse a store whose ids are laid out otherwise; pin the layout of a new one."""
        for _ in range(RACES):
            if self._layout_pinned:
                return
            recorded = self.store.read(layout.LAYOUT_STREAM, limit=1, tries=tries)
            pinned = self.store.decode(recorded[0]) if recorded else None
            assert pinned is None or isinstance(pinned, LayoutPinned)
            decided = layout.decide_layout(pinned, self.range)
            if isinstance(decided, LayoutMismatch):
                raise decided
            if decided:
                attempt = self.store.attempt([(layout.LAYOUT_STREAM, NO_STREAM, decided)], "pin-layout")
                self.store.settle(attempt, tries=tries)
            self._layout_pinned = not decided
        raise StoreWentBack(layout.LAYOUT_STREAM, 0, NO_STREAM)

    # --- lanes in the store ------------------------------------------------------------------

    def search(self, wanted: int) -> tuple[list[Lane], int | None]:
        """Free lanes, at most `wanted`; and when the first of the held ones becomes free, in UTC microseconds."""
        size = len(self.range)
        draws = (self._draw(size) for _ in range(layout.PROBES + 2 * wanted))
        found: list[Lane] = []
        unusable: list[Lane] = []
        free_at: int | None = None
        for number in layout.choose_lanes(self.range, draws, self._draw(size)):
            lane = self.read_lane(number)
            match grants.standing(lane, self.now()):
                case Standing.FREE:
                    found.append(lane)
                case Standing.HELD:
                    free_at = lane.until if free_at is None else min(free_at, lane.until)
                case _:
                    unusable.append(lane)
            if len(found) >= wanted:
                break
        self._quarantine(unusable)
        return found, None if free_at is None else time_us_of(free_at)

    def _quarantine(self, unusable: Sequence[Lane]) -> None:
        """Mark lanes for people to see. Nothing depends on the mark, so a lost one is made by the next worker."""
        marked = [(lane, grants.decide_quarantine(lane, self.now())) for lane in unusable]
        items = [(layout.stream_of(lane.number), lane.version, mark) for lane, mark in marked if mark]
        if items:
            try:
                self.store.settle(self.store.attempt(items, "quarantine-lane"), tries=1)
            except PartUnavailable:
                return

    def read_lane(self, number: int) -> Lane:
        """A lane as it is now. Raises `StoreWentBack` when it was further once."""
        tail = self.store.tail(layout.stream_of(number))
        events = [(recorded.version, self.store.decode(recorded)) for recorded in tail]
        lane = grants.lane_from_tail(number, events)
        known = self.known.get(number)
        if grants.went_back(known, lane.version):
            assert known is not None
            raise StoreWentBack(layout.stream_of(number), known.version, lane.version)
        self.known[number] = Known(lane.version, lane.until)
        if tail:
            self._heads[number] = tail[-1].event_id
        return lane

    # --- a store that went back --------------------------------------------------------------

    def note(self, error: EsError) -> EsError:
        """Halt when the store turns out to have forgotten something; the same error, to be answered."""
        if isinstance(error, StoreWentBack):
            self._halted = error
            self.me.drop_lease()
            self.me.pending = None
        return error

    def _stay_halted(self) -> None:
        """Raise while the store is behind what this worker has seen and no fence covers the difference."""
        if self._halted is None:
            return
        furthest = max(self.known, key=lambda number: self.known[number].until, default=None)
        if furthest is not None:
            recorded = self.store.read(layout.stream_of(furthest))
            if not grants.fence_covers(map(self.store.decode, recorded), self.known[furthest]):
                raise self._halted
        self.start_over()

    def start_over(self) -> None:
        """Forget everything that was known of the store, and the lease with it."""
        self._halted = None
        self.known.clear()
        self._layout_pinned = False
        self.become_new()


def lease_is_due(lease: Lease, now: int) -> bool:
    """Renew at half, and only what is in use: an idle worker writes nothing."""
    return lease.issued and now >= position_of(lease.renew_id)
