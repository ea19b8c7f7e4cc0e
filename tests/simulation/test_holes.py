"""The twelve ways in which leases of ids fail in the field, each closed, and each shown to be open without its fix.

A scenario tells what goes wrong in it. With the code as it is that must be nothing; with the named fix taken
out it must be something, or else the scenario proves nothing. `docs/ids.md` has the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

import pytest

from adapters.codec import JsonCodec
from domain.kernel.ids import Range, compose, position_at, shard_of
from domain.kernel.messages import Request
from domain.kernel.ports.event_store import Append
from domain.lanes import grants, layout, leases
from domain.lanes.grants import LaneGranted, LaneQuarantined, Standing
from domain.lanes.layout import AHEAD, LaneRange
from domain.lanes.leases import Lease, lease_of
from tests.simulation.faults import Plan, no_fault
from tests.simulation.world import HOUR_US, PEACE, SECOND_US, START_US, World
from tests.support.builders import metadata
from workers.ids import lease_keeper, service, sure_store
from workers.ids.service import IdsService
from workers.ids.store_clock import StoreClock
from workers.ids.sure_store import SureStore

CODEC = JsonCodec(grants.EVENTS)
Problems = Sequence[str]


def world(workers: int = 2, first: int = 7, last: int = 7) -> World:
    return World(1, workers=workers, lane_range=LaneRange(first, last), chances=PEACE)


def grant(from_position: int, until: int) -> LaneGranted:
    return LaneGranted("somebody", "elsewhere", 1, from_position, until)


# --- scenarios -------------------------------------------------------------------------------


def a_process_forks() -> Problems:
    here = world(workers=2, last=8)
    here.ask(here.workers[0], 5)
    here.fork(0, replaced=1)
    for process in here.workers:
        here.ask(process, 5)
    return here.verify()


def the_store_forgets_what_a_worker_saw() -> Problems:
    here = world(workers=1)
    here.ask(here.workers[0], 4_000_000)
    here.store.restore(0)
    here.ask(here.workers[0], 4_000_000)
    return here.verify()


def a_restored_store_is_fenced_while_a_worker_lives_on() -> Problems:
    here = world(workers=2)
    here.ask(here.workers[0], 5)
    here.store.restore(0)
    here.workers.reverse()
    here.workers[0].service.handle([Request("ids.fence", {"command_id": str(UUID(int=1))})])
    for process in here.workers:
        here.ask(process, 5)
    return here.ledger.problems


def a_lane_grows_to_the_same_version_again() -> Problems:
    """After a restore, the version at which a lease was granted may hold somebody else's event."""
    here = world(workers=2)
    here.ask(here.workers[0], 5)
    here.store.restore(here.store.head() - 1)  # all but the grant
    here.store.put("lane-7", _encoded(grant(0, 1)))
    here.clocks.advance(200 * SECOND_US)
    for _ in range(2):
        here.ask(here.workers[0], 5)
    (verdict,) = here.workers[1].service.handle([Request("ids.verify", {})])
    assert isinstance(verdict, dict)
    return verdict["problems"] or [e for e in ["it was renewed"] if verdict["grants"] > 1]


def the_history_of_a_lane_is_deleted() -> Problems:
    here = world(workers=2)
    here.ask(here.workers[0], 4_000_000)
    here.store.delete_history("lane-7")
    here.ask(here.workers[1], 4_000_000)
    return here.ledger.problems


def two_workers_grant_the_same_version() -> Problems:
    here = world(workers=2)
    _when_granting(here, Plan(before=lambda: _ignore(here.ask(here.workers[1], 5))))
    here.ask(here.workers[0], 5)
    return here.verify()


def an_answer_is_lost_and_somebody_else_won() -> Problems:
    here = world(workers=2)
    _when_granting(here, Plan(before=lambda: _ignore(here.ask(here.workers[1], 5)), refused=True))
    here.ask(here.workers[0], 5)
    here.ask(here.workers[1], 5)
    return here.verify()


def a_worker_is_started_with_other_lanes() -> Problems:
    here = world(workers=1)
    here.ask(here.workers[0], 5)
    stranger = here.start_worker(LaneRange(100, 110))
    here.ask(stranger, 5)
    used = [name for name, _ in here.store.streams(prefix=layout.STREAM_PREFIX, limit=2000)]
    return [f"{name} is not of this store" for name in used if name != "lane-7"]


def the_clock_of_a_machine_jumps() -> Problems:
    here = world(workers=1)
    here.ask(here.workers[0], 5)
    here.workers[0].base_us += HOUR_US
    here.ask(here.workers[0], 5)
    return here.verify()


def a_lane_is_poisoned_by_a_fast_clock() -> Problems:
    here = world(workers=1, last=8)
    far = position_at(START_US) + 10**12
    here.store.put("lane-7", _encoded(grant(far, far + 10)))
    for _ in range(3):
        here.ask(here.workers[0], 5)
        here.workers[0] = here.start_worker()
    marks = [e for e in here.store.read_stream("lane-7") if e.type == LaneQuarantined.type]
    return here.ledger.problems + ([] if len(marks) == 1 else [f"{len(marks)} quarantine marks"])


def the_clock_of_the_store_is_behind_a_lane() -> Problems:
    here = world(workers=2)
    here.ask(here.workers[0], 5)
    here.workers[0].service.close()
    here.clocks.step_store(-HOUR_US)
    here.clocks.advance(2 * HOUR_US // 3)  # so that the ledger has forgotten the time before the step
    here.ask(here.workers[1], 5)
    return here.ledger.problems


def many_workers_start_together() -> Problems:
    here = world(workers=60, first=0, last=1023)
    for process in here.workers:
        here.ask(process, 1)
    allowed = 6 * len(here.workers)
    return [] if here.store.reads <= allowed else [f"{here.store.reads} reads for {len(here.workers)} leases"]


def a_worker_stops_and_another_starts() -> Problems:
    here = world(workers=2)
    here.ask(here.workers[0], 5)
    here.workers[0].service.close()
    refused = here.ask(here.workers[1], 5)
    return here.verify() + ([] if refused is None else [str(refused)])


def nobody_gets_ids_for_long() -> Problems:
    """Requests keep coming, but each is refused: a lease that isn't used must not be renewed."""
    here = world(workers=1, last=500)
    here.ask(here.workers[0], 1)
    for _ in range(12):
        here.clocks.advance(160 * SECOND_US)
        here.ask(here.workers[0], 1, after=compose(1 << 52, 0))
    (verdict,) = here.workers[0].service.handle([Request("ids.verify", {})])
    assert isinstance(verdict, dict)
    return [] if verdict["grants"] <= 8 else [f"{verdict['grants']} grants for one id"]


def two_grants_touch() -> Problems:
    taken: list[int] = []
    for start in (0, 10):
        lease = lease_of(grant(start, start + 10), 7, 0, last=-1, offset=0)
        while (position := lease.take(1, now=0)) is not None:
            taken.append(position)
    return [f"{p} twice" for p in taken if taken.count(p) > 1]


def a_caller_expands_blocks_of_two_lanes() -> Problems:
    ids = [*Range(compose(1, 3), 4), *Range(compose(1, 4), 4)]
    return [f"{id_} twice" for id_ in ids if ids.count(id_) > 1]


def a_worker_changes_lanes_while_the_clock_goes_back() -> Problems:
    here = world(workers=1, last=500)
    here.ask(here.workers[0], 5)
    here.clocks.advance(310 * SECOND_US)
    here.clocks.step_store(-310 * SECOND_US - SECOND_US // 3)
    here.ask(here.workers[0], 5)
    return [p for p in here.ledger.problems if " after " in p]


def a_caller_hops_to_a_worker_that_is_behind() -> Problems:
    here = world(workers=2, last=500)
    here.ask(here.workers[0], 1)
    here.ask(here.workers[0], 3_000_000)
    ahead = next(iter(here._recent.__reversed__()))
    here.ask(here.workers[1], 5, after=ahead)
    return here.verify()


def ids_of_one_worker_are_sharded() -> Problems:
    shards = {workers_shard(id_, 16) for id_ in Range(compose(10**12, 7), 1000)}
    return [] if len(shards) == 16 else [f"only {len(shards)} shards of 16 are used"]


workers_shard = shard_of


def _ignore(_: object) -> None:
    return None


def _encoded(event: LaneGranted) -> Any:
    about = metadata()
    return CODEC.encode(event, event_id=about.command_id, subject=None, metadata=about, sealer=None)


def _when_granting(here: World, plan: Plan) -> None:
    """Let `plan` happen to the next append that grants a lane."""

    def next_plan(batch: Sequence[Append]) -> Plan:
        if not batch[0].stream.startswith(layout.STREAM_PREFIX):
            return Plan()
        here.store.next_plan = no_fault
        return plan

    here.store.next_plan = next_plan


# --- fixes taken out -------------------------------------------------------------------------

Patch = Callable[[pytest.MonkeyPatch], None]


def without(owner: object, name: str, replacement: object) -> Patch:
    return lambda patch: patch.setattr(owner, name, replacement)


def _derived_event_id(new_token: Callable[[], UUID], stream: str, version: int) -> UUID:
    return uuid5(NAMESPACE_OID, f"{stream}@{version}") if stream.startswith("lane-") else new_token()


def _no_standing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(grants, "standing", lambda lane, now: Standing.FREE)
    patch.setattr(grants, "within_reach", lambda position, now: True)
    patch.setattr(Lease, "take", _take_anywhere)


def _take_anywhere(self: Lease, count: int, now: int, at_least: int = 0) -> int:
    first = max(self.last + 1, now, at_least)
    self.last_id = compose(first + count - 1, self.lane)
    return first


def _take_with_the_boundary(self: Lease, count: int, now: int, at_least: int = 0) -> int | None:
    first = max(self.last + 1, now, at_least)
    if first + count > self.until + 1 or first + count > now + AHEAD:
        return None
    self.last_id = compose(first + count - 1, self.lane)
    return first


def _look_once(patch: pytest.MonkeyPatch) -> None:
    look = StoreClock.look
    patch.setattr(StoreClock, "look", lambda self, *, tries: self.was_seen or look(self, tries=tries))


def _forget_last(self: Any) -> None:
    self.lease = None


def _count_in_ones(self: Range) -> Any:
    return iter(range(self.first, self.first + self.count * 100))


@dataclass(frozen=True)
class Hole:
    number: int
    scenario: Callable[[], Problems]
    without_its_fix: Patch


THIS = __import__("sys").modules[__name__]

HOLES = [
    Hole(1, a_process_forks, without(IdsService, "drop_lease_after_fork", lambda self: None)),
    Hole(2, the_store_forgets_what_a_worker_saw, without(grants, "went_back", lambda known, version: False)),
    Hole(
        2, a_restored_store_is_fenced_while_a_worker_lives_on, without(grants, "decide_lift", lambda *_: [])
    ),
    Hole(2, a_lane_grows_to_the_same_version_again, without(SureStore, "_check_base", lambda *_: None)),
    Hole(3, the_history_of_a_lane_is_deleted, without(grants, "numbering_is_whole", lambda *_: True)),
    Hole(
        4,
        two_workers_grant_the_same_version,
        without(sure_store, "_grant_event_id", _derived_event_id),
    ),
    Hole(4, an_answer_is_lost_and_somebody_else_won, without(SureStore, "_is_ours", lambda *_: True)),
    Hole(5, a_worker_is_started_with_other_lanes, without(layout, "decide_layout", lambda *_: [])),
    Hole(6, the_clock_of_a_machine_jumps, _look_once),
    Hole(6, a_lane_is_poisoned_by_a_fast_clock, without(grants, "is_poisoned", lambda *_: False)),
    Hole(7, the_clock_of_the_store_is_behind_a_lane, _no_standing),
    Hole(
        8, many_workers_start_together, without(layout, "choose_lanes", lambda r, draws, start: r.numbers())
    ),
    Hole(9, a_worker_stops_and_another_starts, without(leases, "decide_release", lambda lease: [])),
    Hole(9, nobody_gets_ids_for_long, without(lease_keeper, "lease_is_due", lambda *_: True)),
    Hole(10, two_grants_touch, without(Lease, "take", _take_with_the_boundary)),
    Hole(10, a_caller_expands_blocks_of_two_lanes, without(Range, "__iter__", _count_in_ones)),
    Hole(
        11,
        a_worker_changes_lanes_while_the_clock_goes_back,
        without(lease_keeper.Identity, "drop_lease", _forget_last),
    ),
    Hole(11, a_caller_hops_to_a_worker_that_is_behind, without(service, "position_of", lambda id_: -1)),
    Hole(12, ids_of_one_worker_are_sharded, without(THIS, "workers_shard", lambda id_, shards: id_ % shards)),
]
EACH = pytest.mark.parametrize("hole", HOLES, ids=lambda hole: f"{hole.number}-{hole.scenario.__name__}")


def test_all_twelve_holes_have_a_scenario() -> None:
    assert {hole.number for hole in HOLES} == set(range(1, 13))


@EACH
def test_the_hole_is_closed(hole: Hole) -> None:
    assert not hole.scenario()


@EACH
def test_without_its_fix_the_hole_is_open(hole: Hole, monkeypatch: pytest.MonkeyPatch) -> None:
    hole.without_its_fix(monkeypatch)
    assert hole.scenario(), "the scenario shows nothing: it passes without the fix as well"
