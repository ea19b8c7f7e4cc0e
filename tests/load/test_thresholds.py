"""Thresholds at the end of a run and during it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from load.results import Second, ServerSide, Tally, add_operations
from load.scenario import Threshold
from load.thresholds import FIGURES, Seen, failing, judge
from tests.support.load_runs import Made, tally

GETS = [float(ms) for ms in range(1, 101)]


def seen(totals: Mapping[str, Tally], *server: ServerSide, measured_s: float = 10) -> Seen:
    return Seen(totals, measured_s, server)


def measured(figure: str, found: Seen, operation: str = "get") -> float | None:
    (verdict,) = judge([Threshold(operation, figure, 0)], found)
    return verdict.measured


@pytest.mark.parametrize(
    ("figure", "expected"),
    [
        ("p50_ms", 50),
        ("p95_ms", 95),
        ("p99_ms", 99),
        ("p999_ms", 100),
        ("max_ms", 100),
        ("error_rate", 0.03),
        ("dropped", 25),
        ("dropped_rate", 0.2),
        ("per_s", 9.7),
    ],
)
def test_figures_are_those_of_the_operation(figure: str, expected: float) -> None:
    found = seen({"get": tally(GETS, dropped=25, errors={"timeout": 3}), "create": tally([5000.0] * 900)})

    assert measured(figure, found) == pytest.approx(expected, rel=0.001)


def test_without_an_operation_the_figures_are_those_of_all() -> None:
    found = seen({"get": tally([10.0] * 50, dropped=3), "create": tally([1000.0] * 50, dropped=4)})

    assert measured("p50_ms", found, "") == pytest.approx(10, rel=0.001)
    assert measured("p95_ms", found, "") == pytest.approx(1000, rel=0.001)
    assert measured("dropped", found, "") == 7


def test_lag_is_the_longest_of_the_server_side() -> None:
    server = [
        ServerSide(0, [], {}, {"users_1": 3, "streams_1": 9}, None),
        ServerSide(1, [], {}, {"users_1": 5}, 40.5),
        ServerSide(2, [], {}, {}, 12.0),
    ]

    assert measured("lag_ms", seen({}, *server), "") == 40.5
    assert measured("lag", seen({}, *server), "") == 9


def test_a_figure_at_its_limit_passes() -> None:
    (verdict,) = judge([Threshold("get", "max_ms", 2)], seen({"get": tally([1.0, 2.0])}))

    assert verdict.passed


def test_a_figure_beyond_its_limit_fails() -> None:
    (verdict,) = judge([Threshold("get", "p95_ms", 94.9)], seen({"get": tally(GETS)}))

    assert not verdict.passed


def test_a_throughput_has_to_reach_its_limit() -> None:
    found = seen({"get": tally(GETS)})

    low, high = judge([Threshold("get", "per_s", 10), Threshold("get", "per_s", 10.1)], found)

    assert (low.passed, high.passed) == (True, False)


@pytest.mark.parametrize("figure", [name for name in FIGURES if name != "dropped"])
def test_a_limit_that_was_never_measured_is_not_kept(figure: str) -> None:
    (verdict,) = judge([Threshold("get", figure, 1000)], Seen({}, 0, ()))

    assert verdict.measured is None
    assert not verdict.passed


def test_the_warm_up_of_a_run_is_not_judged() -> None:
    run = Made(duration_s=4, per_s=10).run()
    slow, fast = tally([9000.0] * 5), tally([5.0] * 5)
    run.seconds = [Second(0, {"get": slow}, warm_up=True), Second(1, {"get": fast}), Second(2, {"get": fast})]
    run.totals = add_operations(second.operations for second in run.measured)
    run.server = [ServerSide(0, [], {}, {"users": 900}, 9000.0), ServerSide(1, [], {}, {"users": 9}, 90.0)]

    found = Seen.of(run)

    assert measured("max_ms", found) == pytest.approx(5, rel=0.001)
    assert measured("per_s", found) == 5
    assert (measured("lag_ms", found, ""), measured("lag", found, "")) == (90, 9)


def test_verdicts_can_be_judged_again() -> None:
    before = judge([Threshold("get", "p95_ms", 50)], seen({"get": tally([10.0])}))

    (after,) = judge(before, seen({"get": tally([90.0])}))

    assert (before[0].passed, after.passed) == (True, False)
    assert (after.operation, after.figure, after.limit) == ("get", "p95_ms", 50)


# --- during a run ----------------------------------------------------------------------------


def aborts(figure: str, found: Seen, limit: float = 1, operation: str = "get") -> bool:
    return failing([Threshold(operation, figure, limit, abort_on_fail=True)], found) is not None


@pytest.mark.parametrize(("figure", "enough"), [("p50_ms", 20), ("p95_ms", 200), ("p99_ms", 1000)])
def test_a_percentile_is_judged_when_ten_replies_are_beyond_it(figure: str, enough: int) -> None:
    assert not aborts(figure, seen({"get": tally([500.0] * (enough - 1))}))
    assert aborts(figure, seen({"get": tally([500.0] * enough)}))


def test_a_rate_is_judged_from_100_requests_on() -> None:
    assert not aborts("error_rate", seen({"get": tally([1.0] * 99, errors={"timeout": 99})}), 0.5)
    assert aborts("error_rate", seen({"get": tally([1.0] * 100, errors={"timeout": 99})}), 0.5)
    assert not aborts("dropped_rate", seen({"get": tally([], dropped=99)}), 0.5)
    assert aborts("dropped_rate", seen({"get": tally([], dropped=100)}), 0.5)


def test_what_cannot_recover_fails_at_once() -> None:
    assert aborts("dropped", seen({"get": tally([], dropped=2)}))
    assert aborts("max_ms", seen({"get": tally([2.0])}))
    assert aborts("lag_ms", seen({}, ServerSide(0, [], {}, {}, 2.0)), operation="")
    assert aborts("lag", seen({}, ServerSide(0, [], {}, {"users_1": 2})), operation="")


def test_a_throughput_is_judged_at_the_end_alone() -> None:
    assert not aborts("per_s", seen({"get": tally([1.0] * 5000)}), 10_000)


@pytest.mark.parametrize("figure", FIGURES)
def test_a_run_without_requests_is_not_aborted(figure: str) -> None:
    assert not aborts(figure, Seen({}, 0, ()))


def test_a_threshold_without_abort_on_fail_never_aborts() -> None:
    assert failing([Threshold("get", "dropped", 0)], seen({"get": tally([], dropped=9)})) is None


def test_the_failing_threshold_is_named_with_its_figure() -> None:
    thresholds = [Threshold("", "dropped", 9, True), Threshold("get", "dropped", 1, True)]

    verdict = failing(thresholds, seen({"get": tally([], dropped=2)}))

    assert verdict is not None
    assert (verdict.operation, verdict.figure, verdict.measured) == ("get", "dropped", 2)
