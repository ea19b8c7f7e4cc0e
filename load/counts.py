"""What a load process counts, by second and operation, until it has told the coordinator.

Promise: every arrival is wanted once, and then dropped once or answered once, all at the second of its intended start.
Refusal: nothing is kept that was told, so memory does not grow with the run.
"""

from __future__ import annotations

import threading
from typing import Any

News = list[dict[str, Any]]
"""What is new: `{"number", "operations": {name: {"wanted", "dropped", "succeeded", "errors": {code: n}, "us": […]}}}`."""


class _Count:
    __slots__ = ("dropped", "errors", "succeeded", "us", "wanted")

    def __init__(self) -> None:
        self.wanted = 0
        self.dropped = 0
        self.succeeded = 0
        self.errors: dict[str, int] = {}
        self.us: list[int] = []


class Counts:
    """Counts of one load process. Any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[int, dict[str, _Count]] = {}
        self.started = 0
        self.ended = 0
        self.late = 0
        """Arrivals that were dropped because this process itself was late."""

    @property
    def in_flight(self) -> int:
        return self.started - self.ended

    def start(self, second: int, operation: str) -> None:
        with self._lock:
            self._of(second, operation).wanted += 1
            self.started += 1

    def drop(self, second: int, operation: str, *, is_late: bool) -> None:
        with self._lock:
            count = self._of(second, operation)
            count.wanted += 1
            count.dropped += 1
            self.late += is_late

    def end(self, second: int, operation: str, latency_us: int, error: str | None) -> None:
        with self._lock:
            count = self._of(second, operation)
            count.us.append(latency_us)
            if error is None:
                count.succeeded += 1
            else:
                count.errors[error] = count.errors.get(error, 0) + 1
            self.ended += 1

    def _of(self, second: int, operation: str) -> _Count:
        operations = self._seconds.setdefault(second, {})
        count = operations.get(operation)
        if count is None:
            count = operations[operation] = _Count()
        return count

    def news(self) -> News:
        """What was counted since the last call, by second in order."""
        with self._lock:
            seconds, self._seconds = self._seconds, {}
        return [
            {
                "number": number,
                "operations": {
                    name: {each: getattr(count, each) for each in _Count.__slots__}
                    for name, count in operations.items()
                },
            }
            for number, operations in sorted(seconds.items())
        ]
