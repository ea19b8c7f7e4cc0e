"""End a benchmark in time, or by a signal, so that everything that it started is removed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class TimeIsUp(BaseException):
    """The benchmark has used its time. What it has measured until then is shown."""


def is_quick() -> bool:
    """Whether QUICK is set, and not 0."""
    return os.environ.get("QUICK", "") not in ("", "0")


@contextmanager
def limited(limit_s: int) -> Iterator[None]:
    """Raise TimeIsUp in the block after `limit_s`, and SystemExit on SIGTERM or SIGHUP, so that it cleans up."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise (
            TimeIsUp(f"stopped after {limit_s} s: the table is incomplete")
            if number == signal.SIGALRM
            else SystemExit(128 + number)
        )

    numbers = (signal.SIGALRM, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    signal.alarm(limit_s)
    try:
        yield
    finally:
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)
