"""A benchmark of few commands runs to its end, and leaves nothing behind."""

from __future__ import annotations

import pytest

from scripts.bench.parts import throw_away
from scripts.bench.runs import Runs, Sizes
from scripts.bench.samples import Samples, goals
from tests.support.processes import all_processes


@pytest.mark.slow
def test_a_short_benchmark_measures_every_goal() -> None:
    samples = Samples()
    with throw_away(None) as parts:
        Runs(parts, Sizes(rounds=1, commands=20, throughput=100, idle_s=0.2), samples).all()
        home = str(parts.system.home)

    found = list(goals(samples))
    assert [each.title for each in found if not each.figures] == []
    assert len(found) == 10
    assert [pid for pid, arguments in all_processes() if home in arguments] == []
