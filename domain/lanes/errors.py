"""The errors of ids: each names what happened, in fields, and what to do next.

Promise: codes never change. Refusal: no text contains more than times, counts, stream names and the store's name.
"""

from __future__ import annotations

from domain.kernel.errors import EsError, Kind, Refusal
from domain.kernel.ids import time_text


class LeaseExhausted(EsError):
    """The worker's lease is used up, and the store cannot be reached. `until_us` is where the last lease ended."""

    until_us: int | None
    store: str
    code = "lease-exhausted"
    hint = "Make the event store available; `ids` workers then take a new lease. Retrying is safe."

    def __str__(self) -> str:
        lease = f"the lease ended at {time_text(self.until_us)}" if self.until_us else "there is no lease yet"
        return f"no ids: {lease} and the event store {self.store} cannot be reached"


class NoFreeLane(EsError):
    """Every lane is held. `free_at_us` is when the first held lane becomes free, if the search read one."""

    lanes: int
    free_at_us: int | None
    code = "no-free-lane"
    hint = "See `es ids lanes`. Retry later, run fewer `ids` workers, or request fewer ids at once."

    def __str__(self) -> str:
        when = f"; the first becomes free at {time_text(self.free_at_us)}" if self.free_at_us else ""
        return f"none of the {self.lanes} lanes of ids is free{when}"


class ClockRejected(EsError):
    """The store's clock is `offset_us` behind this worker's last id: new ids would not sort after it."""

    offset_us: int
    code = "clock-rejected"
    hint = "Correct the clock of the event store's machine. Retry: the worker has taken a new identity."

    def __str__(self) -> str:
        return f"the event store's clock is {self.offset_us / 1_000_000:.1f} s behind ids that were already issued"


class ClockOutOfRange(EsError):
    """The store's clock shows `at_us`, a time for which no id exists: it would not fit in 63 bits."""

    at_us: int
    code = "clock-out-of-range"
    hint = "Correct the clock of the event store's machine. A retry is safe."

    def __str__(self) -> str:
        return f"the event store's clock shows {time_text(self.at_us)}, but ids exist for 2025 to 2094 only"


class LayoutMismatch(EsError):
    """The store was pinned to another layout, epoch or range of lanes than this worker's."""

    stored: str
    ours: str
    code = "layout-mismatch"
    kind = Kind.DAMAGED
    hint = "Start this worker with the stored layout and lanes, or give it another event store (`ES_STORE`)."

    def __str__(self) -> str:
        return f"the event store holds ids of layout {self.stored}; this worker makes {self.ours}"


class StoreWentBack(EsError):
    """The store ends before a version that this worker has read: an older copy was restored."""

    stream: str
    known: int
    actual: int
    code = "store-went-back"
    kind = Kind.DAMAGED
    hint = "Restore a newer copy, or run `es ids fence` so that ids of the lost time are not issued twice."

    def __str__(self) -> str:
        return f"{self.stream} is at version {self.actual}, but version {self.known} was seen before"


class AheadLimit(Refusal):
    """Rule: The requested ids would lie more than a second ahead of the store's clock."""

    ahead_us: int
    limit_us: int
    code = "ahead-limit"
    hint = "Retry once that time has come, or check the origin of the id given with --after."

    def __str__(self) -> str:
        ahead_s, limit_s = self.ahead_us / 1_000_000, self.limit_us / 1_000_000
        return f"the requested ids would lie {ahead_s:.3f} s ahead of the clock; the limit is {limit_s:.3f} s"
