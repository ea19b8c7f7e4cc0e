"""The read model contract, changes of parked events: rows and list in one transaction, and no projector overlooks one."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import pytest

from domain.kernel.errors import EsError
from domain.kernel.events import Position
from domain.kernel.history import History, Mark
from domain.kernel.ports.read_model import Generation, Parked, ReadModel
from domain.kernel.projection import Add, Change, Operation, Put
from tests.support.read_models import (
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
FIRST, SECOND, OTHER = (
    Parked(3, "thing-1", "not readable"),
    Parked(5, "thing-1", "behind a parked event"),
    Parked(4, "thing-2", "not readable"),
)


@pytest.fixture
def parking(read_model: ReadModel) -> Generation:
    """A generation with a row and three parked events, at a checkpoint with marks."""
    reached = History().reach(Mark(2, uuid4())).reach(Mark(7, uuid4()))
    after = read_model.apply(
        THINGS, prepared(read_model), [put(1)], reached=reached, events=4, parked=[FIRST, SECOND, OTHER]
    )
    assert after is not None
    return after


def change(
    model: ReadModel,
    generation: Generation,
    *operations: Operation,
    removed: list[Position],
    parked: list[Parked] | None = None,
) -> Generation | None:
    return model.change_parked(THINGS, generation, operations, removed=removed, parked=parked or [])


def test_rows_and_the_list_change_together(
    read_model: ReadModel, parking: Generation, open_read_model: OpenReadModel
) -> None:
    still = Parked(5, "thing-1", "another reason")

    after = change(read_model, parking, Add(1, {"size": 2}), put(2), removed=[FIRST.position], parked=[still])

    assert after is not None
    reopened = open_read_model()
    assert reopened.rows(THINGS) == [row(1, size=3), row(2)]
    assert reopened.parked(THINGS, after) == [OTHER, still]


def test_checkpoint_history_and_number_of_events_stay(read_model: ReadModel, parking: Generation) -> None:
    after = change(read_model, parking, put(2), removed=[FIRST.position])

    assert after is not None
    assert (after.checkpoint, after.events, after.history) == (7, 4, parking.history)
    assert read_model.generations(THINGS) == [after]


def test_a_projector_that_read_the_generation_before_applies_nothing(
    read_model: ReadModel, parking: Generation
) -> None:
    after = change(read_model, parking, put(1, "green"), removed=[FIRST.position, SECOND.position])

    assert (
        apply(read_model, parking, put(1, "red"), checkpoint=9, parked=[Parked(9, "thing-1", "late")]) is None
    )
    assert after is not None
    assert read_model.rows(THINGS) == [row(1, "green")]
    assert read_model.parked(THINGS, after) == [OTHER]
    assert apply(read_model, after, put(3), checkpoint=9) is not None, (
        "it goes on from the generation as it is now"
    )


def test_a_change_of_what_was_read_before_another_one_is_refused(
    read_model: ReadModel, parking: Generation
) -> None:
    first = change(read_model, parking, put(2), removed=[OTHER.position])
    assert first is not None

    assert change(read_model, parking, put(3), removed=[FIRST.position]) is None
    second = change(read_model, first, put(4), removed=[FIRST.position])
    assert second is not None
    assert change(read_model, first, put(5), removed=[SECOND.position]) is None

    assert read_model.rows(THINGS) == [row(1), row(2), row(4)]
    assert read_model.parked(THINGS, second) == [SECOND]


def test_a_change_after_a_projector_moved_the_checkpoint_is_refused(
    read_model: ReadModel, parking: Generation
) -> None:
    later = moved(read_model, parking, put(9))

    assert change(read_model, parking, put(2), removed=[FIRST.position]) is None

    assert read_model.parked(THINGS, later) == [FIRST, OTHER, SECOND]
    assert read_model.rows(THINGS) == [row(1), row(9)]


def test_a_change_of_a_replaced_generation_is_refused(read_model: ReadModel, parking: Generation) -> None:
    promoted(read_model, *(put(number) for number in range(1, 9)))

    assert change(read_model, parking, put(1, "late"), removed=[FIRST.position]) is None
    assert row(1) in read_model.rows(THINGS)


def test_a_rebuild_and_another_projection_are_not_affected(
    read_model: ReadModel, parking: Generation
) -> None:
    building = apply(read_model, rebuilding(read_model), put(1), checkpoint=3, parked=[FIRST])
    other = apply(read_model, prepared(read_model, OTHERS), projection=OTHERS, checkpoint=3, parked=[FIRST])
    assert building is not None
    assert other is not None

    assert change(read_model, parking, removed=[FIRST.position]) is not None

    assert read_model.parked(THINGS, building) == [FIRST]
    assert read_model.parked(OTHERS, other) == [FIRST]
    assert apply(read_model, building, put(2)) is not None, "the rebuild goes on"


@pytest.mark.parametrize("bad", [Put(2, {"colour": "red", "size": "no number"}), Change(1, {"no_column": 1})])
def test_a_change_that_cannot_be_stored_leaves_everything(
    read_model: ReadModel, parking: Generation, bad: Operation
) -> None:
    with pytest.raises(Exception) as raised:  # its type depends on the database
        change(read_model, parking, put(3), bad, removed=[FIRST.position])

    assert not isinstance(raised.value, EsError), "a bug, and not an outage"
    assert read_model.generations(THINGS) == [parking]
    assert read_model.parked(THINGS, parking) == [FIRST, OTHER, SECOND]
    assert read_model.rows(THINGS) == [row(1)]


def test_many_changes_in_a_row_leave_the_history_readable(read_model: ReadModel, parking: Generation) -> None:
    generation: Generation | None = parking
    for _ in range(3):
        assert generation is not None
        generation = change(read_model, generation, removed=[])

    assert generation is not None
    assert generation.history == parking.history
    assert len(generation.marks) == len(parking.marks) + 4


def test_rows_do_not_change_without_the_list(read_model: ReadModel, parking: Generation) -> None:
    not_storable = Parked(None, "thing-1", "no position")  # type: ignore[arg-type]  # it makes the last statement fail

    with pytest.raises(Exception) as raised:
        change(read_model, parking, put(1, "green"), removed=[FIRST.position], parked=[not_storable])

    assert not isinstance(raised.value, EsError)
    assert read_model.rows(THINGS) == [row(1)]
    assert read_model.parked(THINGS, parking) == [FIRST, OTHER, SECOND]
    assert read_model.generations(THINGS) == [parking]
