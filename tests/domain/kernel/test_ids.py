"""The id value: layout, reading, bounds of a time, sharding."""

from __future__ import annotations

import contextlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.kernel.errors import InvalidInput
from domain.kernel.ids import (
    EPOCH_US,
    LANES,
    MAX_ID,
    MIN_ID,
    POSITION_BITS,
    Range,
    ceil_id,
    compose,
    decode,
    decompose,
    floor_id,
    parse_id,
    position_at,
    shard_of,
    time_text,
    time_us_of,
)

POSITIONS = st.integers(0, (1 << POSITION_BITS) - 1)
LANE_NUMBERS = st.integers(0, LANES - 1)
IDS = st.integers(MIN_ID, MAX_ID)
LAST_US = time_us_of((1 << POSITION_BITS) - 1)
TIMES_US = st.integers(EPOCH_US, LAST_US - 1)


@given(POSITIONS, LANE_NUMBERS)
def test_composing_and_decomposing_are_inverse(position: int, lane: int) -> None:
    assert decompose(compose(position, lane)) == (position, lane)
    assert 0 <= compose(position, lane) <= MAX_ID


@given(IDS)
def test_an_id_tells_its_milliseconds_by_a_shift(id_: int) -> None:
    assert id_ >> 22 == (decode(id_).time_us - EPOCH_US) // 1000


@given(POSITIONS, POSITIONS, LANE_NUMBERS, LANE_NUMBERS)
def test_ids_sort_by_position_whatever_their_lanes(a: int, b: int, one: int, other: int) -> None:
    if a < b:
        assert compose(a, one) < compose(b, other)


@given(TIMES_US)
def test_the_position_of_a_time_is_the_first_that_is_not_before_it(time_us: int) -> None:
    position = position_at(time_us)
    assert time_us_of(position) >= time_us
    assert position == 0 or time_us_of(position - 1) < time_us


@given(IDS, TIMES_US)
def test_floor_and_ceil_part_the_ids_at_a_time(id_: int, time_us: int) -> None:
    assert (id_ >= floor_id(time_us)) == (decode(id_).time_us >= time_us)
    assert (id_ <= ceil_id(time_us)) == (decode(id_).time_us <= time_us)


@pytest.mark.parametrize("time_us", [EPOCH_US - 1, LAST_US + 2, 0, -(10**18), 10**18])
def test_a_time_that_no_id_can_have_is_refused(time_us: int) -> None:
    with pytest.raises(InvalidInput):
        floor_id(time_us)


def test_the_floor_of_the_epoch_is_an_id() -> None:
    assert parse_id(str(floor_id(EPOCH_US))) == MIN_ID


@given(IDS)
def test_an_id_is_read_back_from_its_text(id_: int) -> None:
    assert parse_id(str(id_)) == id_
    assert parse_id(id_) == id_


@pytest.mark.parametrize(
    "text",
    ["", "0", "-1", "01", "+1", " 1", "1 ", "1.0", "1e3", "9223372036854775808", "٣", "x", None, True, 1.5],
)
def test_what_is_not_an_id_is_refused(text: object) -> None:
    with pytest.raises(InvalidInput):
        parse_id(text)


@given(st.text())
def test_no_text_crashes_the_parser(text: str) -> None:
    with contextlib.suppress(InvalidInput):
        assert 1 <= parse_id(text) <= MAX_ID


def test_a_range_expands_within_its_lane() -> None:
    block = Range(compose(7, 3), 4)
    assert [decompose(id_) for id_ in block] == [(7, 3), (8, 3), (9, 3), (10, 3)]
    assert len(block) == 4


def test_the_ids_of_one_worker_are_spread_over_all_shards() -> None:
    ids = list(Range(compose(123_456_789, 17), 16_000))
    sizes = Counter(shard_of(id_, 16) for id_ in ids)
    assert len(sizes) == 16
    assert max(sizes.values()) < 1.2 * min(sizes.values())


def test_a_modulo_alone_would_put_them_all_into_one_shard() -> None:
    assert len({id_ % 16 for id_ in Range(compose(123_456_789, 17), 16_000)}) == 1


def test_the_shard_of_an_id_never_changes() -> None:
    assert [shard_of(id_, 1000) for id_ in (1, 250718980912182176, MAX_ID)] == [789, 596, 533]


def test_the_mixer_is_the_one_of_the_literature() -> None:
    # The first output of SplitMix64 seeded with 0.
    assert shard_of(0x9E3779B97F4A7C15, 1 << 64) == 0xE220A8397B1DCDAF


def test_times_read_as_rfc_3339_in_utc_and_never_overflow() -> None:
    assert time_text(EPOCH_US + 1) == "2025-01-01T00:00:00.000001Z"
    assert time_text(10**30) == "9999-12-31T23:59:59.999999Z"
