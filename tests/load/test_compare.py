"""Two runs of one system are no different, and a slower one is found: over many seeds."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import pytest

from domain.kernel.errors import InvalidInput
from load.compare import Comparison, compare
from load.results import Run, Second, ServerSide
from tests.support.effort import sized
from tests.support.load_runs import Made, machine, tally

SEEDS = range(sized(6, 60))
MIX = {"get": (0.8, 1.2), "create": (0.2, 6.0)}
STEADY = (("warm-up", 0.1, 1, 1), ("steady", 0.9, 1, 1))


def made(seed: int, slower: float = 1.0, stalls: float = 0.0) -> Run:
    """A minute of one system. Its machine is about 1 % faster or slower in each run, and 5 % in each second."""
    of_the_day = math.exp(random.Random(seed).gauss(0, 0.01))
    return Made(duration_s=60, per_s=60, seed=seed, slower=slower * of_the_day, stalls=stalls, mix=MIX).run()


def verdicts(found: Comparison, operation: str) -> dict[str, str]:
    return {each.figure: each.verdict for each in found.changes if each.operation == operation}


@pytest.mark.parametrize("stalls", [0.0, 0.03])
def test_two_runs_of_one_system_do_not_differ(stalls: float) -> None:
    for seed in SEEDS:
        found = compare(made(seed, stalls=stalls), made(seed + 1000, stalls=stalls))

        assert {each.verdict for each in found.changes} <= {"same", "unknown"}, (seed, found.lines())
        assert not found.is_worse
        assert verdicts(found, "get")["p50_ms"] == "same"


def test_a_slowdown_of_20_percent_is_found() -> None:
    found = [compare(made(seed), made(seed + 1000, slower=1.2)) for seed in SEEDS]

    told = [each for each in found if each.is_worse and verdicts(each, "get")["p50_ms"] == "worse"]
    assert len(told) >= 0.9 * len(SEEDS), f"{len(told)} of {len(SEEDS)}"
    changes = [next(each.change for each in one.changes if each.figure == "p50_ms") for one in found]
    assert sum(filter(None, changes)) / len(SEEDS) == pytest.approx(0.2, abs=0.03)


def test_the_way_back_is_found_as_faster() -> None:
    found = compare(made(1, slower=1.3), made(2))

    assert verdicts(found, "get")["p50_ms"] == "better"
    assert any(line.startswith("faster          get            p50") for line in found.lines())


def test_few_replies_tell_nothing() -> None:
    found = compare(
        Made(duration_s=20, per_s=2, mix=MIX).run(), Made(duration_s=20, per_s=2, mix=MIX, slower=5).run()
    )

    assert set(verdicts(found, "create").values()) <= {"unknown", "same"}
    assert verdicts(found, "create")["p50_ms"] == "unknown"
    assert any(line.startswith("too few replies p50 of") for line in found.lines())


def test_a_run_compared_with_itself_is_the_same() -> None:
    run = made(3)

    assert {each.change for each in compare(run, run).changes if each.change is not None} == {0.0}


def test_more_errors_and_drops_are_found() -> None:
    bad = made(2)
    for second in bad.seconds:
        second.operations["get"] = tally([1.2] * 40, dropped=4, errors={"unavailable": 2})

    found = compare(made(1), bad)

    assert verdicts(found, "get")["error_rate"] == "worse"
    assert verdicts(found, "get")["dropped_rate"] == "worse"
    assert verdicts(found, "create")["error_rate"] == "same"
    assert any(line.startswith("more            get            errors") for line in found.lines())


def test_the_warm_up_is_not_compared() -> None:
    one, other = (Made(duration_s=60, per_s=60, seed=seed, mix=MIX, phases=STEADY).run() for seed in (1, 2))
    other.seconds[:6] = [
        Second(each.number, {"get": tally([5000.0] * 900)}, warm_up=True) for each in other.seconds[:6]
    ]

    assert {each.verdict for each in compare(one, other).changes} <= {"same", "unknown"}
    (change,) = [
        each for each in compare(one, other).changes if (each.operation, each.figure) == ("get", "p99_ms")
    ]
    assert change.after is not None
    assert change.after < 100


def test_a_longer_projection_lag_is_found() -> None:
    one, other = made(1), made(2)
    one.server = [ServerSide(number, [], {}, {}, 10.0 + number % 3) for number in range(60)]
    other.server = [ServerSide(number, [], {}, {}, 20.0 + number % 5) for number in range(60)]

    (lag,) = [each for each in compare(one, other).changes if each.figure == "lag_ms"]

    assert lag.verdict == "worse"
    assert lag.word == "slower"


def test_runs_with_other_phases_are_refused() -> None:
    with pytest.raises(InvalidInput, match="the second run has other phases than the first"):
        compare(made(1), Made(duration_s=60, per_s=61, mix=MIX).run())


def test_runs_without_a_common_operation_are_refused() -> None:
    with pytest.raises(InvalidInput, match="no operation of the first"):
        compare(made(1), Made(duration_s=60, per_s=60, mix={"find": (1.0, 2.0)}).run())


def test_what_else_differs_is_warned_of_by_name() -> None:
    one, other = made(1), made(2)
    other.scenario = {**other.scenario, "name": "soak", "seed": 8, "text": "# other"}
    other.machine = machine("two")
    other.profile = {**other.profile, "store": "eventstoredb"}
    other.ended = "interrupted"
    other = replace(other, totals={name: each for name, each in other.totals.items() if name == "get"})

    warnings = " ".join(compare(one, other).warnings)

    assert "the scenario's name differs: ramp, then soak" in warnings
    assert "the scenario's seed differs: 7, then 8" in warnings
    assert "the scenario's text differs" in warnings
    assert "the machine differs: host one, " in warnings
    assert "the profile differs: broker local, store sqlite, " in warnings
    assert "the second run is not whole: interrupted" in warnings
    assert "only one run has: create" in warnings


def test_a_busy_machine_is_warned_of_and_is_no_other_machine() -> None:
    one, other = made(1), made(2)
    one.machine = {**one.machine, "load_at_start": 0.4}
    other.machine = {**other.machine, "load_at_start": 7.5}

    assert compare(one, other).warnings == [
        "the second run began on a busy machine: load average 7.5 on 4 cores"
    ]


def test_runs_alike_warn_of_nothing() -> None:
    assert compare(made(1), made(2)).warnings == []


def test_the_comparison_is_json_and_names_its_method() -> None:
    found = compare(made(1), made(2))

    shown = json.loads(json.dumps(found.to_json()))

    assert shown["worse"] is False
    assert {"operation", "figure", "before", "after", "change", "low", "high", "slots", "verdict"} == set(
        shown["changes"][0]
    )
    assert "Wilcoxon" in shown["method"]
    assert found.lines()[-1] == shown["method"]
