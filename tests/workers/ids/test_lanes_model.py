"""A model of ids: the ledger stays clean under every sequence of actions that hypothesis generates.

Real workers run in the world of `tests/simulation`. A failure is shrunk to the shortest sequence.
"""

from __future__ import annotations

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

from domain.lanes.layout import LaneRange
from tests.simulation.faults import Plan, no_fault
from tests.simulation.sabotage import let_grants_overlap
from tests.simulation.world import HOUR_US, LEASE_US, SECOND_US, World

WORKERS = 3
WHICH = st.integers(0, WORKERS - 1)
COUNTS = st.one_of(st.integers(1, 5), st.integers(1000, 70_000), st.integers(1_000_000, 9_000_000))
FAULTS = [Plan(refused=True), Plan(answer_lost=True), Plan(late=True), Plan(twice=True)]
STEPS = settings(stateful_step_count=50, deadline=None)


class IdsModel(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 2**32), width=st.integers(1, 6))
    def begin(self, seed: int, width: int) -> None:
        self.world = World(seed, workers=WORKERS, lanes=LaneRange(40, 40 + width - 1))
        self.requests = 0

    @rule(requests=st.lists(st.tuples(WHICH, COUNTS), min_size=2, max_size=8))
    def send_requests(self, requests: list[tuple[int, int]]) -> None:
        self.requests += len(requests)
        for which, count in requests:
            self.world.ask(count, by=which)

    @precondition(lambda self: self.world.recent)
    @rule(which=WHICH, count=COUNTS)
    def request_ids_after_the_last_one(self, which: int, count: int) -> None:
        self.world.ask(count, by=which, after=self.world.recent[-1])

    @rule(duration_us=st.sampled_from([1, 1000, SECOND_US, LEASE_US // 2 + 1, LEASE_US, 2 * LEASE_US]))
    def let_time_pass(self, duration_us: int) -> None:
        self.world.clocks.advance(duration_us)

    @rule(offset_us=st.integers(-HOUR_US, HOUR_US))
    def step_the_clock_of_the_store(self, offset_us: int) -> None:
        self.world.clocks.step_store(offset_us)

    @rule(which=WHICH, duration_us=st.integers(0, LEASE_US))
    def stall_the_clock_of_a_worker(self, which: int, duration_us: int) -> None:
        self.world.workers[which].stalled_us += duration_us

    @rule(which=WHICH)
    def crash_a_worker(self, which: int) -> None:
        self.world.crash(which)

    @rule(which=WHICH)
    def stop_a_worker(self, which: int) -> None:
        self.world.stop(which)

    @rule(which=WHICH)
    def fork_a_worker(self, which: int) -> None:
        self.world.fork(which, (which + 1) % WORKERS)

    @rule(plan=st.sampled_from(FAULTS), skip=st.integers(0, 2))
    def let_an_append_fail(self, plan: Plan, skip: int) -> None:
        self.world.store.plan_once(plan, skip=skip)

    @rule(which=WHICH, count=COUNTS)
    def let_another_worker_act_before_an_append(self, which: int, count: int) -> None:
        def act() -> None:
            if not self.world.workers[which].is_busy:
                self.send_requests([(which, count)])

        self.world.store.plan_once(Plan(before=act))

    @rule()
    def store_late_appends(self) -> None:
        self.world.store.store_late()

    @rule(is_unavailable=st.booleans())
    def begin_or_end_an_outage(self, is_unavailable: bool) -> None:
        self.world.store.is_unavailable = is_unavailable

    # Not too often: each restore is followed by five minutes without ids.
    @precondition(lambda self: self.requests > 20)
    @rule(waits=st.booleans(), restarted=st.lists(WHICH))
    def restore_an_older_copy_and_fence(self, waits: bool, restarted: list[int]) -> None:
        self.requests = 0
        self.world.store.is_unavailable = False
        self.world.store.next_plan = no_fault
        self.world.restore_and_fence()
        for which in restarted:
            self.world.crash(which)
        if waits:
            self.world.clocks.advance(LEASE_US + 2 * SECOND_US)

    @invariant()
    def the_ledger_has_no_problem(self) -> None:
        if hasattr(self, "world"):
            assert not self.world.ledger.problems

    def teardown(self) -> None:
        if hasattr(self, "world"):
            assert not self.world.verify()


IdsModel.TestCase.settings = STEPS
TestIds = IdsModel.TestCase


def test_the_model_finds_grants_that_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    let_grants_overlap(monkeypatch)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(
            IdsModel, settings=settings(STEPS, max_examples=60, phases=[Phase.generate], database=None)
        )
