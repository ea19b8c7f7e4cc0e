"""Runs of several machines become one, and what does not belong together is refused by name."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.kernel.errors import InvalidInput
from load.histograms import Histogram
from load.merge import IDS_NOT_COMPARED, merge
from load.report import html
from load.results import Ledger, Run, Second, ServerSide, Tally, Verdict, add_operations
from load.scenario import Threshold
from load.thresholds import Seen, judge
from tests.support.effort import EXAMPLES
from tests.support.load_runs import Made, machine, tally

A = Made(duration_s=10, per_s=20, seed=1, started_at="2026-03-01T12:00:00.100000Z", host="a").run()
B = Made(duration_s=10, per_s=20, seed=2, started_at="2026-03-01T12:00:02.050000Z", host="b").run()
C = Made(duration_s=10, per_s=20, seed=3, started_at="2026-03-01T12:00:01.000000Z", host="c").run()


def test_counts_and_histograms_are_added() -> None:
    merged = merge([A, B])

    for name, total in merged.totals.items():
        parts = [A.totals[name], B.totals[name]]
        expected = Histogram(parts[0].latency)
        expected.add(parts[1].latency)
        assert total.wanted == sum(part.wanted for part in parts)
        assert total.latency == expected.encoded()
    assert merged.scenario["processes"] == 4
    assert merged.scenario["callers"] == 512
    assert [each["to_per_s"] for each in merged.scenario["phases"]] == [
        2 * each["to_per_s"] for each in A.scenario["phases"]
    ]


def test_a_percentile_is_that_of_the_added_histograms() -> None:
    fast = replace(A, totals={"get": tally([10.0] * 198)}, verdicts=[Verdict("get", "p50_ms", 20, 10, True)])
    slow = replace(
        B, totals={"get": tally([1000.0] * 2)}, verdicts=[Verdict("get", "p50_ms", 20, 1000, False)]
    )

    merged = merge([slow, fast])

    assert Histogram(merged.totals["get"].latency).at_ms(50) == pytest.approx(10, rel=0.001)
    assert [each.passed for each in merged.verdicts] == [True]


def test_seconds_are_aligned_by_the_clocks() -> None:
    merged = merge([B, A])

    assert merged.started_at == A.started_at
    assert merged.duration_s == pytest.approx(11.95)
    assert [each.number for each in merged.seconds] == list(range(12))
    assert merged.seconds[0].operations == A.seconds[0].operations
    assert merged.seconds[11].operations == B.seconds[9].operations
    assert merged.seconds[5].operations["get"].wanted == (
        A.seconds[5].operations["get"].wanted + B.seconds[3].operations["get"].wanted
    )


def test_thresholds_are_judged_again() -> None:
    thresholds = [Threshold("", "dropped", 5)]
    parts = []
    for run in (A, B):
        totals = {"get": tally([1.0], dropped=4)}
        seen = replace(run, totals=totals)
        parts.append(replace(seen, verdicts=judge(thresholds, Seen.of(seen))))

    (verdict,) = merge(parts).verdicts

    assert all(part.verdicts[0].passed for part in parts)
    assert (verdict.measured, verdict.passed) == (8, False)


def test_what_several_machines_saw_of_the_system_is_not_added() -> None:
    worker = {"role": "users", "instance": "u-1", "host": "a", "pid": 7}
    near = ServerSide(
        3, [{**worker, "cpu_percent": 50.0, "memory_mb": 60.0}], {"users": 5}, {"users_1": 9}, None
    )
    far = ServerSide(
        1, [{**worker, "cpu_percent": None, "memory_mb": None}], {"users": 7}, {"users_1": 4}, 30.0
    )

    (merged,) = merge([replace(A, server=[near]), replace(B, server=[far])]).server

    assert merged == ServerSide(3, near.workers, {"users": 7}, {"users_1": 9}, 30.0)


def test_the_cost_of_a_request_is_that_of_all_requests() -> None:
    one = replace(A, totals={"get": tally([1.0] * 30)}, tool={"cpu_s": 3.0, "cpu_us_per_request": 100.0})
    other = replace(B, totals={"get": tally([1.0] * 10)}, tool={"cpu_s": 2.0, "cpu_us_per_request": 200.0})

    assert merge([one, other]).tool == {"cpu_s": 5.0, "cpu_us_per_request": 125.0}


def test_a_merged_run_keeps_its_parts_and_reads_back() -> None:
    merged = merge([A, B])

    assert [part["machine"]["host"] for part in merged.parts] == ["a", "b"]
    assert [each["host"] for each in merged.machines] == ["a", "b"]
    assert Run.from_json(merged.to_json(), "ab.json") == merged
    assert "Machine 2" in html(merged)


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        (("done", "done"), "done"),
        (("done", "interrupted"), "interrupted"),
        (("interrupted", "aborted: get p99_ms"), "aborted: get p99_ms"),
    ],
)
def test_a_merged_run_is_done_if_all_are(ends: tuple[str, str], expected: str) -> None:
    assert merge([replace(A, ended=ends[0]), replace(B, ended=ends[1])]).ended == expected


# --- ledgers ---------------------------------------------------------------------------------


def test_ledgers_are_added_and_ids_of_two_machines_are_unproven() -> None:
    one = replace(A, ledger=Ledger(commands=10, lost=1, ids=5))
    other = replace(B, ledger=Ledger(commands=7, twice=2, ids=5))

    found = merge([one, other]).ledger

    assert found is not None
    assert (found.commands, found.lost, found.twice, found.ids, found.shared_ids) == (17, 1, 2, 10, 0)
    assert found.unproven == [IDS_NOT_COMPARED]


def test_without_ids_of_two_machines_nothing_is_unproven() -> None:
    found = merge([replace(A, ledger=Ledger(ids=5)), replace(B, ledger=Ledger(commands=9))]).ledger

    assert found is not None
    assert found.unproven == []


def test_a_missing_ledger_is_named_and_hides_no_loss() -> None:
    merged = merge([replace(A, ledger=Ledger(lost=1)), replace(B, ledger=None)])

    assert merged.ledger is not None
    assert not merged.ledger.is_clean
    assert merged.ledger.unproven == [
        "No ledger was checked for the run of 2026-03-01T12:00:02.050000Z on b."
    ]
    assert "No ledger was checked for the run of 2026-03-01T12:00:02.050000Z on b." in html(merged)


def test_no_ledger_stays_none() -> None:
    assert merge([replace(A, ledger=None), replace(B, ledger=None)]).ledger is None


# --- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"scenario": {**B.scenario, "text": "# other"}}, "the scenario differs"),
        ({"scenario": {**B.scenario, "name": "soak"}}, "the scenario differs"),
        ({"scenario": {**B.scenario, "mode": "process"}}, "the mode differs"),
        ({"scenario": {**B.scenario, "phases": []}}, "the list of phases differs"),
        ({"profile": {"broker": "rabbitmq"}}, "the profile differs"),
        ({"verdicts": [Verdict("", "dropped", 1, 0, True)]}, "the list of thresholds differs"),
        ({"started_at": "2026-03-01T12:00:30.000000Z"}, "on b began after the end of the run of .* on a"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused_by_name(changed: dict[str, object], named: str) -> None:
    other = replace(B, **changed)  # type: ignore[arg-type]

    with pytest.raises(InvalidInput, match=named):
        merge([A, other])


def test_the_same_run_twice_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match=r"the run of 2026-03-01T12:00:00\.100000Z on a occurs twice"):
        merge([A, B, A])


def test_a_run_that_is_merged_already_is_refused() -> None:
    with pytest.raises(InvalidInput, match="on b occurs twice"):
        merge([merge([A, B]), B])


def test_one_run_is_no_list() -> None:
    with pytest.raises(InvalidInput, match="the list of runs has fewer than two"):
        merge([A])


def test_seeds_may_differ_so_that_people_do() -> None:
    other = replace(B, scenario={**B.scenario, "seed": 8})

    assert merge([A, other]).scenario["seed"] == [7, 8]
    assert merge([merge([A, other]), C]).scenario["seed"] == [7, 8]


# --- order -----------------------------------------------------------------------------------

latencies = st.lists(st.integers(1, 10_000_000), max_size=6)


@st.composite
def runs(draw: st.DrawFn) -> list[Run]:
    """Three runs of one scenario that overlap, with other counts and latencies."""
    found = []
    for index in range(3):
        seconds = []
        for number in range(draw(st.integers(0, 3))):
            histogram = Histogram()
            for latency_us in draw(latencies):
                histogram.record(latency_us)
            wanted, dropped, succeeded = draw(st.tuples(*[st.integers(0, 100)] * 3))
            errors = draw(st.dictionaries(st.sampled_from(["timeout", "refused"]), st.integers(1, 9)))
            name = draw(st.sampled_from(["get", "create"]))
            seconds.append(
                Second(number, {name: Tally(wanted, dropped, succeeded, errors, histogram.encoded())})
            )
        found.append(
            replace(
                A,
                started_at=f"2026-03-01T12:00:0{draw(st.integers(0, 4))}.{index:06}Z",
                machine=machine(f"host-{index}"),
                seconds=seconds,
                totals=add_operations(each.operations for each in seconds),
                server=[],
                ledger=draw(st.none() | st.builds(Ledger, *[st.integers(0, 9)] * 4, lost=st.integers(0, 2))),
            )
        )
    return found


@settings(max_examples=EXAMPLES, deadline=None)
@given(runs())
def test_the_order_of_runs_does_not_matter(parts: list[Run]) -> None:
    one, *others = [merge(order) for order in itertools.permutations(parts)]

    assert all(other == one for other in others)


@settings(max_examples=EXAMPLES, deadline=None)
@given(runs(), st.randoms(use_true_random=False))
def test_merging_in_steps_gives_the_same_totals(parts: list[Run], chance: random.Random) -> None:
    chance.shuffle(parts)
    at_once, in_steps = merge(parts), merge([merge(parts[:2]), parts[2]])

    assert in_steps.totals == at_once.totals
    assert in_steps.ledger == at_once.ledger
    assert in_steps.started_at == at_once.started_at
    assert in_steps.duration_s == pytest.approx(at_once.duration_s)
    assert in_steps.parts == at_once.parts
