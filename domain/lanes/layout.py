"""The layout of a store's ids and the lanes that the store may grant, pinned by its first event of ids.

Promise: workers with another layout, epoch or range of lanes are refused, so two stores with disjoint ranges
never issue the same id. Refusal: no number is drawn here; `draws` is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from domain.kernel.ids import EPOCH_US, LANES
from domain.lanes.errors import LayoutMismatch
from domain.lanes.events import LayoutPinned

RANDOM_PROBES = 50
"""How many lanes are read at random before all others are read in turn."""


@dataclass(frozen=True, slots=True)
class LaneRange:
    """The lanes from `first` to `last`, both included."""

    first: int = 0
    last: int = LANES - 1

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last < LANES:
            raise ValueError(f"lanes are numbers from 0 to {LANES - 1}, the first not after the last")

    def __len__(self) -> int:
        return self.last - self.first + 1

    def numbers(self) -> range:
        return range(self.first, self.last + 1)


def layout_for(lanes: LaneRange) -> LayoutPinned:
    """The layout that this version of the program uses, for a range of lanes."""
    return LayoutPinned(
        "53-bit position of 1/4096 ms, 10-bit lane", EPOCH_US, f"lanes {lanes.first}-{lanes.last}"
    )


def decide_layout(pinned: LayoutPinned | None, lanes: LaneRange) -> list[LayoutPinned] | LayoutMismatch:
    """Pin the layout of a new store, accept the same layout, refuse any other."""
    ours = layout_for(lanes)
    if pinned is None:
        return [ours]
    return [] if pinned == ours else LayoutMismatch(str(pinned), str(ours))


def choose_lanes(lanes: LaneRange, draws: Iterable[int], scan_from: int) -> Iterable[int]:
    """The lanes in search order, each once: the drawn ones, then all others from `scan_from` on.

    `draws` and `scan_from` are random numbers below the size of the range. A search in order of number would
    make workers that start together compete for the first lanes.
    """
    seen: set[int] = set()
    for draw in draws:
        if draw not in seen:
            seen.add(draw)
            yield lanes.first + draw
    size = len(lanes)
    for index in range(size):
        if (drawn := (scan_from + index) % size) not in seen:
            yield lanes.first + drawn
