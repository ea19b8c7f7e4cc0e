"""The pin of a store's layout: its first event of ids.

Promise: no worker issues an id in a store that was pinned to another layout. Refusal: a pin never changes.
"""

from __future__ import annotations

from domain.kernel.events import NO_STREAM
from domain.lanes import layout
from domain.lanes.errors import LayoutMismatch, StoreWentBack
from domain.lanes.events import LAYOUT_STREAM, LayoutPinned
from domain.lanes.layout import LaneRange
from workers.ids.retrying_store import CONFLICTS_MAX, RetryingStore


def pin_layout(store: RetryingStore, lanes: LaneRange, *, tries: int) -> None:
    """Pin the layout of a new store. Raises `LayoutMismatch` if the store was pinned to another one."""
    for _ in range(CONFLICTS_MAX):
        recorded = store.read(LAYOUT_STREAM, limit=1, tries=tries)
        pinned = store.decode(recorded[0]) if recorded else None
        assert pinned is None or isinstance(pinned, LayoutPinned)
        decided = layout.decide_layout(pinned, lanes)
        if isinstance(decided, LayoutMismatch):
            raise decided
        if not decided:
            return
        # Read back in the next round: another worker may have pinned its own layout first.
        store.settle(store.attempt([(LAYOUT_STREAM, NO_STREAM, decided)], "pin-layout"), tries=tries)
    raise StoreWentBack(LAYOUT_STREAM, 0, NO_STREAM)
