"""The store's clock as one `ids` worker knows it: the only source of time for ids.

A worker reads it by appending an event to its own stream and reading it back. The recorded time is now, and
the machine's monotonic clock carries it on.

Promise: the time is late by the duration of the store's answer at most, and never early. Refusal: no wall
clock is read.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from domain.kernel.errors import PartUnavailable
from domain.kernel.events import NO_STREAM
from domain.kernel.ids import POSITION_BITS, position_at
from domain.lanes.errors import ClockOutOfRange, StoreWentBack
from domain.lanes.events import WorkerSeen, worker_stream
from domain.lanes.limits import AHEAD, MAX_LEASE
from workers.ids.retrying_store import Attempt, RetryingStore

POSITIONS_PER_NS = 562_949_953
"""In units of 2^-37: 4096 positions in 10^6 ns, with an error below 1 ns per second. A division would cost more."""
_READS = 4  # the last one is used even if it was slow
_FRESH_NS = 200_000_000  # a read that took longer is too late to be used
_POSITIONS_END = (1 << POSITION_BITS) - MAX_LEASE - AHEAD
_SLEEP_NS = 1_000_000_000  # after a longer sleep of the machine the clock is read again
_SINCE_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # only some systems count their sleep


def asleep_ns() -> int:
    """How long this machine has slept since it was started: the monotonic clock leaves that out."""
    return time.clock_gettime_ns(_SINCE_BOOT) - time.clock_gettime_ns(time.CLOCK_MONOTONIC)


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine and the process that a worker runs in."""

    host: str
    pid: int
    monotonic_ns: Callable[[], int]
    asleep_ns: Callable[[], int]


class StoreClock:
    """The clock of one identity of a worker. `token` names the stream that the identity appends to."""

    def __init__(self, token: UUID, machine: Machine, store: RetryingStore) -> None:
        self._stream = worker_stream(token)
        self._machine = machine
        self._store = store
        self._version = NO_STREAM  # of the worker's own stream
        self._unanswered: Attempt | None = None
        self._asleep_at_read_ns = 0
        self.was_read = False
        self.offset = 0
        """Position of the store's clock minus position of the monotonic clock."""

    def now(self) -> int:
        """The position of the store's clock, calculated without asking the store."""
        return self._monotonic_position() + self.offset

    def _monotonic_position(self) -> int:
        return self._machine.monotonic_ns() * POSITIONS_PER_NS >> 37

    def machine_slept(self) -> bool:
        """Whether the machine slept since the last read: `now` does not count that time."""
        return self._machine.asleep_ns() - self._asleep_at_read_ns > _SLEEP_NS

    def read(self, *, tries: int) -> bool:
        """Ask the store for the time; False if a copy of this process, by fork or clone, uses this identity too."""
        for left in reversed(range(_READS)):
            sent_ns = self._machine.monotonic_ns()
            if self._unanswered is None:
                seen = WorkerSeen(self._machine.host, self._machine.pid)
                self._unanswered = self._store.attempt(
                    [(self._stream, self._version, [seen])], "look-at-clock"
                )
            attempt = self._unanswered
            (version,) = self._store.settle(attempt, tries=tries)
            if version is None:
                return False
            self._version, self._unanswered = version, None
            recorded = self._store.read(self._stream, version, limit=1, tries=tries)
            if not recorded:
                raise StoreWentBack(self._stream, version, NO_STREAM)
            # After a lost answer the event may be minutes old. A slow answer is at least complete.
            is_fresh = self._machine.monotonic_ns() - sent_ns <= _FRESH_NS
            if not attempt.is_unknown and (is_fresh or not left):
                self._set(recorded[0].recorded_at_us)
                return True
        raise PartUnavailable("event store", "its clock cannot be read, because its answers get lost")

    def _set(self, recorded_at_us: int) -> None:
        position = position_at(recorded_at_us)
        # Such ids would not fit in 63 bits: no other command would accept them.
        if not 0 <= position < _POSITIONS_END:
            raise ClockOutOfRange(recorded_at_us)
        # Counted from the answer, not from the request: a late clock is harmless, an early one runs ahead.
        self.offset = position - self._monotonic_position()
        self._asleep_at_read_ns = self._machine.asleep_ns()
        self.was_read = True
