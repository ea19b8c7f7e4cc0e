"""Wait for a condition, never for a time, and fail with the condition that did not become true."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")

DEADLINE_S = 240.0
"""Much longer than anything here takes. It ends a test that hangs and measures nothing."""


def eventually(condition: Callable[[], Answer | None], what: str, *, within_s: float = DEADLINE_S) -> Answer:
    """Return the first true answer of a condition; fail with `what` at the deadline."""
    deadline_s = time.monotonic() + within_s
    while not (answer := condition()):
        assert time.monotonic() < deadline_s, f"{what}: not within {within_s:g} s"
        time.sleep(0.01)
    return answer


def assert_within(bound_s: float, act: Callable[[], object], *, chances: int = 5) -> None:
    """Check that something ends in time, once in several chances: slow code is slow each time, a busy machine is not.

    `act` may return its own measurement, in seconds.
    """
    taken_s = []
    for _ in range(chances):
        started_s = time.monotonic()
        own_s = act()
        taken_s.append(own_s if isinstance(own_s, float) else time.monotonic() - started_s)
        if taken_s[-1] < bound_s:
            return
    raise AssertionError(f"took {taken_s} s, not less than {bound_s} s")


def in_cpu_time(act: Callable[[], object]) -> Callable[[], float]:
    """For `assert_within`: computation in its CPU time, which other programs prolong less than the time on the clock."""

    def measured() -> float:
        started_s = time.thread_time()
        act()
        return time.thread_time() - started_s

    return measured


def before(deadline_s: float) -> Callable[[], bool]:
    """A `stopped` for followers that turns true after a time, so that a test cannot hang."""
    end_s = time.monotonic() + deadline_s
    return lambda: time.monotonic() > end_s
