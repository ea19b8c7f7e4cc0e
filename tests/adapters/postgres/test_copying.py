"""Rows that are copied in large batches: the same rows and the same refusals as those that are inserted."""

from __future__ import annotations

from typing import Any

import pytest

from adapters.postgres import copying
from adapters.postgres.read_model import PostgresReadModel
from domain.kernel.projection import Change, Delete, Projection, Put
from tests.support.read_models import NAMED, THINGS, Things, apply, moved, prepared, put


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of each COPY, which batches of any size use."""
    monkeypatch.setattr(copying, "MANY", 1)
    numbers: list[int] = []
    copy = copying.copy

    def counted(connection: Any, statement: str, types: Any, rows: Any) -> None:
        numbers.append(len(rows))
        copy(connection, statement, types, rows)

    monkeypatch.setattr(copying, "copy", counted)
    return numbers


def _batches(keys: list[Any]) -> list[list[Any]]:
    first, second, third, fourth = keys
    return [
        [put(first, "a\0b\\\t\n"), put(second, None, None)],
        [put(second, "é\U0010ffff", -(1 << 63)), put(third, "", (1 << 63) - 1), Change(first, {"size": 9})],
        [Put(fourth, {"colour": "short"}), put(third), Delete(second)],
        [put(key, "again") for key in keys],
    ]


@pytest.mark.parametrize(
    ("projection", "keys"),
    [(THINGS, [1, -2, (1 << 63) - 1, 0]), (NAMED, ["a", "\0", "\1\2", "é\\"])],
    ids=["number", "text"],
)
def test_copied_rows_are_those_that_are_inserted(
    read_model: PostgresReadModel, copied: list[int], projection: Things, keys: list[Any]
) -> None:
    class Inserted(Things):
        name = "inserted"
        key_type = projection.key_type

    inserted = Inserted()
    generation, other = prepared(read_model, projection), prepared(read_model, inserted)
    for batch in _batches(keys):
        generation = moved(read_model, generation, *batch, projection=projection)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(copying, "MANY", 1_000)
            other = moved(read_model, other, *batch, projection=inserted)
        assert read_model.rows(projection) == read_model.rows(inserted)
    assert copied == [2, 1, 1, 0, 1], "rows that the table lacks"


@pytest.mark.parametrize(
    "bad",
    [put(2, "\ud800"), put(2, size=1 << 63), put(2, size="1"), put(2, 5), put(2, size=1.5), put(2, ["x"])],  # type: ignore[arg-type]
    ids=["surrogate", "huge", "text", "number", "fraction", "list"],
)
def test_a_value_that_does_not_fit_is_refused_as_without_a_copy(
    read_model: PostgresReadModel, copied: list[int], bad: Put
) -> None:
    generation = moved(read_model, prepared(read_model), put(9))

    def outcome(projection: Projection = THINGS) -> str:
        try:
            return repr(apply(read_model, generation, put(1), bad))
        except Exception as error:  # of the contract, or not: the same
            return type(error).__name__

    found = outcome()
    rows = read_model.rows(THINGS)
    copying.MANY = 1_000  # the fixture puts it back
    assert found == outcome()
    assert rows == read_model.rows(THINGS)
