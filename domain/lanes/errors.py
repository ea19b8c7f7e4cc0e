"""Lanes: who may issue which positions, decided by appends and never by a clock.

The right to issue the positions [from, until) of a lane is a grant: an event in the stream `lane-<n>`,
appended at the exact version that its grantee has read. Grants of a lane follow each other without
overlap, so ids are unique whatever clocks, pauses, partitions and restarts do. Clocks only influence how
well ids sort.

Promise: nothing decided here lets two grants overlap, and nothing reaches further ahead of the store's
clock than a second. Refusal: no clock is read and no number drawn; `now` is always an argument, a position.
"""

from __future__ import annotations

from domain.kernel.errors import EsError, Kind, Refusal
from domain.kernel.ids import time_text


class LeaseExhausted(EsError):
    """A worker has no positions left and can't get more. `until_us` is where its last lease ended."""

    until_us: int | None
    store: str
    code = "lease-exhausted"
    hint = "Bring the store back; workers take a new lease by themselves. Repeating is safe."

    def __str__(self) -> str:
        had = f"the lease ended at {time_text(self.until_us)}" if self.until_us else "there is no lease yet"
        return f"no ids: {had} and the event store {self.store} cannot be reached"


class NoFreeLane(EsError):
    """Every lane is held. `free_at_us` is when the first becomes free, as far as that was seen."""

    lanes: int
    free_at_us: int | None
    code = "no-free-lane"
    hint = "Look at `es ids lanes`. Repeat later, run fewer `ids` workers, or ask for smaller blocks."

    def __str__(self) -> str:
        when = f"; the first becomes free at {time_text(self.free_at_us)}" if self.free_at_us else ""
        return f"none of the {self.lanes} lanes of ids is free{when}"


class ClockRejected(EsError):
    """The store's clock is behind this worker's last id by `offset_us`: its ids would not sort any more."""

    offset_us: int
    code = "clock-rejected"
    hint = "Mend the clock of the store's machine. Repeating is answered by a worker that starts afresh."

    def __str__(self) -> str:
        return f"the event store's clock is {self.offset_us / 1_000_000:.1f} s behind ids that were already issued"


class LayoutMismatch(EsError):
    """The store was pinned to another layout, epoch or range of lanes than this worker's."""

    stored: str
    ours: str
    code = "layout-mismatch"
    kind = Kind.DAMAGED
    hint = "Start this worker with the stored layout and lanes, or give it a store of its own."

    def __str__(self) -> str:
        return f"the event store holds ids of layout {self.stored}; this worker makes {self.ours}"


class StoreWentBack(EsError):
    """The store has forgotten events that this worker has seen: an older copy was restored."""

    stream: str
    known: int
    actual: int
    code = "store-went-back"
    kind = Kind.DAMAGED
    hint = "Restore a newer copy, or run `es ids fence` so that ids of the lost time are never issued again."

    def __str__(self) -> str:
        return f"{self.stream} is at version {self.actual}, but version {self.known} was seen before"


class AheadLimit(Refusal):
    """Rule: ids lie at most a second ahead of the store's clock."""

    ahead_us: int
    limit_us: int
    code = "ahead-limit"
    hint = "Repeat once that time has come, or look where the id given with --after comes from."

    def __str__(self) -> str:
        ahead_s, limit_s = self.ahead_us / 1_000_000, self.limit_us / 1_000_000
        return f"the ids asked for would lie {ahead_s:.3f} s ahead of the clock; the limit is {limit_s:.3f} s"
