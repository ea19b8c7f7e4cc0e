"""The `ids` service over real stores, in virtual time, and across forks and killed processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from adapters.clock import now_us
from adapters.codec import JsonCodec
from adapters.memory.event_store import MemoryStore
from adapters.sqlite.event_store import SqliteStore
from domain.kernel.errors import EsError, InvalidInput, PartUnavailable, UnknownRequest
from domain.kernel.ids import STEP, Range, decode, lane_of, parse_id
from domain.kernel.messages import Later, Request
from domain.kernel.ports.event_store import EventStore
from domain.lanes.errors import (
    AheadLimit,
    ClockOutOfRange,
    ClockRejected,
    LeaseExhausted,
    NoFreeLane,
    StoreWentBack,
)
from domain.lanes.events import EVENTS, LaneFenced
from domain.lanes.layout import LaneRange
from domain.lanes.limits import AHEAD, CHECK_MAX, COUNT_MAX
from tests.simulation.asking import ask
from tests.simulation.faults import Plan
from tests.simulation.processes import LANES, draw_under_kills
from tests.simulation.world import HOUR_US, LEASE_US, SECOND_US, World
from tests.support.waiting import DEADLINE_S
from workers.ids.service import IdsService

ONE_LANE = LaneRange(9, 9)
NEXT = Request("ids.next", {"count": 1})
SECOND = AHEAD * STEP
"""The distance of two ids of a lane that are a second apart."""


def serve(store: EventStore, **options: Any) -> IdsService:
    return IdsService(store, JsonCodec(EVENTS), host="here", pid=os.getpid(), store_name="test", **options)


def draw(service: IdsService, count: int = 1, **body: Any) -> list[int]:
    ranges = ask(service, count=count, **body)["ranges"]
    return [id_ for r in ranges for id_ in Range(int(r["first"]), r["count"], r["step"])]


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventStore]:
    made: EventStore = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "events.db")
    yield made
    made.close()


@pytest.fixture
def service(store: EventStore) -> IdsService:
    return serve(store)


@pytest.fixture
def world() -> Iterator[World]:
    """Virtual clocks and two workers. Nothing fails unless the test makes it fail, and no id is issued twice."""
    made = World(workers=2)
    yield made
    assert not made.verify()


def test_ids_ascend_and_are_near_the_present(service: IdsService) -> None:
    before_us = now_us()
    ids = [id_ for count in (1, 2, 4096, 1) for id_ in draw(service, count)]
    assert ids == sorted(set(ids))
    # The lease is taken after the first request, so the ids lie between that time and a second from now.
    assert before_us - 1 <= decode(ids[0]).time_us
    assert decode(ids[-1]).time_us <= now_us() + SECOND_US


def test_a_reply_holds_decimal_strings_and_the_step(service: IdsService) -> None:
    (block,) = ask(service, count=1_000_000)["ranges"]
    assert isinstance(block["first"], str)
    assert (block["step"], block["count"]) == (1024, 1_000_000)


def test_a_request_beyond_a_second_gets_several_exact_ranges(service: IdsService) -> None:
    ranges = ask(service, count=10_000_000)["ranges"]
    assert sum(r["count"] for r in ranges) == 10_000_000
    assert all(r["count"] <= AHEAD for r in ranges)
    assert len({lane_of(int(r["first"])) for r in ranges}) == len(ranges) == 3
    audit = ask(service, "ids.verify")
    assert (audit["ok"], audit["lanes"], audit["grants"]) == (True, 3, 3)


def test_a_whole_batch_costs_one_lease(store: EventStore, service: IdsService) -> None:
    replies = service.handle([NEXT] * 256)
    assert len({reply["ranges"][0]["first"] for reply in replies if isinstance(reply, dict)}) == 256
    head = store.head()
    service.handle([NEXT] * 256)
    assert store.head() == head, "ids from a lease cost no append"


def test_one_bad_request_fails_alone(service: IdsService) -> None:
    bodies: list[dict[str, Any]] = [{"count": 1}, {"count": 0}, {"count": 2}, {"after": "x"}, {}]
    replies = service.handle([Request("ids.next", body) for body in bodies] + [Request("ids.what", {})])
    expected = [dict, InvalidInput, dict, InvalidInput, dict, UnknownRequest]
    assert [type(reply) for reply in replies] == expected


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        *[("ids.next", "count", value) for value in (0, -1, COUNT_MAX + 1, True, 1.0, "1", None)],
        *[("ids.check", "ids", value) for value in (None, [], "1", ["x"], ["1"] * (CHECK_MAX + 1))],
        *[("ids.fence", "command_id", value) for value in (None, "x", 5)],
    ],
)
def test_invalid_input_is_refused(service: IdsService, kind: str, field: str, value: object) -> None:
    with pytest.raises(InvalidInput):
        ask(service, kind, **{field: value})


def test_ids_after_an_id_are_greater(store: EventStore, service: IdsService) -> None:
    (last,) = draw(serve(store))
    assert all(id_ > last for id_ in draw(service, 3, after=str(last)))


def test_ids_after_an_id_from_far_ahead_are_refused(service: IdsService) -> None:
    (now,) = draw(service)
    for count in (1, 100_000):
        with pytest.raises(AheadLimit):
            draw(service, count, after=str(now + 2 * SECOND))
    assert draw(service)


def test_single_ids_ascend_without_a_tick_and_wait_a_second_ahead() -> None:
    now_ns, naps_s = [10**12], list[float]()

    def sleep(duration_s: float) -> None:
        naps_s.append(duration_s)
        now_ns[0] += int(duration_s * 1e9)

    service = serve(MemoryStore(), monotonic_ns=lambda: now_ns[0], asleep_ns=lambda: 0, sleep=sleep)
    first = service.next_id()
    assert [service.next_id() - first for _ in range(5)] == [STEP * n for n in range(1, 6)]
    draw(service, AHEAD - 10)
    ids = [service.next_id() for _ in range(10)]
    assert ids == sorted(set(ids))
    assert naps_s, "it went more than a second ahead"


def test_single_ids_and_requested_ids_ascend_together(service: IdsService) -> None:
    ids = [service.next_id() for _ in range(5000)] + draw(service, 5)
    assert ids == sorted(set(ids))


def test_a_lease_serves_during_an_outage_and_is_renewed_after_it(world: World) -> None:
    world.ask(1)
    world.store.is_unavailable = True
    for _ in range(28):
        world.clocks.advance(10 * SECOND_US)
        assert world.ask(1) is None, "the lease serves until its end"
    world.store.is_unavailable = False
    world.clocks.advance(19 * SECOND_US)  # longer than the longest back-off
    assert world.ask(1) is None
    world.store.is_unavailable = True
    world.clocks.advance(150 * SECOND_US)
    assert world.ask(1) is None, "it was renewed as soon as the store was available"


def test_an_ended_lease_is_reported_during_an_outage_and_replaced_after_it(world: World) -> None:
    world.ask(1)
    world.store.is_unavailable = True
    world.clocks.advance(LEASE_US)
    refused = world.ask(1)
    assert isinstance(refused, LeaseExhausted)
    assert refused.until_us is not None
    assert abs(refused.until_us - world.clocks.true_us) < 60 * SECOND_US
    world.store.is_unavailable = False
    assert world.ask(1) is None


def test_a_stop_releases_the_rest_so_that_one_lane_is_enough(store: EventStore) -> None:
    ids: list[int] = []
    for _ in range(20):
        service = serve(store, lane_range=ONE_LANE)
        ids += draw(service, 2)
        service.close()
    assert len(set(ids)) == 40
    assert ask(serve(store, lane_range=ONE_LANE), "ids.verify")["ok"]


def test_a_stop_during_an_outage_raises_nothing(world: World) -> None:
    world.ask(1)
    world.store.is_unavailable = True
    world.service.close()


def test_the_lane_of_a_block_is_free_once_its_ids_have_passed(world: World) -> None:
    world.ask(4_096_000)
    world.clocks.advance(SECOND_US)
    assert [lane["status"] for lane in ask(world.service, "ids.lanes")["lanes"]] == ["free"]


def test_a_clock_that_went_back_is_refused_once_and_gives_a_new_identity(world: World) -> None:
    world.ask(1)
    before = world.service.token
    world.clocks.advance(200 * SECOND_US)
    world.clocks.step_store(-HOUR_US)
    assert isinstance(world.ask(1), ClockRejected)
    assert world.service.token != before
    assert world.ask(1) is None


@pytest.mark.parametrize("years", [-100, 100])
def test_a_clock_for_which_no_id_exists_is_refused_and_recovers(world: World, years: int) -> None:
    world.clocks.step_store(years * 365 * 24 * HOUR_US)

    refused = world.ask(1)

    assert isinstance(refused, ClockOutOfRange)
    world.clocks.step_store(0)
    assert not isinstance(world.ask(1), EsError)


def test_two_workers_never_share_a_lane(store: EventStore) -> None:
    draw(serve(store, lane_range=ONE_LANE))
    with pytest.raises(NoFreeLane) as refused:
        draw(serve(store, lane_range=ONE_LANE))
    assert refused.value.free_at_us is not None
    assert refused.value.free_at_us > now_us()


@pytest.mark.parametrize("lease_ms", [0, 999, 300_001])
def test_a_lease_too_short_or_too_long_is_refused(lease_ms: int) -> None:
    with pytest.raises(ValueError, match="a lease lasts"):
        serve(MemoryStore(), lease_ms=lease_ms)


def test_an_outage_is_detected_once_per_batch(world: World) -> None:
    world.store.is_unavailable = True
    begun_us = world.clocks.true_us
    replies = world.service.handle([NEXT] * 200)
    assert all(isinstance(reply, LeaseExhausted) for reply in replies)
    assert world.clocks.true_us - begun_us < 5 * SECOND_US


def test_a_failed_query_does_not_fail_requests_for_ids(world: World) -> None:
    world.ask(1)
    world.store.is_unavailable = True
    audit, drawn = world.service.handle([Request("ids.verify", {}), NEXT])
    assert isinstance(audit, PartUnavailable)
    assert isinstance(drawn, dict), "the lease serves during the outage"


def test_an_error_of_the_store_is_the_reply_and_is_not_raised(world: World) -> None:
    world.store.next_plan = lambda batch: Plan(refused=True)
    block = Request("ids.next", {"count": 100_000})
    replies = world.service.handle([NEXT, block, Request("ids.verify", {})])
    assert isinstance(replies[0], LeaseExhausted)
    assert isinstance(replies[1], EsError)
    assert isinstance(replies[2], dict)


def test_of_many_queries_some_wait_for_a_later_batch_and_ids_do_not(service: IdsService) -> None:
    (id_,) = draw(service)
    queries = [Request("ids.check", {"ids": [str(id_)]}) for _ in range(20)]

    replies = service.handle([*queries, Request("ids.next", {})])

    waiting = [isinstance(reply, Later) for reply in replies]
    assert (waiting[0], waiting[19], waiting[20]) == (False, True, False)


def test_check_returns_the_grant_of_an_id_and_finds_ids_without_one(service: IdsService) -> None:
    (id_,) = draw(service)
    known, unknown = ask(service, "ids.check", ids=[str(id_), str(id_ + 10_000 * SECOND)])["ids"]
    assert known["status"] == "granted"
    assert known["worker"] == str(service.token)
    assert (known["host"], known["pid"]) == ("here", os.getpid())
    assert known["from"] <= known["time"] < known["until"]
    assert unknown["status"] == "never granted"


def test_the_released_rest_of_a_lease_was_never_granted(store: EventStore, service: IdsService) -> None:
    (id_,) = draw(service)
    service.close()
    first, rest = ask(serve(store), "ids.check", ids=[str(id_), str(id_ + STEP)])["ids"]
    assert (first["status"], rest["status"]) == ("granted", "never granted")


def test_a_fence_stops_ids_until_its_floor_and_a_retry_changes_nothing(store: EventStore) -> None:
    service, other = (serve(store, lane_range=LaneRange(0, 20)) for _ in range(2))
    (last,) = draw(service)
    command_id = str(uuid4())
    fenced = ask(service, "ids.fence", command_id=command_id)
    assert fenced["lanes"] == 21
    assert parse_id(fenced["floor"]) > last + 300 * SECOND
    head = store.head()
    assert ask(other, "ids.fence", command_id=command_id) == fenced
    assert not [event for event in store.read_all(head, 1000) if event.type == LaneFenced.type]
    with pytest.raises(NoFreeLane):
        draw(service)
    assert ask(service, "ids.verify")["ok"]


def test_ids_resume_after_two_seconds_if_all_workers_were_stopped(world: World) -> None:
    ask(world.service, "ids.fence", command_id=str(uuid4()), workers_stopped=True)
    assert isinstance(world.ask(1), NoFreeLane)
    world.clocks.advance(2 * SECOND_US)
    assert world.ask(1) is None


def test_a_worker_stays_halted_after_a_restore_until_a_fence(world: World) -> None:
    world.ask(4_000_000)
    world.ask(1)
    world.store.restore(0)
    world.clocks.advance(LEASE_US)
    for _ in range(3):
        assert isinstance(world.ask(1), StoreWentBack)
    ask(world.workers[1].service, "ids.fence", command_id=str(uuid4()))
    assert isinstance(world.ask(1), NoFreeLane), "it found the fence"
    world.clocks.advance(LEASE_US + 2 * SECOND_US)
    assert world.ask(1) is None


def _in_a_forked_child(work: Callable[[], object]) -> Any:
    """The result of `work` in a fork of this process."""
    forking = multiprocessing.get_context("fork")
    results = forking.SimpleQueue()
    child = forking.Process(target=lambda: results.put(work()))
    child.start()
    child.join(DEADLINE_S)
    assert child.exitcode == 0
    return results.get()


def test_a_forked_child_shares_neither_lease_nor_identity() -> None:
    service = serve(MemoryStore())
    draw(service)
    token, lease = str(service.token), service.lease
    child = _in_a_forked_child(lambda: [str(service.token), service.lease is None, service.lock.locked()])
    assert child[0] != token
    assert child[1:] == [True, False]
    assert (str(service.token), service.lease) == (token, lease), "the parent keeps its lease"


def test_killed_workers_with_wrong_clocks_never_issue_an_id_twice(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with closing(SqliteStore(path)) as store:
        ledger = draw_under_kills(f"sqlite:{path}", [0, 3_000_000, -3_000_000, 400_000])
        assert not ledger.problems
        assert ledger.ranges > 150
        assert ask(serve(store, lane_range=LANES), "ids.verify")["ok"]
