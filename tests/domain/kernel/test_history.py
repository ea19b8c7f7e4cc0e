"""Histories: few marks at doubling distances, and how far a follower goes back once the store has another history."""

from __future__ import annotations

from itertools import accumulate
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.kernel.events import BEGINNING, Position
from domain.kernel.history import Fit, History, Mark, Verified, other_bytes, verified

STEPS = st.integers(1, 3000).flatmap(
    lambda largest: st.lists(st.integers(1, largest), min_size=1, max_size=400)
)
"""Distances from one event that was marked to the next: events differ in size, and batches in length."""


def marks_of(steps: list[int]) -> list[Mark]:
    return [Mark(position, UUID(int=position)) for position in accumulate(steps)]


def after(marks: list[Mark]) -> History:
    history = History()
    for mark in marks:
        history = history.reach(mark)
    return history


def check(history: History, fits: dict[Position, Fit], head: Position = 1 << 40) -> Verified:
    """Verify a history: marks without a fit are the same event."""
    return verified(history, lambda mark: fits.get(mark.position, Fit.SAME), head)


# --- marks -----------------------------------------------------------------------------------


@given(STEPS)
def test_a_history_has_few_marks_in_order_and_the_last_one_is_its_position(steps: list[int]) -> None:
    marks = marks_of(steps)

    history = after(marks)

    assert history.position == marks[-1].position
    assert history.marks[-1] == marks[-1]
    assert history.marks == tuple(mark for mark in marks if mark in history.marks)
    assert len(history.marks) <= history.position.bit_length() + 1


def test_the_longest_history_has_at_most_64_marks() -> None:
    history = after([Mark((1 << 63) - (1 << power), uuid4()) for power in reversed(range(63))])

    assert len(history.marks) <= 64
    assert History.from_bytes(history.position, history.to_bytes()) == history


@given(STEPS, st.data())
def test_after_a_divergence_the_history_goes_back_about_four_times_as_far(
    steps: list[int], data: st.DataObject
) -> None:
    marks = marks_of(steps)
    history, last = after(marks), data.draw(st.sampled_from(marks))
    head = history.position

    found = verified(
        history, lambda mark: Fit.SAME if mark.position <= last.position else Fit.OTHER, head
    ).history

    assert found.position <= last.position, "no event of the new history is passed over"
    assert head - found.position <= 4 * (head - last.position) + 8 * max(steps)


@given(STEPS)
def test_a_history_in_bytes_is_read_as_the_same_one(steps: list[int]) -> None:
    history = after(marks_of(steps))

    assert History.from_bytes(history.position, history.to_bytes()) == history


def test_marks_after_a_position_that_an_earlier_version_moved_back_are_left_out() -> None:
    history = after(marks_of([1] * 9))

    assert History.from_bytes(7, history.to_bytes()) == history.back_to(7)
    assert max(mark.position for mark in history.back_to(7).marks) <= 7


def test_an_incomplete_mark_is_left_out() -> None:
    history = after(marks_of([5]))

    assert History.from_bytes(5, history.to_bytes() + b"torn") == history


def test_an_event_before_the_position_changes_nothing() -> None:
    history = after(marks_of([3, 3]))

    assert history.reach(Mark(4, uuid4())) == history


# --- verification ----------------------------------------------------------------------------


@given(STEPS)
def test_a_history_that_the_store_has_stays_as_it_is(steps: list[int]) -> None:
    history = after(marks_of(steps))

    assert check(history, {}, history.position) == Verified(history, diverged=False)


@given(STEPS, st.data())
def test_absent_events_prove_nothing(steps: list[int], data: st.DataObject) -> None:
    history = after(marks_of(steps))
    absent = data.draw(st.sets(st.sampled_from([mark.position for mark in history.marks])))

    assert check(history, dict.fromkeys(absent, Fit.ABSENT)) == Verified(history, diverged=False)


@given(STEPS, st.data())
def test_one_other_event_anywhere_is_another_history(steps: list[int], data: st.DataObject) -> None:
    history = after(marks_of(steps))
    positions = [mark.position for mark in history.marks]
    fits = {position: data.draw(st.sampled_from(Fit), label=str(position)) for position in positions}
    other = data.draw(st.sampled_from(positions))
    fits[other] = Fit.OTHER
    first = min(position for position, fit in fits.items() if fit is Fit.OTHER)
    same = [position for position in positions if position < first and fits[position] is Fit.SAME]

    found = check(history, fits)

    assert found == Verified(history.back_to(max(same, default=BEGINNING)), diverged=True)


def test_a_store_that_ends_before_the_position_is_another_history() -> None:
    history = after(marks_of([1] * 9))

    found = verified(history, lambda mark: Fit.SAME if mark.position <= 6 else Fit.OTHER, 6)

    assert found.diverged
    assert BEGINNING < found.history.position <= 6


def test_a_last_event_that_was_scavenged_is_no_other_history() -> None:
    history = after(marks_of([1] * 9))

    assert check(history, {9: Fit.ABSENT}, 8) == Verified(history, diverged=False)


@pytest.mark.parametrize(("head", "expected"), [(9, 9), (8, BEGINNING)])
def test_a_checkpoint_without_marks_is_trusted_unless_it_is_after_the_head(
    head: Position, expected: Position
) -> None:
    assert check(History(9), {}, head) == Verified(History(expected), diverged=expected != 9)


# --- other bytes -----------------------------------------------------------------------------


@given(STEPS)
def test_other_bytes_differ_each_time_and_hold_the_same_marks(steps: list[int]) -> None:
    history = after(marks_of(steps))
    raw = history.to_bytes()

    seen = [raw]
    for _ in range(3):
        seen.append(other_bytes(seen[-1]))

    assert len({*seen}) == 4
    assert {History.from_bytes(history.position, each) for each in seen} == {history}
    assert len(seen[-1]) == len(raw) + 4


def test_a_checkpoint_without_marks_has_other_bytes_too() -> None:
    assert other_bytes(b"") != b""
    assert History.from_bytes(5, other_bytes(other_bytes(b""))) == History(5)
