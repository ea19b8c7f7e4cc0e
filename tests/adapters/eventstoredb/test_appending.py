"""Appends: unknown outcomes, event ids, sizes and deadlines. `Trap` marks surprises of esdbclient and the server."""

from __future__ import annotations

import itertools
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest

from adapters.eventstoredb.known_ids import KnownIds
from domain.kernel.errors import DuplicateEventId, InvalidInput, PartUnavailable, VersionConflict
from domain.kernel.events import BEGINNING, NO_STREAM
from domain.kernel.ports.event_store import Append, Appended, AppendResult
from tests.support.builders import a_stream, an_event, append, some_events
from tests.support.eventstoredb import GIVE_UP_S, SHORT_CALL_S, SLACK_S, OpenStore, Store, an_item, types_of
from tests.support.node import LOST_APPENDS, Fault, Node, Plan, Point, Proxy, always, never, once, seeded
from tests.support.waiting import DEADLINE_S, assert_within, eventually

MB = 1024 * 1024
ONE_MESSAGE = 16 * MB - 10_000

# --- unknown outcomes ------------------------------------------------------------------------


@pytest.mark.parametrize(("point", "fault"), LOST_APPENDS, ids=str)
def test_an_append_whose_outcome_was_lost_is_stored_once(
    open_store: OpenStore, node: Node, point: Point, fault: Fault
) -> None:
    store, item = open_store(call_timeout_s=SHORT_CALL_S), an_item("thing-1", count=3)
    node.plan = once(point, fault, fault)

    (result,) = store.append([item])

    node.await_late_commits()
    # Trap: a retry must send the events, not the rest of an exhausted iterator.
    assert store.stored("thing-1") == item.events
    assert result == Appended(2, list(store.read_stream("thing-1"))[-1].position)


def test_a_retry_returns_a_position_that_the_server_forgot(store: Store, node: Node) -> None:
    item = an_item("thing-1", count=3)
    first = store.append([item])
    store.write("thing-1", 2)
    node.log.forgets_positions = True

    assert store.append([item]) == first


def test_a_lost_response_to_an_item_does_not_affect_others(open_store: OpenStore, node: Node) -> None:
    items = [an_item(), an_item("lost-1"), an_item()]
    node.plan = always(Fault.TIMED_OUT, Point.BEFORE_COMMIT, stream="lost-1")

    results = open_store(settle_s=GIVE_UP_S, call_timeout_s=GIVE_UP_S / 5).append(items)

    assert types_of(results) == [Appended, PartUnavailable, Appended]
    assert [len(open_store().stored(item.stream)) for item in items] == [1, 0, 1]


def test_no_item_follows_one_whose_outcome_is_unknown(open_store: OpenStore, node: Node) -> None:
    items = [an_item("lost-1"), an_item(), an_item("lost-1", 0), an_item("lost-1")]
    node.plan = always(Fault.BLACK_HOLE, Point.BEFORE_COMMIT, stream="lost-1")

    results = open_store(settle_s=GIVE_UP_S, call_timeout_s=GIVE_UP_S / 5).append(items)

    assert types_of(results) == [PartUnavailable, Appended, PartUnavailable, PartUnavailable]
    node.plan = never
    assert open_store().stored("lost-1") == []


def test_an_item_waits_for_an_earlier_one_of_its_stream(open_store: OpenStore, node: Node) -> None:
    store, first, second = open_store(call_timeout_s=SHORT_CALL_S), an_item("thing-1"), an_item("thing-1")
    node.plan = once(Point.BEFORE_COMMIT, Fault.BLACK_HOLE)

    assert types_of(store.append([first, second])) == [Appended, VersionConflict]
    assert store.stored("thing-1") == first.events


def test_a_late_commit_conflicts_with_an_earlier_one(open_store: OpenStore, node: Node) -> None:
    hasty, other = open_store(settle_s=0.12, call_timeout_s=0.12), open_store()
    late, winner = an_item("thing-1"), an_item("thing-1")
    node.plan, node.late_s = always(Fault.LATE, Point.BEFORE_COMMIT), DEADLINE_S
    while not node.late:  # until the request has arrived
        with pytest.raises(PartUnavailable):
            hasty.append([late])
    node.plan = never
    assert types_of(other.append([winner])) == [Appended]
    for timer in node.late:
        timer.cancel()
        timer.function()  # commit now

    assert other.append([late]) == [VersionConflict("thing-1", NO_STREAM, 0)]
    assert other.stored("thing-1") == winner.events


@pytest.mark.parametrize("seed", range(6))
def test_under_any_faults_nothing_is_lost_and_nothing_is_stored_twice(
    open_store: OpenStore, node: Node, seed: int
) -> None:
    """Trap: a retry at a newly read version stores twice. Three writers share one stream."""
    node.plan = seeded(seed, 0.2)
    store, own = open_store(settle_s=1.0, call_timeout_s=0.1), ["own-0", "own-1", "own-2"]
    appended: dict[str, dict[int, UUID]] = {stream: {} for stream in ("shared-1", *own)}
    with ThreadPoolExecutor(3) as pool:
        writers = [
            pool.submit(_write, store, ["shared-1", stream], appended, random.Random(seed * 10 + n))
            for n, stream in enumerate(own)
        ]
    for writer in writers:
        writer.result()
    node.await_late_commits()
    node.plan = never

    reader = open_store()
    for stream, ids in appended.items():
        found = {event.version: event.event_id for event in reader.read_stream(stream)}
        assert found == ids, "exactly the appended events are stored"
        assert len(set(found.values())) == len(found)
    assert sum(map(len, appended.values())) > 100


def _write(
    store: Store, streams: list[str], appended: dict[str, dict[int, UUID]], chance: random.Random
) -> None:
    """20 batches with one item per stream, at the last known version, each retried until its outcome is known."""
    versions = dict.fromkeys(streams, NO_STREAM)
    for _ in range(20):
        pending = [an_item(s, versions[s], count=chance.randint(1, 3)) for s in streams]
        while pending:
            unknown: list[Append] = []
            for item, result in zip(pending, _results(store, pending), strict=True):
                if isinstance(result, Appended):
                    versions[item.stream] = result.version
                    ids = [event.event_id for event in item.events]
                    appended[item.stream].update(enumerate(ids, start=item.expected_version + 1))
                elif isinstance(result, VersionConflict):
                    versions[item.stream] = result.actual
                else:
                    unknown.append(item)
            pending = unknown


def _results(store: Store, items: list[Append]) -> list[AppendResult]:
    try:
        return store.append(items)
    except PartUnavailable as error:
        return [error] * len(items)


# --- events and ids --------------------------------------------------------------------------


def test_all_appends_go_over_one_call_of_the_batch_rpc(store: Store, node: Node) -> None:
    # Trap: a single event would use the RPC without typed errors. Trap: esdbclient retries by itself.
    store.write()
    store.append([an_item(count=2) for _ in range(20)])
    with ThreadPoolExecutor(4) as pool:
        results = pool.map(store.append, [[an_item() for _ in range(30)] for _ in range(20)])

    assert {*types_of(itertools.chain(*results))} == {Appended}
    assert (node.calls["BatchAppend"], node.calls["Append"]) == (1, 0)


def test_a_call_that_ended_while_idle_is_replaced(open_store: OpenStore, proxy: Proxy, node: Node) -> None:
    store = open_store(proxy.url)
    store.write("thing-1")
    proxy.cut()

    assert types_of(store.append([an_item("thing-1", 0), an_item()])) == [Appended, Appended]
    assert len(store.stored("thing-1")) == 2


def test_a_stuck_call_is_replaced_and_its_neighbours_get_their_answers(
    open_store: OpenStore, node: Node
) -> None:
    """Both use one call. One of them gets no answer."""
    store = open_store(call_timeout_s=SHORT_CALL_S)
    store.write()
    stuck, other = an_item("stuck-1"), an_item("other-1")
    has_arrived = threading.Event()

    def plan(point: Point, stream: str) -> Fault | None:
        if point is Point.BEFORE_COMMIT and stream == "stuck-1" and not has_arrived.is_set():
            has_arrived.set()
            return Fault.BLACK_HOLE
        return None

    node.plan = plan
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(store.append, [stuck])
        eventually(has_arrived.is_set, "the request has arrived")
        second = pool.submit(store.append, [other])
        assert types_of(second.result(DEADLINE_S)) == [Appended]
        assert types_of(first.result(DEADLINE_S)) == [Appended]
    assert node.calls["BatchAppend"] == 2


def test_events_that_can_be_iterated_only_once_are_rejected(store: Store, node: Node) -> None:
    # Trap: a retry would send no events and report success.
    iterator = (event for event in some_events(1))

    with pytest.raises(ValueError):
        store.append([Append(a_stream(), NO_STREAM, iterator)])  # type: ignore[arg-type]

    assert node.calls["BatchAppend"] == 0


def test_a_stream_without_events_is_expected_at_minus_one(store: Store) -> None:
    # Trap: esdbclient raises AssertionError for -1.
    assert store.write("thing-1", 3) == VersionConflict("thing-1", 3, NO_STREAM)
    assert isinstance(store.write("thing-1", NO_STREAM), Appended)


def test_the_recorded_time_is_that_of_the_server(store: Store, node: Node) -> None:
    store.write()

    (event,) = store.read_all(BEGINNING, 1)

    assert abs(event.recorded_at_us - node.log.after_position(-1)[-1].created_ticks // 10) <= 1


def test_a_retry_with_other_data_keeps_the_stored_data(store: Store) -> None:
    # Trap: only ids are compared. A retried command seals its data again, so the bytes differ.
    event = an_event(data=b'{"sealed":1}')
    first = append(store, "thing-1", NO_STREAM, [event])

    second = append(store, "thing-1", NO_STREAM, [an_event(data=b'{"sealed":2}', event_id=event.event_id)])

    assert second == first
    assert store.stored("thing-1") == [event]


def test_an_event_id_is_used_once_in_a_stream_by_any_writer(open_store: OpenStore) -> None:
    item, other = an_item("thing-1", count=700), open_store()
    open_store().append([item])
    used = item.events[3]

    assert append(other, "thing-1", 699, [an_event(), used]) == DuplicateEventId("thing-1")
    assert append(other, "thing-1", 5, [used]) == VersionConflict("thing-1", 5, 699)
    assert append(other, "thing-2", NO_STREAM, [used]) == Appended(0, other.head())
    assert len(other.stored("thing-1")) == 700


def test_an_append_after_a_read_needs_one_call(open_store: OpenStore, node: Node) -> None:
    store = open_store()
    open_store().write("thing-1", count=5)
    store.stored("thing-1")
    reads = node.calls["Read"]

    for version in range(4, 8):
        store.write("thing-1", version)

    assert node.calls["Read"] == reads


def test_known_ids_are_bounded_and_never_have_a_gap() -> None:
    known = KnownIds(10)
    ids = {f"thing-{n}": [event.event_id for event in some_events(4)] for n in range(5)}
    for stream, its_ids in ids.items():
        known.learn(stream, 0, its_ids)

    looks = [known.look(stream, its_ids[3:], up_to=3) for stream, its_ids in ids.items()]
    assert looks == [(0, False)] * 3 + [(4, True)] * 2, "the oldest are forgotten as a whole"
    assert known.look("thing-4", ids["thing-4"][3:], up_to=2) == (4, False)


def together(point: Point, count: int) -> Plan:
    """No fault, but nothing passes the point before `count` calls are there."""
    all_arrived = threading.Barrier(count, timeout=DEADLINE_S)

    def plan(at: Point, stream: str) -> None:
        if at is point:
            all_arrived.wait()

    return plan


# --- sizes and deadlines ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server_limit", "event_limit", "count", "size"),
    [
        pytest.param(MB, None, 1, 2_000_000, id="for the server"),
        pytest.param(ONE_MESSAGE, None, 1, ONE_MESSAGE - 100, id="for a message"),
        pytest.param(ONE_MESSAGE, None, 140_000, 0, id="for a message, by what surrounds its events"),
        # Trap: esdbclient does not know the error of newer servers and reports one that a retry may change.
        pytest.param(MB, 1000, 1, 1001, id="for a newer server"),
    ],
)
def test_an_item_that_is_too_large_is_refused_and_its_neighbours_are_stored(
    store: Store, node: Node, server_limit: int, event_limit: int | None, count: int, size: int
) -> None:
    node.max_append_size, node.max_event_size = server_limit, event_limit
    large = Append("large-1", NO_STREAM, [an_event(data=b"x" * size) for _ in range(count)])

    assert types_of(store.append([an_item(), large, an_item()])) == [Appended, InvalidInput, Appended]
    assert store.stored("large-1") == []


def test_an_item_that_the_server_accepts_is_not_refused(store: Store, node: Node) -> None:
    node.max_append_size = ONE_MESSAGE

    assert isinstance(append(store, a_stream(), NO_STREAM, [an_event(data=b"x" * 16_760_000)]), Appended)


def test_the_server_is_given_the_deadline_of_each_item(open_store: OpenStore, node: Node) -> None:
    open_store(call_timeout_s=GIVE_UP_S).append([an_item(), an_item()])

    assert len(node.deadlines_s) == 2
    assert all(0 < deadline_s <= GIVE_UP_S for deadline_s in node.deadlines_s)


def test_the_reads_before_an_append_are_sent_together(open_store: OpenStore, node: Node) -> None:
    """Forty streams have to be read first, and no read is answered before all have arrived."""
    streams = [a_stream() for _ in range(40)]
    open_store().append([an_item(stream) for stream in streams])
    node.plan = together(Point.READ, 40)

    results = open_store().append([an_item(stream, 0) for stream in streams])

    assert {*types_of(results)} == {Appended}
    assert node.calls["Read"] == 40


def test_the_reads_before_an_append_share_its_time(open_store: OpenStore, node: Node) -> None:
    node.plan = always(Fault.BLACK_HOLE, Point.READ)

    def give_up() -> None:
        with pytest.raises(PartUnavailable):
            open_store(settle_s=1.0).append([an_item(None, 0) for _ in range(200)])

    assert_within(1.0 + SLACK_S, give_up)


def test_positions_that_the_server_forgot_are_read_together(open_store: OpenStore, node: Node) -> None:
    items = [an_item() for _ in range(40)]
    first = open_store().append(items)
    node.log.forgets_positions = True
    node.plan = together(Point.READ, 40)

    assert open_store().append(items) == first


def test_an_item_that_times_out_does_not_block_other_items(open_store: OpenStore, node: Node) -> None:
    node.plan = always(Fault.TIMED_OUT, Point.BEFORE_COMMIT, stream="sick-1")
    store = open_store(settle_s=1.0)
    with pytest.raises(PartUnavailable):
        store.write("sick-1")

    assert isinstance(store.write("well-1"), Appended)
