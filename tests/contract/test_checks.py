"""The read model contract, checks: a generation that is built, compared and kept; snapshots, reports and phases."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from domain.kernel.errors import PartUnavailable
from domain.kernel.ports.read_model import Generation, GenerationState, Parked, Phase, ReadModel, Report, Why
from domain.kernel.projection import Delete
from tests.support.read_models import (
    NAMED,
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

OpenReadModel = Callable[[], ReadModel]
CURRENT, BUILDING = GenerationState.CURRENT, GenerationState.BUILDING
CHECKED, RETIRED = GenerationState.CHECKED, GenerationState.RETIRED


def checking(model: ReadModel) -> Generation:
    return model.begin_rebuild(THINGS, now_us=NOW_US + 1, why=Why.CHECK, code="b")


def states(model: ReadModel) -> list[tuple[int, GenerationState]]:
    return [(each.number, each.state) for each in model.generations(THINGS)]


# --- checks ----------------------------------------------------------------------------------


def test_a_check_leaves_the_current_generation_current_and_is_kept(read_model: ReadModel) -> None:
    moved(read_model, prepared(read_model), put(1, "old"))
    built = moved(read_model, checking(read_model), put(1, "new"))

    assert read_model.end_check(THINGS, built, now_us=NOW_US + 2, rows=1)

    assert states(read_model) == [(1, CURRENT), (2, CHECKED)]
    assert read_model.rows(THINGS) == [row(1, "old")]
    assert read_model.rows(THINGS, generation=built) == [row(1, "new")]
    assert not read_model.promote(THINGS, built, now_us=NOW_US)


def test_a_generation_keeps_its_reason_and_its_code(
    read_model: ReadModel, open_read_model: OpenReadModel
) -> None:
    prepared(read_model)
    begun = checking(read_model)
    again = open_read_model().begin_rebuild(THINGS, now_us=NOW_US, why=Why.REBUILD, code="c")

    assert again == begun
    assert (again.why, again.code) == (Why.CHECK, "b"), "an unfinished one keeps its reason"
    assert moved(read_model, again, put(1)).why is Why.CHECK


def test_an_unfinished_check_becomes_a_rebuild_for_rows_of_another_history(read_model: ReadModel) -> None:
    prepared(read_model)
    begun = moved(read_model, checking(read_model), put(1))

    taken = read_model.begin_rebuild(THINGS, now_us=NOW_US, why=Why.OTHER_HISTORY)

    assert (taken, taken.why) == (begun, Why.OTHER_HISTORY)
    assert not read_model.end_check(THINGS, begun, now_us=NOW_US)
    assert states(read_model) == [(1, CURRENT), (2, BUILDING)]


def test_a_check_keeps_retired_generations_and_replaces_the_one_before(read_model: ReadModel) -> None:
    moved(read_model, prepared(read_model), put(1))
    promoted(read_model, put(1))
    for _ in range(2):
        assert read_model.end_check(THINGS, checking(read_model), now_us=NOW_US)

    assert states(read_model) == [(1, RETIRED), (2, CURRENT), (4, CHECKED)]


def test_a_check_that_was_ended_or_replaced_is_not_ended_again(read_model: ReadModel) -> None:
    prepared(read_model)
    begun = checking(read_model)
    assert read_model.end_check(THINGS, begun, now_us=NOW_US)

    assert not read_model.end_check(THINGS, begun, now_us=NOW_US)
    rebuild = rebuilding(read_model)
    assert not read_model.end_check(THINGS, rebuild, now_us=NOW_US), "it is no check"


# --- snapshots -------------------------------------------------------------------------------


def test_a_snapshot_shows_one_moment_while_projectors_go_on(
    read_model: ReadModel, open_read_model: OpenReadModel
) -> None:
    parked = [Parked(1, "thing-1", "not readable")]
    before = apply(read_model, prepared(read_model), put(1), put(2), parked=parked)
    assert before is not None
    with read_model.snapshot(THINGS, before) as snapshot:
        other = open_read_model()
        late = [Parked(3, "thing-3", "not readable")]
        assert apply(other, before, put(1, "blue"), Delete(2), put(3), parked=late)

        assert snapshot.generation == before
        assert snapshot.rows(None, 10) == [row(1), row(2)]
        assert snapshot.rows(1, 10) == [row(2)]
        assert snapshot.rows(None, 1) == [row(1)]
        assert snapshot.parked == 1
        assert other.rows(THINGS) == [row(1, "blue"), row(3)]

    assert read_model.rows(THINGS) == [row(1, "blue"), row(3)], "it ends with its context"


def test_a_snapshot_reads_text_keys_by_code_point(read_model: ReadModel) -> None:
    keys = ["", "B", "a", "b", "é", "\U0001f600"]
    generation = moved(read_model, prepared(read_model, NAMED), *map(put, reversed(keys)), projection=NAMED)
    with read_model.snapshot(NAMED, generation) as snapshot:
        assert [each["thing_id"] for each in snapshot.rows(None, 10)] == keys
        assert [each["thing_id"] for each in snapshot.rows("B", 2)] == ["a", "b"]


def test_a_snapshot_of_a_removed_generation_is_unavailable(read_model: ReadModel) -> None:
    first = prepared(read_model)
    promoted(read_model)
    rebuilding(read_model)

    with pytest.raises(PartUnavailable, match="removed"), read_model.snapshot(THINGS, first):
        pass


# --- reports and phases ----------------------------------------------------------------------


def test_a_report_is_kept_until_one_of_its_generations_is_removed(
    read_model: ReadModel, open_read_model: OpenReadModel
) -> None:
    prepared(read_model)
    checked = checking(read_model)
    read_model.end_check(THINGS, checked, now_us=NOW_US)
    for text in ("", '{"a": "é"}'):
        read_model.save_report(THINGS, Report(1, checked.number, NOW_US, text))

    assert open_read_model().reports(THINGS) == [Report(1, 2, NOW_US, '{"a": "é"}')]
    assert read_model.reports(OTHERS) == []
    checking(read_model)
    assert read_model.reports(THINGS) == []


def test_phases_tell_when_a_generation_was_built_and_current_and_why(read_model: ReadModel) -> None:
    read_model.prepare(THINGS, now_us=5, code="a")
    moved(read_model, prepared(read_model), put(1), put(2))
    begun = read_model.begin_rebuild(THINGS, now_us=10, code="b")
    built = moved(read_model, begun, put(1), put(2), put(3))
    assert read_model.phases(THINGS, limit=1) == [Phase(2, BUILDING, Why.REBUILD, "b", 10, None, None, 3)]
    assert read_model.promote(THINGS, built, now_us=20, rows=3)

    assert read_model.phases(THINGS, limit=9) == [
        Phase(1, CURRENT, Why.FIRST_USE, "a", 5, 20, None, 2),
        Phase(2, BUILDING, Why.REBUILD, "b", 10, 20, 3, 3),
        Phase(2, CURRENT, Why.REBUILD, "b", 20, None, None, 0),
    ]
    assert [each.from_us for each in read_model.phases(THINGS, limit=1)] == [20]


def test_a_projection_keeps_its_last_phases(read_model: ReadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    for technology in ("sqlite", "postgres"):
        monkeypatch.setattr(f"adapters.{technology}.generations._PHASES_KEPT", 3)
    prepared(read_model)
    for _ in range(4):
        promoted(read_model)

    assert [each.generation for each in read_model.phases(THINGS, limit=9)] == [4, 5, 5]


def test_the_rows_of_one_generation_are_counted(read_model: ReadModel) -> None:
    prepared(read_model)
    built = moved(read_model, rebuilding(read_model), put(1), put(2))

    assert read_model.count(THINGS, limit=9, generation=built) == 2
    assert read_model.count(THINGS, limit=9) == 0
