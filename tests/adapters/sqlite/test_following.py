"""A follower of a SQLite file: how soon it notices a commit, and what it does while none comes. Its clock is moved by hand."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapters.sqlite import event_store
from adapters.sqlite.event_store import SqliteStore
from domain.kernel.events import NO_STREAM, Position
from domain.kernel.ports.event_store import CaughtUp
from tests.support.builders import append, some_events

LATEST_S = 0.0101
"""The longest time until a follower notices a commit."""


class Clock:
    """Sleep takes no time. `plans` are calls, by the number of seconds that must have passed."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.sleeps = 0
        self.plans: dict[float, Callable[[], object]] = {}

    def monotonic(self) -> float:
        return self.now_s

    def time(self) -> float:
        return time.time()  # as the times of files

    def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        self.now_s += seconds
        for at_s in [at_s for at_s in self.plans if at_s <= self.now_s]:
            self.plans.pop(at_s)()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(event_store, "time", clock)
    assert event_store._COMMIT_S > 0
    monkeypatch.setattr(event_store, "_COMMIT_S", 60.0)  # this process may be paused
    return clock


@pytest.fixture
def looks(store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Position]:
    """The heads that the followers of a store read. Its last commit is long ago."""
    append(store, "user-1", NO_STREAM, some_events(1))
    let_time_pass(path)
    heads: list[Position] = []
    real = store._head

    def noted() -> tuple[Position, object]:
        found = real()
        heads.append(found[0])
        return found

    monkeypatch.setattr(store, "_head", noted)
    return heads


def let_time_pass(path: Path) -> None:
    os.utime(f"{path}-wal", (0, 0))


def noticed(following: Iterator[object], clock: Clock) -> float:
    """When the follower yields the next event."""
    for item in following:
        if not isinstance(item, CaughtUp):
            return clock.now_s
    raise AssertionError("the follower ended")


def test_an_idle_follower_reads_nothing_but_ten_heads_a_second(
    store: SqliteStore, clock: Clock, looks: list[Position]
) -> None:
    said = list(store.follow(1, stopped=lambda: clock.now_s > 10))

    assert clock.sleeps > 900, "it would have noticed a commit"
    assert len(looks) == len(said) <= 101


def test_a_commit_is_noticed_at_the_next_look_also_after_a_long_silence(
    store: SqliteStore, clock: Clock, looks: list[Position]
) -> None:
    clock.plans[60.0] = lambda: append(store, "user-1", 0, some_events(1))

    assert noticed(store.follow(1, stopped=lambda: clock.now_s > 99), clock) <= 60 + LATEST_S
    assert len(looks) < 700


def test_a_commit_that_waits_for_the_disk_is_noticed_when_it_becomes_visible(
    store: SqliteStore, clock: Clock, looks: list[Position], path: Path
) -> None:
    # It is written to the log at first, and looked for in vain.
    clock.plans[60.0] = lambda: os.utime(f"{path}-wal")
    clock.plans[60.07] = lambda: appended_later(store, path)

    assert noticed(store.follow(1, stopped=lambda: clock.now_s > 99), clock) <= 60.07 + LATEST_S


def appended_later(store: SqliteStore, path: Path) -> None:
    """Append an event; the time of the log stays that of an earlier write."""
    before = os.stat(f"{path}-wal")
    append(store, "user-1", 0, some_events(1))
    os.utime(f"{path}-wal", ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_commit_that_left_no_trace_in_the_time_of_the_log_is_noticed_soon(
    store: SqliteStore, clock: Clock, looks: list[Position], path: Path
) -> None:
    def commit() -> None:
        append(store, "user-1", 0, some_events(1))
        let_time_pass(path)

    clock.plans[60.0] = commit

    assert noticed(store.follow(1, stopped=lambda: clock.now_s > 99), clock) <= 60.0 + 0.1 + LATEST_S
