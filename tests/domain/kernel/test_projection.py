"""Row operations without a database: the effect of one, and of a batch that is merged."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.kernel.events import Event
from domain.kernel.projection import (
    KEY_BYTES,
    Add,
    Change,
    Delete,
    Key,
    Operation,
    Projection,
    Put,
    Row,
    Shape,
    Update,
    applied,
    merged,
)
from tests.support.builders import an_event, recorded
from tests.support.read_models import THINGS

LARGEST = (1 << 63) - 1
RED: Row = {"colour": "red", "size": 1}


@pytest.mark.parametrize(
    ("row", "operation", "after"),
    [
        (None, Put(1, RED), RED),
        ({"colour": "blue", "size": 2}, Put(1, RED), RED),
        (RED, Change(1, {"size": None}), {"colour": "red", "size": None}),
        (None, Change(1, {"size": 2}), None),
        (RED, Add(1, {"size": -3}), {"colour": "red", "size": -2}),
        ({"colour": None, "size": None}, Add(1, {"size": 3}), {"colour": None, "size": 3}),
        (None, Add(1, {"size": 3}), None),
        (RED, Delete(1), None),
        (None, Delete(1), None),
    ],
)
def test_an_operation_makes_a_row_from_a_row(
    row: Row | None, operation: Operation, after: Row | None
) -> None:
    assert applied(row, operation) == after


@pytest.mark.parametrize(
    ("row", "operation"),
    [
        ({"size": LARGEST}, Add(1, {"size": 1})),
        ({"size": -LARGEST}, Add(1, {"size": -2})),
        (RED, Add(1, {"colour": 1})),
    ],
)
def test_an_impossible_addition_is_refused(row: Row, operation: Operation) -> None:
    with pytest.raises(ValueError):
        applied(row, operation)


@pytest.mark.parametrize("key", ["x" * (KEY_BYTES + 1), "é" * (KEY_BYTES // 2 + 1), "\ud800", 1 << 63])
@pytest.mark.parametrize("kind", [Put, Change, Add])
def test_a_key_that_cannot_be_stored_is_refused(kind: Callable[[Key, Row], Operation], key: Key) -> None:
    with pytest.raises(ValueError):
        kind(key, {})
    with pytest.raises(ValueError):
        Delete(key)


def test_a_batch_needs_one_operation_per_key_and_one_statement_per_shape() -> None:
    batch: list[Operation] = [
        Add(1, {"size": 1}),
        Change(1, {"colour": "blue"}),
        Add(1, {"size": 2}),
        Change(2, {"size": 5}),
        Add(2, {"size": 2}),
        Put(3, RED),
        Add(3, {"size": 2}),
        Put(4, RED),
        Delete(4),
        Add(4, {"size": 2}),
        Change(5, {}),
        Add(6, {}),
        Delete(7),
    ]

    assert merged(THINGS, batch) == {
        Shape(Update, ("colour",), ("size",)): [("blue", 3, 1)],
        Shape(Update, ("size",)): [(7, 2)],
        Shape(Put, ("colour", "size")): [("red", 3, 3)],
        Shape(Delete): [(4,), (7,)],
    }


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=20))
def test_many_additions_to_one_row_become_one(numbers: list[int]) -> None:
    batch = [Add("total", {"size": number}) for number in numbers]

    assert merged(THINGS, batch) == {Shape(Update, (), ("size",)): [(sum(numbers), "total")]}


@pytest.mark.parametrize(
    "batch",
    [
        [Add(1, {"size": LARGEST}), Add(1, {"size": 1})],
        [Change(1, {"size": LARGEST}), Add(1, {"size": 1})],
        [Put(1, {"size": LARGEST}), Add(1, {"size": 1})],
        [Add(1, {"size": LARGEST + 1})],
        [Add(1, {"colour": 1})],
        [Put(1, {"colour": None}), Add(1, {"colour": 1})],
    ],
)
def test_a_batch_with_an_impossible_addition_is_refused(batch: list[Operation]) -> None:
    with pytest.raises(ValueError):
        merged(THINGS, batch)


def test_a_projection_sees_no_rows_unless_it_says_so() -> None:
    happened = recorded(an_event())

    assert not Projection.sees_rows
    assert Projection().key_of(happened, Event()) is None
    with pytest.raises(NotImplementedError):
        Projection().apply(happened, Event(), None)
