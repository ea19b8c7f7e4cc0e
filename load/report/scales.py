"""Axes of charts: where a value is, which ticks there are, and how figures are written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """A value axis from `low` to `high`, linear or logarithmic, with rounded ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]
    is_log: bool = False

    def share(self, value: float) -> float:
        """Where a value is, from 0 to 1. Values outside are at the ends."""
        if self.is_log:
            found = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            found = (value - self.low) / (self.high - self.low)
        return min(max(found, 0.0), 1.0)


def linear(values: Iterable[float | None], *, ticks: int = 4) -> Scale:
    """From 0 to a rounded value at or above the highest."""
    high = max((value for value in values if value is not None), default=0.0)
    step = _rounded(high / ticks) if high > 0 else 1.0
    steps = max(math.ceil(high / step - 1e-9), 1)
    return Scale(0.0, steps * step, tuple(step * index for index in range(steps + 1)))


def logarithmic(values: Iterable[float | None]) -> Scale:
    """From a rounded value below the lowest to one above the highest: 1, 2 or 5 times a power of ten."""
    known = [value for value in values if value is not None and value > 0]
    low, high = min(known, default=1.0), max(known, default=10.0)
    # A margin, so that a line does not lie on the frame.
    low, high = _mark(low * 0.98, down=True), _mark(high * 1.02, down=False)
    if high / low < 5:
        low, high = _mark(low * 0.6, down=True), _mark(high * 1.4, down=False)
    marks = [mark for mark in _marks(low, high) if low * 0.999 <= mark <= high * 1.001]
    if len(marks) > 6:  # powers of ten alone
        marks = [mark for mark in marks if abs(math.log10(mark) - round(math.log10(mark))) < 1e-9]
    return Scale(low, high, tuple(marks), is_log=True)


def _rounded(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= step * (1 - 1e-9))


def _marks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    return [factor * 10.0**power for power in powers for factor in (1, 2, 5)]


def _mark(value: float, *, down: bool) -> float:
    marks = _marks(value / 10, value * 10)
    return (
        max(mark for mark in marks if mark <= value) if down else min(mark for mark in marks if mark >= value)
    )


def figure(value: float | None) -> str:
    """A figure with three significant digits and commas between thousands; a dash if there is none."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{round(value):,}"
    digits = max(2 - math.floor(math.log10(abs(value))), 0)
    text = f"{value:.{min(digits, 4)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def percent(share: float | None) -> str:
    return "–" if share is None else f"{figure(share * 100)} %"


def clock(at_s: float) -> str:
    """A time of the run: 1:05, or 1:02:03 from an hour on."""
    minutes, seconds = divmod(round(at_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def length(duration_s: float) -> str:
    """A duration in words: 45 s, 10 min, 1 h 5 min."""
    hours, rest = divmod(round(duration_s), 3600)
    minutes, seconds = divmod(rest, 60)
    parts = [(hours, "h"), (minutes, "min"), (seconds, "s")]
    return " ".join(f"{count} {unit}" for count, unit in parts if count) or "0 s"


def time_ticks(end_s: float, most: int = 10) -> Sequence[float]:
    """Rounded times: every 5 s, 10 s, 1 min, …"""
    steps = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800)
    step = next((each for each in steps if end_s / each <= most), 86400)
    return [float(at) for at in range(0, int(end_s) + 1, step)]
