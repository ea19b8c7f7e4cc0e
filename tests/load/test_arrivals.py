"""When requests arrive: the number and the spacing of the arrivals of any phases."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from load.arrivals import arrivals, expected, is_warm_up
from load.scenario import Phase
from tests.support.effort import EXAMPLES


def phase(duration_s: float, first: float, last: float | None = None, *, warm_up: bool = False) -> Phase:
    return Phase("a phase", duration_s, first, first if last is None else last, warm_up)


rates = st.one_of(st.just(0.0), st.floats(0.01, 300.0))
any_phases = st.lists(st.builds(phase, st.floats(0.01, 5.0), rates, rates), min_size=1, max_size=5)


@settings(max_examples=EXAMPLES, deadline=None)
@given(any_phases)
def test_the_arrivals_of_each_phase_are_the_integral_of_its_rate(phases: Sequence[Phase]) -> None:
    times = list(arrivals(phases))

    assert times == sorted(times)
    begun = 0.0
    for each, ended_s in zip(phases, accumulate(each.duration_s for each in phases), strict=True):
        begun += expected(each)
        so_far = sum(time_s <= ended_s + 1e-9 for time_s in times)
        assert abs(so_far - begun) <= 0.51, "never more than half a request off, after any number of phases"


@settings(max_examples=EXAMPLES, deadline=None)
@given(any_phases, st.integers(1, 5))
def test_processes_share_the_arrivals_without_loss(phases: Sequence[Phase], processes: int) -> None:
    shares = [list(arrivals(phases, process=each, processes=processes)) for each in range(processes)]

    assert sorted(time_s for share in shares for time_s in share) == list(arrivals(phases))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_constant_rate_has_equal_spaces_across_phases() -> None:
    times = list(arrivals([phase(1.0, 10.0), phase(1.0, 10.0)]))

    assert len(times) == 20
    assert [after - before for before, after in pairwise(times)] == pytest.approx([0.1] * 19)


def test_a_ramp_has_as_many_arrivals_at_each_end_as_its_rates_there() -> None:
    times = list(arrivals([phase(10.0, 0.0, 100.0)]))

    assert len(times) == 500
    by_second = [sum(int(time_s) == second for time_s in times) for second in range(10)]
    assert by_second == pytest.approx([5 + 10 * second for second in range(10)], abs=1)


def test_a_pause_has_no_arrivals() -> None:
    times = list(arrivals([phase(1.0, 10.0), phase(2.0, 0.0), phase(1.0, 10.0)]))

    assert not [time_s for time_s in times if 1.0 < time_s < 3.0]
    assert len(times) == 20


def test_a_second_with_any_part_of_a_warm_up_is_one() -> None:
    phases = [phase(1.5, 10.0, warm_up=True), phase(2.0, 10.0)]

    assert [is_warm_up(phases, second) for second in range(4)] == [True, True, False, False]
