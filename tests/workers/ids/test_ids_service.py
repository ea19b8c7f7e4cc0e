"""The `ids` service over real stores, real processes and real forks."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from adapters.codec import JsonCodec
from adapters.memory.event_store import MemoryStore
from adapters.sqlite.event_store import SqliteStore
from domain.kernel.errors import EsError, InvalidInput, PartUnavailable, UnknownRequest
from domain.kernel.ids import decode, parse_id
from domain.kernel.messages import Request
from domain.kernel.ports.event_store import EventStore
from domain.lanes import errors, grants
from domain.lanes.errors import LeaseExhausted, NoFreeLane, StoreWentBack
from domain.lanes.layout import AHEAD, LaneRange
from tests.simulation.asking import ask
from tests.simulation.processes import LANES, draw_under_kills
from tests.simulation.world import HOUR_US, LEASE_US, PEACE, SECOND_US, World
from workers.ids.lane_audit import CHECK_MAX
from workers.ids.service import COUNT_MAX, IdsService

CODEC = JsonCodec(grants.EVENTS)


def serve(store: EventStore, **options: Any) -> IdsService:
    return IdsService(store, CODEC, host="here", pid=os.getpid(), store_name="test", **options)


def ids_of(reply: dict[str, Any]) -> list[int]:
    return [int(r["first"]) + n * r["step"] for r in reply["ranges"] for n in range(r["count"])]


@pytest.fixture(params=["memory", "sqlite"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventStore]:
    made: EventStore = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "events.db")
    yield made
    made.close()


@pytest.fixture
def service(any_store: EventStore) -> IdsService:
    return serve(any_store)


@pytest.fixture
def peaceful() -> World:
    """Virtual clocks and one worker; nothing goes wrong by itself."""
    return World(1, workers=1, chances=PEACE)


# --- ids.next --------------------------------------------------------------------------------


def test_ids_ascend_and_are_near_the_present(service: IdsService) -> None:
    before_us = time.time_ns() // 1000
    ids = [id_ for count in (1, 2, 4096, 1) for id_ in ids_of(ask(service, "ids.next", count=count))]
    assert ids == sorted(set(ids))
    # A lease is taken after the first request, the ids lie between then and a second from now.
    assert before_us - 1 <= decode(ids[0]).time_us
    assert decode(ids[-1]).time_us <= time.time_ns() // 1000 + SECOND_US


def test_an_answer_holds_decimal_strings_and_the_step(service: IdsService) -> None:
    (block,) = ask(service, "ids.next", count=1_000_000)["ranges"]
    assert isinstance(block["first"], str)
    assert (block["step"], block["count"]) == (1024, 1_000_000)


def test_a_request_beyond_the_run_ahead_comes_as_several_exact_ranges(service: IdsService) -> None:
    ranges = ask(service, "ids.next", count=10_000_000)["ranges"]
    assert sum(r["count"] for r in ranges) == 10_000_000
    assert all(r["count"] <= AHEAD for r in ranges)
    assert len({int(r["first"]) % 1024 for r in ranges}) == len(ranges) == 3
    verdict = ask(service, "ids.verify")
    assert (verdict["ok"], verdict["lanes"], verdict["grants"]) == (True, 3, 3)


def test_a_whole_batch_costs_one_lease(any_store: EventStore) -> None:
    service = serve(any_store)
    replies = service.handle([Request("ids.next", {"count": 1})] * 256)
    ids = [int(reply["ranges"][0]["first"]) for reply in replies if isinstance(reply, dict)]
    assert len(set(ids)) == 256
    head = any_store.head()
    service.handle([Request("ids.next", {"count": 1})] * 256)
    assert any_store.head() == head, "ids from a lease are not to touch the store"


def test_one_bad_request_fails_alone(service: IdsService) -> None:
    bodies: list[dict[str, Any]] = [{"count": 1}, {"count": 0}, {"count": 2}, {"after": "x"}, {}]
    replies = service.handle([Request("ids.next", body) for body in bodies] + [Request("ids.what", {})])
    assert [type(reply) for reply in replies] == [
        dict,
        InvalidInput,
        dict,
        InvalidInput,
        dict,
        UnknownRequest,
    ]


@pytest.mark.parametrize("count", [0, -1, COUNT_MAX + 1, True, 1.0, "1", None])
def test_a_count_that_is_none_is_refused(service: IdsService, count: object) -> None:
    with pytest.raises(InvalidInput):
        ask(service, "ids.next", count=count)


def test_after_an_id_only_greater_ones_come(any_store: EventStore, service: IdsService) -> None:
    (last,) = ids_of(ask(serve(any_store), "ids.next", count=1))
    assert all(id_ > last for id_ in ids_of(ask(service, "ids.next", count=3, after=str(last))))


def test_after_an_id_from_far_ahead_is_refused(service: IdsService) -> None:
    (now,) = ids_of(ask(service, "ids.next", count=1))
    with pytest.raises(errors.AheadLimit):
        ask(service, "ids.next", count=1, after=str(now + 2 * AHEAD * 1024))
    with pytest.raises(errors.AheadLimit):
        ask(service, "ids.next", count=100_000, after=str(now + 2 * AHEAD * 1024))
    assert ask(service, "ids.next", count=1)


def test_single_ids_step_on_while_the_clock_is_at_one_position_and_wait_at_the_run_ahead() -> None:
    now_ns, naps = [10**12], list[float]()

    def sleep(duration_s: float) -> None:
        naps.append(duration_s)
        now_ns[0] += int(duration_s * 1e9)

    service = serve(MemoryStore(), monotonic_ns=lambda: now_ns[0], asleep_ns=lambda: 0, sleep=sleep)
    first = service.next_id()
    assert [service.next_id() - first for _ in range(5)] == [1024, 2048, 3072, 4096, 5120]
    ask(service, "ids.next", count=AHEAD - 10)
    ids = [service.next_id() for _ in range(10)]
    assert ids == sorted(set(ids))
    assert naps, "it went further ahead than a second"


def test_one_id_per_call_is_the_same_as_asking(service: IdsService) -> None:
    ids = [service.next_id() for _ in range(5000)] + ids_of(ask(service, "ids.next", count=5))
    assert ids == sorted(set(ids))


# --- leases ----------------------------------------------------------------------------------


def test_a_lease_is_renewed_at_half_and_the_store_may_be_away_meanwhile(peaceful: World) -> None:
    (worker,) = peaceful.workers
    peaceful.ask(worker, 1)
    peaceful.store.is_away = True
    for _ in range(29):
        peaceful.clocks.advance(10 * SECOND_US)
        assert peaceful.ask(worker, 1) is None, "the lease serves until its end"
    peaceful.store.is_away = False
    peaceful.clocks.advance(9 * SECOND_US)
    assert peaceful.ask(worker, 1) is None
    peaceful.store.is_away = True
    peaceful.clocks.advance(150 * SECOND_US)
    assert peaceful.ask(worker, 1) is None, "it was renewed as soon as the store was back"
    assert not peaceful.verify()


def test_without_a_store_an_ended_lease_says_when_it_ended_and_comes_back(peaceful: World) -> None:
    (worker,) = peaceful.workers
    peaceful.ask(worker, 1)
    peaceful.store.is_away = True
    peaceful.clocks.advance(LEASE_US)
    refused = peaceful.ask(worker, 1)
    assert isinstance(refused, LeaseExhausted)
    assert refused.until_us is not None
    assert abs(refused.until_us - peaceful.clocks.true_us) < 60 * SECOND_US
    peaceful.store.is_away = False
    assert peaceful.ask(worker, 1) is None
    assert not peaceful.verify()


def test_a_stop_gives_back_what_was_not_issued_so_that_one_lane_is_enough(any_store: EventStore) -> None:
    ids: list[int] = []
    for _ in range(20):
        service = serve(any_store, lane_range=LaneRange(9, 9))
        ids += ids_of(ask(service, "ids.next", count=2))
        service.close()
    assert len(set(ids)) == 40
    assert ask(serve(any_store, lane_range=LaneRange(9, 9)), "ids.verify")["ok"]


def test_a_stop_without_a_store_is_quiet(peaceful: World) -> None:
    peaceful.ask(peaceful.workers[0], 1)
    peaceful.store.is_away = True
    peaceful.workers[0].service.close()


def test_bulk_burns_no_lane_beyond_its_ids(peaceful: World) -> None:
    peaceful.ask(peaceful.workers[0], 4_096_000)
    peaceful.clocks.advance(SECOND_US)
    (reply,) = peaceful.workers[0].service.handle([Request("ids.lanes", {})])
    assert isinstance(reply, dict)
    assert [lane["status"] for lane in reply["lanes"]] == ["free"]


def test_a_clock_that_went_back_is_refused_once_and_then_served_by_a_new_identity(peaceful: World) -> None:
    (worker,) = peaceful.workers
    peaceful.ask(worker, 1)
    before = worker.service.token
    peaceful.clocks.advance(200 * SECOND_US)
    peaceful.clocks.step_store(-HOUR_US)
    assert isinstance(peaceful.ask(worker, 1), errors.ClockRejected)
    assert worker.service.token != before
    assert peaceful.ask(worker, 1) is None
    assert not peaceful.verify()


def test_no_lane_is_shared(any_store: EventStore) -> None:
    ask(serve(any_store, lane_range=LaneRange(9, 9)), "ids.next")
    with pytest.raises(NoFreeLane) as refused:
        ask(serve(any_store, lane_range=LaneRange(9, 9)), "ids.next")
    assert refused.value.free_at_us is not None
    assert refused.value.free_at_us > time.time_ns() // 1000


def test_a_lease_is_neither_too_short_nor_too_long() -> None:
    for lease_ms in (0, 999, 300_001):
        with pytest.raises(ValueError, match="a lease lasts"):
            serve(MemoryStore(), lease_ms=lease_ms)


def test_a_store_that_is_away_fails_a_batch_once_and_not_every_request(peaceful: World) -> None:
    peaceful.store.is_away = True
    begun_us = peaceful.clocks.true_us
    replies = peaceful.workers[0].service.handle([Request("ids.next", {"count": 1})] * 200)
    assert all(isinstance(reply, LeaseExhausted) for reply in replies)
    assert peaceful.clocks.true_us - begun_us < 5 * SECOND_US


def test_a_look_at_lanes_that_fails_costs_nobody_an_id(peaceful: World) -> None:
    (worker,) = peaceful.workers
    peaceful.ask(worker, 1)
    peaceful.store.is_away = True
    looked, drawn = worker.service.handle([Request("ids.verify", {}), Request("ids.next", {"count": 1})])
    assert isinstance(looked, PartUnavailable)
    assert isinstance(drawn, dict), "the lease serves while the store is away"


# --- check, verify, lanes, fence -------------------------------------------------------------


def test_check_tells_who_may_have_issued_an_id_and_what_nobody_may(service: IdsService) -> None:
    (id_,) = ids_of(ask(service, "ids.next", count=1))
    later = id_ + 10_000 * AHEAD * 1024
    known, unknown = ask(service, "ids.check", ids=[str(id_), str(later)])["ids"]
    assert known["status"] == "granted"
    assert known["worker"] == str(service.token)
    assert (known["host"], known["pid"]) == ("here", os.getpid())
    assert known["from"] <= known["time"] < known["until"]
    assert unknown["status"] == "never granted"


@pytest.mark.parametrize("ids", [None, [], "1", ["x"], ["1"] * (CHECK_MAX + 1)])
def test_check_refuses_what_are_no_ids(service: IdsService, ids: object) -> None:
    with pytest.raises(InvalidInput):
        ask(service, "ids.check", ids=ids)


def test_a_released_rest_was_never_granted(any_store: EventStore) -> None:
    service = serve(any_store)
    (id_,) = ids_of(ask(service, "ids.next", count=1))
    service.close()
    first, rest = ask(serve(any_store), "ids.check", ids=[str(id_), str(id_ + 1024)])["ids"]
    assert (first["status"], rest["status"]) == ("granted", "never granted")


def test_a_fence_stops_ids_until_its_floor_and_repeating_it_changes_nothing(any_store: EventStore) -> None:
    service = serve(any_store, lane_range=LaneRange(0, 20))
    last = ids_of(ask(service, "ids.next", count=1))[0]
    command_id = str(uuid4())
    answer = ask(service, "ids.fence", command_id=command_id)
    assert answer["lanes"] == 21
    assert parse_id(answer["floor"]) > last + 300 * AHEAD * 1024
    head = any_store.head()
    again = ask(serve(any_store, lane_range=LaneRange(0, 20)), "ids.fence", command_id=command_id)
    assert again == answer
    lifted = [e for e in any_store.read_all(head, 1000) if e.type == grants.LaneFenced.type]
    assert not lifted
    with pytest.raises(NoFreeLane):
        ask(service, "ids.next")
    assert ask(service, "ids.verify")["ok"]


def test_ids_flow_again_soon_where_all_workers_were_stopped(peaceful: World) -> None:
    (worker,) = peaceful.workers
    worker.service.handle([Request("ids.fence", {"command_id": str(uuid4()), "workers_stopped": True})])
    assert isinstance(peaceful.ask(worker, 1), NoFreeLane)
    peaceful.clocks.advance(2 * SECOND_US)
    assert peaceful.ask(worker, 1) is None


def test_a_worker_that_saw_more_than_the_store_has_stays_halted_until_a_fence() -> None:
    world = World(1, workers=2, chances=PEACE)
    halted, other = world.workers
    world.ask(halted, 4_000_000)
    world.ask(halted, 1)
    world.store.restore(0)
    world.clocks.advance(LEASE_US)
    for _ in range(3):
        assert isinstance(world.ask(halted, 1), StoreWentBack)
    other.service.handle([Request("ids.fence", {"command_id": str(uuid4())})])
    assert isinstance(world.ask(halted, 1), NoFreeLane), "it saw the fence"
    world.clocks.advance(LEASE_US + 2 * SECOND_US)
    assert world.ask(halted, 1) is None
    assert not world.verify()


@pytest.mark.parametrize("command_id", [None, "x", 5])
def test_a_fence_needs_a_command_id(service: IdsService, command_id: object) -> None:
    with pytest.raises(InvalidInput):
        ask(service, "ids.fence", command_id=command_id)


# --- processes -------------------------------------------------------------------------------


def _in_a_child(work: Callable[[], object]) -> Any:
    """Run in a forked child of this very process; what it returns comes back as JSON."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    return json.loads(text)


def test_a_forked_child_shares_neither_lease_nor_identity() -> None:
    service = serve(MemoryStore())
    ask(service, "ids.next", count=1)
    me = service._keeper.me
    token, lease = str(service.token), me.lease
    child = _in_a_child(
        lambda: [str(service.token), service._keeper.me.lease is None, service._lock.locked()]
    )
    assert child[0] != token
    assert child[1:] == [True, False]
    assert (str(service.token), me.lease) == (token, lease), "the parent goes on"


def test_processes_that_are_killed_and_restarted_on_skewed_clocks_never_issue_an_id_twice(
    tmp_path: Path,
) -> None:
    path = tmp_path / "events.db"
    with closing(SqliteStore(path)) as store:
        ledger = draw_under_kills(f"sqlite:{path}", [0, 3_000_000, -3_000_000, 400_000])
        assert not ledger.problems
        assert ledger.ranges > 150
        assert ask(serve(store, lane_range=LANES), "ids.verify")["ok"]


def test_an_error_of_the_store_is_answered_and_not_raised() -> None:
    class Broken(MemoryStore):
        def append(self, batch: Any) -> Any:
            raise PartUnavailable("event store", "it is broken")

    replies = serve(Broken(), sleep=lambda _: None).handle(
        [
            Request("ids.next", {"count": 1}),
            Request("ids.next", {"count": 100_000}),
            Request("ids.verify", {}),
        ]
    )
    assert isinstance(replies[0], LeaseExhausted)
    assert isinstance(replies[1], EsError)
    assert isinstance(replies[2], dict)
