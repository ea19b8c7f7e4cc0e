"""A follower of a SQLite file: how soon it notices a commit, and what it does while none comes.

Once with the kernel's word, and once with looks at the time of the log, whose clock is moved by hand.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adapters.sqlite import event_store, news
from adapters.sqlite.event_store import SqliteStore
from adapters.sqlite.news import LATEST_S
from domain.kernel.events import NO_STREAM, Position
from domain.kernel.ports.event_store import CaughtUp
from tests.support.builders import append, some_events
from tests.support.waiting import eventually


class Clock:
    """Sleep takes no time. The kernel tells nothing. `plans` are calls, by the number of seconds that must have passed."""

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
    for module in (event_store, news):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(news, "_watch", lambda: None)
    assert news._VISIBLE_S > 0
    monkeypatch.setattr(news, "_VISIBLE_S", 60.0)  # this process may be paused
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

    assert noticed(store.follow(1, stopped=lambda: clock.now_s > 99), clock) <= 60 + LATEST_S + 1e-4
    assert len(looks) < 700


def test_a_commit_that_waits_for_the_disk_is_noticed_when_it_becomes_visible(
    store: SqliteStore, clock: Clock, looks: list[Position], path: Path
) -> None:
    # It is written to the log at first, and looked for in vain.
    clock.plans[60.0] = lambda: os.utime(f"{path}-wal")
    clock.plans[60.07] = lambda: appended_later(store, path)

    assert noticed(store.follow(1, stopped=lambda: clock.now_s > 99), clock) <= 60.07 + LATEST_S + 1e-4


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

    assert noticed(store.follow(1, stopped=lambda: clock.now_s > 99), clock) <= 60.0 + 0.18 + LATEST_S + 1e-4


# --- with the kernel's word ---------------------------------------------------------------


needs_kernel = pytest.mark.skipif(news._watch() is None, reason="the kernel tells of no writes here")


@pytest.fixture
def lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the kernel's word a follower looks again after a thousand seconds: longer than a test waits."""
    monkeypatch.setattr(event_store, "_SILENCE_S", 1000.0)


class Following:
    """A thread that follows a store until it has seen so many events."""

    def __init__(self, store: SqliteStore, count: int) -> None:
        self.seen: list[Position] = []
        self.caught_up = 0
        self._store, self._count = store, count
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for item in self._store.follow(0, stopped=lambda: len(self.seen) == self._count):
            if isinstance(item, CaughtUp):
                self.caught_up += 1
            else:
                self.seen.append(item.position)

    def ended(self) -> bool:
        return not self._thread.is_alive()


@needs_kernel
@pytest.mark.usefixtures("lazy")
def test_the_kernel_tells_each_commit(store: SqliteStore) -> None:
    following = Following(store, 3)
    for number in range(3):
        eventually(lambda count=number: following.caught_up > count, what="the follower caught up")  # type: ignore[misc]
        append(store, "user-1", number - 1, some_events(1))

    eventually(following.ended, what="the follower saw all events")
    assert following.seen == [1, 2, 3]


@needs_kernel
@pytest.mark.usefixtures("lazy")
def test_the_kernel_tells_the_commit_of_another_connection(store: SqliteStore, path: Path) -> None:
    following = Following(store, 1)
    eventually(lambda: following.caught_up > 0, what="the follower caught up")

    other = SqliteStore(path)
    append(other, "user-1", NO_STREAM, some_events(1))

    eventually(following.ended, what="the follower saw all events")
    assert following.seen == [1]
    other.close()


@needs_kernel
def test_an_idle_follower_with_the_kernels_word_reads_some_heads_a_second_only(
    store: SqliteStore, looks: list[Position]
) -> None:
    begun_s = time.monotonic()
    said = list(store.follow(1, stopped=lambda: time.monotonic() - begun_s > 0.5))

    assert len(said) <= 6
    assert len(looks) <= len(said) + 1, "the head was read although nothing was written"


@needs_kernel
def test_a_log_that_was_replaced_is_watched_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"")
    watched = news.News(str(log))
    log.unlink()
    while watched.wait(0.0):  # the kernel tells the end of the watch
        watched._written_s = float("-inf")
    watched.renew()
    log.write_bytes(b"")
    watched.renew()

    log.write_bytes(b"written")

    assert watched.wait(10.0)
    watched.close()


@needs_kernel
@pytest.mark.parametrize("call", ["inotify_init1", "inotify_add_watch"])
def test_a_user_without_a_watch_left_follows_by_the_time_of_the_log(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    import inotify_simple  # type: ignore[import-untyped]

    def refuse(*_: Any, **__: Any) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    if call == "inotify_init1":
        monkeypatch.setattr(inotify_simple, "INotify", refuse)
    else:
        monkeypatch.setattr(inotify_simple.INotify, "add_watch", refuse)
    following = Following(store, 1)
    eventually(lambda: following.caught_up > 0, what="the follower caught up")

    append(store, "user-1", NO_STREAM, some_events(1))

    eventually(following.ended, what="the follower saw all events")
    assert following.seen == [1]
