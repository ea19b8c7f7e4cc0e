"""Fresh ids for the streams that a worker begins.

Promise: each id is handed out once, ascending, while it is fresh. Refusal: a block that was not used at once is
dropped: ids sort by time, and an old one would say the wrong time.
"""

from __future__ import annotations

from collections.abc import Callable

from domain.kernel.errors import EsError
from domain.kernel.ports.transport import Caller

ID_TIMEOUT_S = 5.0
"""How long a block is waited for: less than the caller waits for its answer, so that the answer names what is missing."""
BLOCK = 1024
_FRESH_S = 1.0
_FAILED_FOR_S = 1.0


class IdBlocks:
    """Hands out the ids of blocks, each taken when the one before is used up."""

    def __init__(self, draw: Callable[[int], list[int]], *, monotonic_s: Callable[[], float]) -> None:
        """`draw(n)` gives n fresh ids, ascending, or raises `EsError`."""
        self._draw = draw
        self._monotonic_s = monotonic_s
        self._block: list[int] = []
        self._taken_at_s = 0.0
        self._failed: tuple[float, EsError] | None = None

    def take(self, count: int) -> list[int]:
        """`count` ids, ascending. Raises `EsError` when they can't be had."""
        now_s = self._monotonic_s()
        if len(self._block) < count or now_s - self._taken_at_s > _FRESH_S:
            self._fetch(max(count, BLOCK), now_s)
        return [self._block.pop() for _ in range(count)]

    def _fetch(self, count: int, now_s: float) -> None:
        # It takes seconds to learn that no `ids` worker answers, and commands that need no id wait behind: not each time.
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
    """Ids from the `ids` workers."""
    answer = caller.ask("ids", "ids.next", {"count": count}, timeout_s=ID_TIMEOUT_S)
    ids: list[int] = []
    for part in answer["ranges"]:
        first, step = int(part["first"]), part["step"]
        ids += range(first, first + part["count"] * step, step)
    return ids
