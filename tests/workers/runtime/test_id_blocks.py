"""Blocks of ids: each id is issued once, ascending, and never from an old block."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.kernel.errors import PartUnavailable
from workers.runtime.id_blocks import IdBlocks

DOWN = PartUnavailable("the ids worker", "it is not running")


class Source:
    """Issues 1, 2, 3, … and records the size of every draw. A test moves its clock."""

    def __init__(self) -> None:
        self.drawn: list[int] = []
        self.now_s = 100.0
        self.is_down = False
        self._next = itertools.count(1)

    def draw(self, count: int) -> list[int]:
        self.drawn.append(count)
        if self.is_down:
            self.now_s += 5.0  # an outage is detected by a timeout
            raise DOWN
        return [next(self._next) for _ in range(count)]


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def blocks(source: Source) -> IdBlocks:
    return IdBlocks(source.draw, monotonic_s=lambda: source.now_s)


@pytest.mark.parametrize(
    ("counts", "ids", "drawn"),
    [
        ([], [], []),
        ([1, 3, 2], [*range(1, 7)], [1024]),
        ([1] * 1025, [*range(1, 1026)], [1024, 1024]),
        ([1000, 25], [*range(1, 1001), *range(1025, 1050)], [1024, 1024]),
        ([5000], [*range(1, 5001)], [5000]),
    ],
    ids=["none before an id is needed", "one", "up to its last id", "a whole new one", "a larger one"],
)
def test_ids_come_ascending_from_as_few_blocks_as_possible(
    source: Source, blocks: IdBlocks, counts: list[int], ids: list[int], drawn: list[int]
) -> None:
    taken = [blocks.take(count) for count in counts]

    assert [len(some) for some in taken] == counts
    assert [id_ for some in taken for id_ in some] == ids
    assert source.drawn == drawn


@pytest.mark.parametrize(("age_s", "blocks_drawn"), [(0.0, 1), (1.0, 1), (1.001, 2), (3600.0, 2)])
def test_an_unused_block_is_dropped_after_a_second(
    source: Source, blocks: IdBlocks, age_s: float, blocks_drawn: int
) -> None:
    first = blocks.take(1)
    source.now_s += age_s

    second = blocks.take(1)

    assert len(source.drawn) == blocks_drawn
    assert second == ([2] if blocks_drawn == 1 else [1025])
    assert first < second


def test_an_outage_is_remembered_for_a_second(source: Source, blocks: IdBlocks) -> None:
    source.is_down = True
    for _ in range(3):
        with pytest.raises(PartUnavailable):
            blocks.take(1)
    assert len(source.drawn) == 1, "a command right after the first one does not wait as long again"

    source.is_down = False
    source.now_s += 1.0
    assert blocks.take(2) == [1, 2]


def test_an_old_block_is_not_used_during_an_outage(source: Source, blocks: IdBlocks) -> None:
    blocks.take(1)
    source.now_s += 10
    source.is_down = True

    with pytest.raises(PartUnavailable):
        blocks.take(1)


@given(wanted=st.lists(st.tuples(st.integers(1, 600), st.sampled_from([0.0, 0.4, 1.5])), max_size=30))
def test_no_id_is_issued_twice_and_all_ascend(wanted: list[tuple[int, float]]) -> None:
    source = Source()
    blocks = IdBlocks(source.draw, monotonic_s=lambda: source.now_s)
    taken: list[int] = []
    for count, pause_s in wanted:
        source.now_s += pause_s
        some = blocks.take(count)
        assert len(some) == count
        taken += some

    assert taken == sorted(set(taken))
