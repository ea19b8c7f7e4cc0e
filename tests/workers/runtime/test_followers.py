"""Followers: the loop from a checkpoint, over a store in memory, and the thread that retries it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from adapters.log import Log
from adapters.memory.event_store import MemoryStore
from domain.kernel.errors import EsError, PartUnavailable
from domain.kernel.events import NO_STREAM, Position, Recorded
from domain.kernel.history import History
from tests.support.builders import append, some_events, streams_of
from tests.support.relaying import Checkpoints
from tests.support.waiting import DEADLINE_S, before
from workers.runtime.followers import CheckpointedFollowing, Follower, progress

DOWN = PartUnavailable("vault", "PostgreSQL at db: connection refused", "Start it.")


class Bookkeeping:
    """A process that records the positions of each reaction. A run of it stops at the head of its store."""

    def __init__(self, log: Log, *, clock_step_s: float = 0.0, **options: Any) -> None:
        """Each look at the clock moves it by `clock_step_s`."""
        self.store = MemoryStore()
        self.checkpoints = Checkpoints()
        self.reactions: list[list[Position]] = []
        self.fails_at: Position | None = None
        self._new_following = partial(
            CheckpointedFollowing,
            "bookkeeping",
            store=self.store,
            checkpoints=self.checkpoints,
            log=log,
            monotonic_s=count(0.0, clock_step_s).__next__,
            **options,
        )

    def store_events(self, number: int, stream: str = "thing-1") -> None:
        version = dict(streams_of(self.store)).get(stream, NO_STREAM)
        append(self.store, stream, version, some_events(number))

    def run(self, stopped: Callable[[], bool] = lambda: False) -> CheckpointedFollowing:
        following, at_head, is_late = self._new_following(), threading.Event(), before(DEADLINE_S)

        def after_each() -> None:
            if following.reached == self.store.head():
                at_head.set()

        def is_over() -> bool:
            assert not is_late(), "after_each was not called at the head"
            return at_head.is_set() or stopped()

        following.run(self._react, is_over, after_each=after_each)
        return following

    def _react(self, batch: Sequence[Recorded], reached: History) -> None:
        if self.fails_at in [recorded.position for recorded in batch]:
            raise DOWN
        self.reactions.append([recorded.position for recorded in batch])


Make = Callable[..., Bookkeeping]


@pytest.fixture
def make(log: Log) -> Make:
    return lambda **options: Bookkeeping(log, **options)


# --- following from a checkpoint -------------------------------------------------------------


def test_every_event_is_reacted_to_once_and_in_order(make: Make) -> None:
    process = make()
    process.store_events(3)

    following = process.run()

    assert process.reactions == [[1], [2], [3]]
    assert following.reached == 3
    assert progress(process.store, following.reached) == {"position": 3, "head": 3, "lag": 0}


@pytest.mark.parametrize(("limit", "reactions"), [(1, [[1], [2], [3]]), (2, [[1, 2], [3]]), (5, [[1, 2, 3]])])
def test_a_reaction_gets_at_most_the_batch_limit(make: Make, limit: int, reactions: list[list[int]]) -> None:
    process = make(batch_limit=limit)
    process.store_events(3)

    process.run()

    assert process.reactions == reactions


def test_events_of_other_streams_are_passed_without_a_reaction(make: Make) -> None:
    process = make(prefixes=["user-"])
    process.store_events(2)
    process.store_events(1, "user-1")
    process.store_events(1)

    assert process.run().reached == 4
    assert process.reactions == [[3]]
    assert process.checkpoints.moves == [("save", 4)]


def test_a_run_resumes_from_the_checkpoint_of_the_run_before(make: Make) -> None:
    process = make()
    process.store_events(2)
    process.run()
    process.store_events(2)

    process.run()

    assert process.reactions == [[1], [2], [3], [4]]
    assert process.checkpoints.moves == [("save", 2), ("save", 4)]


@pytest.mark.parametrize(("clock_step_s", "saved"), [(0.0, [3]), (0.6, [2, 3]), (1.1, [1, 2, 3])])
def test_the_checkpoint_is_saved_once_per_second_and_at_the_end(
    make: Make, clock_step_s: float, saved: list[int]
) -> None:
    process = make(clock_step_s=clock_step_s)
    process.store_events(3)

    process.run()

    assert process.checkpoints.moves == [("save", position) for position in saved]


def test_a_failed_reaction_ends_the_run_and_its_event_comes_again(make: Make) -> None:
    process = make(clock_step_s=1.1)
    process.store_events(3)
    process.fails_at = 2

    with pytest.raises(PartUnavailable):
        process.run()

    assert process.checkpoints.moves == [("save", 1)], "saved after the reaction, never before"
    process.fails_at = None
    process.run()
    assert process.reactions == [[1], [2], [3]]


def test_a_stop_within_a_batch_leaves_its_events_to_the_next_run(make: Make) -> None:
    process = make(batch_limit=5)
    process.store_events(3)
    looks = count()

    process.run(stopped=lambda: next(looks) == 2)

    assert (process.reactions, process.checkpoints.moves) == ([], [])
    process.run()
    assert process.reactions == [[1, 2, 3]]


def test_an_idle_follower_calls_after_each_so_that_it_can_do_timed_work(make: Make) -> None:
    process = make()

    process.run()  # returns only because `after_each` was called

    assert process.reactions == []
    assert process.checkpoints.moves == [], "an unchanged checkpoint is not saved"


def test_after_the_store_went_back_new_events_at_old_positions_are_seen(make: Make, log_file: Path) -> None:
    process = make()
    process.store_events(2)
    process.checkpoints.reached = History(10)

    process.run()

    assert process.checkpoints.moves == [("rewind", 0), ("save", 2)]
    assert process.reactions == [[1], [2]], "without a mark it starts at the beginning"
    assert '"other-history"' in log_file.read_text()


# --- the thread ------------------------------------------------------------------------------


class Run:
    """Raises the given errors, one per run, then returns."""

    def __init__(self, *errors: BaseException) -> None:
        self.left = list(errors)

    def __call__(self, _: Callable[[], bool]) -> None:
        if self.left:
            raise self.left.pop(0)


def run_to_its_end(run: Run, log: Log, reported: list[EsError]) -> Follower:
    follower = Follower(
        "f",
        run,
        stopping=threading.Event(),
        on_wait=lambda _, error: reported.append(error),
        on_work=lambda _: None,
        log=log,
    )
    follower.join()
    return follower


def test_a_follower_reports_an_outage_and_runs_again(log: Log) -> None:
    run, reported = Run(DOWN, DOWN), list[EsError]()

    follower = run_to_its_end(run, log, reported)

    assert reported == [DOWN, DOWN]
    assert run.left == []
    assert follower.crashed is None


def test_a_follower_ends_although_its_part_stays_away(log: Log) -> None:
    stopping = threading.Event()
    runs: list[bool] = []

    def run(_: Callable[[], bool]) -> None:
        runs.append(stopping.is_set())
        if len(runs) == 3:
            stopping.set()
        assert len(runs) < 100, "it runs again and again"
        raise DOWN

    follower = Follower("f", run, stopping=stopping, on_wait=lambda *_: None, on_work=lambda _: None, log=log)
    follower.join()

    assert follower.crashed is None
    assert runs == [False] * 3


def test_a_follower_that_waits_for_its_part_ends_at_once(log: Log) -> None:
    stopping, waits = threading.Event(), threading.Event()
    runs: list[int] = []

    def run(_: Callable[[], bool]) -> None:
        runs.append(len(runs))
        raise DOWN

    follower = Follower(
        "f", run, stopping=stopping, on_wait=lambda *_: waits.set(), on_work=lambda _: None, log=log
    )
    assert waits.wait(DEADLINE_S)
    stopping.set()
    follower.join()

    assert follower.crashed is None
    assert len(runs) < 100


def test_a_follower_says_when_a_run_lasts_again(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, worked, stopping = 100.0, list[tuple[str, float]](), threading.Event()
    monkeypatch.setattr("workers.runtime.followers.time.monotonic", lambda: now_s)

    def run(stopped: Callable[[], bool]) -> None:
        nonlocal now_s
        if now_s == 100.0:
            now_s += 1
            raise DOWN
        while not stopped():
            now_s += 1
            if now_s > 120:
                stopping.set()

    follower = Follower(
        "f",
        run,
        stopping=stopping,
        on_wait=lambda *_: None,
        on_work=lambda name: worked.append((name, now_s)),
        log=log,
    )
    follower.join()

    assert worked == [("f", 107.0)]


def test_a_bug_ends_the_follower_and_is_logged_by_its_class(log: Log, log_file: Path) -> None:
    reported: list[EsError] = []

    follower = run_to_its_end(Run(LookupError("ada@example.com")), log, reported)

    assert isinstance(follower.crashed, LookupError)
    assert reported == []
    assert '"follower-crashed"' in log_file.read_text()
    assert "ada@example.com" not in log_file.read_text()
