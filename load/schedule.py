"""Start each request at its intended time, or drop and count it: the core of a load process.

Promise: latency runs from the intended start to the arrival of the reply, so a stall shows in every request that was meant
to start meanwhile. A request is in the journal before it is sent. Refusal: no arrival is skipped or sent late.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from random import Random
from typing import Any, Protocol

from domain.kernel.messages import Body
from es.client import Failure, new_command_id
from es.connection import command_body
from load.counts import Counts
from load.data import Data, Prepared
from load.journal import Journal
from load.scenario import Operation, Scenario

ACTOR = "load"
_BRIEF_S = 0.05


class Clock:
    """The monotonic time, and waiting for it."""

    def now_s(self) -> float:
        return time.monotonic()

    def wait(self, duration_s: float, stop: threading.Event) -> None:
        """Wait, at most until `stop` is set. Brief waits are exact instead."""
        if duration_s < _BRIEF_S:
            time.sleep(duration_s)
        else:
            stop.wait(duration_s - _BRIEF_S / 2)


class Job:
    """A request that was started."""

    __slots__ = ("command_id", "intended_s", "number", "prepared", "second")

    def __init__(
        self, prepared: Prepared, command_id: str | None, number: int, second: int, intended_s: float
    ) -> None:
        self.prepared = prepared
        self.command_id = command_id
        self.number = number  # in the journal; -1 if it is not there
        self.second = second
        self.intended_s = intended_s

    @property
    def body(self) -> Body:
        if self.command_id is None:
            return self.prepared.input
        return command_body(self.command_id, ACTOR, self.prepared.input)


class Sender(Protocol):
    """Sends jobs without waiting for their replies, and calls `Schedule.answered` for each, in any thread."""

    def send(self, job: Job) -> None: ...


class Schedule:
    """The requests of one load process."""

    def __init__(
        self,
        scenario: Scenario,
        *,
        callers: int,
        random: Random,
        data: Data,
        journal: Journal,
        counts: Counts,
        stop: threading.Event,
        clock: Clock | None = None,
    ) -> None:
        """`callers` is the share of this process. `random` chooses the operations. `stop` ends the arrivals."""
        self._within_s = scenario.start_within_ms / 1000
        self._callers = callers
        self._chosen = _chosen(scenario.operations, random)
        self._data = data
        self._journal = journal
        self._counts = counts
        self._stop = stop
        self._clock = clock or Clock()

    def run(self, arrivals: Iterable[float], sender: Sender, *, start_s: float, started_us: int) -> None:
        """Start what arrives. `start_s` is second 0 on the monotonic clock, `started_us` the same since 1970."""
        clock, stop = self._clock, self._stop
        for at_s in arrivals:
            intended_s = start_s + at_s
            while (wait_s := intended_s - clock.now_s()) > 0 and not stop.is_set():
                clock.wait(wait_s, stop)
            if stop.is_set():
                return
            self._arrive(at_s, intended_s, started_us, sender)

    def _arrive(self, at_s: float, intended_s: float, started_us: int, sender: Sender) -> None:
        operation, second, counts = next(self._chosen), int(at_s), self._counts
        is_late = self._clock.now_s() - intended_s > self._within_s
        if is_late or counts.in_flight >= self._callers:
            counts.drop(second, operation.name, is_late=is_late)
            return
        prepared = self._data.prepare(operation)
        operation = prepared.operation
        command_id = new_command_id() if operation.is_command else None
        number = -1
        if operation.is_journaled:
            at_us = started_us + round(at_s * 1e6)
            # Before it is sent: otherwise a killed process could have sent a command that no ledger knows.
            number = self._journal.sent(operation.name, operation.kind, command_id, at_us, prepared.input)
        counts.start(second, operation.name)
        sender.send(Job(prepared, command_id, number, second, intended_s))

    def answered(self, job: Job, reply: Body | Failure) -> None:
        """Count and note a reply that has just arrived."""
        latency_us = round((self._clock.now_s() - job.intended_s) * 1e6)
        if job.number >= 0:
            self._journal.answered(job.number, latency_us, reply)
        self._data.learn(job.prepared, reply)
        error = None if isinstance(reply, dict) else reply.code
        self._counts.end(job.second, job.prepared.operation.name, latency_us, error)


def _chosen(operations: Sequence[Operation], random: Random) -> Iterator[Operation]:
    """Operations by their weights, for ever."""
    weights = [*accumulate(operation.weight for operation in operations)]
    while True:
        yield from random.choices(operations, cum_weights=weights, k=256)


class Failures:
    """The first error of any thread of a load process. It stops the arrivals."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self.first: BaseException | None = None

    def note(self, error: BaseException) -> None:
        if self.first is None:
            self.first = error
        self._stop.set()

    def guard(self, work: Any, *arguments: Any) -> None:
        """Call a function of a thread, and note its error."""
        try:
            work(*arguments)
        except BaseException as error:
            self.note(error)
