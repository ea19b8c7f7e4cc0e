"""The read model contract, generations: made on first use, rebuilt beside the current one, promoted, removed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from uuid import uuid4

import pytest

from domain.kernel.history import History, Mark
from domain.kernel.ports.read_model import Generation, GenerationState, Parked, ReadModel
from tests.support.read_models import (
    NOW_US,
    OTHERS,
    THINGS,
    apply,
    moved,
    prepared,
    promoted,
    put,
    rebuilding,
    row,
)
from tests.support.together import at_once
from tests.support.waiting import DEADLINE_S, eventually

OpenReadModel = Callable[[], ReadModel]
CURRENT, BUILDING, RETIRED = GenerationState.CURRENT, GenerationState.BUILDING, GenerationState.RETIRED


def test_the_current_generation_is_created_empty_on_first_use(read_model: ReadModel) -> None:
    assert read_model.generations(THINGS) == []

    generation = prepared(read_model)

    assert generation == Generation("things", 1, CURRENT, 0, 0, NOW_US, None)
    assert read_model.rows(THINGS) == []
    assert read_model.generations(THINGS) == [generation]


def test_a_second_prepare_returns_the_current_generation(
    read_model: ReadModel, open_read_model: OpenReadModel
) -> None:
    generation = moved(read_model, prepared(read_model), put(1))

    assert read_model.prepare(THINGS, now_us=NOW_US + 5) == generation
    assert open_read_model().prepare(THINGS, now_us=NOW_US + 5) == generation


@pytest.mark.parametrize("building", [False, True], ids=["prepare", "begin"])
def test_workers_that_create_a_generation_at_once_get_the_same_one(
    open_read_model: OpenReadModel, building: bool
) -> None:
    model = open_read_model()
    if building:
        prepared(model)

    found = at_once(lambda _: rebuilding(model) if building else prepared(model), range(16))

    assert {generation.number for generation in found} == {2 if building else 1}
    assert len(model.generations(THINGS)) == (2 if building else 1)


def test_a_rebuild_fills_a_new_generation_beside_the_current_one(read_model: ReadModel) -> None:
    current = moved(read_model, prepared(read_model), put(1, "live"))

    building = moved(read_model, read_model.begin_rebuild(THINGS, now_us=NOW_US + 1), put(1, "new"))

    assert building == Generation("things", 2, BUILDING, 1, 1, NOW_US + 1, None)
    assert read_model.generations(THINGS) == [current, building]
    assert read_model.rows(THINGS) == [row(1, "live")], "readers see the current one"
    current = moved(read_model, current, put(2, "live"))
    assert read_model.rows(THINGS) == [row(1, "live"), row(2, "live")], "and it can be filled further"


def test_an_unfinished_rebuild_is_resumed(read_model: ReadModel, open_read_model: OpenReadModel) -> None:
    prepared(read_model)
    building = moved(read_model, rebuilding(read_model), put(1))

    assert open_read_model().begin_rebuild(THINGS, now_us=NOW_US + 9) == building
    assert len(read_model.generations(THINGS)) == 2


def test_promoting_makes_a_generation_current_and_retires_the_old_one(read_model: ReadModel) -> None:
    moved(read_model, prepared(read_model), put(1, "old"))
    built = moved(read_model, rebuilding(read_model), put(1, "new"))

    assert read_model.promote(THINGS, built, now_us=NOW_US + 7) is True

    states = [(g.number, g.state, g.finished_at_us) for g in read_model.generations(THINGS)]
    assert states == [(1, RETIRED, None), (2, CURRENT, NOW_US + 7)]
    assert read_model.rows(THINGS) == [row(1, "new")]
    assert prepared(read_model).number == 2


def test_a_generation_behind_the_current_one_is_not_promoted(read_model: ReadModel) -> None:
    current = moved(read_model, prepared(read_model), put(1, "old"), put(2, "old"))
    behind = moved(read_model, rebuilding(read_model), put(1, "new"))

    assert read_model.promote(THINGS, behind, now_us=NOW_US) is False

    assert read_model.generations(THINGS) == [current, behind]
    assert read_model.rows(THINGS) == [row(1, "old"), row(2, "old")]
    level = moved(read_model, behind, put(2, "new"))
    assert read_model.promote(THINGS, level, now_us=NOW_US) is True


def test_promoting_compares_stored_checkpoints_and_not_the_given_one(read_model: ReadModel) -> None:
    moved(read_model, prepared(read_model), put(1), put(2))
    building = moved(read_model, rebuilding(read_model), put(1))
    boast = Generation("things", building.number, BUILDING, 99, 99, NOW_US, None)

    assert read_model.promote(THINGS, boast, now_us=NOW_US) is False
    assert len(read_model.rows(THINGS)) == 2


def test_a_generation_behind_one_of_another_history_replaces_it(read_model: ReadModel) -> None:
    moved(read_model, prepared(read_model), put(1, "old"), put(2, "old"))
    behind = moved(read_model, rebuilding(read_model), put(1, "new"))

    assert read_model.promote(THINGS, behind, now_us=NOW_US, other_history=True) is True

    assert [g.state for g in read_model.generations(THINGS)] == [RETIRED, CURRENT]
    assert read_model.rows(THINGS) == [row(1, "new")]


def test_a_generation_keeps_the_marks_of_its_history(
    read_model: ReadModel, open_read_model: OpenReadModel
) -> None:
    reached = History().reach(Mark(3, uuid4())).reach(Mark(9, uuid4()))

    after = apply(read_model, prepared(read_model), put(1), reached=reached)

    assert after is not None
    assert after.history == reached
    assert prepared(open_read_model()).history == reached


def test_nothing_is_applied_after_another_projector_moved_the_marks(read_model: ReadModel) -> None:
    ours, theirs = (History().reach(Mark(3, uuid4())) for _ in range(2))
    generation = prepared(read_model)
    assert apply(read_model, generation, put(1), reached=ours) is not None
    of_their_history = replace(generation, checkpoint=3, marks=theirs.to_bytes())

    assert apply(read_model, of_their_history, put(2), reached=History(4)) is None

    assert read_model.rows(THINGS) == [row(1)]


def test_a_rebuild_starts_over_instead_of_an_unfinished_generation(
    read_model: ReadModel, open_read_model: OpenReadModel
) -> None:
    current = moved(read_model, prepared(read_model), put(1, "live"))
    parked = [Parked(1, "thing-1", "not readable")]
    lost = apply(read_model, rebuilding(read_model), put(7), parked=parked)
    assert lost is not None

    begun = open_read_model().begin_rebuild(THINGS, now_us=NOW_US + 1, instead_of=lost)

    assert begun == Generation("things", 3, BUILDING, 0, 0, NOW_US + 1, None), "a number of its own"
    assert read_model.generations(THINGS) == [current, begun]
    assert read_model.parked(THINGS, lost) == []
    assert apply(read_model, lost, put(8)) is None, "a late rebuild of the removed one changes nothing"
    assert read_model.begin_rebuild(THINGS, now_us=NOW_US + 2, instead_of=lost) == begun, (
        "it is replaced once"
    )
    assert read_model.rows(THINGS) == [row(1, "live")]


def test_a_generation_is_promoted_once(read_model: ReadModel) -> None:
    moved(read_model, prepared(read_model), put(1))
    built = promoted(read_model, put(1))

    assert read_model.promote(THINGS, built, now_us=NOW_US + 1) is False
    assert [g.state for g in read_model.generations(THINGS)] == [RETIRED, CURRENT]


def test_the_next_rebuild_removes_a_retired_generation(read_model: ReadModel) -> None:
    parked = [Parked(1, "thing-1", "not readable")]
    old = apply(read_model, prepared(read_model), put(1), parked=parked)
    assert old is not None
    promoted(read_model, put(1))
    assert [g.number for g in read_model.generations(THINGS)] == [1, 2], "kept until then"

    rebuilding(read_model)

    assert [g.number for g in read_model.generations(THINGS)] == [2, 3]
    assert read_model.parked(THINGS, old) == []
    assert read_model.rows(THINGS) == [row(1)]


def test_a_rebuild_of_one_projection_does_not_affect_others(read_model: ReadModel) -> None:
    other = prepared(read_model, OTHERS)
    prepared(read_model)
    for _ in range(2):
        promoted(read_model)

    assert read_model.generations(OTHERS) == [other]


def test_readers_never_see_less_while_generations_are_promoted(open_read_model: OpenReadModel) -> None:
    model = open_read_model()
    count = 200
    moved(model, prepared(model), *(put(key, "g1") for key in range(1, count + 1)))
    done = threading.Event()
    seen: list[int] = []

    def read() -> None:
        while not done.is_set():
            rows = model.rows(THINGS)
            assert [found["thing_id"] for found in rows] == [*range(1, count + 1)]
            assert len({found["colour"] for found in rows}) == 1, "one complete generation"
            assert len(model.rows(THINGS, keys=[count])) == 1
            seen.append(1)

    with ThreadPoolExecutor(3) as pool:
        reading = [pool.submit(read) for _ in range(3)]
        try:
            for number in range(2, 12):  # each rebuild removes the retired generation while it is read
                promoted(model, *(put(key, f"g{number}") for key in range(1, count + 1)))
                so_far = len(seen)
                eventually(lambda: len(seen) > so_far + 3 or any(r.done() for r in reading), "reading")  # noqa: B023
        finally:
            done.set()
        for reader in reading:
            reader.result(DEADLINE_S)

    assert model.rows(THINGS, keys=[1]) == [row(1, "g11")]
