"""When requests arrive: an open model, whose arrivals do not wait for replies.

The arrivals of a phase are evenly spaced by its rate, which changes linearly. They are not random, so their number is the
integral of the rate, and two runs have the same arrivals.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from load.scenario import Phase


def arrivals(phases: Sequence[Phase], *, process: int = 0, processes: int = 1) -> Iterator[float]:
    """The intended starts in seconds from the start of the run, in order.

    Arrival i is where the integral of the rate reaches i + 0.5. Of all of them each process has every `processes`-th.
    """
    number, began_s, begun = process, 0.0, 0.0
    for phase in phases:
        ended = begun + expected(phase)
        while number + 0.5 < ended:
            yield began_s + _time_s(phase, number + 0.5 - begun)
            number += processes
        began_s, begun = began_s + phase.duration_s, ended


def expected(phase: Phase) -> float:
    """The integral of the rate."""
    return phase.duration_s * (phase.from_per_s + phase.to_per_s) / 2


def _time_s(phase: Phase, count: float) -> float:
    """When the integral of the rate reaches `count`, in seconds from the start of the phase."""
    slope = (phase.to_per_s - phase.from_per_s) / phase.duration_s
    # The larger solution's reciprocal form: it is exact for a slope of 0 as well.
    root = math.sqrt(max(phase.from_per_s**2 + 2 * slope * count, 0.0))
    return min(2 * count / (phase.from_per_s + root), phase.duration_s)


def is_warm_up(phases: Sequence[Phase], second: int) -> bool:
    """Whether any part of a second belongs to a warm-up."""
    began_s = 0.0
    for phase in phases:
        if phase.is_warm_up and began_s < second + 1 and began_s + phase.duration_s > second:
            return True
        began_s += phase.duration_s
    return False
