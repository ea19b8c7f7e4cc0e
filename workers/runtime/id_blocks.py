"""New ids for the streams that a worker creates.

Promise: each id is issued once and in ascending order. Refusal: a block that is older than a second is dropped, because
an id holds its time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from domain.kernel.errors import EsError
from domain.kernel.ports.transport import Caller

ID_TIMEOUT_S = 5.0
"""Time out before the caller does (8 s), so that the reply can name the unavailable part."""
BLOCK = 1024
_FRESH_S = 1.0
_FAILED_FOR_S = 1.0


class IdBlocks:
    """Issues the ids of a block, and draws the next block when it is used up or too old. Any thread may call it."""

    def __init__(self, draw: Callable[[int], list[int]], *, monotonic_s: Callable[[], float]) -> None:
        """`draw(n)` returns n new ids, ascending, or raises `EsError`."""
        self._draw = draw
        self._monotonic_s = monotonic_s
        self._lock = threading.Lock()
        self._block: list[int] = []
        self._taken_at_s = 0.0
        self._failed: tuple[float, EsError] | None = None

    def take(self, count: int) -> list[int]:
        """Issue `count` ids, ascending. Raises `EsError` while none can be drawn."""
        with self._lock:
            now_s = self._monotonic_s()
            if len(self._block) < count or now_s - self._taken_at_s > _FRESH_S:
                self._fetch(max(count, BLOCK), now_s)
            return [self._block.pop() for _ in range(count)]

    def _fetch(self, count: int, now_s: float) -> None:
        # Detecting an outage takes seconds, and commands that need no id wait meanwhile: do it once per second.
        if self._failed is not None and now_s - self._failed[0] < _FAILED_FOR_S:
            raise self._failed[1]
        try:
            self._block = self._draw(count)
        except EsError as error:
            self._failed = self._monotonic_s(), error
            raise
        self._failed = None
        self._block.reverse()
        self._taken_at_s = now_s


def draw_ids(caller: Caller, count: int) -> list[int]:
    """Request ids from the `ids` workers."""
    reply = caller.ask("ids", "ids.next", {"count": count}, timeout_s=ID_TIMEOUT_S)
    ids: list[int] = []
    for part in reply["ranges"]:
        first, step = int(part["first"]), part["step"]
        ids += range(first, first + part["count"] * step, step)
    return ids
