"""The ledger: every id that was issued, by lane, lease, worker and time.

Promise: it finds an id that was issued twice, an id that does not sort after its worker's earlier ones, two
leases of a lane that interleave, and an id too far from its time. It shares only the layout with the program.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Hashable
from dataclasses import dataclass, field

LANES = 1024
SPANS_REMEMBERED = 30
"""Per lane: the leases used last. Older ones have ended, because a lease lasts five minutes."""


@dataclass
class Ledger:
    """Ids as intervals of positions per lane. Adjacent intervals are merged, so 10^8 ids fit into memory."""

    ids: int = 0
    ranges: int = 0
    problems: list[str] = field(default_factory=list)
    _taken: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    _spans: dict[int, dict[Hashable, tuple[int, int]]] = field(default_factory=dict)
    _last: dict[Hashable, int] = field(default_factory=dict)

    def issued(self, first: int, count: int) -> None:
        """Note `count` ids of one lane. Each of them that was noted before is a problem."""
        self.ids += count
        self.ranges += 1
        lane, start, end = first % LANES, first // LANES, first // LANES + count
        taken = self._taken.setdefault(lane, [])
        index = bisect_right(taken, (start, end))
        for other in taken[max(index - 1, 0) : index + 1]:
            if other[0] < end and start < other[1]:
                self.problems.append(
                    f"duplicates on lane {lane}: [{start}, {end}) and [{other[0]}, {other[1]})"
                )
        if index and taken[index - 1][1] == start:
            taken[index - 1] = (taken[index - 1][0], max(end, taken[index - 1][1]))
        else:
            insort(taken, (start, end))

    def under(self, lease: Hashable, first: int, count: int) -> None:
        """Note the lease of a range. The spans of two leases of a lane must not interleave.

        This finds two workers that use the same lane, even if by chance none of their ids is equal yet.
        """
        lane, start, end = first % LANES, first // LANES, first // LANES + count
        spans = self._spans.setdefault(lane, {})
        low, high = spans.pop(lease, (start, end))
        low, high = min(low, start), max(high, end)
        for other, (other_low, other_high) in spans.items():
            if other_low < high and low < other_high:
                self.problems.append(f"lane {lane} is used by {lease} and {other} at the same time")
        spans[lease] = (low, high)
        if len(spans) > SPANS_REMEMBERED:
            del spans[next(iter(spans))]

    def ordered(self, worker: Hashable, first: int, count: int) -> None:
        """Note a range that has to sort after all ids that the worker issued before."""
        if first <= self._last.get(worker, -1):
            self.problems.append(f"{worker} issued {first} after {self._last[worker]}")
        self._last[worker] = first + (count - 1) * LANES

    def near(self, first: int, count: int, earliest: int, latest: int) -> None:
        """Note a range whose positions have to lie in [earliest, latest]."""
        start, end = first // LANES, first // LANES + count - 1
        if start < earliest or end > latest:
            off = (start - earliest if start < earliest else end - latest) / 4_096_000
            self.problems.append(f"a range of {count} from {first} is {off:+.6f} s outside its time")
