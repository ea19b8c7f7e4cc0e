"""Rebuilds of many events by the real worker: their rate, and the greatest memory of its processes.

The events of `rebuild.py` are appended to the store of one home, up to each size in turn, while no worker runs. Then the
workers start and catch up. The memory of that and the memory of rebuilds are those of two processes.

What differs from real data: there were no commands, every sealed value has the same ciphertext, and the vault holds no keys and
no claims. The projection copies sealed values and reads no vault, so that its rebuilds do the same work.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice

from adapters.sqlite.event_store import SqliteStore
from domain.kernel.ports.event_store import Append
from scripts.bench.cpu import Group, peak_mb, with_children
from scripts.bench.home import caught_up, peaks_mb, rebuilt, roles, throw_away_home
from scripts.bench.rebuild import append, appends_of_users
from scripts.bench.report import Figures, Section, Wanted, lines_of
from tests.support.system import System

_ROUNDS = 2
_CATCH_UP_LIMIT_S = 1800.0
_LOOK_S = 0.2
_MEMORY = {0: 150}
_FLAT = 0.2

LINES = (
    Wanted("events rebuilt per second", "rebuild", loss=_FLAT),
    Wanted(
        "memory of projections in rebuilds, MB at most", "memory", goals=_MEMORY, at_most=True, loss=_FLAT
    ),
    Wanted(
        "memory of projections that catches up, MB at most",
        "memory of catch-up",
        goals=_MEMORY,
        at_most=True,
        loss=_FLAT,
    ),
)


def section(figures: Figures, notes: Sequence[str]) -> Section:
    return Section("Rebuilds of many events", lines_of(LINES, figures), counts="events", notes=notes)


def measure(sizes: Sequence[int], figures: Figures) -> None:
    appends = appends_of_users(max(sizes))
    stored = 0
    with throw_away_home() as system:
        for events in sorted(sizes):
            _say(f"{events:,} events: {stored:,} are stored")
            _append(system, islice(appends, events - stored))
            stored = events
            _say(f"{events:,} events: the workers catch up")
            caught_up(system, within_s=_CATCH_UP_LIMIT_S)
            figures.add("memory of catch-up", peaks_mb(system)["projections"], events)
            system.es("down").ok()
            system.up().ready()
            with _helpers_mb(roles(system)["projections"]) as helpers_mb:
                for number in range(_ROUNDS):
                    _say(f"{events:,} events: rebuild {number + 1} of {_ROUNDS}")
                    count, seconds = rebuilt(system)
                    figures.add("rebuild", count / seconds, events)
            figures.add("memory", peaks_mb(system)["projections"] + max(helpers_mb), events)


def _append(system: System, appends: Iterator[Append]) -> None:
    """Append while no worker runs, then start the workers."""
    system.es("down").ok()
    with closing(SqliteStore(system.home / "events.db")) as store:
        append(store, appends)
    system.up().ready()


@contextmanager
def _helpers_mb(workers: Group) -> Iterator[list[float]]:
    """The greatest memory so far of each process that these have started, as often as it was looked at."""
    found, ending = [0.0], threading.Event()

    def look() -> None:
        while not ending.wait(_LOOK_S):
            own = set(workers())
            found.extend(peak_mb(pid) for pid in with_children(own) if pid not in own)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield found
    finally:
        ending.set()
        looking.join()


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
