"""Renames of one user in one bulk: what a command costs as its stream grows."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence

from scripts.bench.beside import bare
from scripts.bench.bulks import GROUP, run_bulk
from scripts.bench.home import throw_away_home
from scripts.bench.report import Figures, Section, Wanted, lines_of
from tests.support.system import System

LINES = (
    Wanted("renames of one user in one bulk, per second", "hot", goals={0: 5000}, loss=0.2),
    Wanted("  to a bare append to one stream", "hot", over="bare hot"),
)


def section(figures: Figures, notes: Sequence[str]) -> Section:
    lines = lines_of(LINES, figures)
    return Section("A hot stream", lines, counts="events in the stream", notes=notes)


class Hot:
    """A user for each length, whose stream is filled up to it before the rounds."""

    def __init__(
        self, lengths: Sequence[int], rounds: int, figures: Figures, notes: list[str], *, limit_s: float
    ) -> None:
        self._lengths = lengths
        self._rounds = rounds
        self._figures = figures
        self._notes = notes
        self._limit_s = limit_s
        """The longest that filling one stream may take."""

    def all(self) -> None:
        with throw_away_home() as system:
            for length in self._lengths:
                print(f"a stream of {length:,} events", file=sys.stderr, flush=True)
                user_id = system.create(f"hot-{length}@example.com")
                if missing := self._fill(system, user_id, length - 1):
                    self._notes.append(
                        f"{length:,} events: left out, {missing:,} renames were missing after {self._limit_s:g} s"
                    )
                    return
                self._measure(system, user_id, length)

    def _fill(self, system: System, user_id: str, missing: int) -> int:
        """Rename the user so many times; how many renames are missing when time is up."""
        end_s = time.monotonic() + self._limit_s
        while missing and (left_s := end_s - time.monotonic()) > 0:
            missing -= run_bulk(system, "rename", _renames(user_id, missing), limit_s=left_s).succeeded
        return missing

    def _measure(self, system: System, user_id: str, length: int) -> None:
        count = min(length, 8 * GROUP)
        for _ in range(self._rounds):
            ran = run_bulk(system, "rename", _renames(user_id, count), limit_s=self._limit_s)
            self._figures.add("hot", ran.succeeded / ran.seconds, length)
            self._figures.add(
                "bare hot", bare("hot", system.root / f"bare-{length}", count, GROUP).rate, length
            )
            if ran.succeeded < count:
                self._notes.append(
                    f"{length:,} events: {count - ran.succeeded:,} of {count:,} renames failed"
                )


def _renames(user_id: str, count: int) -> list[Mapping[str, str]]:
    return [{"user_id": user_id, "name": f"Grace Hopper {number}"} for number in range(count)]
