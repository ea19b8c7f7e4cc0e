"""Unique values under any interleaving: the proof that reserve → append → confirm is safe for every aggregate.

As for e-mail addresses: one process pauses before any call of a part, while others run whole operations.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import effort
from tests.support.wallet_interleavings import LABELS, WALLETS, Episode, Operation, WalletInterleavings

OPEN, RENAME, BACK = ("open", 6, "other"), ("rename", 5, "other"), ("rename", 5, "main")
SPELL, CLOSE, REOPEN = ("rename", 5, "Main"), ("close", 5), ("open", 5, "main")
TAKE, RETRY, ERASE = ("open", 6, "main"), ("retry", 0), ("erase",)
JANITOR, PROCESSES = ("janitor",), ("processes",)

SCENES: dict[str, tuple[list[Episode], Operation]] = {
    "an opening": ([], OPEN),
    "a change": ([], RENAME),
    "a change to the same value": ([], SPELL),
    "a reopening": ([(CLOSE, [], None)], REOPEN),
    "an opening that crashed before": ([(OPEN, [], 3)], RETRY),
    "a change that crashed before": ([(RENAME, [], 3)], RETRY),
    "a change that crashed after its append": ([(RENAME, [], 4)], RETRY),
    "the janitor of an opening": ([(OPEN, [], 3)], JANITOR),
    "the process after a change": ([(RENAME, [], None)], PROCESSES),
}
"""The episodes before, and the operation that pauses."""
MEANWHILE: list[list[Operation]] = [
    [RETRY],
    [RENAME, TAKE],
    [JANITOR, OPEN],
    [JANITOR, RETRY],
    [CLOSE, TAKE],
    [RENAME, BACK, PROCESSES],
    [ERASE, PROCESSES],
]


@pytest.mark.parametrize("scene", SCENES)
def test_values_stay_unique_when_any_step_is_paused(scene: str) -> None:
    before, operation = SCENES[scene]
    for steps in range(1, 100):
        for meanwhile in effort.some(MEANWHILE, steps):
            with closing(WalletInterleavings()) as world:
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
    st.tuples(st.just("open"), st.sampled_from(WALLETS), st.sampled_from(LABELS)),
    st.tuples(st.just("rename"), st.sampled_from(WALLETS), st.sampled_from(LABELS)),
    st.tuples(st.just("close"), st.sampled_from(WALLETS)),
    st.tuples(st.just("retry"), st.sampled_from([0, 0, 1, 2])),
    st.sampled_from([JANITOR, PROCESSES, ERASE]),
)


def _episodes(depth: int) -> st.SearchStrategy[Episode]:
    interruptions: st.SearchStrategy[list[Any]] = st.just([])
    if depth:
        others = st.lists(_episodes(depth - 1), min_size=1, max_size=3)
        interruptions = st.lists(st.tuples(st.integers(1, 5), others), max_size=2)
    crashes_after = st.one_of(st.none(), st.none(), st.integers(0, 8))
    return st.tuples(_operations, interruptions, crashes_after)


@settings(max_examples=effort.sized(30, 250))  # each takes 0.2 s
@given(story=st.lists(_episodes(2), min_size=1, max_size=4))
def test_values_stay_unique_under_any_interruptions_and_crashes(story: list[Episode]) -> None:
    with closing(WalletInterleavings()) as world:
        for episode in story:
            world.play(*episode)
        world.check_at_the_end()
