"""Claims under any interleaving: the proof that reserve → append → confirm is safe.

Random single steps of many processes hardly ever meet in an interesting place. Failures in practice need few
interruptions: one process pauses while others run whole operations.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import effort
from tests.support.accounts import ADA, GRACE
from tests.support.interleavings import ADDRESSES, Episode, Interleavings, Operation

CHANGE, BACK, CREATE = ("change", 0, GRACE), ("change", 0, ADA), ("create", GRACE)
RETRY, DELETE, ERASE = ("retry", 0), ("delete", 0), ("erase", 0)
JANITOR, ERASURES = ("janitor",), ("erasures",)
CRASHED_CREATE: Episode = (CREATE, [], 3)
CRASHED_CHANGE: Episode = (CHANGE, [], 3)

SCENES: dict[str, tuple[list[Episode], Operation]] = {
    "a registration": ([], CREATE),
    "a change": ([], CHANGE),
    "a registration that crashed before": ([CRASHED_CREATE], RETRY),
    "a change that crashed before": ([CRASHED_CHANGE], RETRY),
    "a change of an address that was changed since": (
        [(CHANGE, [], None), (BACK, [], None), (ERASURES, [], None)],
        ("retry", 1),
    ),
    "the janitor of a registration": ([CRASHED_CREATE], JANITOR),
    "the janitor of a change": ([CRASHED_CHANGE], JANITOR),
    "the janitor of a change that was appended": ([(CHANGE, [], 5)], JANITOR),
    "the process after a change": ([(CHANGE, [], None)], ERASURES),
    "the process after an erasure": ([(ERASE, [], None)], ERASURES),
}
"""The episodes before, and the operation that pauses."""
MEANWHILE: list[list[Operation]] = [
    [RETRY],
    [RETRY, BACK],
    [CHANGE],
    [CREATE],
    [JANITOR],
    [JANITOR, CREATE],
    [JANITOR, RETRY],
    [DELETE],
    [DELETE, CREATE],
    [ERASE, ERASURES],
    [CHANGE, BACK, ERASURES],
]


@pytest.mark.parametrize("scene", SCENES)
def test_claims_stay_consistent_when_any_step_is_paused(scene: str) -> None:
    before, operation = SCENES[scene]
    for steps in range(1, 100):
        for meanwhile in effort.some(MEANWHILE, steps):
            with closing(Interleavings()) as world:
                try:
                    for episode in before:
                        world.play(*episode)
                    world.play(operation, [(steps, [(other, [], None) for other in meanwhile])])
                    world.check_at_the_end()
                except AssertionError as error:
                    error.add_note(f"paused after {steps} steps while {meanwhile}")
                    raise
        if world.was_over:
            return
    raise AssertionError("it paused at every step")


_operations = st.one_of(
    st.tuples(st.just("change"), st.integers(0, 1), st.sampled_from(ADDRESSES)),
    st.tuples(st.just("create"), st.sampled_from(ADDRESSES)),
    st.tuples(st.just("retry"), st.sampled_from([0, 0, 1, 2])),
    st.just(JANITOR),
    st.just(ERASURES),
    st.tuples(st.just("delete"), st.integers(0, 1)),
    st.tuples(st.just("erase"), st.integers(0, 1)),
)


def _episodes(depth: int) -> st.SearchStrategy[Episode]:
    interruptions: st.SearchStrategy[list[Any]] = st.just([])
    if depth:
        others = st.lists(_episodes(depth - 1), min_size=1, max_size=3)
        interruptions = st.lists(st.tuples(st.integers(1, 5), others), max_size=2)
    crashes_after = st.one_of(st.none(), st.none(), st.integers(0, 8))
    return st.tuples(_operations, interruptions, crashes_after)


@settings(max_examples=effort.sized(60, 1000))
@given(story=st.lists(_episodes(2), min_size=1, max_size=4))
def test_claims_stay_consistent_under_any_interruptions_and_crashes(story: list[Episode]) -> None:
    with closing(Interleavings()) as world:
        for episode in story:
            world.play(*episode)
        world.check_at_the_end()
