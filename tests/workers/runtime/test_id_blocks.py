"""Ids in blocks: handed out ascending, each once, and never from a block that has lain about."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.kernel.errors import PartUnavailable
from workers.runtime.id_blocks import IdBlocks


class Source:
    """Counts what is asked for, and a clock that is moved by hand."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.now_s = 100.0
        self._next = itertools.count(1)

    def ask(self, count: int) -> list[int]:
        self.asked.append(count)
        return [next(self._next) for _ in range(count)]

    def blocks(self) -> IdBlocks:
        return IdBlocks(self.ask, monotonic_s=lambda: self.now_s)


@pytest.fixture
def source() -> Source:
    return Source()


def test_ids_come_ascending_from_one_block(source: Source) -> None:
    blocks = source.blocks()

    assert [blocks.take(1), blocks.take(3), blocks.take(2)] == [[1], [2, 3, 4], [5, 6]]
    assert source.asked == [1024]


def test_nothing_is_asked_before_the_first_id_is_wanted(source: Source) -> None:
    source.blocks()

    assert source.asked == []


@pytest.mark.parametrize(("age_s", "blocks_asked"), [(0.0, 1), (1.0, 1), (1.001, 2), (3600.0, 2)])
def test_a_block_that_lies_about_is_dropped_after_a_second(
    source: Source, age_s: float, blocks_asked: int
) -> None:
    blocks = source.blocks()
    first = blocks.take(1)
    source.now_s += age_s

    second = blocks.take(1)

    assert len(source.asked) == blocks_asked
    assert second == ([2] if blocks_asked == 1 else [1025])
    assert first < second


def test_a_block_that_is_too_small_is_replaced(source: Source) -> None:
    blocks = source.blocks()
    blocks.take(1000)

    assert blocks.take(25) == list(range(1025, 1050)), "ascending: not some of the old and some of the new"
    assert source.asked == [1024, 1024]


def test_a_block_is_used_up_to_its_last_id(source: Source) -> None:
    blocks = source.blocks()

    assert [blocks.take(1) for _ in range(1024)][-1] == [1024]
    assert source.asked == [1024]
    assert blocks.take(1) == [1025]


def test_more_than_a_block_is_asked_for_at_once(source: Source) -> None:
    assert source.blocks().take(5000) == list(range(1, 5001))
    assert source.asked == [5000]


def test_without_an_answer_nothing_is_handed_out_and_after_a_second_it_asks_again(source: Source) -> None:
    tried = 0

    def ask(count: int) -> list[int]:
        nonlocal tried
        tried += 1
        source.now_s += 5.0  # so long it takes to find out
        if tried == 1:
            raise PartUnavailable("the ids worker", "it is not running")
        return source.ask(count)

    blocks = IdBlocks(ask, monotonic_s=lambda: source.now_s)
    for _ in range(3):
        with pytest.raises(PartUnavailable):
            blocks.take(1)
    assert tried == 1, "whoever comes right after it doesn't wait as long again"

    source.now_s += 1.0
    assert blocks.take(2) == [1, 2]


def test_a_stale_block_is_not_used_when_no_fresh_one_can_be_had(source: Source) -> None:
    blocks = source.blocks()
    blocks.take(1)
    source.now_s += 10

    def down(count: int) -> list[int]:
        raise PartUnavailable("the ids worker", "it is not running")

    blocks._draw = down
    with pytest.raises(PartUnavailable):
        blocks.take(1)


@given(wanted=st.lists(st.tuples(st.integers(1, 600), st.sampled_from([0.0, 0.4, 1.5])), max_size=30))
def test_no_id_is_handed_out_twice_and_all_ascend(wanted: list[tuple[int, float]]) -> None:
    source = Source()
    blocks = source.blocks()
    taken: list[int] = []
    for count, pause_s in wanted:
        source.now_s += pause_s
        some = blocks.take(count)
        assert len(some) == count
        taken += some

    assert taken == sorted(set(taken))
