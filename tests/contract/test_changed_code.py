"""The read model contract, changed code: who fills a generation is recorded, and rows have the columns of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from domain.kernel.ports.read_model import Generation, ReadModel
from domain.kernel.projection import Put
from tests.support.read_models import NOW_US, THINGS, Things, moved, promoted, put, rebuilding, row


class ChangedThings(Things):
    """The same projection in changed code: `size` is gone, `weight` is new."""

    columns: ClassVar[Mapping[str, str]] = {"colour": "TEXT", "weight": "INTEGER", "shape": "TEXT"}


CHANGED = ChangedThings()


def built_by(model: ReadModel, code: str) -> Generation:
    return model.prepare(THINGS, now_us=NOW_US, code=code)


def test_the_code_that_adopts_a_generation_is_recorded(read_model: ReadModel) -> None:
    built = built_by(read_model, "1-a")

    adopted = read_model.adopt(THINGS, built, code="1-b", now_us=NOW_US + 1)

    assert adopted is not None
    assert [each.code for each in (adopted, *read_model.generations(THINGS))] == ["1-a>1-b"] * 2
    assert (built.filled_by, adopted.filled_by) == ("1-a", "1-b")
    again = read_model.adopt(THINGS, adopted, code="1-a", now_us=NOW_US + 2)
    assert again is not None
    assert again.code == "1-a>1-a", "no code is said to have built it alone"
    assert [(each.code, each.to_us) for each in read_model.phases(THINGS, limit=9)] == [
        ("1-a", NOW_US + 1),
        ("1-a>1-b", NOW_US + 2),
        ("1-a>1-a", None),
    ]


def test_a_generation_is_adopted_by_one_and_only_while_it_is_current(read_model: ReadModel) -> None:
    built = built_by(read_model, "1-a")
    assert read_model.adopt(THINGS, built, code="1-b", now_us=NOW_US) is not None
    assert read_model.adopt(THINGS, built, code="1-c", now_us=NOW_US) is None

    (adopted,) = read_model.generations(THINGS)
    promoted(read_model)
    assert read_model.adopt(THINGS, adopted, code="1-c", now_us=NOW_US) is None


def test_an_adopted_generation_goes_on_from_its_checkpoint(read_model: ReadModel) -> None:
    before = moved(read_model, built_by(read_model, "1-a"), put(1))
    assert read_model.adopt(THINGS, before, code="1-b", now_us=NOW_US) is not None

    assert moved(read_model, before, put(2)).code == "1-a>1-b", (
        "who fills it further sees that it was adopted"
    )


def test_rows_have_null_for_a_column_that_their_generation_does_not_have(read_model: ReadModel) -> None:
    old = moved(read_model, built_by(read_model, "1-a"), put(1, "red", 7), put(2, "blue", 8))
    new = {"thing_id": 1, "colour": "red", "weight": None, "shape": None}

    assert read_model.columns(CHANGED, old) == {"colour", "size"}
    assert read_model.rows(CHANGED, keys=[1]) == [new]
    assert read_model.rows(CHANGED, where={"colour": "red"}, generation=old) == [new]
    assert read_model.rows(CHANGED, where={"weight": 7}) == []
    assert read_model.rows(THINGS, keys=[1]) == [row(1, "red", 7)]


def test_old_code_reads_the_rows_of_new_code_while_generations_come_and_go(read_model: ReadModel) -> None:
    built_by(read_model, "1-a")
    built = rebuilding(read_model, CHANGED)
    changed = Put(1, {"colour": "red", "weight": 5, "shape": None})
    assert read_model.promote(CHANGED, moved(read_model, built, changed, projection=CHANGED), now_us=NOW_US)

    assert read_model.rows(THINGS) == [row(1, "red", None)]
