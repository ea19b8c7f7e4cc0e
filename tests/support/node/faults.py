"""Planned faults. The node asks its plan at each point of a call, and the plan returns a fault or None."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from enum import StrEnum


class Point(StrEnum):
    BEFORE_COMMIT = "before-commit"
    AFTER_COMMIT = "after-commit"
    READ = "read"
    FOUND = "found"  # before each event that a read over all streams returns
    SUBSCRIBE = "subscribe"
    SUBSCRIBED = "subscribed"  # before each message of a subscription, its confirmation included


class Fault(StrEnum):
    UNAVAILABLE = "unavailable"  # the call fails as if the connection was lost
    BROKEN = "broken"  # the call fails as if the server's handler raised
    BLACK_HOLE = "black-hole"  # no response, ever
    LATE = "late"  # no response, and the commit happens later
    TIMED_OUT = "timed-out"  # the server reports a timeout of this item
    NOT_READY = "not-ready"  # the server reports for this item that it is not ready
    ENDS = "ends"  # the call ends like a complete one


Plan = Callable[[Point, str], Fault | None]
"""(point, stream) → fault. The stream is empty where a call is not about one stream."""

_OF_APPENDS = {
    Point.BEFORE_COMMIT: tuple(fault for fault in Fault if fault is not Fault.ENDS),
    Point.AFTER_COMMIT: (Fault.UNAVAILABLE, Fault.BROKEN, Fault.BLACK_HOLE, Fault.TIMED_OUT),
}
LOST_APPENDS = [(point, fault) for point, faults in _OF_APPENDS.items() for fault in faults]
"""All faults after which the caller does not know the outcome of an append, with their points."""


def never(point: Point, stream: str) -> None:
    """The plan without faults."""


def always(fault: Fault, *points: Point, stream: str = "") -> Plan:
    """The same fault each time at these points, with `stream` only for this one."""
    return lambda at, of: fault if at in points and stream in ("", of) else None


def once(point: Point, *faults: Fault, stream: str = "") -> Plan:
    """These faults at a point, one after the other, then none. With `stream` only for this one."""
    left = list(faults)
    lock = threading.Lock()

    def plan(at: Point, of: str) -> Fault | None:
        with lock:
            return left.pop(0) if left and at is point and stream in ("", of) else None

    return plan


def delayed(point: Point, seconds: float) -> Plan:
    """No fault, but a pause each time at this point."""

    def plan(at: Point, of: str) -> None:
        if at is point:
            time.sleep(seconds)

    return plan


def seeded(seed: int, probability: float, *, leave_out: Sequence[Fault] = ()) -> Plan:
    """Any fault at any point of an append, each with this probability. Equal seeds draw equal sequences."""
    chance = random.Random(seed)
    lock = threading.Lock()

    def plan(at: Point, of: str) -> Fault | None:
        faults = [fault for fault in _OF_APPENDS.get(at, ()) if fault not in leave_out]
        with lock:
            return chance.choice(faults) if faults and chance.random() < probability else None

    return plan
