"""The head of a store as its followers know it: one read serves all of them, and each read of a query as well.

Promise: an idle store is asked once a second, however many followers it has. Refusal: an older answer never replaces a
newer one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from domain.kernel.events import BEGINNING, Recorded
from domain.kernel.ports.event_store import CaughtUp

_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class Seen:
    """The head when a read began, in seconds of the monotonic clock."""

    head: CaughtUp
    at_s: float


def caught_up_with(last: Recorded | None) -> CaughtUp:
    return CaughtUp(last.position, last.event_id) if last else CaughtUp(BEGINNING, None)


class Heads:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: set[Callable[[], None]] = set()
        self._asked_at_s = float("-inf")
        self.seen = Seen(CaughtUp(BEGINNING, None), float("-inf"))

    def learn(self, seen: Seen) -> None:
        """Tell the followers a head that was read."""
        with self._lock:
            if seen.at_s <= self.seen.at_s:
                return
            is_news = seen.head != self.seen.head
            self.seen = seen
            self._asked_at_s = max(self._asked_at_s, seen.at_s)
            listeners = [*self._listeners] if is_news else []
        for wake in listeners:
            wake()

    def is_due(self, now_s: float) -> bool:
        """Whether the store was not asked for a second."""
        return now_s - self._asked_at_s > _INTERVAL_S

    def claim(self, now_s: float) -> bool:
        """Whether the caller has to ask now: it is due, and no other follower asks."""
        with self._lock:
            is_due = self.is_due(now_s)
            if is_due:
                self._asked_at_s = now_s
            return is_due

    def listen(self, wake: Callable[[], None]) -> None:
        """Call `wake` at each news, until `forget`."""
        with self._lock:
            self._listeners.add(wake)

    def forget(self, wake: Callable[[], None]) -> None:
        with self._lock:
            self._listeners.discard(wake)
