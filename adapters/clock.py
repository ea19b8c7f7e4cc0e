"""The wall clock, in UTC microseconds since 1970, the unit of recorded times."""

from __future__ import annotations

import time


def now_us() -> int:
    return time.time_ns() // 1000
