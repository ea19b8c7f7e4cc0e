"""UUIDs of version 7 (RFC 9562, section 5.7), for keys that an index holds in order of time.

    48 bits of milliseconds since 1970 | version | 12 bits of a fraction of the millisecond | variant | 62 random bits

New keys then lie side by side at the end of an index. Random ones lie anywhere, and each of them dirties a page of its
own. The 12 bits are those of section 6.2, method 3. Python's `uuid` has no version 7 before 3.14.

Promise: the ids of one `Uuid7s` grow from call to call, also when the clock steps back. Refusal: clock and randomness are arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

_TICKS_PER_MS = 4096
_VERSION = 0x7 << 76
_VARIANT = 0b10 << 62


class Uuid7s:
    """Makes ids. Of threads that share it two ids may have one time; their random bits differ."""

    def __init__(self, now_us: Callable[[], int], random_bytes: Callable[[int], bytes]) -> None:
        """`now_us` is the time in microseconds since 1970; `random_bytes(n)` returns n random bytes."""
        self._now_us = now_us
        self._random_bytes = random_bytes
        self._last = 0

    def __call__(self) -> UUID:
        now = self._now_us() * _TICKS_PER_MS // 1000
        self._last = now = max(now, self._last + 1)
        random = int.from_bytes(self._random_bytes(8), "big") >> 2
        ms, fraction = divmod(now, _TICKS_PER_MS)
        return UUID(int=ms << 80 | _VERSION | fraction << 64 | _VARIANT | random)
