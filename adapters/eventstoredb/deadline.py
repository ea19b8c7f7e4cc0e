"""The time that a method of the store has for its calls."""

from __future__ import annotations

import time
from dataclasses import dataclass

from adapters.eventstoredb.driver import DeadlineExceeded

_SHORTEST_TIMEOUT_S = 0.05


@dataclass(frozen=True, slots=True)
class Deadline:
    """When all calls of a method must have ended, and the longest time for one of them."""

    end_s: float
    call_timeout_s: float

    @classmethod
    def after(cls, seconds: float, *, call_timeout_s: float) -> Deadline:
        return cls(time.monotonic() + seconds, call_timeout_s)

    def left_s(self) -> float:
        """The timeout of the next call. Raises DeadlineExceeded if no time is left for it."""
        left_s = min(self.call_timeout_s, self.end_s - time.monotonic())
        if left_s <= 0:
            raise DeadlineExceeded("no time is left")
        return max(left_s, _SHORTEST_TIMEOUT_S)
