"""Rebuilds over real stores: the same rows in a new generation, resumable, and readers never see less."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from domain.kernel.errors import PartUnavailable
from domain.kernel.ports.read_model import Generation, GenerationState
from domain.kernel.ports.vault import Destruction, Reason
from domain.users.projection import USERS
from tests.support.accounts import ADA, GRACE, create
from tests.support.parts import before_call, replaced
from tests.support.read_side import ReadSide, a_busy_history
from tests.support.waiting import DEADLINE_S, eventually
from workers.projections.projector import Projector
from workers.projections.rebuild import unfinished

Start = Callable[[Projector], Projector]


@pytest.fixture
def projected(read_side: ReadSide) -> ReadSide:
    """A read side with the rows of a busy history: three users, eight events."""
    a_busy_history(read_side)
    read_side.project()
    return read_side


@pytest.fixture
def batches_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    return lambda size: monkeypatch.setattr("workers.projections.next_batch.REBUILD_BATCH", size)


def test_a_rebuild_fills_the_same_rows_in_a_new_generation(projected: ReadSide) -> None:
    before = projected.rows()

    built = projected.rebuilt()

    assert (built.number, built.events) == (2, 8)
    assert projected.rows() == before
    states = [(g.number, g.state) for g in projected.generations()]
    assert states == [(1, GenerationState.RETIRED), (2, GenerationState.CURRENT)]


def test_a_rebuild_corrects_wrong_rows(projected: ReadSide) -> None:
    before = projected.rows()
    projected.change_rows("UPDATE users_g1 SET version = 99 WHERE user_id = ?", next(iter(before)))

    projected.rebuilt()

    assert projected.rows() == before


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9])
def test_a_rebuild_is_complete_with_any_size_of_batch(
    projected: ReadSide, batches_of: Callable[[int], None], size: int
) -> None:
    batches_of(size)
    before = projected.rows()

    assert projected.rebuilt().events == 8
    assert projected.rows() == before


def test_a_killed_rebuild_resumes_from_its_checkpoint(
    projected: ReadSide, batches_of: Callable[[int], None]
) -> None:
    batches_of(3)
    before = projected.rows()
    looks = iter([False, True])

    assert projected.rebuild().run(lambda: next(looks)) is None

    (half,) = [g for g in projected.generations() if g.state is GenerationState.BUILDING]
    assert half.events == 3
    assert projected.rows() == before, "readers see the current generation"
    assert unfinished(projected.read_model, [USERS]) == [USERS]
    read_from: list[int] = []

    def read_all(after: int, *args: Any, **more: Any) -> Iterator[Any]:
        read_from.append(after)
        return projected.store.read_all(after, *args, **more)

    built = projected.rebuilt(store=replaced(projected.store, read_all=read_all))

    assert (built.number, built.events) == (half.number, 8)
    assert read_from[0] == half.checkpoint, "not from the beginning"
    assert projected.rows() == before
    assert unfinished(projected.read_model, [USERS]) == []


def test_a_rebuild_parks_events_that_it_cannot_apply(read_side: ReadSide) -> None:
    bad = read_side.a_user(ADA)
    read_side.store_event(bad, "user-exploded.v9")
    good = read_side.a_user(GRACE)
    read_side.prepare()

    read_side.rebuilt()

    assert len(read_side.parked()) == 1
    assert set(read_side.rows()) == {bad, good}


def test_a_rebuild_after_an_erasure_needs_no_key(projected: ReadSide) -> None:
    before = projected.rows()
    *_, alan = before
    projected.vault.destroy([Destruction(alan, Reason.ERASURE)], now_us=projected.now_us)
    projected.vault.close()  # a projection opens nothing

    projected.rebuilt()

    assert projected.rows() == before
    assert before[alan]["email"] is None


# --- events and readers during a rebuild -----------------------------------------------------


def test_a_projector_changes_to_the_promoted_generation(read_side: ReadSide, start: Start) -> None:
    a_busy_history(read_side)
    projector = start(read_side.projector())
    eventually(lambda: (projector.reached or 0) >= read_side.store.head(), "projected")

    read_side.rebuilt()
    reply = read_side.done(create("late@example.com"))
    eventually(lambda: (projector.reached or 0) >= reply["position"], "projected into the new generation")

    assert int(reply["user_id"]) in read_side.rows()
    retired, current = read_side.generations()
    assert (retired.state, retired.events) == (GenerationState.RETIRED, 8)
    assert (current.state, current.events) == (GenerationState.CURRENT, 9)


def test_readers_never_see_less_while_users_register_and_rebuilds_run(
    read_side: ReadSide, start: Start
) -> None:
    projector = start(read_side.projector())
    done = threading.Event()
    seen: list[int] = []

    def read() -> None:
        while not done.is_set():
            seen.append(len(read_side.read_model.rows(USERS)))

    a_busy_history(read_side)
    eventually(lambda: (projector.reached or 0) >= read_side.store.head(), "projected")
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        try:
            for round_ in range(4):
                for number in range(10):
                    read_side.done(create(f"user{round_}-{number}@example.com"))
                read_side.rebuilt()
        finally:
            done.set()
        reading.result(DEADLINE_S)
    eventually(lambda: (projector.reached or 0) >= read_side.store.head(), "projected")

    assert seen == sorted(seen), "never less"
    assert seen[0] >= 3
    assert len(read_side.rows()) == 43
    assert read_side.generations()[-1].number == 5


def test_events_that_are_stored_during_a_rebuild_are_in_it(read_side: ReadSide) -> None:
    a_busy_history(read_side)
    read_side.prepare()
    late: list[int] = []

    def read_all(*args: Any, **more: Any) -> Iterator[Any]:
        found = list(read_side.store.read_all(*args, **more))
        if len(late) < 5:
            late.append(read_side.a_user(f"late{len(late)}@example.com"))
        return iter(found)

    read_side.rebuilt(store=replaced(read_side.store, read_all=read_all))
    read_side.project()

    assert set(late) <= set(read_side.rows())
    assert read_side.generations()[-1].events == 8 + len(late)


def test_two_rebuilds_at_once_end_in_one_new_generation(
    projected: ReadSide, batches_of: Callable[[int], None]
) -> None:
    batches_of(2)
    before = projected.rows()
    starting = threading.Barrier(2)

    def rebuild(_: int) -> Generation | None:
        starting.wait(DEADLINE_S)
        return projected.rebuild().run(lambda: False)

    with ThreadPoolExecutor(2) as pool:
        built = [generation for generation in pool.map(rebuild, range(2)) if generation is not None]

    assert len(built) >= 1
    assert projected.rows() == before
    states = {generation.state for generation in projected.generations()}
    assert states == {GenerationState.RETIRED, GenerationState.CURRENT}
    assert projected.generations()[-1].events == 8, "no event twice"


# --- rebuilds in a worker --------------------------------------------------------------------


def test_a_rebuild_that_meets_an_outage_resumes_after_it(
    projected: ReadSide, log_text: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.projections.rebuild._REBUILD_PAUSE_S", 0.0)

    def fail() -> None:
        raise PartUnavailable("event store", "it is unavailable")

    store = before_call(projected.store, "head", fail)
    rebuilds = projected.rebuilds_of(lambda: projected.rebuild(store=store))
    seen: list[str] = []

    def look(*_: object) -> None:
        (building,) = projected.answer("projections.status", name="users")["projections"][1:]
        seen.append(building["last_error"]["message"])

    projected.rebuilds = rebuilds
    monkeypatch.setattr("workers.projections.rebuild.pause", look)
    rebuilds.ensure(USERS)
    rebuilds.join()

    assert "rebuild-waits" in log_text()
    assert seen == ["event store is unavailable: it is unavailable"]
    assert rebuilds.last_error(USERS) is None, "it is over"
    assert [g.number for g in projected.generations()] == [1, 2]
    assert projected.generations()[-1].state is GenerationState.CURRENT


def test_a_rebuild_that_meets_a_bug_can_be_requested_again(
    projected: ReadSide, log_text: Callable[[], str]
) -> None:
    store = before_call(projected.store, "head", lambda: 1 // 0)
    rebuilds = projected.rebuilds_of(lambda: projected.rebuild(store=store))

    rebuilds.ensure(USERS)
    rebuilds.join()
    logged = log_text()
    rebuilds.ensure(USERS)
    rebuilds.join()

    assert "rebuild-crashed" in logged
    assert projected.generations()[-1].state is GenerationState.CURRENT


def test_a_rebuild_that_is_requested_twice_runs_once(projected: ReadSide) -> None:
    started, proceed = threading.Event(), threading.Event()

    def head() -> int:
        started.set()
        assert proceed.wait(DEADLINE_S)
        return projected.store.head()

    store = replaced(projected.store, head=head)
    rebuilds = projected.rebuilds_of(lambda: projected.rebuild(store=store))
    with ExitStack() as ending:
        ending.callback(rebuilds.join)
        ending.callback(proceed.set)
        rebuilds.ensure(USERS)
        eventually(started.is_set, "it runs")
        rebuilds.ensure(USERS)
        rebuilds.ensure(USERS)

    assert len(projected.generations()) == 2


def test_a_rebuild_frees_the_space_of_the_generation_that_it_removes(projected: ReadSide) -> None:
    projected.rebuilt()

    projected.rebuilt()

    assert [each.number for each in projected.generations()] == [2, 3]
    assert not projected.read_model.clear(limit=0)


def test_a_removal_that_was_interrupted_is_unfinished(projected: ReadSide) -> None:
    projected.rebuilt()
    projected.read_model.prune(USERS)

    found = unfinished(projected.read_model, [USERS])

    assert found == ([USERS] if projected.read_model.clear(limit=0) else [])
    projected.rebuilds.resume(USERS)
    projected.rebuilds.join()
    assert unfinished(projected.read_model, [USERS]) == []
