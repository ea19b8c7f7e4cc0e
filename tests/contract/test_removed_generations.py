"""The read model contract, removed generations: their rows are gone at once, and their space is freed piece by piece."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from domain.kernel.ports.read_model import ReadModel
from domain.kernel.projection import Projection
from tests.support.read_models import BARE, NAMED, NOW_US, THINGS, apply, moved, prepared, put, rebuilding

OpenReadModel = Callable[[], ReadModel]


def _retired(model: ReadModel, rows: int, projection: Projection = THINGS) -> None:
    """A retired generation with so many rows, and an empty current one."""
    old = prepared(model, projection=projection)
    keys = [f"k{number}" if projection is NAMED else number for number in range(rows)]
    moved(model, old, *(put(key) for key in keys), projection=projection)
    built = apply(model, rebuilding(model, projection), projection=projection, checkpoint=rows)
    assert built is not None
    assert model.promote(projection, built, now_us=NOW_US)


@pytest.mark.parametrize("rows", [0, 1, 9, 10, 11, 35])
def test_a_removed_generation_is_cleared_piece_by_piece(
    read_model: ReadModel, open_read_model: OpenReadModel, rows: int
) -> None:
    _retired(read_model, rows)

    assert read_model.prune(THINGS) == [1]
    assert [each.number for each in read_model.generations(THINGS)] == [2]
    calls = 1
    while open_read_model().clear(limit=10):
        calls += 1

    assert calls <= rows // 10 + 1
    assert not read_model.clear(limit=10)


def test_each_kind_of_key_is_cleared(read_model: ReadModel) -> None:
    _retired(read_model, 25)
    _retired(read_model, 25, NAMED)
    for projection in (THINGS, NAMED):
        read_model.prune(projection)

    calls = 0
    while read_model.clear(limit=10):
        calls += 1
        assert calls < 10


def test_nothing_is_cleared_of_what_is_kept(read_model: ReadModel) -> None:
    prepared(read_model, projection=BARE)
    current = moved(read_model, prepared(read_model), *(put(number) for number in range(30)))
    built = moved(read_model, rebuilding(read_model), put(1, "new"))

    assert not read_model.clear(limit=1)

    assert len(read_model.rows(THINGS, generation=current)) == 30
    assert len(read_model.rows(THINGS, generation=built)) == 1


def test_a_look_clears_nothing_and_tells_that_something_is_left(read_model: ReadModel) -> None:
    _retired(read_model, 25)
    read_model.prune(THINGS)

    is_left = read_model.clear(limit=0)

    assert read_model.clear(limit=0) is is_left
    assert read_model.clear(limit=20) is is_left  # PostgreSQL drops the file of a table


def test_the_number_of_a_removed_generation_is_not_used_again(read_model: ReadModel) -> None:
    _retired(read_model, 3)
    read_model.prune(THINGS)

    assert read_model.begin_rebuild(THINGS, now_us=NOW_US).number == 3
    while read_model.clear(limit=10):
        pass
    assert read_model.rows(THINGS) == []
