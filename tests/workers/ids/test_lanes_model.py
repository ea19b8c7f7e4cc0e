"""A model of ids: whatever sequence of deeds hypothesis thinks of, the ledger stays clean.

Real workers over the test double of `tests/simulation`; a failure is shrunk to the shortest history.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from domain.kernel.ports.event_store import Append
from domain.lanes.layout import LaneRange
from tests.simulation.faults import Plan, no_fault
from tests.simulation.sabotage import let_grants_overlap
from tests.simulation.world import HOUR_US, LEASE_US, PEACE, SECOND_US, World

WORKERS = 3
WHICH = st.integers(0, WORKERS - 1)
COUNTS = st.one_of(st.integers(1, 5), st.integers(1000, 70_000), st.integers(1_000_000, 9_000_000))


class IdsModel(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 2**32), width=st.integers(1, 6))
    def begin(self, seed: int, width: int) -> None:
        self.world = World(seed, workers=WORKERS, lane_range=LaneRange(40, 40 + width - 1), chances=PEACE)
        self.asked = 0

    @rule(requests=st.lists(st.tuples(WHICH, COUNTS), min_size=2, max_size=8))
    def ask(self, requests: list[tuple[int, int]]) -> None:
        self.asked += len(requests)
        for which, count in requests:
            self.world.ask(self.world.workers[which], count)

    @precondition(lambda self: self.world._recent)
    @rule(which=WHICH, count=COUNTS)
    def ask_after_the_last_id(self, which: int, count: int) -> None:
        self.world.ask(self.world.workers[which], count, after=self.world._recent[-1])

    @rule(duration_us=st.sampled_from([1, 1000, SECOND_US, LEASE_US // 2 + 1, LEASE_US, 2 * LEASE_US]))
    def time_passes(self, duration_us: int) -> None:
        self.world.clocks.advance(duration_us)

    @rule(offset_us=st.integers(-HOUR_US, HOUR_US))
    def the_stores_clock_steps(self, offset_us: int) -> None:
        self.world.clocks.step_store(offset_us)

    @rule(which=WHICH, duration_us=st.integers(0, LEASE_US))
    def a_clock_stands_still(self, which: int, duration_us: int) -> None:
        self.world.workers[which].stalled_us += duration_us

    @rule(which=WHICH)
    def a_worker_crashes(self, which: int) -> None:
        self.world.crash(which)

    @rule(which=WHICH)
    def a_worker_stops(self, which: int) -> None:
        self.world.stop(which)

    @rule(which=WHICH)
    def a_worker_forks(self, which: int) -> None:
        self.world.fork(which, (which + 1) % WORKERS)

    @rule(fault=st.sampled_from(["refused", "answer_lost", "late", "twice"]), skip=st.integers(0, 2))
    def an_append_will_go_wrong(self, fault: str, skip: int) -> None:
        left = [skip]

        def next_plan(batch: Sequence[Append]) -> Plan:
            if left[0]:
                left[0] -= 1
                return Plan()
            self.world.store.next_plan = no_fault
            plan = Plan()
            setattr(plan, fault, True)
            return plan

        self.world.store.next_plan = next_plan

    @rule(which=WHICH, count=COUNTS)
    def another_worker_will_be_first(self, which: int, count: int) -> None:
        def plan(batch: Sequence[Append]) -> Plan:
            self.world.store.next_plan = no_fault
            worker = self.world.workers[which]
            return Plan(before=lambda: None if worker.is_busy else self.ask([(which, count)]))

        self.world.store.next_plan = plan

    @rule()
    def late_appends_land(self) -> None:
        self.world.store.land_late()

    @rule(away=st.booleans())
    def the_store_is_away_or_back(self, away: bool) -> None:
        self.world.store.is_away = away

    @precondition(lambda self: self.asked > 20)
    @rule(waits=st.booleans(), restarted=st.lists(WHICH))
    def an_older_copy_is_restored_and_fenced(self, waits: bool, restarted: list[int]) -> None:
        self.asked = 0  # every restore is followed by a silence of five minutes: not too many of them
        self.world.store.is_away = False
        self.world.store.next_plan = no_fault
        self.world.restore_and_fence()
        for which in restarted:
            self.world.crash(which)
        if waits:
            self.world.clocks.advance(LEASE_US + 2 * SECOND_US)

    @invariant()
    def nothing_is_wrong(self) -> None:
        if hasattr(self, "world"):
            assert not self.world.ledger.problems

    def teardown(self) -> None:
        if hasattr(self, "world"):
            assert not self.world.verify()


IdsModel.TestCase.settings = settings(stateful_step_count=50, deadline=None)
TestIds = IdsModel.TestCase


def test_the_model_finds_workers_that_ignore_the_grant_before_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    let_grants_overlap(monkeypatch)
    once = settings(
        stateful_step_count=50, deadline=None, max_examples=60, phases=[Phase.generate], database=None
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(IdsModel, settings=once)
