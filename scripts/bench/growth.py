"""What a system costs as it grows: the same measurements at several sizes, in rounds, over any parts.

Each size has a system of its own, filled by the real bulk. What a round creates is little beside the size, except at the
smallest. `embedded.py` and `distributed.py` choose the parts and the measurements.
"""

from __future__ import annotations

import random
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass

from scripts.bench.bulks import People, percentile, run_bulk
from scripts.bench.clients import Client, timed_ms
from scripts.bench.cpu import Group, Meter, written_bytes
from scripts.bench.home import caught_up, peaks_mb, rebuilt, roles
from scripts.bench.report import Figures
from tests.support.system import System

PAGE = 100
_CHUNK = 100_000
_KEPT = 2000


@dataclass(frozen=True)
class Sizes:
    users: Sequence[int]
    rounds: int
    bulk: int
    """The number of creates in a bulk that is measured."""
    singles: int
    """The number of single commands and queries of each kind in a round."""
    seconds: float
    """How long creates are kept in flight in a round, about."""
    idle_s: float
    listed: int = 100_000

    @property
    def erased(self) -> int:
        """The number of erasures in a round."""
        return max(self.singles // 40, 2)


class OneSize(ABC):
    """The measurements in one system. One that fails is noted, and the others go on."""

    def __init__(self, system: System, users: int, sizes: Sizes, figures: Figures, notes: list[str]) -> None:
        self._system = system
        self._users = users
        self._sizes = sizes
        self._figures = figures
        self._notes = notes
        self._people = People()
        self._ids: list[str] = []
        """Some of the users, from all of the store."""
        self._fresh: list[str] = []
        """Users of the last bulk: for erasures."""
        self._random = random.Random(users)  # the same choices in each run

    # --- for the parts -------------------------------------------------------------------------

    @abstractmethod
    def _parts(self, number: int) -> list[tuple[str, Callable[[], None]]]:
        """The measurements of one round by their names, in order."""

    @abstractmethod
    def _stored(self) -> Mapping[str, int]:
        """The bytes that are stored now, by part."""

    def _beside(self) -> Mapping[str, Group]:
        """The processes of servers, whose CPU time is shown beside that of the roles."""
        return {}

    # --- rounds --------------------------------------------------------------------------------

    def all(self, *, until_s: float) -> None:
        """All rounds, or as many as end in time; one at least."""
        self._fill()
        with closing(Client(self._system.settings, People("single"))) as self._client:
            self._all_rounds(until_s)
        for role, mb in peaks_mb(self._system).items():
            self._add(f"memory of {role}", mb)

    def _all_rounds(self, until_s: float) -> None:
        self._rounds("round", self._round, until_s)

    def _rounds(self, what: str, act: Callable[[int], None], until_s: float) -> None:
        for number in range(self._sizes.rounds):
            if number and time.monotonic() > until_s:
                self._notes.append(
                    f"{self._users:,} users: time for {number} of {self._sizes.rounds} rounds ({what})"
                )
                break
            _say(f"{self._users:,} users: {what} {number + 1} of {self._sizes.rounds}")
            act(number)

    def _round(self, number: int) -> None:
        for name, part in self._parts(number):
            with self._noting(name):
                part()

    @contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._notes.append(f"{what} at {self._users:,} users failed: {type(error).__name__}: {error}")

    def _add(self, name: str, figure: float) -> None:
        self._figures.add(name, figure, self._users)

    def _add_times(self, name: str, ms: Sequence[float]) -> None:
        self._add(f"{name} p50", percentile(ms, 0.5))
        self._add(f"{name} p99", percentile(ms, 0.99))

    def _chosen(self, count: int) -> list[str]:
        return self._random.choices(self._ids, k=count)

    # --- filling -------------------------------------------------------------------------------

    def _fill(self) -> None:
        empty = self._stored()
        while self._people.made < self._users:
            _say(f"{self._users:,} users: {self._people.made:,} are created")
            count = min(_CHUNK, self._users - self._people.made)
            ran = run_bulk(self._system, "create", self._people.next(count))
            assert not ran.error_codes, ran.error_codes
            self._ids += ran.user_ids[:: max(self._users // _KEPT, 1)]
            self._add("fill", ran.rate)
        caught_up(self._system)
        found = self._stored()
        for name, used in found.items():
            self._add(f"stored in {name}", (used - empty[name]) / self._users)
        self._add("stored", (sum(found.values()) - sum(empty.values())) / self._users)

    # --- measurements --------------------------------------------------------------------------

    def _bulk(self) -> None:
        count = self._sizes.bulk
        groups = roles(self._system)
        cpu, beside, written = Meter(groups), Meter(self._beside()), Meter(groups, written_bytes)
        ran = run_bulk(self._system, "create", self._people.next(count))
        caught_up(self._system)
        assert not ran.error_codes, ran.error_codes
        self._fresh = ran.user_ids
        used = cpu.read()
        for name, cpu_s in [*used.items(), *beside.read().items(), ("client", ran.client_cpu_s)]:
            self._add(f"CPU of {name}", cpu_s / count * 1000)
        self._add("CPU", sum(used.values()) / count * 1000)
        for role, wrote in (all_written := written.read()).items():
            self._add(f"written by {role}", wrote / count)
        self._add("written", sum(all_written.values()) / count)
        self._add("bulk", ran.rate)

    def _creates(self) -> None:
        count = self._sizes.singles
        created = [timed_ms(self._client.create) for _ in range(count)]
        self._add_times("create", created)
        self._add("one in flight", 1000 * count / sum(created))

    def _renames(self) -> None:
        chosen = self._chosen(self._sizes.singles)
        self._add_times("rename", [timed_ms(self._client.rename, each) for each in chosen])

    def _gets(self) -> None:
        chosen = self._chosen(self._sizes.singles)
        self._add_times("get", [timed_ms(self._client.get, each) for each in chosen])

    def _pages(self) -> None:
        chosen = self._chosen(max(self._sizes.singles // 4, 2))
        pages = [timed_ms(self._client.page, after=each, limit=PAGE) for each in chosen]
        self._add("list page p50", percentile(pages, 0.5))

    def _readable_at_rest(self) -> None:
        self._readable("at rest")

    def _readable(self, when: str) -> None:
        """From the answer to a create until its user can be read at its position."""
        ms = []
        for _ in range(max(self._sizes.singles // 4, 5)):
            time.sleep(self._random.uniform(0.0, 0.05))  # at any moment of a follower's pause
            made = self._client.create()
            ms.append(timed_ms(self._client.get, made["user_id"], after_position=made["position"]))
        self._add_times(f"readable {when}", ms)

    def _erasures(self) -> None:
        ids = [self._fresh.pop() for _ in range(self._sizes.erased)]
        self._add("erasure p50", percentile((timed_ms(self._client.erase, each) for each in ids), 0.5))

    def _rebuild(self) -> None:
        caught_up(self._system)
        events, seconds = rebuilt(self._system)
        self._add("rebuild", events / seconds)

    def _rest(self) -> None:
        caught_up(self._system)
        time.sleep(1.5)  # the last checkpoints are saved a second later
        meter = Meter(roles(self._system))
        time.sleep(self._sizes.idle_s)
        for role, cpu_s in meter.read().items():
            self._add(f"rest of {role}", 100 * cpu_s / self._sizes.idle_s)


def at_all_sizes(
    opened: Callable[[int], AbstractContextManager[OneSize]],
    sizes: Sizes,
    figures: Figures,
    notes: list[str],
    *,
    until_s: float = float("inf"),
) -> None:
    """All rounds at all sizes, each in what `opened` returns for so many users.

    `until_s` is by `time.monotonic`. Each size has its share of the time that is left, and one round at least.
    """
    for number, users in enumerate(sizes.users):
        now_s = time.monotonic()
        share_s = (until_s - now_s) / (len(sizes.users) - number)
        if number and users / _bulk_rate(figures) > share_s / 2:
            notes.append(f"{users:,} users: left out, there was no time to create them")
            break
        with opened(users) as size:
            size.all(until_s=now_s + share_s)


def _bulk_rate(figures: Figures) -> float:
    """Creates per second at the largest size so far; next to none if none was measured."""
    found = figures.of("bulk")
    return figures.median("bulk", max(found)) if found else 0.001


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
