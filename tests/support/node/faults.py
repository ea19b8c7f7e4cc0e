"""What can go wrong in a call, and where. A plan is asked at each point and names a fault or none."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from enum import StrEnum


class Point(StrEnum):
    BEFORE_COMMIT = "before-commit"
    AFTER_COMMIT = "after-commit"
    READ = "read"
    FOUND = "found"  # asked before every event that a read over all streams has found
    SUBSCRIBE = "subscribe"
    SUBSCRIBED = "subscribed"  # asked before every message of a subscription, its confirmation included


class Fault(StrEnum):
    UNAVAILABLE = "unavailable"  # the call ends as when its connection is lost
    BROKEN = "broken"  # the call ends as when the server's handler throws
    BLACK_HOLE = "black-hole"  # no answer, ever
    LATE = "late"  # no answer, but the commit still happens some time later
    TIMED_OUT = "timed-out"  # the server says that it gave up waiting: an answer to this item alone
    NOT_READY = "not-ready"  # the server says that it is busy: an answer to this item alone
    ENDS = "ends"  # the call ends as if all had been said


Plan = Callable[[Point, str], Fault | None]
"""Given the point and the stream's name ("" when it isn't about one stream)."""

OF_APPENDS = {
    Point.BEFORE_COMMIT: (
        Fault.UNAVAILABLE,
        Fault.BROKEN,
        Fault.BLACK_HOLE,
        Fault.LATE,
        Fault.TIMED_OUT,
        Fault.NOT_READY,
    ),
    Point.AFTER_COMMIT: (Fault.UNAVAILABLE, Fault.BROKEN, Fault.BLACK_HOLE, Fault.TIMED_OUT),
}


def none(point: Point, stream: str) -> None:
    """No faults."""


def once(point: Point, *faults: Fault, stream: str = "") -> Plan:
    """These faults, one after the other, at a point; then none. With `stream`, only for that one."""
    left = list(faults)
    lock = threading.Lock()

    def plan(at: Point, of: str) -> Fault | None:
        with lock:
            return left.pop(0) if left and at is point and stream in ("", of) else None

    return plan


def seeded(seed: int, probability: float, *, leave_out: Sequence[Fault] = ()) -> Plan:
    """Any fault at any point of an append, each with this probability; the same for the same seed and order."""
    chance = random.Random(seed)
    lock = threading.Lock()

    def plan(at: Point, of: str) -> Fault | None:
        faults = [fault for fault in OF_APPENDS.get(at, ()) if fault not in leave_out]
        with lock:
            return chance.choice(faults) if faults and chance.random() < probability else None

    return plan
