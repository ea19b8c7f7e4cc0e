"""The id value: layout, parsing, the bounds of a time, sharding."""

from __future__ import annotations

import contextlib
from collections import Counter
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.kernel import ids
from domain.kernel.errors import InvalidInput
from domain.kernel.ids import EPOCH_US, LANES, MAX_ID, MIN_ID, Range, compose, decode, parse_id, shard_of

LAST_POSITION = (1 << ids.POSITION_BITS) - 1
LAST_US = ids.time_us_of(LAST_POSITION)
POSITIONS = st.integers(0, LAST_POSITION)
LANE_NUMBERS = st.integers(0, LANES - 1)
IDS = st.integers(MIN_ID, MAX_ID)
TIMES_US = st.integers(EPOCH_US, LAST_US - 1)
OF_ONE_WORKER = Range(compose(123_456_789, 17), 16_000)


@given(POSITIONS, LANE_NUMBERS)
def test_composing_and_decomposing_are_inverse(position: int, lane: int) -> None:
    assert ids.decompose(compose(position, lane)) == (position, lane)
    assert 0 <= compose(position, lane) <= MAX_ID


@given(IDS)
def test_a_shift_of_an_id_gives_its_milliseconds(id_: int) -> None:
    assert id_ >> 22 == (decode(id_).time_us - EPOCH_US) // 1000


@given(POSITIONS, POSITIONS, LANE_NUMBERS, LANE_NUMBERS)
def test_ids_sort_by_position_on_any_lanes(a: int, b: int, one: int, other: int) -> None:
    if a < b:
        assert compose(a, one) < compose(b, other)


@given(TIMES_US)
def test_the_position_of_a_time_is_the_first_that_is_not_before_it(time_us: int) -> None:
    position = ids.position_at(time_us)
    assert ids.time_us_of(position) >= time_us
    assert position == 0 or ids.time_us_of(position - 1) < time_us


@given(IDS, TIMES_US)
def test_floor_and_ceil_separate_ids_at_a_time(id_: int, time_us: int) -> None:
    assert (id_ >= ids.floor_id(time_us)) == (decode(id_).time_us >= time_us)
    assert (id_ <= ids.ceil_id(time_us)) == (decode(id_).time_us <= time_us)


@pytest.mark.parametrize("time_us", [EPOCH_US - 1, LAST_US + 2, 0, -(10**18), 10**18])
def test_a_time_outside_the_range_of_ids_is_refused(time_us: int) -> None:
    with pytest.raises(InvalidInput):
        ids.floor_id(time_us)


def test_the_floor_of_the_epoch_is_an_id() -> None:
    assert parse_id(str(ids.floor_id(EPOCH_US))) == MIN_ID


@given(IDS)
def test_an_id_is_parsed_from_text_and_from_a_number(id_: int) -> None:
    assert parse_id(str(id_)) == id_
    assert parse_id(id_) == id_


@pytest.mark.parametrize(
    "value",
    ["", "0", "-1", "01", "+1", " 1", "1 ", "1.0", "1e3", "9223372036854775808", "٣", "x", None, True, 1.5],
)
def test_a_value_that_is_no_id_is_refused(value: object) -> None:
    with pytest.raises(InvalidInput):
        parse_id(value)


@given(st.text())
def test_no_text_crashes_the_parser(text: str) -> None:
    with contextlib.suppress(InvalidInput):
        assert 1 <= parse_id(text) <= MAX_ID


def test_a_range_expands_within_its_lane() -> None:
    block = Range(compose(7, 3), 4)
    assert [ids.decompose(id_) for id_ in block] == [(7, 3), (8, 3), (9, 3), (10, 3)]
    assert len(block) == 4


def test_the_ids_of_one_worker_are_spread_over_all_shards() -> None:
    sizes = Counter(shard_of(id_, 16) for id_ in OF_ONE_WORKER)
    assert len(sizes) == 16
    assert max(sizes.values()) < 1.2 * min(sizes.values())


def test_a_modulo_alone_would_use_one_shard() -> None:
    assert len({id_ % 16 for id_ in OF_ONE_WORKER}) == 1


def test_the_shard_of_an_id_never_changes() -> None:
    assert [shard_of(id_, 1000) for id_ in (1, 250718980912182176, MAX_ID)] == [789, 596, 533]


def test_the_mixer_is_splitmix64() -> None:
    # The first output of SplitMix64 seeded with 0.
    assert shard_of(0x9E3779B97F4A7C15, 1 << 64) == 0xE220A8397B1DCDAF


def test_times_are_rfc_3339_in_utc_and_never_overflow() -> None:
    assert ids.time_text(EPOCH_US + 1) == "2025-01-01T00:00:00.000001Z"
    assert ids.time_text(10**30) == "9999-12-31T23:59:59.999999Z"


@given(st.datetimes())
def test_the_text_of_a_time_is_that_of_the_library(moment: datetime) -> None:
    time_us = (moment - datetime(1970, 1, 1)) // timedelta(microseconds=1)

    assert ids.time_text(time_us) == moment.isoformat(timespec="microseconds") + "Z"
