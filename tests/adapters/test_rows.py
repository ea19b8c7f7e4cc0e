"""Rows pass unchanged from one process to the other."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.rows import Translated, from_bytes, to_bytes
from domain.kernel.history import Mark
from domain.kernel.projection import Delete, Merged, Put, Shape, Update

_NUMBERS = st.integers(-(1 << 63), (1 << 63) - 1)
_VALUES = st.none() | st.text() | _NUMBERS
_NAMES = st.lists(st.text(), max_size=3).map(tuple)
_SHAPES = st.builds(Shape, st.sampled_from([Put, Update, Delete]), _NAMES, _NAMES)
_ROWS = st.lists(st.lists(_VALUES, max_size=4).map(tuple))


@given(
    st.integers(0, 10_000),
    st.builds(Mark, st.integers(0, (1 << 63) - 1), st.uuids()),
    st.dictionaries(_SHAPES, _ROWS),
)
def test_what_is_sent_arrives(events: int, last: Mark, rows: dict[Shape, list[tuple[object, ...]]]) -> None:
    sent = Translated(events, last, Merged(rows))  # type: ignore[arg-type]

    arrived = from_bytes(bytearray(to_bytes(sent)))

    assert arrived == sent
    assert isinstance(arrived.rows, Merged)
    assert all(type(row) is tuple for found in arrived.rows.values() for row in found)


@pytest.mark.parametrize("value", ["\ud800", 1 << 64, -(1 << 63) - 1])
def test_a_value_that_no_read_model_stores_is_not_sent(value: str | int) -> None:
    rows = Merged({Shape(Put, ("colour",)): [(value, 7)]})

    with pytest.raises((ValueError, OverflowError)):
        to_bytes(Translated(1, Mark(1, UUID(int=1)), rows))
