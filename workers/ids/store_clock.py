"""The store's clock as one `ids` worker knows it: the only time there is for ids.

Promise: now is the recorded time of an event of one's own, carried on by the machine's monotonic clock, so it
may be late by as long as the store took to answer, and is never early. Refusal: no wall clock is read here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from domain.kernel.errors import PartUnavailable
from domain.kernel.events import NO_STREAM
from domain.kernel.ids import position_at
from domain.lanes import layout
from domain.lanes.errors import StoreWentBack
from domain.lanes.layout import WorkerSeen
from workers.ids.sure_store import Attempt, SureStore

POSITIONS_PER_NS = 562_949_953
"""In units of 2^-37: 4096 positions in 10^6 ns, less than a nanosecond in a second off. A division would cost more."""
_LOOKS = 4  # before a slow answer is taken as it is
_FRESH_NS = 200_000_000  # a look that took longer says too little about now
_NAP_NS = 1_000_000_000  # a machine that slept for longer has to look at the clock again
_SINCE_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # only some systems count their sleep


def asleep_ns() -> int:
    """How long this machine has slept since it was started; the monotonic clock leaves that out."""
    return time.clock_gettime_ns(_SINCE_BOOT) - time.clock_gettime_ns(time.CLOCK_MONOTONIC)


@dataclass(frozen=True, slots=True)
class Machine:
    """What a worker knows of the machine and the process it runs in."""

    host: str
    pid: int
    monotonic_ns: Callable[[], int] = time.monotonic_ns
    asleep_ns: Callable[[], int] = asleep_ns


class StoreClock:
    """Belongs to one identity of a worker, which looks at the clock by appending to a stream of its own."""

    def __init__(self, token: UUID, machine: Machine, store: SureStore) -> None:
        self._stream = layout.worker_stream(token)
        self._machine = machine
        self._store = store
        self._version = NO_STREAM  # of the worker's own stream
        self._sighting: Attempt | None = None  # sent and not yet answered
        self._asleep_at_look_ns = 0
        self.was_seen = False
        self.offset = 0
        """Position of the store's clock minus position of the monotonic clock."""

    def now(self) -> int:
        """The position of the store's clock, as far as it is known without asking."""
        return self._monotonic_position() + self.offset

    def _monotonic_position(self) -> int:
        return self._machine.monotonic_ns() * POSITIONS_PER_NS >> 37

    def machine_slept(self) -> bool:
        """Whether time went by since the last look that the monotonic clock knows nothing of."""
        return self._machine.asleep_ns() - self._asleep_at_look_ns > _NAP_NS

    def look(self, *, tries: int) -> bool:
        """Ask the store; False when a copy of this process, a clone or a fork, has asked under this identity."""
        for left in reversed(range(_LOOKS)):
            sent_ns = self._machine.monotonic_ns()
            if self._sighting is None:
                seen = WorkerSeen(self._machine.host, self._machine.pid)
                self._sighting = self._store.attempt([(self._stream, self._version, [seen])], "look-at-clock")
            sighting = self._sighting
            (version,) = self._store.settle(sighting, tries=tries)
            if version is None:
                return False
            self._version, self._sighting = version, None
            recorded = self._store.read(self._stream, version, limit=1, tries=tries)
            if not recorded:
                raise StoreWentBack(self._stream, version, NO_STREAM)
            # An answer that was lost at first may tell of long ago; one that is only slow is taken in the end.
            is_fresh = self._machine.monotonic_ns() - sent_ns <= _FRESH_NS
            if not sighting.unsure and (is_fresh or not left):
                self._set(recorded[0].recorded_at_us)
                return True
        raise PartUnavailable("event store", "its clock cannot be seen, because answers get lost")

    def _set(self, recorded_at_us: int) -> None:
        # From when the answer came, not from when it was asked for: late is harmless, early is ahead.
        self.offset = position_at(recorded_at_us) - self._monotonic_position()
        self._asleep_at_look_ns = self._machine.asleep_ns()
        self.was_seen = True
