"""The machine's wall clock, read in one place: UTC microseconds since 1970, as events and rows record them."""

from __future__ import annotations

import time


def now_us() -> int:
    return time.time_ns() // 1000
