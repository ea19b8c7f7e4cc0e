"""The twelve known ways in which leases of ids fail: each is closed, and open again without its fix.

A scenario returns the problems that it found. There are none with the code as it is, and some with the named
fix taken out: otherwise the scenario proves nothing. `docs/ids.md` has the table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from uuid import NAMESPACE_OID, UUID, uuid5

import pytest

from domain.kernel import ids
from domain.kernel.events import Event, EventData, Metadata
from domain.kernel.ids import Range, compose, position_at
from domain.lanes import fences, grants, layout, leases
from domain.lanes.events import LANE_PREFIX, LaneGranted, LaneQuarantined
from domain.lanes.grants import Standing
from domain.lanes.layout import LaneRange
from domain.lanes.leases import Lease, lease_of
from domain.lanes.limits import AHEAD
from tests.simulation.asking import ask
from tests.simulation.faults import Plan
from tests.simulation.world import HOUR_US, SECOND_US, START_US, World
from tests.support.builders import an_event, streams_of
from workers.ids import service
from workers.ids.identity import Identity
from workers.ids.retrying_store import RetryingStore
from workers.ids.service import IdsService
from workers.ids.store_clock import StoreClock

ONE_LANE, TWO_LANES, MANY_LANES = LaneRange(7, 7), LaneRange(7, 8), LaneRange(7, 500)

Problems = Sequence[str]
Scenario = Callable[[World], Problems]
Patch = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Hole:
    number: int
    without_its_fix: Patch
    lanes: LaneRange
    workers: int
    scenario: Scenario

    def problems(self) -> Problems:
        return self.scenario(World(workers=self.workers, lanes=self.lanes))


HOLES: list[Hole] = []


def hole(
    number: int, without_its_fix: Patch, *, lanes: LaneRange = ONE_LANE, workers: int = 2
) -> Callable[[Scenario], None]:
    """Register a scenario in a world of these workers, with the patch that takes its fix out."""
    return lambda scenario: HOLES.append(Hole(number, without_its_fix, lanes, workers, scenario))


def without(owner: object, name: str, replacement: object) -> Patch:
    return lambda patch: patch.setattr(owner, name, replacement)


def found(problem: str, *, when: bool) -> Problems:
    return [problem] if when else []


def a_grant(from_position: int, until: int) -> LaneGranted:
    return LaneGranted("another worker", "elsewhere", 1, from_position, until)


def put(world: World, grant: LaneGranted) -> None:
    """Append a grant to lane 7 without a decision."""
    world.store.put("lane-7", an_event(grant.type, data=json.dumps(asdict(grant)).encode()))


# --- scenarios -------------------------------------------------------------------------------


@hole(1, without(IdsService, "drop_lease_after_fork", lambda self: None), lanes=TWO_LANES)
def a_process_forks(world: World) -> Problems:
    world.ask(5)
    world.fork(0, replaced=1)
    for by in (0, 1):
        world.ask(5, by=by)
    return world.verify()


@hole(2, without(fences, "went_back", lambda known_version, version: False))
def an_older_copy_of_the_store_is_restored(world: World) -> Problems:
    world.ask(4_000_000)
    world.store.restore(0)
    world.ask(4_000_000)
    return world.verify()


@hole(2, without(fences, "decide_fence", lambda *_: []))
def a_restored_store_is_fenced_while_a_worker_continues(world: World) -> Problems:
    world.ask(5)
    world.store.restore(0)
    ask(world.workers[1].service, "ids.fence", command_id=str(UUID(int=1)))
    for by in (1, 0):
        world.ask(5, by=by)
    return world.ledger.problems


@hole(2, without(RetryingStore, "check_base", lambda *_: None))
def a_restored_lane_reaches_the_same_version_again(world: World) -> Problems:
    """The version at which a lease was granted then holds an event of another worker."""
    world.ask(5)
    world.store.restore(world.store.head() - 1)  # without the grant
    put(world, a_grant(0, 1))
    world.clocks.advance(200 * SECOND_US)
    for _ in range(2):
        world.ask(5)
    audit = ask(world.service, "ids.verify")
    return [*audit["problems"], *found("it was renewed", when=audit["grants"] > 1)]


@hole(3, without(fences, "numbering_is_whole", lambda *_: True))
def the_stream_of_a_lane_is_deleted(world: World) -> Problems:
    world.ask(4_000_000)
    world.store.delete_history("lane-7")
    world.ask(4_000_000, by=1)
    return world.ledger.problems


def _derive_event_ids(patch: pytest.MonkeyPatch) -> None:
    encode = RetryingStore.encode

    def encode_with_derived_id(self: RetryingStore, event: Event, id_: UUID, about: Metadata) -> EventData:
        derived = uuid5(NAMESPACE_OID, "lane-7@0") if isinstance(event, LaneGranted) else id_
        return encode(self, event, derived, about)

    patch.setattr(RetryingStore, "encode", encode_with_derived_id)


@hole(4, _derive_event_ids)
def two_workers_append_a_grant_at_the_same_version(world: World) -> Problems:
    world.store.plan_once(Plan(before=lambda: world.ask(5, by=1)), prefix=LANE_PREFIX)
    world.ask(5)
    return world.verify()


@hole(4, without(RetryingStore, "is_ours", lambda *_: True))
def an_answer_is_lost_and_another_worker_was_granted_the_lane(world: World) -> Problems:
    world.store.plan_once(Plan(before=lambda: world.ask(5, by=1), refused=True), prefix=LANE_PREFIX)
    world.ask(5)
    world.ask(5, by=1)
    return world.verify()


@hole(5, without(layout, "decide_layout", lambda *_: []))
def a_worker_is_started_with_other_lanes(world: World) -> Problems:
    world.ask(5)
    world.workers[0] = world.start_worker(LaneRange(100, 110))
    world.ask(5)
    used = [name for name, _ in streams_of(world.store, LANE_PREFIX)]
    return [f"{name} is not of this store" for name in used if name != "lane-7"]


def _read_the_clock_once(patch: pytest.MonkeyPatch) -> None:
    read = StoreClock.read
    patch.setattr(StoreClock, "read", lambda self, *, tries: self.was_read or read(self, tries=tries))


@hole(6, _read_the_clock_once)
def the_clock_of_a_machine_jumps(world: World) -> Problems:
    world.ask(5)
    world.workers[0].base_us += HOUR_US
    world.ask(5)
    return world.verify()


@hole(6, without(grants, "is_poisoned", lambda *_: False), lanes=TWO_LANES)
def a_lane_is_poisoned_by_a_fast_clock(world: World) -> Problems:
    far = position_at(START_US) + 10**12
    put(world, a_grant(far, far + 10))
    for _ in range(3):
        world.ask(5)
        world.workers[0] = world.start_worker()
    marks = [event for event in world.store.read_stream("lane-7") if event.type == LaneQuarantined.type]
    return [*world.ledger.problems, *found(f"{len(marks)} quarantine marks", when=len(marks) != 1)]


def _take_anywhere(self: Lease, count: int, now: int, at_least: int = 0) -> int:
    first = max(self.last + 1, now, at_least)
    self.last_id = compose(first + count - 1, self.lane)
    return first


def _grant_and_issue_anywhere(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(grants, "standing", lambda lane, now: Standing.FREE)
    patch.setattr(grants, "within_reach", lambda position, now: True)
    patch.setattr(Lease, "take", _take_anywhere)


@hole(7, _grant_and_issue_anywhere)
def the_clock_of_the_store_is_behind_a_lane(world: World) -> Problems:
    world.ask(5)
    world.service.close()
    world.clocks.step_store(-HOUR_US)
    world.clocks.advance(2 * HOUR_US // 3)  # until the ledger forgets the offset before the step
    world.ask(5, by=1)
    return world.ledger.problems


@hole(
    8,
    without(layout, "choose_lanes", lambda lanes, draws, scan_from: lanes.numbers()),
    lanes=LaneRange(),
    workers=60,
)
def many_workers_start_together(world: World) -> Problems:
    for by in range(60):
        world.ask(1, by=by)
    return found(f"{world.store.reads} reads for 60 leases", when=world.store.reads > 6 * 60)


@hole(9, without(leases, "decide_release", lambda lease: []))
def a_worker_stops_and_another_starts(world: World) -> Problems:
    world.ask(5)
    world.service.close()
    refused = world.ask(5, by=1)
    return [*world.verify(), *found(str(refused), when=refused is not None)]


@hole(9, without(Lease, "is_due", lambda *_: True), lanes=MANY_LANES)
def an_idle_worker_gets_only_requests_that_it_refuses(world: World) -> Problems:
    world.ask(1)
    for _ in range(12):
        world.clocks.advance(160 * SECOND_US)
        world.ask(1, after=compose(1 << 52, 0))
    count = ask(world.service, "ids.verify")["grants"]
    return found(f"{count} grants for one id", when=count > 8)


def _take_with_the_boundary(self: Lease, count: int, now: int, at_least: int = 0) -> int | None:
    end = max(self.last + 1, now, at_least) + count
    is_possible = end <= min(self.until + 1, now + AHEAD)
    return _take_anywhere(self, count, now, at_least) if is_possible else None


@hole(10, without(Lease, "take", _take_with_the_boundary))
def two_grants_are_adjacent(_: World) -> Problems:
    taken: list[int] = []
    for start in (0, 10):
        lease = lease_of(a_grant(start, start + 10), 7, 0, last=-1, offset=0)
        while (position := lease.take(1, now=0)) is not None:
            taken.append(position)
    return [f"{position} twice" for position in taken if taken.count(position) > 1]


@hole(10, without(Range, "__iter__", lambda self: iter(range(self.first, self.first + self.count * 100))))
def a_caller_expands_blocks_of_two_lanes(_: World) -> Problems:
    expanded = [*Range(compose(1, 3), 4), *Range(compose(1, 4), 4)]
    return [f"{id_} twice" for id_ in expanded if expanded.count(id_) > 1]


@hole(11, without(Identity, "drop_lease", lambda self: setattr(self, "lease", None)), lanes=MANY_LANES)
def a_worker_changes_lanes_while_the_clock_goes_back(world: World) -> Problems:
    world.ask(5)
    world.clocks.advance(310 * SECOND_US)
    world.clocks.step_store(-310 * SECOND_US - SECOND_US // 3)
    world.ask(5)
    return [problem for problem in world.ledger.problems if " after " in problem]


@hole(11, without(service, "position_of", lambda id_: -1), lanes=MANY_LANES)
def a_caller_changes_to_a_worker_that_is_behind(world: World) -> Problems:
    world.ask(1)
    world.ask(3_000_000)
    world.ask(5, by=1, after=world.recent[-1])
    return world.verify()


@hole(12, without(ids, "shard_of", lambda id_, shards: id_ % shards))
def ids_of_one_worker_are_sharded(_: World) -> Problems:
    shards = {ids.shard_of(id_, 16) for id_ in Range(compose(10**12, 7), 1000)}
    return found(f"only {len(shards)} shards of 16 are used", when=len(shards) != 16)


EACH = pytest.mark.parametrize("case", HOLES, ids=lambda case: f"{case.number}-{case.scenario.__name__}")


def test_all_twelve_holes_have_a_scenario() -> None:
    assert {case.number for case in HOLES} == set(range(1, 13))


@EACH
def test_the_hole_is_closed(case: Hole) -> None:
    assert not case.problems()


@EACH
def test_the_hole_is_open_without_its_fix(case: Hole, monkeypatch: pytest.MonkeyPatch) -> None:
    case.without_its_fix(monkeypatch)
    assert case.problems(), "the scenario proves nothing: it passes without the fix too"
