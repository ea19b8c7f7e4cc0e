"""The embedded profile at several sizes: real workers, beside bare loops and other libraries in the same rounds.

Each size has a home of its own, filled by the real bulk. Creates with 64 in flight come last, because they create most.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager

from scripts.bench.beside import Echo, bare, peers
from scripts.bench.bulks import GROUP, percentile
from scripts.bench.clients import load, timed_ms
from scripts.bench.growth import OneSize, Sizes, at_all_sizes
from scripts.bench.home import caught_up, stored_bytes, throw_away_home, used_bytes
from scripts.bench.report import Figures
from tests.support.runs import ES
from tests.support.system import System
from tests.support.waiting import eventually

IN_FLIGHT = 64
LOAD_PER_S = 1000.0
ERASURES_PER_S = 10.0


def measure(sizes: Sizes, figures: Figures, notes: list[str], *, until_s: float = float("inf")) -> None:
    """`until_s` is by `time.monotonic`."""

    @contextmanager
    def opened(users: int) -> Iterator[Embedded]:
        with throw_away_home() as system:
            yield Embedded(system, users, sizes, figures, notes)

    at_all_sizes(opened, sizes, figures, notes, until_s=until_s)


class Embedded(OneSize):
    """The measurements in one home."""

    def __init__(self, system: System, users: int, sizes: Sizes, figures: Figures, notes: list[str]) -> None:
        super().__init__(system, users, sizes, figures, notes)
        self._bare = system.root / "bare"

    def phases(self) -> list[tuple[str, Callable[[int], None]]]:
        return [*super().phases(), ("many in flight, round", self._in_flight)]

    @contextmanager
    def connected(self) -> Iterator[None]:
        with closing(Echo(self._system.root / "echo")) as self._echo, super().connected():
            yield

    def _parts(self, number: int) -> list[tuple[str, Callable[[], None]]]:
        return [
            ("bulk", self._bulk),
            ("creates", self._creates),
            ("renames", self._renames),
            ("gets", self._gets),
            ("pages", self._pages),
            ("readable at rest", self._readable_at_rest),
            ("readable under load", self._readable_under_load),
            ("erasures", self._erasures),
            ("rebuild", self._rebuild),
            ("list", self._list),
            ("start-up", self._start_up),
            ("rest", self._rest),
            ("other libraries", lambda: self._peers(number)),
        ]

    def _stored(self) -> Mapping[str, int]:
        return stored_bytes(self._system)

    def fill(self) -> None:
        super().fill()
        bare("create", self._bare, self.users, GROUP)
        for name in ("events", "vault"):
            self._add(f"bare stored in {name}", used_bytes(self._bare / f"{name}.db") / self.users)

    # --- one round -------------------------------------------------------------------------------

    def _bulk(self) -> None:
        super()._bulk()
        count = self._sizes.bulk
        limit = bare("create", self._bare, count, GROUP)
        self._add("bare bulk", limit.rate)
        self._add("bare written", limit.written / count)
        self._add("bare CPU", limit.cpu_s / count * 1000)

    def _creates(self) -> None:
        super()._creates()
        self._add_times("bare create", bare("create", self._bare, self._sizes.singles, 1).ms)

    def _renames(self) -> None:
        super()._renames()
        self._add_times("bare rename", bare("rename", self._bare, self._sizes.singles).ms)

    def _gets(self) -> None:
        super()._gets()
        self._add_times("bare get", [timed_ms(self._echo.ask) for _ in range(self._sizes.singles)])

    def _readable_under_load(self) -> None:
        with load(self._system, "rename", self._chosen(500), LOAD_PER_S) as beside:
            time.sleep(0.3)
            self._readable("under load")
        self._add("load beside", beside["count"] / beside["seconds"])
        caught_up(self._system)

    def _erasures(self) -> None:
        super()._erasures()
        limit = bare("erase", self._bare, self._sizes.erased)
        self._add("bare erasure p50", percentile(limit.ms, 0.5))

    def _rebuild(self) -> None:
        caught_up(self._system)
        limit = bare("rebuild", self._system.home / "events.db", self._bare / "rebuilt")
        self._add("bare rebuild", limit.rate)
        super()._rebuild()

    def _list(self) -> None:
        count = min(self._sizes.listed, self.users)
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
