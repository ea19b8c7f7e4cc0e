"""The operations and keys of a read model, over every adapter: `applied` defines the effect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from domain.kernel.errors import PartUnavailable
from domain.kernel.ports.read_model import ReadModel
from domain.kernel.projection import Add, Change, Delete, Key, Operation, Projection, Put, Row, Value, applied
from tests.support.read_models import (
    BARE,
    NAMED,
    NOW_US,
    THINGS,
    moved,
    prepared,
    put,
    rebuilding,
    row,
)

LARGEST, SMALLEST = (1 << 63) - 1, -(1 << 63)
ODD_TEXTS = [
    "",
    "\0",
    "\1",
    "\2",
    "\0\0",
    "\1\2",
    "a",
    "a\0",
    "a\1",
    "a\\",
    "a\\0",
    "a]",
    "é",
    "\uffff",
    "😀",
]


def operations(keys: st.SearchStrategy[Key]) -> st.SearchStrategy[Operation]:
    colours, sizes = st.sampled_from(["red", "blue", "", None]), st.none() | st.integers(-5, 5)
    some = st.fixed_dictionaries({}, optional={"colour": colours, "size": sizes})
    return st.one_of(
        st.builds(put, keys, colours, sizes),
        st.builds(Change, keys, some),
        st.builds(Add, keys, st.fixed_dictionaries({}, optional={"size": st.integers(-5, 5)})),
        st.builds(Delete, keys),
    )


def batches(keys: st.SearchStrategy[Key]) -> st.SearchStrategy[list[list[Operation]]]:
    return st.lists(st.lists(operations(keys), max_size=12), max_size=4)


NUMBERS = st.integers(-2, 2) | st.sampled_from([LARGEST, SMALLEST])
TEXTS = st.sampled_from(ODD_TEXTS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=3)


@pytest.mark.parametrize(("projection", "keys"), [(THINGS, NUMBERS), (NAMED, TEXTS)], ids=["number", "text"])
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_a_batch_has_the_effect_of_its_operations_one_by_one(
    open_read_model: Callable[[], ReadModel],
    projection: Projection,
    keys: st.SearchStrategy[Key],
    data: st.DataObject,
) -> None:
    model = open_read_model()
    current = prepared(model, projection)
    generation = model.apply(projection, rebuilding(model, projection), [], reached=current.history, events=0)
    assert generation is not None
    expected: dict[Any, Row] = {}
    for batch in data.draw(batches(keys)):
        generation = moved(model, generation, *batch, projection=projection)
        for operation in batch:
            after = applied(expected.pop(operation.key, None), operation)
            if after is not None:
                expected[operation.key] = after

        rows = model.rows(projection, generation=generation)
        assert rows == [{"thing_id": key, **expected[key]} for key in sorted(expected)]
    assert model.promote(projection, generation, now_us=NOW_US)
    model.close()


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (Add(1, {"size": 5}), [row(1, size=6), row(2, size=None)]),
        (Add(2, {"size": -5}), [row(1), row(2, size=-5)]),
        (Add(3, {"size": 5}), [row(1), row(2, size=None)]),
        (Add(1, {}), [row(1), row(2, size=None)]),
        (Delete(1), [row(2, size=None)]),
        (Delete(3), [row(1), row(2, size=None)]),
        (Change(1, {}), [row(1), row(2, size=None)]),
    ],
)
def test_additions_and_deletions_need_a_row(
    read_model: ReadModel, operation: Operation, expected: list[Mapping[str, object]]
) -> None:
    generation = moved(read_model, prepared(read_model), put(1), put(2, size=None))

    moved(read_model, generation, operation)

    assert read_model.rows(THINGS) == expected


def test_a_put_without_a_column_sets_it_to_null(read_model: ReadModel) -> None:
    generation = moved(read_model, prepared(read_model), put(1), Put(2, {"colour": "only this"}))

    moved(read_model, generation, Put(1, {"size": 9}))

    assert read_model.rows(THINGS) == [row(1, None, 9), row(2, "only this", None)]


def test_a_column_may_be_set_and_another_added_to_in_one_batch(read_model: ReadModel) -> None:
    generation = moved(read_model, prepared(read_model), put(1))

    moved(read_model, generation, Add(1, {"size": 2}), Change(1, {"colour": "blue"}), Add(1, {"size": 3}))

    assert read_model.rows(THINGS) == [row(1, "blue", 6)]


@pytest.mark.parametrize(
    ("before", "number"),
    [(LARGEST, 1), (1, LARGEST), (LARGEST, LARGEST), (SMALLEST, -1), (-1, SMALLEST), (SMALLEST, SMALLEST)],
)
@pytest.mark.parametrize("same_batch", [False, True])
def test_a_sum_beyond_64_bits_is_refused_and_nothing_is_applied(
    read_model: ReadModel, before: int, number: int, same_batch: bool
) -> None:
    generation = prepared(read_model)
    first, addition = put(1, size=before), Add(1, {"size": number})
    if not same_batch:
        generation = moved(read_model, generation, first)
    rows = read_model.rows(THINGS)

    with pytest.raises(ValueError):
        moved(read_model, generation, put(2), *[first] * same_batch, addition)

    assert read_model.rows(THINGS) == rows
    assert read_model.generations(THINGS) == [generation]


@pytest.mark.parametrize(("before", "number"), [(LARGEST - 1, 1), (SMALLEST + 1, -1), (SMALLEST, LARGEST)])
def test_a_sum_may_use_all_64_bits(read_model: ReadModel, before: int, number: int) -> None:
    generation = moved(read_model, prepared(read_model), put(1, size=before))

    moved(read_model, generation, Add(1, {"size": number}))

    assert read_model.rows(THINGS) == [row(1, size=before + number)]


def test_additions_of_a_batch_count_as_one(read_model: ReadModel) -> None:
    generation = moved(read_model, prepared(read_model), put(1, size=LARGEST))

    moved(read_model, generation, Add(1, {"size": 1}), Add(1, {"size": -2}))

    assert read_model.rows(THINGS) == [row(1, size=LARGEST - 1)]
    with pytest.raises(ValueError):
        moved(read_model, prepared(read_model), Add(1, {"size": LARGEST}), Add(1, {"size": 1}))


def test_text_cannot_be_added_to(read_model: ReadModel) -> None:
    generation = moved(read_model, prepared(read_model), put(1, "7"))

    with pytest.raises(ValueError):
        moved(read_model, generation, put(2), Add(1, {"colour": 1}))

    assert read_model.rows(THINGS) == [row(1, "7")]


# --- text keys -------------------------------------------------------------------------------


@pytest.fixture
def named(read_model: ReadModel) -> ReadModel:
    rows = [put(key, size=number) for number, key in enumerate(ODD_TEXTS)]
    moved(read_model, prepared(read_model, NAMED), *reversed(rows), projection=NAMED)
    return read_model


def test_rows_with_text_keys_come_in_order_of_code_point(named: ReadModel) -> None:
    assert named.rows(NAMED) == [row(key, size=ODD_TEXTS.index(key)) for key in sorted(ODD_TEXTS)]


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS, TEXTS)
@example("\U0010ffff", "")
@example("a\U0010ffff\U0010ffff", "a")
@example("\ud7ff", "")
def test_rows_are_found_by_the_prefix_of_their_key(odd_names: ReadModel, prefix: str, after: str) -> None:
    with_prefix = [key for key in sorted(MANY_TEXTS) if key.startswith(prefix)]

    def keys(**selection: Any) -> list[Value]:
        return [found["thing_id"] for found in odd_names.rows(NAMED, prefix=prefix, **selection)]

    assert keys() == with_prefix
    assert keys(limit=2) == with_prefix[:2]
    assert keys(after=after) == [key for key in with_prefix if key > after]
    assert odd_names.count(NAMED, prefix=prefix, limit=1000) == len(with_prefix)
    assert odd_names.count(NAMED, prefix=prefix, limit=1) == min(len(with_prefix), 1)


MANY_TEXTS = {first + second for first in ODD_TEXTS for second in ("", *ODD_TEXTS)}


@pytest.fixture
def odd_names(read_model: ReadModel) -> ReadModel:
    moved(read_model, prepared(read_model, NAMED), *(put(key) for key in MANY_TEXTS), projection=NAMED)
    return read_model


def test_rows_are_found_by_their_text_keys(named: ReadModel) -> None:
    wanted = ["é", "missing", "\0", "a\\0", "é"]

    assert [found["thing_id"] for found in named.rows(NAMED, keys=wanted)] == ["\0", "a\\0", "é"]
    assert named.rows(NAMED, keys=[]) == []


def test_rows_are_paged_by_text_key_from_the_empty_text_on(named: ReadModel) -> None:
    pages: list[Any] = named.rows(NAMED, limit=4)
    while page := named.rows(NAMED, after=pages[-1]["thing_id"], limit=4):
        pages += page

    assert [found["thing_id"] for found in pages] == sorted(ODD_TEXTS)
    assert named.rows(NAMED, after="a", where={"size": ODD_TEXTS.index("é")}) == [row("é", size=12)]


def test_rows_of_negative_and_zero_keys_are_not_left_out(read_model: ReadModel) -> None:
    moved(read_model, prepared(read_model), put(0), put(SMALLEST), put(-1))

    assert [found["thing_id"] for found in read_model.rows(THINGS)] == [SMALLEST, -1, 0]
    assert read_model.rows(THINGS, after=-1) == [row(0)]


@pytest.mark.parametrize(
    "key", ["x" * 1_000, "\0" * 1_000, "\1" * 1_000, "é" * 500], ids=["x", "0", "1", "é"]
)
def test_the_largest_text_key_is_stored(read_model: ReadModel, key: str) -> None:
    moved(read_model, prepared(read_model, NAMED), put(key), projection=NAMED)

    assert read_model.rows(NAMED, keys=[key]) == [row(key)]


def test_a_row_may_consist_of_its_key(read_model: ReadModel) -> None:
    generation = moved(read_model, prepared(read_model, BARE), Put(2, {}), Put(1, {}), projection=BARE)

    moved(read_model, generation, Put(2, {}), Delete(1), projection=BARE)

    assert read_model.rows(BARE) == [{"thing_id": 2}]


# --- rows of a generation --------------------------------------------------------------------


def test_rows_of_a_given_generation_are_read_instead_of_the_current_ones(read_model: ReadModel) -> None:
    current = moved(read_model, prepared(read_model), put(1, "old"))
    building = moved(read_model, rebuilding(read_model), put(1, "new"), put(2, "new"))

    assert read_model.rows(THINGS, generation=building) == [row(1, "new"), row(2, "new")]
    assert read_model.rows(THINGS, generation=building, keys=[2]) == [row(2, "new")]
    assert read_model.rows(THINGS, generation=current) == [row(1, "old")]
    assert read_model.rows(THINGS) == [row(1, "old")]
    assert read_model.promote(THINGS, building, now_us=NOW_US)
    assert read_model.rows(THINGS, generation=current) == [row(1, "old")], "retired, and still there"


def test_rows_of_a_removed_generation_are_unavailable(read_model: ReadModel) -> None:
    removed = moved(read_model, prepared(read_model), put(1))
    assert read_model.promote(THINGS, moved(read_model, rebuilding(read_model), put(1)), now_us=NOW_US)
    rebuilding(read_model)

    with pytest.raises(PartUnavailable):
        read_model.rows(THINGS, generation=removed)
