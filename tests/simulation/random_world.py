"""A world in which chance decides what fails: one seed is one history of requests, faults and time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from domain.kernel.ports.event_store import Append
from domain.lanes.layout import LaneRange
from tests.simulation.faults import Plan
from tests.simulation.world import HOUR_US, SECOND_US, World

CHANCES = {
    "store fault": 0.1, "others in between": 0.3, "pause in between": 0.02, "crash": 0.01, "stop": 0.01, "fork": 0.005,
    "stall": 0.003, "clock step": 0.002, "outage": 0.002, "restore": 0.002, "long wait": 0.01,
}  # fmt: skip
"""The probability of each fault, per step or per append."""


class RandomWorld(World):
    def __init__(
        self,
        seed: int,
        *,
        lanes: LaneRange | None = None,
        chances: Mapping[str, float] = CHANCES,
        only_small_requests: bool = False,
    ) -> None:
        """`chances` replace those of `CHANCES` with the same name."""
        # Few lanes make workers meet on one; many allow large blocks. Each seed has its own mix.
        super().__init__(seed, workers=6, lanes=lanes or LaneRange(0, (6, 9, 15, 63)[seed % 4]))
        self._chances = {**CHANCES, **chances}
        self._only_small_requests = only_small_requests
        self._depth = 0
        self._outage_ends_us = 0

    def _happens(self, what: str) -> bool:
        return self.rng.random() < self._chances[what]

    def run(self, ids: int, *, max_steps: int = 10**9) -> None:
        """Let things happen until so many ids are issued or so many steps are done."""
        steps = 0
        while self.ledger.ids < ids and steps < max_steps:
            steps += 1
            self._let_time_pass()
            self._break_something()
            self._random_request()
            # Rarely: a worker is not always interrupted, and a store is not always slow.
            if self.rng.random() < 0.01:
                self.store.store_late()
        self.counts["steps"] += steps

    def fence(self) -> None:
        self._depth += 2  # no other worker gets a grant between the restore and the fence
        super().fence()
        self._depth -= 2

    def plan(self, batch: Sequence[Append]) -> Plan:
        plan, rng = super().plan(batch), self.rng
        if self._happens("store fault"):
            fault = rng.choice(["refused", "answer_lost", "late", "twice"])
            setattr(plan, fault, True)
            self.counts[fault] += 1
        if self._happens("others in between"):
            setattr(plan, rng.choice(["before", "after"]), self._let_others_act)
        return plan

    def _let_others_act(self) -> None:
        if self._depth >= 2:
            return
        self._depth += 1
        begun_us, busy = self.clocks.true_us, [worker for worker in self.workers if worker.is_busy]
        self.counts["interleavings"] += 1
        if self.rng.random() < 0.3:
            self.store.store_late()
        for _ in range(self.rng.randrange(1, 4)):
            self._random_request()
        if self._happens("pause in between"):
            self.clocks.advance(self.rng.choice([10_000, SECOND_US, 30 * SECOND_US, 400 * SECOND_US]))
            self.counts["pauses"] += 1
        for worker in busy:
            worker.pauses_us.append(self.clocks.true_us - begun_us)
        self._depth -= 1

    def _random_request(self) -> None:
        idle = [index for index, worker in enumerate(self.workers) if not worker.is_busy]
        if idle:
            after = self.rng.choice(self.recent) if self.recent and self.rng.random() < 0.1 else None
            by = self.rng.choice(idle)
            self.ask(self._random_count(), by=by, after=after)

    def _random_count(self) -> int:
        dice = self.rng.random()
        if dice < 0.6 or self._only_small_requests:
            return self.rng.randrange(1, 10)
        if dice < 0.997:
            return self.rng.randrange(10, 4097)
        if dice < 0.9998:
            return self.rng.randrange(4097, 100_000)
        return self.rng.randrange(100_000, 10_000_000)

    def _let_time_pass(self) -> None:
        if self._happens("long wait"):
            self.clocks.advance(self.rng.randrange(400 * SECOND_US))
        else:
            self.clocks.advance(self.rng.choice([1, 10, 1000, 100_000, SECOND_US]))
        if self.store.is_unavailable and self.clocks.true_us > self._outage_ends_us:
            self.store.is_unavailable = False

    def _break_something(self) -> None:
        index = self.rng.randrange(len(self.workers))
        if self._happens("crash"):
            self.crash(index)
        if self._happens("stop"):
            self.stop(index)
        if self._happens("fork"):
            self.fork(index, (index + 1) % len(self.workers))
        if self._happens("stall"):
            self.workers[index].stalled_us += self.rng.randrange(60 * SECOND_US)
            self.counts["stalls"] += 1
        if self._happens("clock step"):
            self.clocks.step_store(self.rng.randrange(-HOUR_US, HOUR_US))
            self.counts["clock steps"] += 1
        if self._happens("outage"):
            self.store.is_unavailable = True
            self._outage_ends_us = self.clocks.true_us + self.rng.randrange(600 * SECOND_US)
            self.counts["outages"] += 1
        if self._happens("restore") and not self.store.is_unavailable:
            self.restore_and_fence()
