"""What the system under load shows of itself, once a second: workers, queues, lag.

Promise: the run is never disturbed by it: a part that does not reply is missing in a sample, and no error is raised.
Refusal: it asks what `es status` asks and reads /proc; it opens no store. One sample is four requests, and with a broker
one connection; a roll call of all workers is another one, every 5 s. docs/load.md says what that costs.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from domain.features import registry
from domain.kernel.errors import EsError, Kind
from domain.kernel.messages import Body
from es.connection import Connection
from es.state import progress_of, queues_of, state_of
from load.results import ServerSide

if TYPE_CHECKING:
    from adapters.settings import Settings

_ROLL_CALL_EVERY = 5
"""Seconds."""
_RETRY_S = 0.1
_END_WAIT_S = 3.0
_CURRENT = "current"


class Sampler:
    """Samples the server side in a thread of its own, from its making to `close`."""

    def __init__(self, settings: Settings, kinds: Collection[str], *, started_s: float) -> None:
        """`kinds` are the requests of the run: their features' rows are probed for `lag_ms`. `started_s` is the monotonic
        time of the run's start, from which seconds are counted.
        """
        self.samples: list[ServerSide] = []
        """One for each second, ordered by number. A second is missing while a part keeps the sampler waiting."""
        self._settings = settings
        self._started_s = started_s
        self._ending = Event()
        self._called: Body | None = None
        self._called_at = 0
        self._meters = _Meters()
        self._probe = _Probe(settings, probed_kinds(settings, kinds), self._ending)
        self._thread = Thread(target=self._run, name="server-side", daemon=True)
        self._thread.start()

    @property
    def latest(self) -> ServerSide | None:
        """The newest sample, if there is one."""
        return self.samples[-1] if self.samples else None

    def __enter__(self) -> Sampler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it. A part that does not reply is waited for 3 s at most."""
        self._ending.set()
        self._thread.join(_END_WAIT_S)

    def _run(self) -> None:
        with closing(Connection(self._settings)) as connection:
            while not self._ending.is_set():
                self.samples.append(self._sample(connection))
                passed_s = time.monotonic() - self._started_s
                self._ending.wait(1 - passed_s % 1)

    def _sample(self, connection: Connection) -> ServerSide:
        number = max(int(time.monotonic() - self._started_s), 0)
        found: Body = {"workers": [], "queues": [], "projections": [], "followers": []}
        with suppress(EsError):  # the sample is empty: the report shows a gap
            found = self._state(connection, number)
        current = [state for state in found["projections"] if state["state"] == _CURRENT]
        self._probe.begin(max((state["head"] for state in current), default=None))
        lag = {state["projection"]: state["lag"] for state in current}
        lag |= {state["role"]: state["lag"] for state in found["followers"] if "lag" in state}
        queues = {queue["role"]: queue["waiting"] for queue in found["queues"]}
        workers = [self._meters.worker(worker) for worker in found["workers"] if worker["pid"]]
        return ServerSide(number, workers, queues, lag, self._probe.lag_ms)

    def _state(self, connection: Connection, number: int) -> Body:
        """The state of the system. With a broker the workers of the last roll call stay for 5 s."""
        if self._settings.is_local or self._called is None or number >= self._called_at + _ROLL_CALL_EVERY:
            self._called, self._called_at = state_of(self._settings, connection.ask), number
            return self._called
        progress = progress_of(self._settings, connection.ask)
        return {**self._called, **progress, "queues": queues_of(self._settings)}


# --- the lag of reads ------------------------------------------------------------------------


def probed_kinds(settings: Settings, kinds: Collection[str]) -> list[str]:
    """The list query of the first projection of each feature that has one, among the features of these requests."""
    known = registry(settings.features)
    found = []
    for name in sorted({kind.partition(".")[0] for kind in kinds}):
        feature = known.feature(name)
        projections = known.projections_of(feature) if feature is not None and feature.model else ()
        if projections:
            first = projections[0].name
            found.append(f"{name}.list" if first == name else f"{name}.{first}.list")
    return found


class _Probe:
    """How long the newest event of the store takes to be readable.

    It takes the head of the store that a sample has seen, and times the queries that wait for that position, as
    `es users list --after POSITION` does: until the rows include it, with the round trip. One probe runs at a time. While it
    waits, the time that it has waited is the lag so far.
    """

    def __init__(self, settings: Settings, kinds: Sequence[str], ending: Event) -> None:
        self._settings = settings
        self._kinds = kinds
        self._ending = ending
        self._head: int | None = None
        self._since_s: float | None = None
        self._measured_ms: float | None = None
        self._wanted = Event()
        if kinds:
            Thread(target=self._run, name="lag-probe", daemon=True).start()

    def begin(self, head: int | None) -> None:
        """Probe a position, unless a probe runs. Without one the last position is probed again: no worker may reply."""
        self._head = self._head if head is None else head
        if self._head is not None and not self._wanted.is_set():
            self._since_s = time.monotonic()
            self._wanted.set()

    @property
    def lag_ms(self) -> float | None:
        """What the last probe measured, or what the running one has waited if that is more."""
        since_s = self._since_s
        waited_ms = 0.0 if since_s is None else (time.monotonic() - since_s) * 1000
        if self._measured_ms is None:
            return waited_ms if waited_ms > 1000 else None
        return round(max(self._measured_ms, waited_ms), 1)

    def _run(self) -> None:
        with closing(Connection(self._settings)) as connection:
            while not self._ending.is_set():
                if not self._wanted.wait(_RETRY_S):
                    continue
                head, since_s = self._head, self._since_s
                assert since_s is not None
                if self._wait_for(connection, head):
                    self._measured_ms = (time.monotonic() - since_s) * 1000
                self._since_s = None
                self._wanted.clear()

    def _wait_for(self, connection: Connection, head: int | None) -> bool:
        """Whether the rows of every kind included the position."""
        body = {"limit": 1, "after_position": head}
        for kind in self._kinds:
            while True:
                try:
                    connection.ask("projections", kind, body)
                    break
                except EsError as error:
                    if error.kind is not Kind.UNAVAILABLE or self._ending.wait(_RETRY_S):
                        return False
        return True


# --- the processes of this machine -----------------------------------------------------------


class _Usage(NamedTuple):
    at_s: float
    cpu_s: float
    memory_mb: float


class _Meters:
    """CPU and memory of workers of this machine, from /proc. Elsewhere, and for other machines, they are None."""

    def __init__(self) -> None:
        self._host = socket.gethostname()
        self._before: dict[int, _Usage] = {}

    def worker(self, worker: Mapping[str, Any]) -> Mapping[str, Any]:
        """A worker as in `ServerSide.workers`. `cpu_percent` is of one core, since the last sample; the first has none."""
        used = usage_of(worker["pid"]) if worker["host"] == self._host else None
        before = self._before.get(worker["pid"])
        percent = None
        if used is not None:
            self._before[worker["pid"]] = used
            if before is not None and used.at_s > before.at_s and used.cpu_s >= before.cpu_s:
                percent = round((used.cpu_s - before.cpu_s) / (used.at_s - before.at_s) * 100, 1)
        return {
            **{name: worker[name] for name in ("role", "instance", "host", "pid")},
            "cpu_percent": percent,
            "memory_mb": None if used is None else round(used.memory_mb, 1),
        }


def usage_of(pid: int) -> _Usage | None:
    """The processor time and the resident memory of a process; None if it has ended, or without /proc."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8")
    except OSError:
        return None
    # After the name in parentheses, which may contain anything: state is field 0.
    fields = text.rpartition(")")[2].split()
    ticks, pages = int(fields[11]) + int(fields[12]), int(fields[21])
    return _Usage(
        time.monotonic(),
        ticks / os.sysconf("SC_CLK_TCK"),
        pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
    )
