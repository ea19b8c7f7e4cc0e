"""The lanes as this worker last knew them, by which it notices that an older copy of the store was restored.

Promise: after that the worker stays halted until a fence covers all that it knew. Refusal: nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence

from domain.lanes import fences
from domain.lanes.errors import StoreWentBack
from domain.lanes.events import lane_stream
from domain.lanes.fences import Known
from workers.ids.retrying_store import RetryingStore


class KnownLanes:
    def __init__(self, store: RetryingStore) -> None:
        self._store = store
        self._lanes: dict[int, Known] = {}
        self._halted_by: StoreWentBack | None = None

    @property
    def is_halted(self) -> bool:
        return self._halted_by is not None

    def all(self) -> Sequence[Known]:
        return list(self._lanes.values())

    def note(self, number: int, version: int, until: int) -> None:
        """Remember the version of a lane and its end there."""
        self._lanes[number] = Known(version, until)

    def check(self, number: int, version: int) -> None:
        """Raise `StoreWentBack` if the lane was at a higher version before."""
        known = self._lanes.get(number)
        if known is not None and fences.went_back(known.version, version):
            raise StoreWentBack(lane_stream(number), known.version, version)

    def halt(self, error: StoreWentBack) -> None:
        self._halted_by = error

    def require_fence(self) -> None:
        """Raise the error that halted this worker, unless the lane that it knew furthest was fenced since."""
        assert self._halted_by is not None
        if not self._lanes:
            return
        furthest = max(self._lanes, key=lambda number: self._lanes[number].until)
        recorded = self._store.read(lane_stream(furthest))
        if not fences.fence_covers(map(self._store.decode, recorded), self._lanes[furthest]):
            raise self._halted_by

    def forget(self) -> None:
        self._halted_by = None
        self._lanes.clear()
