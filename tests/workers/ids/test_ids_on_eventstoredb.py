"""The `ids` service over EventStoreDB's protocol: several workers, in threads and processes, and lost responses.

Other tests of the service are in `test_ids_service.py` and the simulation. Only a store on the network can commit
without a response, or report a failure and commit later.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any

import pytest

from adapters.codec import JsonCodec
from adapters.eventstoredb.event_store import EventStoreDbStore
from domain.kernel.errors import EsError
from domain.lanes import events
from domain.lanes.errors import NoFreeLane
from domain.lanes.layout import LaneRange
from tests.simulation.asking import ask
from tests.simulation.ledger import Ledger
from tests.simulation.processes import LANES, draw_under_kills
from tests.support.node import LOST_APPENDS, Fault, Node, Point, always, never, once, seeded
from tests.support.waiting import DEADLINE_S, eventually
from workers.ids.service import IdsService

ONE_LANE = LaneRange(9, 9)
LOST = [(point, fault) for point, fault in LOST_APPENDS if fault is not Fault.BLACK_HOLE]

StartWorker = Callable[..., IdsService]


@pytest.fixture
def node() -> Iterator[Node]:
    with closing(Node()) as node:
        yield node


@pytest.fixture
def start_worker(node: Node) -> Iterator[StartWorker]:
    """Starts workers, each with its own connection, like processes."""
    with ExitStack() as stores:

        def start(lane_range: LaneRange = ONE_LANE, **timeouts: float) -> IdsService:
            timeouts = {"call_timeout_s": 0.3, "settle_s": DEADLINE_S} | timeouts
            store = stores.enter_context(closing(EventStoreDbStore(node.url, **timeouts)))
            codec = JsonCodec(events.EVENTS)
            return IdsService(
                store, codec, host="here", pid=os.getpid(), store_name="esdb:", lane_range=lane_range
            )

        yield start


def grants_of_lane_nine(node: Node) -> int:
    with closing(EventStoreDbStore(node.url)) as store:
        return sum(event.type == events.LaneGranted.type for event in store.read_stream("lane-9"))


def is_answered(worker: IdsService) -> bool:
    try:
        return bool(ask(worker, count=2))
    except EsError:
        return False


def verified(worker: IdsService) -> dict[str, Any]:
    verdict = ask(worker, "ids.verify")
    assert verdict["ok"], verdict
    return verdict


def test_ids_are_issued_and_leases_renewed_and_released(start_worker: StartWorker) -> None:
    ledger = Ledger()
    for _ in range(3):
        worker = start_worker()
        for count in (1, 5000, 1):
            for item in ask(worker, count=count)["ranges"]:
                ledger.issued(int(item["first"]), item["count"])
        worker.close()
    (lane,) = ask(start_worker(), "ids.lanes")["lanes"]
    assert (lane["lane"], lane["status"]) == (9, "free"), "each stop released the rest"
    assert not ledger.problems
    assert verified(start_worker())["grants"] == 3


@pytest.mark.parametrize(("point", "fault"), LOST, ids=str)
def test_a_grant_whose_response_was_lost_is_stored_once(
    node: Node, start_worker: StartWorker, point: Point, fault: Fault
) -> None:
    worker = start_worker()
    node.plan = once(point, fault, stream="lane-9")
    assert ask(worker, count=2)
    node.await_late_commits()
    assert grants_of_lane_nine(node) == 1


@pytest.mark.parametrize(("point", "fault"), LOST, ids=str)
def test_a_grant_without_a_response_is_found_or_made_by_the_next_request(
    node: Node, start_worker: StartWorker, point: Point, fault: Fault
) -> None:
    worker = start_worker(settle_s=0.2, call_timeout_s=0.1)
    node.plan = always(fault, point, stream="lane-9")
    with pytest.raises(EsError):
        ask(worker, count=2)
    node.plan = never
    eventually(lambda: is_answered(worker), "a request is answered")
    node.await_late_commits()
    assert grants_of_lane_nine(node) == 1


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.TIMED_OUT], ids=str)
def test_two_workers_that_want_one_lane_at_once_get_one_grant(
    node: Node, start_worker: StartWorker, fault: Fault
) -> None:
    slow, quick = (start_worker(call_timeout_s=DEADLINE_S) for _ in range(2))
    granted: list[dict[str, Any]] = []

    def plan(at: Point, stream: str) -> Fault | None:
        if at is not Point.BEFORE_COMMIT or stream != "lane-9":
            return None
        node.plan = never
        granted.append(ask(quick))  # during the append of the slow one
        return fault

    node.plan = plan
    with pytest.raises(NoFreeLane):
        ask(slow)
    assert granted
    assert grants_of_lane_nine(node) == 1


def test_workers_in_threads_issue_no_id_twice_while_responses_are_lost(
    node: Node, start_worker: StartWorker
) -> None:
    node.plan = seeded(20, 0.15, leave_out=[Fault.BLACK_HOLE])
    ledger, lock = Ledger(), threading.Lock()
    failed: list[EsError] = []

    def work(number: int) -> None:
        for life in range(3):
            worker = start_worker(LaneRange(0, 15))
            for count in (1, 10, 100_000, 1):
                try:
                    ranges = ask(worker, count=count)["ranges"]
                except EsError as error:
                    failed.append(error)
                    continue
                with lock:
                    for item in ranges:
                        ledger.issued(int(item["first"]), item["count"])
            if (number + life) % 2:  # the others end like killed workers
                worker.close()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    node.plan = never
    node.await_late_commits()
    assert not ledger.problems
    assert ledger.ranges > 24, failed
    verified(start_worker(LaneRange(0, 15)))


def test_killed_and_restarted_processes_issue_no_id_twice(node: Node, start_worker: StartWorker) -> None:
    node.plan = seeded(21, 0.02, leave_out=[Fault.BLACK_HOLE, Fault.LATE])
    ledger = draw_under_kills(node.url, [0])
    node.plan = never
    assert not ledger.problems
    assert ledger.ranges > 150
    verified(start_worker(LANES))
