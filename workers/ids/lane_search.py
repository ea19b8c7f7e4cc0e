"""The search for free lanes in the store.

Promise: at most as many lanes are read as needed, random ones first, and each unusable lane on the way is
marked. Refusal: no lane is granted here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from uuid import UUID

from domain.kernel.errors import PartUnavailable
from domain.kernel.events import NO_STREAM
from domain.kernel.ids import time_us_of
from domain.lanes import grants, layout
from domain.lanes.events import lane_stream
from domain.lanes.grants import TAIL, Lane, Standing
from domain.lanes.layout import RANDOM_PROBES, LaneRange
from workers.ids.known_lanes import KnownLanes
from workers.ids.retrying_store import Base, RetryingStore


class LaneSearch:
    """`random_below(n)` is a random number below n; `now` is the position of the store's clock."""

    def __init__(
        self,
        store: RetryingStore,
        known: KnownLanes,
        lanes: LaneRange,
        *,
        random_below: Callable[[int], int],
        now: Callable[[], int],
    ) -> None:
        self._lanes = lanes
        self._store = store
        self._known = known
        self._random_below = random_below
        self._now = now
        self._heads: dict[int, UUID] = {}  # the last event of each lane when it was last read

    def find(self, wanted: int) -> tuple[list[Lane], int | None]:
        """Free lanes, at most `wanted`; and when the first of the held ones becomes free, in UTC microseconds."""
        size = len(self._lanes)
        draws = (self._random_below(size) for _ in range(RANDOM_PROBES + 2 * wanted))
        found: list[Lane] = []
        unusable: list[Lane] = []
        free_at: int | None = None
        for number in layout.choose_lanes(self._lanes, draws, self._random_below(size)):
            lane = self.read(number)
            match grants.standing(lane, self._now()):
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

    def read(self, number: int) -> Lane:
        """The current state of a lane. Raises `StoreWentBack` if the lane was at a higher version before."""
        tail = self._store.read_tail(lane_stream(number), TAIL)
        lane = grants.lane_from_tail(number, [(event.version, self._store.decode(event)) for event in tail])
        self._known.check(number, lane.version)
        self._known.note(number, lane.version, lane.until)
        if tail:
            self._heads[number] = tail[-1].event_id
        return lane

    def base_of(self, lane: Lane) -> Base | None:
        """The event that a decision on this lane depends on; None for a lane that was never used."""
        if lane.version == NO_STREAM:
            return None
        return Base(lane_stream(lane.number), lane.version, self._heads[lane.number])

    def _quarantine(self, unusable: Sequence[Lane]) -> None:
        """Mark lanes for operators. No decision depends on a mark, so a lost one is left to the next worker."""
        marked = [(lane, grants.decide_quarantine(lane, self._now())) for lane in unusable]
        items = [(lane_stream(lane.number), lane.version, mark) for lane, mark in marked if mark]
        if items:
            try:
                self._store.settle(self._store.attempt(items, "quarantine-lane"), tries=1)
            except PartUnavailable:
                return
