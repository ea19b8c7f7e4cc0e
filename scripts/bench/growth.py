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
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
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
        self.users = users
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

    def phases(self) -> list[tuple[str, Callable[[int], None]]]:
        """The kinds of rounds by their names, in order. What creates most comes last."""
        return [("round", self._round)]

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Between the filling and the end of the last round."""
        with closing(Client(self._system.settings, People("single"))) as self._client:
            yield
        for role, mb in peaks_mb(self._system).items():
            self._add(f"memory of {role}", mb)

    def _round(self, number: int) -> None:
        for name, part in self._parts(number):
            with self._noting(name):
                part()

    @contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._notes.append(f"{what} at {self.users:,} users failed: {type(error).__name__}: {error}")

    def _add(self, name: str, figure: float) -> None:
        self._figures.add(name, figure, self.users)

    def _add_times(self, name: str, ms: Sequence[float]) -> None:
        self._add(f"{name} p50", percentile(ms, 0.5))
        self._add(f"{name} p99", percentile(ms, 0.99))

    def _chosen(self, count: int) -> list[str]:
        return self._random.choices(self._ids, k=count)

    # --- filling -------------------------------------------------------------------------------

    def fill(self) -> None:
        empty = self._stored()
        while self._people.made < self.users:
            _say(f"{self.users:,} users: {self._people.made:,} are created")
            count = min(_CHUNK, self.users - self._people.made)
            ran = run_bulk(self._system, "create", self._people.next(count))
            assert not ran.error_codes, ran.error_codes
            self._ids += ran.user_ids[:: max(self.users // _KEPT, 1)]
            self._add("fill", ran.rate)
        caught_up(self._system)
        found = self._stored()
        for name, used in found.items():
            self._add(f"stored in {name}", (used - empty[name]) / self.users)
        self._add("stored", (sum(found.values()) - sum(empty.values())) / self.users)

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

    The sizes are filled one after the other, and measured in turns: a machine that becomes slower does so for all of them.
    `until_s` is by `time.monotonic`. There is one round of each kind at least.
    """
    with ExitStack() as stack:
        filled: list[OneSize] = []
        for users in sizes.users:
            if filled and users / _filling_rate(figures) > (until_s - time.monotonic()) / 2:
                notes.append(f"{users:,} users: left out, there was no time to create them")
                break
            size = stack.enter_context(opened(users))
            size.fill()
            stack.enter_context(size.connected())
            filled.append(size)
        for place, turns in enumerate(zip(*(size.phases() for size in filled), strict=True)):
            is_last = place == len(filled[0].phases()) - 1
            left_s = until_s - time.monotonic()
            ends_s = until_s if is_last or left_s == float("inf") else until_s - left_s / 4
            for number in range(sizes.rounds):
                if number and time.monotonic() > ends_s:
                    notes.append(f"time for {number} of {sizes.rounds} rounds ({turns[0][0]})")
                    break
                for size, (what, act) in zip(filled, turns, strict=True):
                    _say(f"{size.users:,} users: {what} {number + 1} of {sizes.rounds}")
                    act(number)


def _filling_rate(figures: Figures) -> float:
    """Creates per second at the largest size so far."""
    found = figures.of("fill")
    return figures.median("fill", max(found))


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
