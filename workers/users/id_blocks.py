"""The `users` worker: carries account commands out.

For a batch: reserve addresses (one vault transaction), append (one store transaction), confirm (one vault
transaction). Reserve → append → confirm is this system's two-phase commit; `workers/users/claims.py` finishes
what a crash leaves between the steps.
"""

from __future__ import annotations

from collections.abc import Callable

from domain.kernel.errors import EsError


class IdBlocks:
    """User ids, taken from the `ids` workers in blocks and handed out while they are fresh.

    A block that lies about is dropped after a second: ids are sorted by time, and an old one would lie.
    """

    def __init__(self, ask: Callable[[int], list[int]], *, monotonic_s: Callable[[], float]) -> None:
        """`ask(n)` fetches n ids."""
        self._ask = ask
        self._monotonic_s = monotonic_s
        self._block: list[int] = []
        self._taken_at_s = 0.0
        self._away: tuple[float, EsError] | None = None

    def take(self, count: int) -> list[int]:
        """`count` ids, ascending. Raises `EsError` when they can't be had."""
        now_s = self._monotonic_s()
        if len(self._block) < count or now_s - self._taken_at_s > 1.0:
            self._fetch(max(count, 1024), now_s)
        return [self._block.pop() for _ in range(count)]

    def _fetch(self, count: int, now_s: float) -> None:
        # To find out that nobody gives ids takes seconds, in which renames and deletions wait too: not every time.
        if self._away is not None and now_s - self._away[0] < 1.0:
            raise self._away[1]
        try:
            self._block = self._ask(count)
        except EsError as error:
            self._away = self._monotonic_s(), error
            raise
        self._away = None
        self._block.reverse()
        self._taken_at_s = now_s
