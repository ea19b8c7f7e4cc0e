"""The read model contract, switches: stored generations that are filled again, cancelled, and removed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from domain.kernel.errors import PartUnavailable
from domain.kernel.ports.read_model import Generation, GenerationState, Parked, ReadModel, Report, Why
from tests.support.read_models import (
    NOW_US,
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

OpenReadModel = Callable[[], ReadModel]
CURRENT, BUILDING = GenerationState.CURRENT, GenerationState.BUILDING
CHECKED, RETIRED = GenerationState.CHECKED, GenerationState.RETIRED


def states(model: ReadModel) -> list[tuple[int, GenerationState]]:
    return [(each.number, each.state) for each in model.generations(THINGS)]


def resumed(model: ReadModel, number: int, why: Why = Why.ROLLBACK) -> Generation:
    found = model.resume(THINGS, number, now_us=NOW_US + 5, why=why)
    assert found is not None
    return found


def checked(model: ReadModel) -> Generation:
    built = moved(model, model.begin_rebuild(THINGS, now_us=NOW_US, why=Why.CHECK), put(1, "checked"))
    assert model.end_check(THINGS, built, now_us=NOW_US)
    return built


@pytest.fixture
def rebuilt(read_model: ReadModel) -> ReadModel:
    """A read model with a retired generation 1 and a current one 2, one event ahead."""
    moved(read_model, prepared(read_model), put(1, "old"))
    promoted(read_model, put(1, "new"))
    moved(read_model, prepared(read_model), put(2, "new"))
    return read_model


# --- filled again ------------------------------------------------------------------------------


def test_a_retired_generation_catches_up_before_it_is_promoted(rebuilt: ReadModel) -> None:
    again = resumed(rebuilt, 1)

    assert (again.state, again.checkpoint, again.why) == (BUILDING, 1, Why.ROLLBACK)
    assert rebuilt.promote(THINGS, again, now_us=NOW_US) is False, "it is behind"
    assert rebuilt.rows(THINGS) == [row(1, "new"), row(2, "new")]
    level = moved(rebuilt, again, put(2, "old"))
    assert rebuilt.promote(THINGS, level, now_us=NOW_US + 9)
    assert states(rebuilt) == [(1, CURRENT), (2, RETIRED)]
    assert rebuilt.rows(THINGS) == [row(1, "old"), row(2, "old")]


def test_a_checked_generation_is_switched_to(rebuilt: ReadModel) -> None:
    built = checked(rebuilt)
    again = moved(rebuilt, resumed(rebuilt, built.number, Why.SWITCH), put(2, "checked"))

    assert rebuilt.promote(THINGS, again, now_us=NOW_US)

    assert states(rebuilt) == [(1, RETIRED), (2, RETIRED), (3, CURRENT)]
    assert rebuilt.rows(THINGS) == [row(1, "checked"), row(2, "checked")]


def test_one_work_runs_at_once(rebuilt: ReadModel) -> None:
    building = rebuilding(rebuilt)
    built = [each.number for each in rebuilt.generations(THINGS) if each.state is not CURRENT]

    assert built == [building.number], "a rebuild removed the retired one"
    for number in (1, 2, building.number, 99):
        assert rebuilt.resume(THINGS, number, now_us=NOW_US, why=Why.SWITCH) is None
    assert [each.state for each in rebuilt.generations(THINGS)] == [CURRENT, BUILDING]


def test_of_workers_that_resume_at_once_one_does(rebuilt: ReadModel) -> None:
    found = at_once(
        lambda _: rebuilt.resume(THINGS, 1, now_us=NOW_US, why=Why.ROLLBACK),
        range(8),
    )

    assert len([each for each in found if each]) == 1


def test_a_late_filler_of_a_retired_generation_changes_nothing(rebuilt: ReadModel) -> None:
    retired = rebuilt.generations(THINGS)[0]
    resumed(rebuilt, 1)

    assert apply(rebuilt, retired, put(9)) is None, "its state has changed"


def test_phases_tell_that_a_generation_was_filled_again(rebuilt: ReadModel) -> None:
    level = moved(rebuilt, resumed(rebuilt, 1), put(2), put(3))
    rebuilt.promote(THINGS, level, now_us=NOW_US + 9, rows=3)

    again, current = rebuilt.phases(THINGS, limit=2)
    assert (again.generation, again.state, again.why, again.rows) == (1, BUILDING, Why.ROLLBACK, 3)
    assert (again.events, again.from_us, again.to_us) == (2, NOW_US + 5, NOW_US + 9)
    assert (current.generation, current.state, current.why) == (1, CURRENT, Why.ROLLBACK)


# --- cancelled ---------------------------------------------------------------------------------


def test_a_cancelled_rebuild_is_incomplete_and_removed_with_the_retired_ones(rebuilt: ReadModel) -> None:
    check = moved(rebuilt, rebuilt.begin_rebuild(THINGS, now_us=NOW_US, why=Why.CHECK), put(1))

    ended = rebuilt.cancel(THINGS, now_us=NOW_US)

    assert ended is not None
    assert (ended.number, ended.state, ended.why) == (check.number, RETIRED, Why.CANCELLED)
    assert apply(rebuilt, check, put(2)) is None
    assert rebuilt.resume(THINGS, check.number, now_us=NOW_US, why=Why.SWITCH) is None
    assert rebuilt.prune(THINGS, keep=9) == [check.number]
    assert states(rebuilt) == [(1, RETIRED), (2, CURRENT)]


def test_a_cancelled_rollback_leaves_the_generation_retired(rebuilt: ReadModel) -> None:
    before = rebuilt.generations(THINGS)[0]
    moved(rebuilt, resumed(rebuilt, 1), put(2))

    ended = rebuilt.cancel(THINGS, now_us=NOW_US)

    assert ended is not None
    assert (ended.state, ended.checkpoint, ended.retired_at_us) == (RETIRED, 2, before.retired_at_us)
    assert resumed(rebuilt, 1).checkpoint == 2
    assert rebuilt.cancel(THINGS, now_us=NOW_US) is not None
    assert rebuilt.cancel(THINGS, now_us=NOW_US) is None, "nothing runs"


def test_the_next_check_removes_a_cancelled_one(rebuilt: ReadModel) -> None:
    rebuilt.begin_rebuild(THINGS, now_us=NOW_US, why=Why.CHECK)
    rebuilt.cancel(THINGS, now_us=NOW_US)

    rebuilt.begin_rebuild(THINGS, now_us=NOW_US, why=Why.CHECK)

    assert states(rebuilt) == [(1, RETIRED), (2, CURRENT), (4, BUILDING)]


# --- removed -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("keep", "left"), [(0, [2]), (1, [2, 3]), (2, [1, 2, 3]), (9, [1, 2, 3])])
def test_pruning_keeps_the_current_and_the_newest_of_the_others(
    rebuilt: ReadModel, keep: int, left: list[int]
) -> None:
    checked(rebuilt)

    removed = rebuilt.prune(THINGS, keep=keep)

    assert [each.number for each in rebuilt.generations(THINGS)] == left
    assert sorted([*removed, *left]) == [1, 2, 3]


def test_pruning_removes_rows_parked_events_and_reports(
    rebuilt: ReadModel, open_read_model: OpenReadModel
) -> None:
    retired = rebuilt.generations(THINGS)[0]
    parked = [Parked(9, "thing-1", "not readable")]
    assert apply(rebuilt, retired, put(5), parked=parked), "a comparison may fill it"
    rebuilt.save_report(THINGS, Report(1, 2, NOW_US, "{}"))

    rebuilt.prune(THINGS)

    assert rebuilt.parked(THINGS, retired) == []
    assert rebuilt.reports(THINGS) == []
    with pytest.raises(PartUnavailable):
        open_read_model().rows(THINGS, generation=retired)


def test_pruning_leaves_what_is_being_built(rebuilt: ReadModel) -> None:
    resumed(rebuilt, 1)

    assert rebuilt.prune(THINGS) == []
    assert states(rebuilt) == [(1, BUILDING), (2, CURRENT)]


def test_the_number_of_a_removed_generation_is_not_used_again(rebuilt: ReadModel) -> None:
    checked(rebuilt)
    rebuilt.prune(THINGS)

    assert rebuilding(rebuilt).number == 4
