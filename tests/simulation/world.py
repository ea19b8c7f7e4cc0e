"""A world of virtual clocks in which real `IdsService` workers issue ids; only clocks and network are simulated.

One seed is one history, the same on every run. Other workers act during a worker's call to the store, so races
need no threads. Nothing fails here unless a test makes it fail; `random_world` adds chance.
"""

from __future__ import annotations

import copy
import random
import threading
from collections import Counter, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from adapters.codec import JsonCodec
from domain.kernel.errors import EsError
from domain.kernel.ids import STEP, decompose, position_at
from domain.kernel.messages import LATER, Body, Request
from domain.kernel.ports.event_store import Append
from domain.lanes.events import EVENTS
from domain.lanes.layout import LaneRange
from domain.lanes.limits import MAX_LEASE_MS, ORDERED_COUNT
from tests.simulation.asking import ask
from tests.simulation.faults import FaultyStore, Plan, no_fault
from tests.simulation.ledger import Ledger
from workers.ids.service import IdsService

START_US = 1_800_000_000_000_000
SECOND_US = 1_000_000
HOUR_US = 3600 * SECOND_US
LEASE_US = MAX_LEASE_MS * 1000
AHEAD_US = SECOND_US
TEN_LANES = LaneRange(0, 9)
CLOCK_READ_US = 200_000
"""How long a read of the store's clock may take. A worker may be late by as much, and never early."""
_SLACK_US = 2_000  # rounding, and the steps of virtual time within one call


class Clocks:
    """True time, and the store's wall clock, which is wrong by a changing offset."""

    def __init__(self) -> None:
        self.true_us = START_US
        self._steps: deque[tuple[int, int]] = deque([(0, 0)])  # (since when, offset)

    def store_us(self) -> int:
        return self.true_us + self._steps[-1][1]

    def advance(self, duration_us: int) -> None:
        self.true_us += duration_us

    def step_store(self, offset_us: int) -> None:
        self._steps.append((self.true_us, offset_us))
        while len(self._steps) > 2 and self._steps[1][0] < self.true_us - HOUR_US:
            self._steps.popleft()

    def offsets_since(self, time_us: int) -> list[int]:
        """Every offset that was in force at or after a time."""
        offsets = [offset for since, offset in self._steps if since > time_us]
        return [next(offset for since, offset in reversed(self._steps) if since <= time_us), *offsets]


@dataclass(eq=False)
class SimulatedWorker:
    """A process with its own monotonic clock, which starts at any value and may stall."""

    clocks: Clocks
    base_us: int
    service: IdsService = field(init=False)
    stalled_us: int = 0
    pauses_us: list[int] = field(default_factory=list)
    is_busy: bool = False

    def monotonic_ns(self) -> int:
        return 1000 * (self.base_us + self.clocks.true_us - START_US - self.stalled_us)

    def sleep(self, duration_s: float) -> None:
        duration_us = int(duration_s * SECOND_US)
        self.clocks.advance(duration_us)
        self.pauses_us.append(duration_us)


class World:
    def __init__(self, seed: int = 1, *, workers: int = 1, lanes: LaneRange = TEN_LANES) -> None:
        self.rng = random.Random(seed)
        self.clocks = Clocks()
        self.store = FaultyStore(self.clocks.store_us)
        self.store.next_plan = self.plan
        self.ledger = Ledger()
        self.counts: Counter[str] = Counter()
        self.recent: deque[int] = deque(maxlen=50)
        self._lanes = lanes
        self._codec = JsonCodec(EVENTS)
        self.workers = [self.start_worker() for _ in range(workers)]

    @property
    def service(self) -> IdsService:
        """The service of the first worker."""
        return self.workers[0].service

    def plan(self, batch: Sequence[Append]) -> Plan:
        """The faults of the append that a worker is about to make: none, but the network takes time."""
        self.clocks.advance(self.rng.randrange(20, 400))
        return Plan()

    def start_worker(self, lanes: LaneRange | None = None) -> SimulatedWorker:
        worker = SimulatedWorker(self.clocks, self.rng.randrange(10**12))
        worker.service = IdsService(
            self.store,
            self._codec,
            host="simulated",
            pid=self.rng.randrange(1, 10),
            store_name="memory:",
            monotonic_ns=worker.monotonic_ns,
            asleep_ns=lambda: 0,
            random_below=self.rng.randrange,
            new_token=self.new_token,
            lane_range=lanes or self._lanes,
            sleep=worker.sleep,
        )
        return worker

    def new_token(self) -> UUID:
        return UUID(int=self.rng.getrandbits(128), version=4)

    def crash(self, index: int) -> None:
        self.workers[index] = self.start_worker()
        self.counts["crashes"] += 1

    def stop(self, index: int) -> None:
        self.workers[index].is_busy = True
        self.workers[index].service.close()
        self.workers[index] = self.start_worker()
        self.counts["stops"] += 1

    def fork(self, index: int, replaced: int) -> None:
        """Copy a worker's memory, then run the hook that `os.register_at_fork` runs in the child."""
        parent = self.workers[index]
        shared = {id(thing): thing for thing in (self, self.clocks, self.store, self._codec, self.rng)}
        child = copy.deepcopy(parent, {**shared, id(parent.service.lock): threading.Lock()})
        child.is_busy = False
        child.service.drop_lease_after_fork()
        self.workers[replaced] = child
        self.counts["forks"] += 1

    def ask(self, count: int, *, by: int = 0, after: int | None = None) -> EsError | None:
        """Request ids from the worker with the index `by`. They go into the ledger; an error is returned."""
        request = Request("ids.next", {"count": count, "after": None if after is None else str(after)})
        worker, begun_us = self.workers[by], self.clocks.true_us
        worker.is_busy, worker.pauses_us = True, []
        (reply,) = worker.service.handle([request])
        for _ in range(20):
            if reply is not LATER:
                break
            self.clocks.advance(50_000)
            (reply,) = worker.service.handle([request])
        worker.is_busy = False
        if len(worker.pauses_us) >= 4:
            # Each read of the store's clock may have been interrupted: then the worker is late by as much.
            worker.stalled_us += sum(worker.pauses_us)
        if isinstance(reply, EsError):
            self.counts[reply.code] += 1
            return reply
        assert isinstance(reply, dict), reply
        self._note(worker, begun_us, reply["ranges"], count, after)
        return None

    def _note(
        self, worker: SimulatedWorker, begun_us: int, ranges: list[Body], count: int, after: int | None
    ) -> None:
        ledger, token = self.ledger, worker.service.token
        offsets = self.clocks.offsets_since(begun_us - LEASE_US - 2 * AHEAD_US - worker.stalled_us)
        earliest = position_at(begun_us + min(offsets) - worker.stalled_us - CLOCK_READ_US - _SLACK_US)
        latest = position_at(self.clocks.true_us + max(offsets) + AHEAD_US + _SLACK_US)
        for item in ranges:
            first, size = int(item["first"]), item["count"]
            ledger.issued(first, size)
            ledger.near(first, size, earliest, latest)
            ledger.under(self._lease_of(worker, first), first, size)
            if count <= ORDERED_COUNT:
                ledger.ordered(token, first, size)
            if after is not None and first <= after:
                ledger.problems.append(f"{first} was issued after {after}")
            if item["step"] != STEP:
                ledger.problems.append(f"the ids from {first} on have the step {item['step']}")
            self.recent.append(first + (size - 1) * STEP)
        total = sum(item["count"] for item in ranges)
        if total != count:
            ledger.problems.append(f"{total} ids were issued for {count}")

    def _lease_of(self, worker: SimulatedWorker, first: int) -> Hashable:
        """The lease of an id, or the first id of its block if the block was granted on its own."""
        lease, (position, lane) = worker.service.lease, decompose(first)
        if lease is not None and lease.lane == lane and lease.from_position <= position < lease.until:
            return lease.owner, lease.version
        return first

    def restore_and_fence(self) -> None:
        """Restore an older copy and fence, as the manual says, while the workers run.

        The manual also says to check the clock first. The lost part reaches as far as the clock did then, so a
        fence on a clock that went back in the last minutes would be too low.
        """
        head = self.store.head()
        longest_us = 2 * LEASE_US + max(worker.stalled_us for worker in self.workers)
        self.clocks.step_store(max(self.clocks.offsets_since(self.clocks.true_us - longest_us)))
        self.store.restore(head - self.rng.randrange(min(head, 40) + 1))
        self.counts["restores"] += 1
        self.fence()
        if self.rng.random() < 0.8:
            self.clocks.advance(LEASE_US)  # mostly until the fenced lanes are free: a silence shows little

    def fence(self) -> None:
        request = Request("ids.fence", {"command_id": str(self.new_token())})
        worker = self.rng.choice(self.workers)
        for _ in range(1000):
            (reply,) = worker.service.handle([request])
            if not isinstance(reply, EsError):
                return
            self.counts[f"fence: {reply.code}"] += 1
        raise AssertionError(f"the fence never succeeded: {reply}")

    def verify(self) -> list[str]:
        """All problems that the ledger and `ids.verify` found."""
        self.store.is_unavailable = False
        self.store.next_plan = no_fault
        return [*self.ledger.problems, *ask(self.start_worker().service, "ids.verify")["problems"]]
