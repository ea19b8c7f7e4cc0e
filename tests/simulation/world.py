"""A world of virtual clocks in which real workers issue ids while everything that can go wrong does.

One seed is one history, the same on every run. The workers are `workers.ids.IdsService` itself over
`domain.lanes` itself; only the store's network and the clocks are made up. Whatever other workers do "at the
same time" is done inside of a worker's call to the store, so races need no threads.
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
from domain.kernel.ids import decompose, position_at
from domain.kernel.messages import LATER, Request
from domain.kernel.ports.event_store import Append
from domain.lanes import grants, layout
from domain.lanes.layout import LaneRange
from tests.simulation.faults import FaultyStore, Plan, no_fault
from tests.simulation.ledger import Ledger
from workers.ids.service import IdsService

START_US = 1_800_000_000_000_000
SECOND_US = 1_000_000
HOUR_US = 3600 * SECOND_US
LEASE_US = layout.MAX_LEASE_MS * 1000
AHEAD_US = SECOND_US
SIGHTING_US = 200_000
"""How long a look at the store's clock may take; by so much a worker may be late, never early."""
_SLACK_US = 2_000  # rounding, and the steps of virtual time within one call


class Clocks:
    """True time, and the store's wall clock that is wrong by a changing offset."""

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
    """A process with its own monotonic clock, which starts anywhere and may stand still for a while."""

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


@dataclass(frozen=True)
class Chances:
    """How likely what is, per step or per append."""

    store_fault: float = 0.1
    others_in_between: float = 0.3
    pause_in_a_call: float = 0.006
    crash: float = 0.01
    stop: float = 0.01
    fork: float = 0.005
    stall: float = 0.003
    clock_step: float = 0.002
    outage: float = 0.002
    restore: float = 0.002
    long_wait: float = 0.01


PEACE = Chances(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
"""Nothing goes wrong but what a test does itself."""


class World:
    def __init__(
        self,
        seed: int,
        *,
        workers: int = 6,
        lane_range: LaneRange | None = None,
        chances: Chances = Chances(),
        small: bool = False,
    ) -> None:
        self.rng = random.Random(seed)
        self.clocks = Clocks()
        self.store = FaultyStore(self.clocks.store_us)
        self.store.next_plan = self._plan
        self.ledger = Ledger()
        self.counts: Counter[str] = Counter()
        self._chances = chances
        # Few lanes make workers meet on one; many let large blocks through. Each seed has its own mix.
        self._lanes = lane_range or LaneRange(0, (6, 9, 15, 63)[seed % 4])
        self._small = small
        self._depth = 0
        self._recent: deque[int] = deque(maxlen=50)
        self._outage_ends_us = 0
        self._codec = JsonCodec(grants.EVENTS)
        self.workers = [self.start_worker() for _ in range(workers)]

    # --- processes ---------------------------------------------------------------------------

    def start_worker(self, lane_range: LaneRange | None = None) -> SimulatedWorker:
        worker = SimulatedWorker(self.clocks, self.rng.randrange(10**12))
        worker.service = IdsService(
            self.store,
            self._codec,
            host="simulated",
            pid=self.rng.randrange(1, 10),
            store_name="memory:",
            monotonic_ns=worker.monotonic_ns,
            asleep_ns=lambda: 0,
            draw=self.rng.randrange,
            new_token=self._token,
            lane_range=lane_range or self._lanes,
            sleep=worker.sleep,
        )
        return worker

    def _token(self) -> UUID:
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
        """The child is a copy of the parent's memory, in which the hook of `os.register_at_fork` then runs."""
        parent = self.workers[index]
        outside = {id(thing): thing for thing in (self, self.clocks, self.store, self._codec, self.rng)}
        child = copy.deepcopy(parent, {**outside, id(parent.service._lock): threading.Lock()})
        child.is_busy = False
        child.service.drop_lease_after_fork()
        self.workers[replaced] = child
        self.counts["forks"] += 1

    # --- requests ----------------------------------------------------------------------------

    def ask(self, worker: SimulatedWorker, count: int, after: int | None = None) -> EsError | None:
        """One request to one worker; what it answers goes into the ledger."""
        body = {"count": count} if after is None else {"count": count, "after": str(after)}
        begun_us, token = self.clocks.true_us, worker.service.token
        worker.is_busy, worker.pauses_us = True, []
        reply = worker.service.handle([Request("ids.next", body)])[0]
        for _ in range(20):
            if reply is not LATER:
                break
            self.clocks.advance(50_000)
            reply = worker.service.handle([Request("ids.next", body)])[0]
        worker.is_busy = False
        token = worker.service.token
        if len(worker.pauses_us) >= 4:
            # Every look at the store's clock may have been interrupted: then the worker is late by as much.
            worker.stalled_us += sum(worker.pauses_us)
        if isinstance(reply, EsError):
            self.counts[reply.code] += 1
            return reply
        assert isinstance(reply, dict), reply
        self._note(worker, token, begun_us, count, after, reply["ranges"])
        return None

    def _note(
        self,
        worker: SimulatedWorker,
        token: UUID,
        begun_us: int,
        count: int,
        after: int | None,
        ranges: list[dict[str, object]],
    ) -> None:
        since_us = begun_us - LEASE_US - 2 * AHEAD_US - worker.stalled_us
        offsets = self.clocks.offsets_since(since_us)
        earliest = position_at(begun_us + min(offsets) - worker.stalled_us - SIGHTING_US - _SLACK_US)
        latest = position_at(self.clocks.true_us + max(offsets) + AHEAD_US + _SLACK_US)
        total = 0
        for item in ranges:
            first, size, step = int(str(item["first"])), int(str(item["count"])), int(str(item["step"]))
            total += size
            self.ledger.issued(first, size, step)
            self.ledger.near(first, size, earliest, latest)
            self.ledger.under(self._lease_of(worker, token, first), first, size)
            if count <= layout.ORDERED_COUNT:
                self.ledger.ordered(token, first, size)
            if after is not None and first <= after:
                self.ledger.problems.append(f"{first} was given after {after}")
            self._recent.append(first + (size - 1) * step)
        if total != count:
            self.ledger.problems.append(f"{total} ids were given for {count}")

    def _lease_of(self, worker: SimulatedWorker, token: UUID, first: int) -> Hashable:
        """The lease that an id came from, or, for a block that was granted on its own, the block itself."""
        lease = worker.service._keeper.me.lease
        position, lane = decompose(first)
        if lease is not None and lease.lane == lane and lease.from_position <= position < lease.until:
            return token, lane, lease.version
        return "block", first

    def _random_request(self) -> None:
        idle = [worker for worker in self.workers if not worker.is_busy]
        if not idle:
            return
        after = self.rng.choice(self._recent) if self._recent and self.rng.random() < 0.1 else None
        self.ask(self.rng.choice(idle), self._random_count(), after)

    def _random_count(self) -> int:
        dice = self.rng.random()
        if dice < 0.6 or self._small:
            return self.rng.randrange(1, 10)
        if dice < 0.997:
            return self.rng.randrange(10, 4097)
        if dice < 0.9998:
            return self.rng.randrange(4097, 100_000)
        return self.rng.randrange(100_000, 10_000_000)

    # --- faults ------------------------------------------------------------------------------

    def _plan(self, batch: Sequence[Append]) -> Plan:
        """What happens to the append that a worker is about to make."""
        plan, rng, chances = Plan(), self.rng, self._chances
        self.clocks.advance(rng.randrange(20, 400))
        if rng.random() < chances.store_fault:
            fault = rng.choice(["refused", "answer_lost", "late", "twice"])
            setattr(plan, fault, True)
            self.counts[fault] += 1
        if rng.random() < chances.others_in_between:
            setattr(plan, rng.choice(["before", "after"]), self._others_act)
        return plan

    def _others_act(self) -> None:
        if self._depth >= 2:
            return
        self._depth += 1
        begun_us, busy = self.clocks.true_us, [worker for worker in self.workers if worker.is_busy]
        self.counts["interleavings"] += 1
        if self.rng.random() < 0.3:
            self.store.land_late()
        for _ in range(self.rng.randrange(1, 4)):
            self._random_request()
        if self.rng.random() < self._chances.pause_in_a_call / self._chances.others_in_between:
            self.clocks.advance(self.rng.choice([10_000, SECOND_US, 30 * SECOND_US, 400 * SECOND_US]))
            self.counts["pauses"] += 1
        for worker in busy:
            worker.pauses_us.append(self.clocks.true_us - begun_us)
        self._depth -= 1

    def restore_and_fence(self) -> None:
        """What the manual says: put the older copy in place, fence, go on. Nobody has to be stopped.

        But the clock has to be looked at: what is lost reaches as far as the clock was then, so a fence on a
        clock that went back in the last minutes would be too low.
        """
        head = self.store.head()
        longest_us = 2 * LEASE_US + max(worker.stalled_us for worker in self.workers)
        self.clocks.step_store(max(self.clocks.offsets_since(self.clocks.true_us - longest_us)))
        self.store.restore(head - self.rng.randrange(min(head, 40) + 1))
        self.counts["restores"] += 1
        self.fence()
        if self.rng.random() < 0.8:
            self.clocks.advance(
                LEASE_US
            )  # until the fenced lanes are free again; otherwise it is a long silence

    def fence(self) -> None:
        body = {"command_id": str(self._token())}
        fencing = self.rng.choice(self.workers)
        self._depth += 2  # nobody is granted anything between the restore and the fence
        for _ in range(1000):
            (reply,) = fencing.service.handle([Request("ids.fence", body)])
            if not isinstance(reply, EsError):
                break
            self.counts[f"fence: {reply.code}"] += 1
        else:
            raise AssertionError(f"the fence never succeeded: {reply}")
        self._depth -= 2

    # --- time goes by ------------------------------------------------------------------------

    def run(self, ids: int, *, max_steps: int = 10**9) -> None:
        """Until so many ids were issued."""
        steps = 0
        while self.ledger.ids < ids and steps < max_steps:
            steps += 1
            self.step()
        self.counts["steps"] += steps

    def step(self) -> None:
        self._let_time_pass()
        self._maybe_break_something()
        self._random_request()
        # Not all the time: a worker is not always interrupted, and a store not always slow.
        if self.rng.random() < 0.01:
            self.store.land_late()

    def _let_time_pass(self) -> None:
        rng = self.rng
        if rng.random() < self._chances.long_wait:
            self.clocks.advance(rng.randrange(400 * SECOND_US))
        else:
            self.clocks.advance(rng.choice([1, 10, 1000, 100_000, SECOND_US]))
        if self.store.is_away and self.clocks.true_us > self._outage_ends_us:
            self.store.is_away = False

    def _maybe_break_something(self) -> None:
        rng, chances = self.rng, self._chances
        index = rng.randrange(len(self.workers))
        if rng.random() < chances.crash:
            self.crash(index)
        if rng.random() < chances.stop:
            self.stop(index)
        if rng.random() < chances.fork and len(self.workers) > 1:
            self.fork(index, (index + 1) % len(self.workers))
        if rng.random() < chances.stall:
            self.workers[index].stalled_us += rng.randrange(60 * SECOND_US)
            self.counts["stalls"] += 1
        if rng.random() < chances.clock_step:
            self.clocks.step_store(rng.randrange(-HOUR_US, HOUR_US))
            self.counts["clock steps"] += 1
        if rng.random() < chances.outage:
            self.store.is_away = True
            self._outage_ends_us = self.clocks.true_us + rng.randrange(600 * SECOND_US)
            self.counts["outages"] += 1
        if rng.random() < chances.restore and not self.store.is_away:
            self.restore_and_fence()

    def verify(self) -> list[str]:
        """Everything the ledger found, and what `ids.verify` finds in the store."""
        self.store.is_away = False
        self.store.next_plan = no_fault
        (reply,) = self.start_worker().service.handle([Request("ids.verify", {})])
        assert isinstance(reply, dict), reply
        return [*self.ledger.problems, *reply["problems"]]
