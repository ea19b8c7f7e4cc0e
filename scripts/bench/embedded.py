"""The embedded profile at several sizes: real workers, beside bare loops and other libraries in the same rounds.

Each size has a home of its own, filled by the real bulk. What a round creates is little beside the size, except at the
smallest; creates with 64 in flight come last, because they create most.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime

from scripts.bench.beside import Echo, bare, peers
from scripts.bench.bulks import GROUP, People, percentile, run_bulk
from scripts.bench.clients import Client, load, timed_ms
from scripts.bench.cpu import Meter, written_bytes
from scripts.bench.home import caught_up, peaks_mb, roles, stored_bytes, throw_away_home, used_bytes
from scripts.bench.report import Figures
from tests.support.runs import ES
from tests.support.system import System
from tests.support.waiting import eventually

IN_FLIGHT = 64
PAGE = 100
LOAD_PER_S = 1000.0
ERASURES_PER_S = 10.0
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


class Embedded:
    """All rounds at all sizes. A measurement that fails is noted, and the others go on."""

    def __init__(
        self, sizes: Sizes, figures: Figures, notes: list[str], *, until_s: float = float("inf")
    ) -> None:
        self._sizes = sizes
        self._figures = figures
        self._notes = notes
        self._until_s = until_s
        """By `time.monotonic`. Each size has its share of the time that is left, and one round at least."""

    def all(self) -> None:
        for number, users in enumerate(self._sizes.users):
            now_s = time.monotonic()
            share_s = (self._until_s - now_s) / (len(self._sizes.users) - number)
            if number and users / self._bulk_rate() > share_s / 2:
                self._notes.append(f"{users:,} users: left out, there was no time to create them")
                break
            with throw_away_home() as system:
                size = OneSize(system, users, self._sizes, self._figures, self._notes)
                size.all(until_s=now_s + share_s)

    def _bulk_rate(self) -> float:
        """Creates per second at the largest size so far; next to none if none was measured."""
        found = self._figures.of("bulk")
        return self._figures.median("bulk", max(found)) if found else 0.001


class OneSize:
    """The measurements in one home."""

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
        self._bare = system.root / "bare"
        self._random = random.Random(users)  # the same choices in each run

    def all(self, *, until_s: float) -> None:
        """All rounds, or as many as end in time; one at least."""
        self._fill()
        # What creates most comes last, in the last quarter of the time.
        rounds_until_s = until_s - (until_s - time.monotonic()) / 4 if until_s < float("inf") else until_s
        with ExitStack() as ending:
            self._client = ending.enter_context(closing(Client(self._system.settings, People("single"))))
            self._echo = ending.enter_context(closing(Echo(self._system.root / "echo")))
            self._rounds("round", self._round, rounds_until_s)
            self._rounds("many in flight, round", self._in_flight, until_s)
        for role, mb in peaks_mb(self._system).items():
            self._add(f"memory of {role}", mb)

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
        parts: list[tuple[str, Callable[[], None]]] = [
            ("bulk", self._bulk),
            ("single commands", self._singles),
            ("queries", self._queries),
            ("readable at rest", lambda: self._readable("at rest")),
            ("readable under load", self._readable_under_load),
            ("erasures", self._erasures),
            ("rebuild", self._rebuild),
            ("list", self._list),
            ("start-up", self._start_up),
            ("rest", self._rest),
            ("other libraries", lambda: self._peers(number)),
        ]
        for name, part in parts:
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

    def _meter(self) -> Meter:
        return Meter(roles(self._system))

    # --- filling -------------------------------------------------------------------------------

    def _fill(self) -> None:
        empty = stored_bytes(self._system)
        while self._people.made < self._users:
            _say(f"{self._users:,} users: {self._people.made:,} are created")
            count = min(_CHUNK, self._users - self._people.made)
            ran = run_bulk(self._system, "create", self._people.next(count))
            assert not ran.error_codes, ran.error_codes
            self._ids += ran.user_ids[:: max(self._users // _KEPT, 1)]
            self._add("fill", ran.rate)
        caught_up(self._system)
        found = stored_bytes(self._system)
        for name, used in found.items():
            self._add(f"stored in {name}", (used - empty[name]) / self._users)
        self._add("stored", sum(found.values()) / self._users - sum(empty.values()) / self._users)
        bare("create", self._bare, self._users, GROUP)
        for name in ("events", "vault"):
            self._add(f"bare stored in {name}", used_bytes(self._bare / f"{name}.db") / self._users)

    # --- one round -------------------------------------------------------------------------------

    def _bulk(self) -> None:
        count = self._sizes.bulk
        groups = roles(self._system)
        cpu, written = Meter(groups), Meter(groups, written_bytes)
        ran = run_bulk(self._system, "create", self._people.next(count))
        caught_up(self._system)
        assert not ran.error_codes, ran.error_codes
        self._fresh = ran.user_ids
        used = cpu.read()
        for role, cpu_s in [*used.items(), ("client", ran.client_cpu_s)]:
            self._add(f"CPU of {role}", cpu_s / count * 1000)
        self._add("CPU", sum(used.values()) / count * 1000)
        for role, wrote in (all_written := written.read()).items():
            self._add(f"written by {role}", wrote / count)
        self._add("written", sum(all_written.values()) / count)
        self._add("bulk", ran.rate)
        limit = bare("create", self._bare, count, GROUP)
        self._add("bare bulk", limit.rate)
        self._add("bare written", limit.written / count)
        self._add("bare CPU", limit.cpu_s / count * 1000)

    def _singles(self) -> None:
        count = self._sizes.singles
        created = [timed_ms(self._client.create) for _ in range(count)]
        self._add_times("create", created)
        self._add("one in flight", 1000 * count / sum(created))
        self._add_times("bare create", bare("create", self._bare, count, 1).ms)
        chosen = self._chosen(count)
        self._add_times("rename", [timed_ms(self._client.rename, each) for each in chosen])
        self._add_times("bare rename", bare("rename", self._bare, count).ms)

    def _queries(self) -> None:
        chosen = self._chosen(self._sizes.singles)
        self._add_times("get", [timed_ms(self._client.get, each) for each in chosen])
        self._add_times("bare get", [timed_ms(self._echo.ask) for _ in chosen])
        pages = [timed_ms(self._client.page, after=each, limit=PAGE) for each in chosen[: len(chosen) // 4]]
        self._add("list page p50", percentile(pages, 0.5))

    def _readable(self, when: str) -> None:
        """From the answer to a create until its user can be read at its position."""
        ms = []
        for _ in range(max(self._sizes.singles // 4, 5)):
            time.sleep(self._random.uniform(0.0, 0.05))  # at any moment of a follower's pause
            made = self._client.create()
            ms.append(timed_ms(self._client.get, made["user_id"], after_position=made["position"]))
        self._add_times(f"readable {when}", ms)

    def _readable_under_load(self) -> None:
        with load(self._system, "rename", self._chosen(500), LOAD_PER_S) as beside:
            time.sleep(0.3)
            self._readable("under load")
        self._add("load beside", beside["count"] / beside["seconds"])
        caught_up(self._system)

    def _erasures(self) -> None:
        ids = [self._fresh.pop() for _ in range(max(self._sizes.singles // 40, 2))]
        self._add(
            "erasure p50",
            percentile((timed_ms(self._client.erase, each) for each in ids), 0.5),
        )
        self._add("bare erasure p50", percentile(bare("erase", self._bare, len(ids)).ms, 0.5))

    def _rebuild(self) -> None:
        caught_up(self._system)
        limit = bare("rebuild", self._system.home / "events.db", self._bare / "rebuilt")
        self._add("bare rebuild", limit.rate)
        self._system.es("projections", "rebuild", "users").ok()
        current = self._system.generation()
        begun, finished = (
            datetime.fromisoformat(current[name].replace("Z", "+00:00"))
            for name in ("started_at", "finished_at")
        )
        self._add("rebuild", current["events"] / (finished - begun).total_seconds())

    def _list(self) -> None:
        count = min(self._sizes.listed, self._users)
        limit = bare("list", self._bare / "rebuilt", count)
        self._add("bare list", limit.rate)
        ms = timed_ms(self._start, [ES, "users", "list", "--limit", str(count), "--json"])
        self._add("list", count / ms * 1000)

    def _start_up(self) -> None:
        programs = {
            "import typer": [sys.executable, "-c", "import typer"],
            "es ids next": [ES, "ids", "next"],
            "es users list": [ES, "users", "list", "--limit", "1"],
        }
        for name, program in programs.items():
            runs = [timed_ms(self._start, program) for _ in range(2)]
            self._add(name, min(runs))

    def _start(self, program: Sequence[str]) -> None:
        subprocess.run(
            program,
            env=self._system.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
            timeout=600,
        )

    def _rest(self) -> None:
        caught_up(self._system)
        time.sleep(1.5)  # the last checkpoints are saved a second later
        meter = self._meter()
        time.sleep(self._sizes.idle_s)
        for role, cpu_s in meter.read().items():
            self._add(f"rest of {role}", 100 * cpu_s / self._sizes.idle_s)

    def _peers(self, number: int) -> None:
        folder = self._system.root / f"peers-{number}"
        for name, found in peers(folder, max(self._sizes.singles // 2, 2)).items():
            if isinstance(found, str):
                if (note := f"{name}: {found}") not in self._notes:
                    self._notes.append(note)
                continue
            for figure, value in found.items():
                self._add(f"{name} {figure}", value)

    def _in_flight(self, _number: int) -> None:
        with self._noting("creates in flight"):
            self._creates_in_flight()

    def _creates_in_flight(self) -> None:
        rate = self._client.creates(GROUP * 2, in_flight=IN_FLIGHT)
        count = int(rate * self._sizes.seconds) + 1
        self._add("in flight", alone := self._client.creates(count, in_flight=IN_FLIGHT))
        self._add("bare in flight", bare("create", self._bare, min(count, 20_000), IN_FLIGHT).rate)
        victims = [self._fresh.pop() for _ in range(min(len(self._fresh), int(ERASURES_PER_S * 60)))]
        with load(self._system, "erase", victims, ERASURES_PER_S) as erasing:
            beside = self._client.creates(count, in_flight=IN_FLIGHT)
        self._add("beside erasures", beside)
        self._add("beside erasures, share", beside / alone)
        self._add("erasures beside", erasing["count"] / erasing["seconds"])
        self._fresh = victims[erasing["count"] :]
        eventually(lambda: self._client.owed() == 0, "no erasure is owed", within_s=60)
        caught_up(self._system)

    def _chosen(self, count: int) -> list[str]:
        return self._random.choices(self._ids, k=count)


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
