"""The lines of a benchmark over servers: CPU time of roles, and ratios of the runs of one round."""

from __future__ import annotations

import pytest

from scripts.bench.report import Line, table
from scripts.bench.samples import Sample, Samples, goals, section


def sampled(**runs: list[Sample]) -> Samples:
    samples = Samples()
    for name, found in runs.items():
        for each in found:
            samples.add(name.replace("_", " "), each)
    return samples


def goal(samples: Samples, title: str) -> Line:
    (found,) = [each for each in goals(samples) if each.title.startswith(title)]
    return found


def test_the_cpu_of_a_command_is_that_of_all_roles_and_no_server() -> None:
    cpu_s = {"users": 0.5, "projections": 0.2, "node": 9.0, "client": 9.0}
    found = goal(sampled(create=[Sample(1000, 2.0, cpu_s)]), "create")

    assert found.median(0) == pytest.approx(0.7)
    assert found.mark == ""


def test_rest_counts_the_followers_in_percent_of_a_core() -> None:
    cpu_s = {"users": 1.0, "projections": 0.1, "erasures": 0.1, "relay": 0.2}
    found = goal(sampled(idle=[Sample(10.0, 10.0, cpu_s)]), "followers at rest")

    assert found.median(0) == pytest.approx(4.0)
    assert found.mark == "missed"


def test_a_ratio_compares_the_runs_of_one_round() -> None:
    samples = sampled(
        bulk_create=[Sample(100, 1.0, {}), Sample(100, 4.0, {})],
        bare_append=[Sample(200, 1.0, {}), Sample(200, 2.0, {})],
    )
    found = goal(samples, "bulk create")

    assert found.figures == {0: [0.5, 0.25]}
    assert found.mark == "", "more is better here"


def test_the_section_marks_missed_goals_and_shows_the_cpu_of_each_process() -> None:
    found = section("over servers", sampled(create=[Sample(1, 1.0, {"users": 1.0, "node": 0.5})]))

    assert found.missed == ["create: CPU, ms"]
    assert found.matrix == {"create": {"users": 1000.0, "node": 500.0}}
    assert "rename" not in table(found), "it was not measured"
