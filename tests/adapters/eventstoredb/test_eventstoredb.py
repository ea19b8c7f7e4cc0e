"""The EventStoreDB adapter against a test node that fails in every way the protocol knows.

What every event store promises is in the contract suite; here is what only a store on the network can do
wrong. `Trap` marks a test of something that esdbclient or the server does unexpectedly.
"""

from __future__ import annotations

import datetime
import ipaddress
import itertools
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from esdbclient import EventStoreDBClient

from adapters.eventstoredb import event_store as eventstoredb
from adapters.eventstoredb.event_store import EventStoreDbStore, _KnownIds, _Subscription, server_facts
from domain.kernel.errors import Damaged, DuplicateEventId, InvalidInput, PartUnavailable, VersionConflict
from domain.kernel.events import BEGINNING, NO_STREAM, Recorded
from domain.kernel.ports.event_store import Append, Appended, AppendResult, CaughtUp, EventStore
from tests.support.builders import (
    DEADLINE_S,
    a_stream,
    an_event,
    append,
    assert_within,
    before,
    eventually,
    some_events,
    start_python,
    stored,
)
from tests.support.node import Cluster, Fault, Node, Point, Proxy, Tls, once, seeded

SHORT_CALL_S = 0.3
"""For servers that don't answer: how long a call is waited for before it is repeated. Slow calls are repeated too."""
GIVE_UP_S = 5.0
"""For what is never answered, beside what is: long enough for that."""
SLACK_S = 1.0
"""What a machine may add to a bound that is otherwise exact."""

UNKNOWN_BEFORE = [
    Fault.UNAVAILABLE,
    Fault.BROKEN,
    Fault.BLACK_HOLE,
    Fault.LATE,
    Fault.TIMED_OUT,
    Fault.NOT_READY,
]
UNKNOWN_AFTER = [Fault.UNAVAILABLE, Fault.BROKEN, Fault.BLACK_HOLE, Fault.TIMED_OUT]


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    yield node
    node.stop()


def opened(
    url: str, *, settle_s: float = DEADLINE_S, call_timeout_s: float = DEADLINE_S
) -> EventStoreDbStore:
    return EventStoreDbStore(url, settle_s=settle_s, call_timeout_s=call_timeout_s)


@pytest.fixture
def store(node: Node) -> Iterator[EventStoreDbStore]:
    with closing(opened(node.url)) as store:
        yield store


@pytest.fixture
def hasty_store(node: Node) -> Iterator[EventStoreDbStore]:
    """It doesn't wait long for an answer, and repeats for long."""
    with closing(opened(node.url, call_timeout_s=SHORT_CALL_S)) as store:
        yield store


@pytest.fixture
def yielding_store(node: Node) -> Iterator[EventStoreDbStore]:
    """It gives up what isn't answered."""
    with closing(opened(node.url, settle_s=GIVE_UP_S, call_timeout_s=GIVE_UP_S / 5)) as store:
        yield store


def always(fault: Fault, *points: Point) -> Callable[[Point, str], Fault | None]:
    return lambda at, stream: fault if at in points else None


# --- append: unknown outcomes ----------------------------------------------------------------


@pytest.mark.parametrize("fault", UNKNOWN_BEFORE, ids=str)
def test_an_append_that_was_lost_before_the_commit_is_repeated(
    hasty_store: EventStore, node: Node, fault: Fault
) -> None:
    store, stream, events = hasty_store, a_stream(), some_events(3)
    node.plan = once(Point.BEFORE_COMMIT, fault, fault)

    result = append(store, stream, NO_STREAM, events)

    for timer in node.late:
        timer.join()
    # Trap: a repeat must send the events again, not the rest of an iterator that is used up.
    assert stored(store, stream) == events
    assert result == Appended(2, list(store.read_stream(stream))[-1].position)


@pytest.mark.parametrize("fault", UNKNOWN_AFTER, ids=str)
def test_an_append_whose_answer_was_lost_is_answered_as_the_first_time(
    hasty_store: EventStore, node: Node, fault: Fault
) -> None:
    store, stream, events = hasty_store, a_stream(), some_events(3)
    node.plan = once(Point.AFTER_COMMIT, fault, fault)

    result = append(store, stream, NO_STREAM, events)

    assert stored(store, stream) == events
    assert result == Appended(2, list(store.read_stream(stream))[-1].position)


def test_a_repeated_item_has_its_position_even_when_the_server_forgot_it(
    store: EventStore, node: Node
) -> None:
    stream, events = a_stream(), some_events(3)
    first = append(store, stream, NO_STREAM, events)
    append(store, stream, 2, some_events(1))
    node.log.forgets_positions = True

    assert append(store, stream, NO_STREAM, events) == first


def test_one_items_lost_answer_does_not_touch_its_neighbours(
    yielding_store: EventStore, store: EventStore, node: Node
) -> None:
    left, lost, right = a_stream(), a_stream("lost"), a_stream()
    node.plan = lambda at, of: Fault.TIMED_OUT if at is Point.BEFORE_COMMIT and of == lost else None

    results = yielding_store.append(
        [Append(stream, NO_STREAM, some_events(1)) for stream in (left, lost, right)]
    )

    assert [type(result) for result in results] == [Appended, PartUnavailable, Appended]
    assert [len(stored(store, stream)) for stream in (left, lost, right)] == [1, 0, 1]


def test_nothing_of_a_stream_is_sent_after_an_item_whose_outcome_is_unknown(
    yielding_store: EventStore, store: EventStore, node: Node
) -> None:
    stream, other = a_stream("lost"), a_stream()
    node.plan = lambda at, of: Fault.BLACK_HOLE if at is Point.BEFORE_COMMIT and of == stream else None

    results = yielding_store.append(
        [
            Append(stream, NO_STREAM, some_events(1)),
            Append(other, NO_STREAM, some_events(1)),
            Append(stream, 0, some_events(1)),
            Append(stream, NO_STREAM, some_events(1)),
        ]
    )

    assert [type(r) for r in results] == [PartUnavailable, Appended, PartUnavailable, PartUnavailable]
    node.plan = once(Point.READ)
    assert stored(store, stream) == []


def test_a_later_item_waits_for_an_earlier_one_whose_answer_was_lost(
    hasty_store: EventStore, node: Node
) -> None:
    store, stream, first, second = hasty_store, a_stream(), some_events(1), some_events(1)
    node.plan = once(Point.BEFORE_COMMIT, Fault.BLACK_HOLE)

    results = store.append([Append(stream, NO_STREAM, first), Append(stream, NO_STREAM, second)])

    assert [type(result) for result in results] == [Appended, VersionConflict]
    assert stored(store, stream) == first


def test_a_write_that_lands_late_loses_against_who_came_first(node: Node) -> None:
    stream, late, winner = a_stream(), some_events(1), some_events(1)
    node.plan, node.late_s = always(Fault.LATE, Point.BEFORE_COMMIT), DEADLINE_S
    with (
        closing(opened(node.url, settle_s=0.12, call_timeout_s=0.12)) as store,
        closing(opened(node.url)) as other,
    ):
        while not node.late:  # until it has got there
            with pytest.raises(PartUnavailable):
                append(store, stream, NO_STREAM, late)
        node.plan = once(Point.READ)
        assert isinstance(append(other, stream, NO_STREAM, winner), Appended)
        for timer in node.late:
            timer.cancel()
            timer.function()  # its time has come

        assert append(other, stream, NO_STREAM, late) == VersionConflict(stream, NO_STREAM, 0)
        assert stored(other, stream) == winner


@pytest.mark.parametrize("seed", range(6))
def test_under_any_faults_nothing_is_lost_and_nothing_is_stored_twice(node: Node, seed: int) -> None:
    """Trap: a repeat at a newly read version stores twice. Several writers, some of them on the same stream, repeat each item until it is definite."""
    node.plan = seeded(seed, 0.2)
    shared, own = a_stream("shared"), [a_stream(f"own{n}") for n in range(3)]
    told: dict[str, dict[int, UUID]] = {stream: {} for stream in (shared, *own)}
    with (
        closing(opened(node.url, settle_s=1.0, call_timeout_s=0.1)) as store,
        closing(opened(node.url)) as reader,
        ThreadPoolExecutor(3) as pool,
    ):
        writers = [
            pool.submit(_write_stubbornly, store, [shared, stream], told, random.Random(seed * 10 + n))
            for n, stream in enumerate(own)
        ]
        for writer in writers:
            writer.result()
        for timer in node.late:
            timer.join()
        node.plan = once(Point.READ)

        for stream, versions in told.items():
            found = {event.version: event.event_id for event in reader.read_stream(stream)}
            assert found == versions, "what was answered is there, and nothing else"
            assert len(set(found.values())) == len(found)
        assert sum(map(len, told.values())) > 100


def _write_stubbornly(
    store: EventStore, streams: list[str], told: dict[str, dict[int, UUID]], chance: random.Random
) -> None:
    """20 batches: one item per stream, at the version that was last seen, repeated while it is not definite."""
    versions = dict.fromkeys(streams, NO_STREAM)
    for _ in range(20):
        pending = [Append(s, versions[s], some_events(chance.randint(1, 3))) for s in streams]
        while pending:
            again: list[Append] = []
            for item, result in zip(pending, _answers(store, pending), strict=True):
                if isinstance(result, Appended):
                    versions[item.stream] = result.version
                    first = item.expected_version + 1
                    told[item.stream].update(enumerate((e.event_id for e in item.events), start=first))
                elif isinstance(result, VersionConflict):
                    versions[item.stream] = result.actual
                else:
                    again.append(item)
            pending = again


def _answers(store: EventStore, items: list[Append]) -> list[AppendResult]:
    try:
        return store.append(items)
    except PartUnavailable as error:
        return [error] * len(items)


def test_reads_are_never_cut_short_by_the_faults_of_others(node: Node) -> None:
    """Trap: a client that reconnects ends the reads of others, and their end looks like the stream's."""
    stream, events = a_stream(), some_events(3000)
    chance = random.Random(1)
    with closing(opened(node.url)) as store:
        append(store, stream, NO_STREAM, events)
        node.plan = lambda at, of: (
            Fault.UNAVAILABLE if at is Point.BEFORE_COMMIT and chance.random() < 0.5 else None
        )
        done = threading.Event()

        def disturb() -> None:
            while not done.is_set():
                append(store, a_stream(), NO_STREAM, some_events(1))

        with ThreadPoolExecutor(2) as pool:
            disturbing = [pool.submit(disturb) for _ in range(2)]
            try:
                lengths = [len(list(store.read_stream(stream))) for _ in range(4)]
            finally:
                done.set()
            for disturber in disturbing:
                disturber.result()

    assert lengths == [3000] * 4


# --- append: what the server does not check --------------------------------------------------


def test_every_append_goes_over_the_batch_rpc_once(store: EventStore, node: Node) -> None:
    # Trap: a single event would go over the RPC without typed errors. Trap: no repeats behind our back.
    append(store, a_stream(), NO_STREAM, some_events(1))
    store.append([Append(a_stream(), NO_STREAM, some_events(2)) for _ in range(20)])

    assert (node.calls["BatchAppend"], node.calls["Append"]) == (2, 0)


@pytest.mark.parametrize(
    ("rpc", "point", "call"),
    [
        (
            "BatchAppend",
            Point.BEFORE_COMMIT,
            lambda store: append(store, "thing-1", NO_STREAM, some_events(1)),
        ),
        ("Read", Point.READ, lambda store: list(store.read_stream("thing-1"))),
        ("Read", Point.READ, lambda store: store.head()),
    ],
    ids=["append", "read_stream", "head"],
)
@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.BROKEN], ids=str)
def test_nothing_is_repeated_but_by_ourselves_and_then_after_a_pause(
    store: EventStore,
    node: Node,
    rpc: str,
    point: Point,
    call: Callable[[EventStore], object],
    fault: Fault,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Trap: the client repeats by itself, twice nested.
    class Pausing(Exception):
        """The store is about to wait before it repeats."""

    def pause(store: EventStoreDbStore, pause_s: float) -> None:
        assert pause_s > 0
        raise Pausing

    monkeypatch.setattr(EventStoreDbStore, "_pause", pause)
    node.plan = always(fault, point)

    with pytest.raises(Pausing):
        call(store)

    assert node.calls[rpc] == 1


def test_events_that_can_be_read_once_only_are_refused(store: EventStore, node: Node) -> None:
    # Trap: a repeat would find nothing left to store, and be told of success.
    once_only = (event for event in some_events(1))

    with pytest.raises(ValueError):
        store.append([Append(a_stream(), NO_STREAM, once_only)])  # type: ignore[arg-type]

    assert node.calls["BatchAppend"] == 0


def test_what_is_remembered_of_streams_is_bounded_and_never_has_a_gap() -> None:
    known = _KnownIds(10)
    ids = {f"thing-{n}": [event.event_id for event in some_events(4)] for n in range(5)}
    for stream, its_ids in ids.items():
        known.learn(stream, 0, its_ids)

    reached = [known.reach(stream) for stream in ids]
    assert reached == [0, 0, 0, 4, 4], "the oldest are forgotten as a whole"
    assert known.any_of("thing-4", ids["thing-4"][3:], up_to=3)
    assert not known.any_of("thing-0", ids["thing-0"], up_to=3)


def test_a_connection_has_a_keepalive_unless_the_url_chooses_another(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Trap: what the client makes of the URL's interval is an option that gRPC doesn't know.
    seen: list[dict[str, object]] = []
    original = EventStoreDBClient._construct_grpc_channel

    def construct(self: EventStoreDBClient, target: str, options: Any = ()) -> Any:
        seen.append(dict(options))
        return original(self, target, options)

    monkeypatch.setattr(EventStoreDBClient, "_construct_grpc_channel", construct)
    for chosen in ("", "&keepAliveInterval=7000&keepAliveTimeout=9000"):
        with closing(opened(node.url + chosen)) as store:
            store.head()

    names = ("grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms")
    assert [tuple(options[name] for name in names) for options in seen] == [
        (2000, 2000, 2000),
        (7000, 9000, 9000),
    ]


def test_the_data_of_a_repeat_is_not_compared(store: EventStore) -> None:
    # Trap: ids are compared, data is not. A repeated command seals anew, so its bytes differ; what counts is what was stored first.
    stream, event = a_stream(), an_event(data=b'{"sealed":1}')
    first = append(store, stream, NO_STREAM, [event])

    again = append(store, stream, NO_STREAM, [an_event(data=b'{"sealed":2}', event_id=event.event_id)])

    assert again == first
    assert stored(store, stream) == [event]


def test_an_event_id_is_used_once_in_a_stream_whoever_wrote_it(node: Node) -> None:
    stream, events = a_stream(), some_events(700)
    with closing(opened(node.url)) as writer, closing(opened(node.url)) as other:
        append(writer, stream, NO_STREAM, events)

        assert append(other, stream, 699, [an_event(), events[3]]) == DuplicateEventId(stream)
        assert append(other, stream, 5, [events[3]]) == VersionConflict(stream, 5, 699)
        assert append(other, a_stream(), NO_STREAM, [events[3]]) == Appended(0, other.head())
        assert len(stored(other, stream)) == 700


def test_an_append_after_a_read_costs_one_call(node: Node) -> None:
    stream = a_stream()
    with closing(opened(node.url)) as writer, closing(opened(node.url)) as store:
        append(writer, stream, NO_STREAM, some_events(5))
        list(store.read_stream(stream))
        reads = node.calls["Read"]

        for version in range(4, 8):
            append(store, stream, version, some_events(1))

        assert node.calls["Read"] == reads


def test_a_stream_at_no_version_is_expected_by_minus_one(store: EventStore) -> None:
    # Trap: the client takes -1 for a mistake of its own.
    stream = a_stream()

    assert append(store, stream, 3, some_events(1)) == VersionConflict(stream, 3, NO_STREAM)
    assert isinstance(append(store, stream, NO_STREAM, some_events(1)), Appended)


_AS_ONE_MESSAGE = 16 * 1024 * 1024 - 10_000


@pytest.mark.parametrize(
    ("count", "size"),
    [(1, 2_000_000), (1, _AS_ONE_MESSAGE - 100), (140_000, 0)],
    ids=["for the server", "for a message", "for a message by what is around its events"],
)
def test_an_item_that_is_too_large_is_refused_and_its_neighbours_are_stored(
    store: EventStore, node: Node, count: int, size: int
) -> None:
    node.max_append_size = 1024 * 1024 if size == 2_000_000 else _AS_ONE_MESSAGE
    left, large, right = a_stream(), a_stream(), a_stream()

    results = store.append(
        [
            Append(left, NO_STREAM, some_events(1)),
            Append(large, NO_STREAM, [an_event(data=b"x" * size) for _ in range(count)]),
            Append(right, NO_STREAM, some_events(1)),
        ]
    )

    assert [type(result) for result in results] == [Appended, InvalidInput, Appended]
    assert stored(store, large) == []


def test_an_item_is_not_refused_here_that_the_server_would_take(store: EventStore, node: Node) -> None:
    node.max_append_size = _AS_ONE_MESSAGE

    assert isinstance(append(store, a_stream(), NO_STREAM, [an_event(data=b"x" * 16_760_000)]), Appended)


def test_an_event_that_is_too_large_for_a_newer_server_is_refused_alone(
    store: EventStore, node: Node
) -> None:
    # Trap: the client knows no such error and takes it for one that may pass.
    node.max_event_size = 1000

    results = store.append(
        [
            Append(a_stream(), NO_STREAM, [an_event(data=b"x" * 1001)]),
            Append(a_stream(), NO_STREAM, some_events(1)),
        ]
    )

    assert [type(result) for result in results] == [InvalidInput, Appended]


def test_an_item_of_a_batch_tells_the_server_how_long_it_is_waited_for(node: Node) -> None:
    with closing(opened(node.url, settle_s=DEADLINE_S, call_timeout_s=GIVE_UP_S)) as store:
        store.append([Append(a_stream(), NO_STREAM, some_events(1)) for _ in range(2)])

    assert len(node.deadlines_s) == 2
    assert all(0 < deadline_s <= GIVE_UP_S for deadline_s in node.deadlines_s)


def test_the_time_is_that_of_the_server(store: EventStore, node: Node) -> None:
    append(store, a_stream(), NO_STREAM, some_events(1))

    (event,) = store.read_all(BEGINNING, 1)

    (record,) = list(node.log.before_position(None))[:1]
    assert abs(event.recorded_at_us - record.created_ticks // 10) <= 1


# --- streams that somebody deleted or cut ----------------------------------------------------


@pytest.fixture
def admin(node: Node) -> Iterator[EventStoreDBClient]:
    with closing(EventStoreDBClient(node.url)) as client:
        yield client


def test_a_stream_that_was_deleted_and_went_on_is_damaged(
    store: EventStore, admin: EventStoreDBClient
) -> None:
    # Trap: a deleted stream reads as missing, and its numbering goes on.
    stream = a_stream()
    append(store, stream, NO_STREAM, some_events(3))
    admin.delete_stream(stream, current_version=2, timeout=DEADLINE_S)
    assert stored(store, stream) == []

    result = append(store, stream, NO_STREAM, some_events(1))

    assert isinstance(result, Appended)
    assert result.version == 3, "its caller can tell that it is not the version it expected"
    with pytest.raises(Damaged, match="version 0"):
        stored(store, stream)


def test_a_truncated_stream_is_damaged(store: EventStore, admin: EventStoreDBClient) -> None:
    stream = a_stream()
    append(store, stream, NO_STREAM, some_events(5))
    admin.set_stream_metadata(stream, metadata={"$maxCount": 2}, timeout=DEADLINE_S)

    assert [event.version for event in store.read_stream(stream, 3)] == [3, 4]
    with pytest.raises(Damaged, match="version 0"):
        stored(store, stream)
    assert [event.version for event in store.read_stream(stream, 3, backwards=True)] == [4, 3]
    with pytest.raises(Damaged, match="version 2"):
        list(store.read_stream(stream, backwards=True))


def test_a_stream_with_a_tombstone_is_damaged_and_its_neighbours_are_not(
    store: EventStore, node: Node, admin: EventStoreDBClient
) -> None:
    gone, other = a_stream(), a_stream()
    append(store, gone, NO_STREAM, some_events(1))
    admin.tombstone_stream(gone, current_version=0, timeout=DEADLINE_S)

    with closing(opened(node.url)) as fresh:  # it has to read first what ids there are
        for version, by in ((NO_STREAM, store), (0, fresh)):
            results = by.append(
                [Append(gone, version, some_events(1)), Append(other, version, some_events(1))]
            )
            assert [type(result) for result in results] == [Damaged, Appended]
    with pytest.raises(Damaged):
        stored(store, gone)
    assert [event.stream for event in store.read_all(BEGINNING, 10)] == [gone, other, other]
    followed = _until_caught_up(store.follow(BEGINNING, stopped=before(DEADLINE_S)))
    assert [event.stream for event in followed] == [gone, other, other], "and nothing of the tombstone itself"


# --- no call without a deadline --------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda store: append(store, "thing-1", NO_STREAM, some_events(1)), id="append"),
        pytest.param(lambda store: append(store, "thing-1", 4, some_events(1)), id="append later"),
        pytest.param(lambda store: list(store.read_stream("thing-1")), id="read_stream"),
        pytest.param(lambda store: list(store.read_stream("thing-1", backwards=True)), id="backwards"),
        pytest.param(lambda store: list(store.read_all(0, 10)), id="read_all"),
        pytest.param(lambda store: store.head(), id="head"),
        pytest.param(lambda store: store.streams(), id="streams"),
        pytest.param(lambda store: list(store.follow(0, stopped=before(60))), id="follow"),
    ],
)
@pytest.mark.parametrize("silence", ["of the server", "of the network", "of a port"])
def test_a_black_hole_is_noticed_in_time(
    node: Node, call: Callable[[EventStore], object], silence: str
) -> None:
    # Trap: the client waits for ever, or twice as long as it was told.
    proxy = Proxy(node.port)
    url = node.url.replace(str(node.port), str(proxy.port))
    if silence == "of the server":
        node.plan = always(Fault.BLACK_HOLE, Point.READ, Point.BEFORE_COMMIT, Point.SUBSCRIBE)
    elif silence == "of the network":
        proxy.freeze()
    else:
        proxy.close()

    def give_up() -> None:
        with (
            closing(opened(url, settle_s=0.6, call_timeout_s=0.2)) as store,
            pytest.raises(PartUnavailable) as raised,
        ):
            call(store)
        assert raised.value.part == "EventStoreDB"

    assert_within(0.6 + SLACK_S, give_up)
    proxy.close()


def test_a_read_that_takes_its_time_is_not_cut_by_its_consumer(hasty_store: EventStore) -> None:
    store, stream = hasty_store, a_stream()
    append(store, stream, NO_STREAM, some_events(1200))

    reading = store.read_stream(stream)
    first = next(reading)
    time.sleep(SHORT_CALL_S * 1.5)

    assert [first.version, *(event.version for event in reading)] == list(range(1200))


def test_a_server_that_comes_back_is_found_again(store: EventStore, node: Node) -> None:
    proxy, stream = Proxy(node.port), a_stream()
    with closing(opened(f"esdb://127.0.0.1:{proxy.port}?tls=false", settle_s=1.0)) as cut_off:

        def is_appended(version: int, item: Append) -> bool:
            return _answers(cut_off, [item]) == [Appended(version, store.head())]

        first, second = (Append(stream, version, some_events(1)) for version in (NO_STREAM, 0))
        eventually(lambda: is_appended(0, first), "it is connected")
        proxy.close()
        with pytest.raises(PartUnavailable):
            cut_off.append([second])

        proxy.open()

        eventually(lambda: is_appended(1, second), "it is found again")
        assert len(stored(store, stream)) == 2
    proxy.close()


def test_all_that_an_append_has_to_ask_is_asked_within_its_time(node: Node) -> None:
    """Of forty streams that nobody has read, each read takes a good part of the time that the append has in all."""

    def slowly(at: Point, of: str) -> Fault | None:
        if at is Point.READ:
            time.sleep(0.4)
        return None

    node.plan = slowly
    hasty = closing(opened(node.url, settle_s=1.0, call_timeout_s=DEADLINE_S))
    with hasty as store, pytest.raises(PartUnavailable):
        store.append([Append(f"thing-{n}", 0, some_events(1)) for n in range(40)])

    assert node.calls["Read"] <= 4


def test_an_item_that_the_server_does_not_get_done_is_no_reason_to_refuse_others(node: Node) -> None:
    node.plan = lambda at, of: Fault.TIMED_OUT if (at, of) == (Point.BEFORE_COMMIT, "sick-1") else None
    with closing(opened(node.url, settle_s=1.0, call_timeout_s=DEADLINE_S)) as store:
        with pytest.raises(PartUnavailable):
            append(store, "sick-1", NO_STREAM, some_events(1))
        assert isinstance(append(store, "well-1", NO_STREAM, some_events(1)), Appended)


def test_many_calls_to_a_silent_server_do_not_wait_one_after_the_other(node: Node) -> None:
    node.plan = always(Fault.BLACK_HOLE, Point.READ)
    with closing(opened(node.url, settle_s=0.6, call_timeout_s=0.2)) as store:
        started = time.monotonic()
        for number in range(100):
            with pytest.raises(PartUnavailable, match="in time"):
                list(store.read_stream(f"thing-{number}"))

    assert time.monotonic() - started < 100 * 0.6 / 3


def test_a_connection_that_is_reset_is_made_anew_within_the_same_call(node: Node) -> None:
    proxy, stream = Proxy(node.port), a_stream()
    with closing(opened(f"esdb://127.0.0.1:{proxy.port}?tls=false")) as store:
        for version in range(5):
            assert isinstance(append(store, stream, version - 1, some_events(1)), Appended)
            proxy.cut()
            assert len(stored(store, stream)) == version + 1
    proxy.close()


_GIVES_UP_CONNECTIONS = """
import gc, sys
from adapters import eventstoredb
from adapters.eventstoredb.event_store import EventStoreDbStore
from domain.kernel.errors import PartUnavailable
from tests.support.builders import eventually, open_sockets
eventstoredb._AWAY_S = 0  # every call tries, however soon after the last
store = EventStoreDbStore(sys.argv[1], settle_s=0.5)
before, most = open_sockets(), 0
for _ in range(int(sys.argv[2])):
    try:
        store.head()
    except PartUnavailable:
        most = max(most, open_sockets())
print("connected" if most > before else "never connected", flush=True)
eventually(lambda: gc.collect() >= 0 and open_sockets() <= before + 1, "all but the last are closed")
store.close()
"""


def test_connections_that_were_given_up_are_closed(node: Node) -> None:
    # In a process of its own, whose sockets are nobody else's.
    node.plan = lambda at, of: Fault.UNAVAILABLE if at is Point.READ else None

    process = start_python(_GIVES_UP_CONNECTIONS, node.url, "8")
    out, err = process.communicate(timeout=2 * DEADLINE_S)

    assert (process.returncode, out) == (0, "connected\n"), err
    assert node.calls["Read"] >= 8


# --- reading ---------------------------------------------------------------------------------


def test_system_events_are_nobodys_business(store: EventStore, node: Node) -> None:
    stream, head = a_stream(), store.head()
    append(store, stream, NO_STREAM, some_events(1))
    node.log.system_event("$stats-127.0.0.1:2113", "$statsCollected")

    assert head == BEGINNING, "a server is never quite empty"
    assert [event.stream for event in store.read_all(BEGINNING, 10)] == [stream]
    assert store.head() == next(store.read_stream(stream)).position
    seen = _until_caught_up(store.follow(BEGINNING, stopped=before(DEADLINE_S)))
    assert [event.stream for event in seen] == [stream]
    assert store.streams() == [(stream, 0)]


@pytest.mark.parametrize("prefix", ["", "$", "$st"])
def test_system_events_are_not_asked_for_by_a_prefix_either(
    store: EventStore, node: Node, prefix: str
) -> None:
    stream = a_stream()
    append(store, stream, NO_STREAM, some_events(1))
    node.log.system_event("$stats-127.0.0.1:2113", "statistics collected")

    read = [event.stream for event in store.read_all(BEGINNING, 10, prefixes=[prefix])]
    following = store.follow(BEGINNING, stopped=before(DEADLINE_S), prefixes=[prefix])

    assert read == [event.stream for event in _until_caught_up(following)] == [stream] * (prefix == "")


def test_prefixes_match_at_the_beginning_only(store: EventStore) -> None:
    # Trap: the client would make `^A|C$` of two patterns.
    for name in ("A-1", "XC-1", "AC", "C-1", "XC", "line\nbreak", "A\nC"):
        append(store, name, NO_STREAM, some_events(1))

    found = [event.stream for event in store.read_all(BEGINNING, 10, prefixes=["A", "C"])]

    assert found == ["A-1", "AC", "C-1", "A\nC"]
    for name in ("a.b-1", "axb-1", "a(b-1"):  # what a pattern would read otherwise
        append(store, name, NO_STREAM, some_events(1))
    assert [event.stream for event in store.read_all(BEGINNING, 10, prefixes=["a.b-"])] == ["a.b-1"]
    assert [event.stream for event in store.read_all(BEGINNING, 10, prefixes=["a(b-"])] == ["a(b-1"]
    assert list(store.read_all(BEGINNING, 10, prefixes=["$"])) == []
    assert len(list(store.read_all(BEGINNING, 20))) == 10


def test_a_long_stream_is_read_backwards_without_a_gap(store: EventStore) -> None:
    stream = a_stream()
    append(store, stream, NO_STREAM, some_events(1501))

    versions = [event.version for event in store.read_stream(stream, backwards=True)]

    assert versions == list(range(1500, -1, -1))
    assert [e.version for e in store.read_stream(stream, 700, backwards=True, limit=1000)] == list(
        range(1500, 699, -1)
    )


def test_listing_streams_gives_up_in_time(node: Node) -> None:
    with closing(EventStoreDbStore(node.url, listing_s=0.0)) as store:
        append(store, a_stream(), NO_STREAM, some_events(1))

        with pytest.raises(PartUnavailable, match="list streams"):
            store.streams()


def test_listing_streams_takes_no_longer_than_its_own_limit(node: Node) -> None:
    node.plan = always(Fault.BLACK_HOLE, Point.READ)

    def list_them() -> None:
        listing = EventStoreDbStore(node.url, settle_s=GIVE_UP_S, call_timeout_s=GIVE_UP_S, listing_s=0.5)
        with closing(listing) as store, pytest.raises(PartUnavailable):
            store.streams()

    assert_within(0.5 + SLACK_S, list_them)


def test_rare_events_that_take_longer_to_find_than_a_call_may_take_are_all_read(node: Node) -> None:
    def slowly(at: Point, of: str) -> Fault | None:
        if at is Point.FOUND:
            time.sleep(0.2)
        return None

    events = some_events(15)
    with closing(opened(node.url, settle_s=1.0)) as store:
        append(store, "rare-1", NO_STREAM, events)
        node.plan = slowly

        found = [event.event_id for event in store.read_all(BEGINNING, 100, prefixes=["rare"])]

    assert found == [event.event_id for event in events]
    assert node.calls["Read"] >= 3, "one call can't have found them"


def test_a_search_that_finds_nothing_in_time_is_no_reason_to_refuse_other_calls(node: Node) -> None:
    node.plan = always(Fault.BLACK_HOLE, Point.FOUND)
    with closing(opened(node.url, settle_s=0.5)) as store, closing(opened(node.url)) as writer:
        append(writer, "rare-1", NO_STREAM, some_events(1))
        with pytest.raises(PartUnavailable, match="in time"):
            list(store.read_all(BEGINNING, 100, prefixes=["rare"]))

        assert len(stored(store, "rare-1")) == 1


def test_listing_streams_keeps_no_more_than_it_needs_and_forgets_nothing(
    store: EventStore, node: Node
) -> None:
    names = [f"s-{number:05}" for number in range(1500)]
    random.Random(1).shuffle(names)
    for chunk in range(0, 1500, 250):
        store.append([Append(name, NO_STREAM, some_events(1)) for name in names[chunk : chunk + 250]])
    append(store, "s-00003", 0, some_events(2))

    with closing(EventStoreDbStore(node.url, listing_s=DEADLINE_S)) as patient:
        first = patient.streams(limit=5)
        last = patient.streams(after="s-01497", limit=5)

    assert first == [(f"s-{n:05}", 2 if n == 3 else 0) for n in range(5)]
    assert last == [("s-01498", 0), ("s-01499", 0)]


# --- follow ----------------------------------------------------------------------------------


def _until_caught_up(following: Iterator[Recorded | CaughtUp]) -> list[Recorded]:
    seen: list[Recorded] = []
    for item in following:
        if isinstance(item, CaughtUp):
            break
        seen.append(item)
    return seen


@pytest.mark.parametrize("fault", [Fault.ENDS, Fault.UNAVAILABLE, Fault.BROKEN], ids=str)
def test_the_end_of_a_subscription_is_a_fault(store: EventStore, node: Node, fault: Fault) -> None:
    # Trap: the client ends it quietly, as if there were nothing more to come.
    append(store, a_stream(), NO_STREAM, some_events(1))
    following = store.follow(BEGINNING, stopped=before(DEADLINE_S))
    _until_caught_up(following)

    node.plan = always(fault, Point.SUBSCRIBED)
    node.log.system_event("$stats", "$statsCollected")
    append(store, a_stream(), NO_STREAM, some_events(1))

    with pytest.raises(PartUnavailable) as raised:
        list(following)
    assert "stalled" not in str(raised.value), "at once, not when patience ends"


def test_a_subscription_outlives_the_faults_of_appends(store: EventStore, node: Node) -> None:
    # Trap: with a client in common, a failed append would end the subscription.
    kind = a_stream("kind")
    following = store.follow(BEGINNING, stopped=before(DEADLINE_S), prefixes=[kind])
    _until_caught_up(following)
    for number in range(5):
        node.plan = once(Point.BEFORE_COMMIT, Fault.UNAVAILABLE, Fault.BROKEN)
        append(store, f"{kind}-{number}", NO_STREAM, some_events(1))

    seen = [next(item for item in following if isinstance(item, Recorded)) for _ in range(5)]

    assert [event.stream for event in seen] == [f"{kind}-{number}" for number in range(5)]


def test_a_half_open_subscription_is_noticed_by_its_keepalive(node: Node) -> None:
    # Trap: the client's own setting has no effect. Patience is long here, so only a ping can tell.
    proxy = Proxy(node.port)
    url = f"esdb://127.0.0.1:{proxy.port}?tls=false&keepAliveInterval=500&keepAliveTimeout=3000"
    with closing(opened(url, settle_s=10 * DEADLINE_S)) as store:
        following = store.follow(BEGINNING, stopped=before(2 * DEADLINE_S))
        _until_caught_up(following)
        proxy.freeze()
        started = time.monotonic()

        with pytest.raises(PartUnavailable):
            list(following)

    assert time.monotonic() - started < DEADLINE_S
    proxy.close()


def test_a_subscription_that_stalls_is_given_up_and_never_said_to_have_caught_up(node: Node) -> None:
    with closing(opened(node.url, settle_s=GIVE_UP_S)) as store:
        following = store.follow(BEGINNING, stopped=before(DEADLINE_S))
        _until_caught_up(following)
        node.plan = always(Fault.BLACK_HOLE, Point.SUBSCRIBED)
        result = append(store, a_stream(), NO_STREAM, some_events(1))

        seen: list[Recorded | CaughtUp] = []
        with pytest.raises(PartUnavailable, match="stalled"):
            seen.extend(following)
    assert isinstance(result, Appended)
    assert all(item.position < result.position for item in seen)


def test_a_follower_is_stopped_in_time_while_the_network_is_silent(node: Node) -> None:
    def stop_in_silence() -> float:
        proxy, stop, items = Proxy(node.port), threading.Event(), list[Recorded | CaughtUp]()
        with closing(opened(f"esdb://127.0.0.1:{proxy.port}?tls=false")) as store:
            following = store.follow(BEGINNING, stopped=stop.is_set)
            _until_caught_up(following)
            proxy.freeze()
            with ThreadPoolExecutor(1) as pool:
                drained = pool.submit(lambda: items.extend(following))
                eventually(lambda: len(items) >= 2, "its consumer can still do timed work")
                stop.set()
                stopped_at = time.monotonic()
                drained.result(DEADLINE_S)
        proxy.close()
        assert {type(item) for item in items} == {CaughtUp}
        return time.monotonic() - stopped_at

    assert_within(0.2 + SLACK_S, stop_in_silence)


def test_a_checkpoint_at_no_position_is_not_taken_for_having_looked_everywhere(node: Node) -> None:
    node.forgets_its_place = True
    said, gate = itertools.count(), threading.Event()

    def hold_events_back(at: Point, of: str) -> Fault | None:
        # A subscription says first: confirmed, a checkpoint, caught up.
        if at is Point.SUBSCRIBED and next(said) >= 3:
            gate.wait(DEADLINE_S)
        return None

    node.plan = hold_events_back
    with closing(opened(node.url)) as store, ThreadPoolExecutor(1) as pool:
        items: list[Recorded | CaughtUp] = []

        def follow() -> None:
            for item in store.follow(BEGINNING, stopped=before(DEADLINE_S)):
                items.append(item)
                if isinstance(item, Recorded):
                    return

        following = pool.submit(follow)
        eventually(lambda: items, "it has caught up with nothing")
        stored = append(store, a_stream(), NO_STREAM, some_events(1))
        assert isinstance(stored, Appended)
        looked = node.calls["Read"]
        eventually(lambda: node.calls["Read"] >= looked + 6, "it has looked several times")
        gate.set()
        following.result(DEADLINE_S)

    assert all(item.position < stored.position for item in items[:-1])
    assert items[-1].position == stored.position


def test_a_slow_follower_holds_a_bounded_number_of_events(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        append(store, a_stream(), NO_STREAM, some_events(1500))
    made: list[_Subscription] = []
    monkeypatch.setattr(
        eventstoredb, "_Subscription", lambda *a, **b: made.append(_Subscription(*a, **b)) or made[0]
    )

    following = store.follow(BEGINNING, stopped=before(DEADLINE_S))
    first = next(following)

    assert isinstance(first, Recorded)
    eventually(lambda: made[0]._queue.full(), "no more is taken in")
    assert len(_until_caught_up(following)) == 4499


def test_closing_the_store_ends_its_followers(node: Node) -> None:
    store = opened(node.url)
    following = store.follow(BEGINNING, stopped=before(DEADLINE_S))
    _until_caught_up(following)

    store.close()

    with pytest.raises(PartUnavailable, match="closed"):
        list(following)


def test_a_follower_leaves_no_thread_behind(store: EventStore) -> None:
    following = store.follow(BEGINNING, stopped=before(DEADLINE_S))
    _until_caught_up(following)
    assert any(thread.name == "eventstoredb-subscription" for thread in threading.enumerate())

    following.close()  # type: ignore[attr-defined]

    eventually(
        lambda: all(thread.name != "eventstoredb-subscription" for thread in threading.enumerate()),
        "the thread ends",
    )


# --- connection ------------------------------------------------------------------------------


def test_a_closed_store_stays_closed(store: EventStoreDbStore, node: Node) -> None:
    # Trap: the client would open itself again.
    append(store, a_stream(), NO_STREAM, some_events(1))
    store.close()
    calls = node.calls.total()

    with pytest.raises(PartUnavailable, match="closed"):
        append(store, a_stream(), NO_STREAM, some_events(1))
    with pytest.raises(PartUnavailable, match="closed"):
        list(store.follow(0, stopped=before(DEADLINE_S)))

    assert node.calls.total() == calls


def test_opening_connects_nowhere(node: Node) -> None:
    proxy = Proxy(node.port)
    with closing(opened(f"esdb://127.0.0.1:{proxy.port}?tls=false")) as store:
        time.sleep(0.1)
        assert proxy.connections == 0
        store.head()
        assert proxy.connections == 1
    proxy.close()


_FORKS = """
import os, sys, time
from adapters.eventstoredb.event_store import EventStoreDbStore
from domain.kernel.errors import PartUnavailable
store = EventStoreDbStore(sys.argv[1])
if sys.argv[2] == "used":
    store.head()
child = os.fork()
if child == 0:
    try:
        print("head", store.head(), flush=True)
    except PartUnavailable as error:
        print(error, flush=True)
    store.close()
    os._exit(0)
os.waitpid(child, 0)
print("parent", store.head())
"""


@pytest.mark.parametrize(
    ("used", "said"),
    [("used", "EventStoreDB is unavailable: its connection was inherited"), ("new", "head 0")],
)
def test_a_connection_is_not_taken_through_a_fork(node: Node, used: str, said: str) -> None:
    # Trap: it would hang, whatever its deadline.
    process = start_python(_FORKS, node.url, used)

    out, err = process.communicate(timeout=DEADLINE_S)

    assert process.returncode == 0, err
    child, parent = out.splitlines()
    assert child.startswith(said)
    assert parent == "parent 0"


def test_nothing_of_grpc_is_loaded_before_a_store_is_asked_for() -> None:
    code = "import sys, adapters.wiring; print(any(m.split('.')[0] in ('grpc', 'esdbclient') for m in sys.modules))"
    out, err = start_python(code).communicate(timeout=DEADLINE_S)
    assert out == "False\n", err


# --- clusters --------------------------------------------------------------------------------


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    yield cluster
    cluster.stop()


def test_with_several_hosts_the_leader_is_followed(cluster: Cluster) -> None:
    stream = a_stream()
    with closing(opened(cluster.url)) as store:
        for version in range(6):
            cluster.elect(cluster.nodes[version % 3])
            assert isinstance(append(store, stream, version - 1, some_events(1)), Appended)
            assert len(stored(store, stream)) == version + 1


def test_with_several_hosts_one_may_be_down(cluster: Cluster) -> None:
    stream = a_stream()
    with closing(opened(cluster.url)) as store:
        append(store, stream, NO_STREAM, some_events(1))
        cluster.nodes[0].is_down = True
        cluster.elect(cluster.nodes[1])

        assert isinstance(append(store, stream, 0, some_events(1)), Appended)


def test_with_several_hosts_one_may_know_no_leader(cluster: Cluster) -> None:
    cluster.nodes[0].is_cut_off = True
    cluster.elect(cluster.nodes[2])
    with closing(opened(cluster.url)) as store:
        assert isinstance(append(store, a_stream(), NO_STREAM, some_events(1)), Appended)

    assert cluster.nodes[0].calls == {"Gossip": 1}


def test_with_several_hosts_all_of_them_are_asked_in_the_time_of_one_call(cluster: Cluster) -> None:
    proxies = [Proxy(node.port) for node in cluster.nodes]
    for proxy in proxies:
        proxy.freeze()
    url = f"esdb://{','.join(f'127.0.0.1:{proxy.port}' for proxy in proxies)}?tls=false"

    def give_up() -> None:
        with closing(opened(url, settle_s=0.6)) as store, pytest.raises(PartUnavailable, match="no leader"):
            store.head()

    assert_within(0.6 + SLACK_S, give_up)
    for proxy in proxies:
        proxy.close()


def test_a_silent_host_leaves_time_for_the_others(cluster: Cluster) -> None:
    proxy = Proxy(cluster.nodes[0].port)
    proxy.freeze()
    cluster.elect(cluster.nodes[2])
    url = cluster.url.replace(str(cluster.nodes[0].port), str(proxy.port))
    with closing(opened(url, settle_s=GIVE_UP_S)) as store:
        assert isinstance(append(store, a_stream(), NO_STREAM, some_events(1)), Appended)
    proxy.close()


def test_a_cluster_is_discovered_through_any_node(cluster: Cluster) -> None:
    cluster.elect(cluster.nodes[2])
    url = f"esdb+discover://127.0.0.1:{cluster.nodes[1].port}?tls=false"
    with closing(opened(url)) as store:
        assert isinstance(append(store, a_stream(), NO_STREAM, some_events(1)), Appended)

    assert cluster.nodes[2].calls["BatchAppend"] == 1
    assert cluster.nodes[1].calls["BatchAppend"] == 0


def test_a_follower_of_a_stream_goes_to_the_leader_too(cluster: Cluster) -> None:
    with closing(opened(cluster.url)) as store:
        following = store.follow(BEGINNING, stopped=before(DEADLINE_S))
        _until_caught_up(following)

    assert cluster.leader.calls["Read"] > 0
    assert sum(node.calls["Read"] for node in cluster.nodes if node is not cluster.leader) == 0


def test_a_single_host_that_is_not_the_leader_is_refused_with_advice(cluster: Cluster) -> None:
    # Trap: with one host the client doesn't follow the leader.
    started = time.monotonic()
    with closing(opened(cluster.nodes[1].url)) as store:
        for call in (lambda: append(store, a_stream(), NO_STREAM, some_events(1)), store.head):
            with pytest.raises(PartUnavailable, match="not the leader") as raised:
                call()
            assert "esdb+discover" in raised.value.hint

    assert time.monotonic() - started < DEADLINE_S / 2, "repeating it would change nothing"


# --- URL, TLS, users -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "esdb:",
        "esdb://",
        "http://admin:s3cret@localhost:2113",
        "esdb://admin:s3cret@localhost:2113?colour=red",
        "esdb://s3cret@localhost:2113",
        "esdb://admin:s3cret@localhost:2113?nodePreference=follower",
        "esdb://admin:s3cret@localhost:2113?tlsVerifyCert=false",  # Trap: would be without effect
        "esdb://admin:p@s3cret@localhost:2113",
        "esdb://admin:s3cret@localhost:2113?userCertFile=client.pem",  # gRPC would end the process
        "esdb://admin:s3cret@localhost:2113?userKeyFile=client.key",
        "esdb://admin:s3cret@[localhost",
        "esdb://admin:s3cret\u2100@localhost",
        "esdb://admin:/s3cret@localhost?tls=false",  # its beginning would pass for a host and port
        "esdb://admin:s3cret?@localhost&tls=false",
        "esdb://admin:s3cret@localhost?tlsCaFile=a@b",
        "esdb://admin:s3cret@localhost:2113?connectionName=caf\u00e9",
        "esdb://admin:s3cret@localhost:2113?connectionName=a%0Ab",
        "esdb://admin:s3cret@localhost:2113#s3cret",
        "esdb+discover://admin:s3cret@localhost:2113?maxDiscoverAttempts=0",
        "esdb://admin:s3cret@localhost:2113?maxDiscoverAttempts=-1",
        "esdb://admin:s3cret@localhost:2113?keepAliveInterval=99999999999",
        "esdb://admin:s3cret@localhost:2113?gossipTimeout=-1",
        "esdb://admin:s3cret@localhost:2113?discoveryInterval=-1",
    ],
)
def test_a_url_that_cannot_work_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        EventStoreDbStore(url)

    assert raised.value.field == "store"
    assert "s3cret" not in f"{raised.value} {raised.value.hint}"
    assert raised.value.__cause__ is None


def test_a_url_may_end_with_an_empty_query() -> None:
    url = "esdb://admin:s3cret@localhost:1?"
    with closing(opened(url, settle_s=0.1)) as store, pytest.raises(PartUnavailable) as raised:
        store.head()

    assert "s3cret" not in f"{raised.value} {raised.value.hint}"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, server.pem and .key, client.pem and .key, and other.pem, a CA that signed none of them."""
    folder = tmp_path_factory.mktemp("certificates")
    ca_key, ca = _certificate("test CA")
    _, other = _certificate("other CA")
    for name in ("server", "client"):
        key, certificate = _certificate(name, ca_key, ca)
        (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (folder / f"{name}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
    (folder / "ca.pem").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    (folder / "other.pem").write_bytes(other.public_bytes(serialization.Encoding.PEM))
    return folder


def _certificate(
    name: str, ca_key: ec.EllipticCurvePrivateKey | None = None, ca: x509.Certificate | None = None
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(ca.subject if ca else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=ca is None, path_length=None), critical=True)
        .sign(ca_key or key, hashes.SHA256())
    )
    return key, certificate


@pytest.fixture
def secure_node(certificates: Path) -> Iterator[Node]:
    """Wants TLS, a certificate of its clients, and a user."""
    key, certificate, ca = (
        (certificates / name).read_bytes() for name in ("server.key", "server.pem", "ca.pem")
    )
    node = Node(tls=Tls(key, certificate, ca), user="admin:s3cret")
    yield node
    node.stop()


def _secure_url(node: Node, folder: Path, *, ca: str = "ca.pem", password: str = "s3cret") -> str:
    files = f"userCertFile={folder / 'client.pem'}&userKeyFile={folder / 'client.key'}"
    return f"esdb://admin:{password}@127.0.0.1:{node.port}?tlsCaFile={folder / ca}&{files}"


def test_tls_with_a_client_certificate_and_a_user_passes_through(
    secure_node: Node, certificates: Path
) -> None:
    # Trap: the client takes these from its URL only.
    with closing(opened(_secure_url(secure_node, certificates))) as store:
        assert isinstance(append(store, a_stream(), NO_STREAM, some_events(1)), Appended)
        assert len(_until_caught_up(store.follow(BEGINNING, stopped=before(DEADLINE_S)))) == 1


def test_a_user_and_password_may_hold_any_character(certificates: Path) -> None:
    key, certificate = ((certificates / name).read_bytes() for name in ("server.key", "server.pem"))
    node = Node(tls=Tls(key, certificate), user="ad min:p@ss/w?rd#%")
    url = f"esdb://ad%20min:p%40ss%2Fw%3Frd%23%25@127.0.0.1:{node.port}?tlsCaFile={certificates / 'ca.pem'}"
    try:
        with closing(opened(url)) as store:
            assert store.head() == BEGINNING
    finally:
        node.stop()


def test_a_url_that_only_lacks_a_user_says_so() -> None:
    with pytest.raises(InvalidInput, match="needs a user and a password"):
        EventStoreDbStore("esdb://a,b,c:2113")


@pytest.mark.parametrize("name", ["tlsCaFile", "userCertFile", "userKeyFile"])
def test_an_empty_certificate_file_is_told_before_grpc_ends_the_process(
    secure_node: Node, certificates: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "empty.pem").touch()
    url = _secure_url(secure_node, certificates)
    broken = re.sub(rf"{name}=[^&]*", f"{name}={tmp_path / 'empty.pem'}", url)
    with closing(opened(broken)) as store, pytest.raises(PartUnavailable, match=name):
        store.head()


@pytest.mark.parametrize(
    ("ca", "password", "reason"),
    [("ca.pem", "wr0ng", "UNAUTHENTICATED"), ("other.pem", "s3cret", "TLS could not be agreed on")],
)
@pytest.mark.parametrize("hosts", ["{node}", "{down},{node}", "{node},{down}"])
def test_a_wrong_password_or_ca_is_not_taken_for_a_missing_leader(
    secure_node: Node, certificates: Path, hosts: str, ca: str, password: str, reason: str
) -> None:
    down = Proxy(secure_node.port)
    down.close()
    scheme = "esdb:" if "," in hosts else "esdb+discover:"
    names = hosts.format(node=f"127.0.0.1:{secure_node.port}", down=f"127.0.0.1:{down.port}")
    url = _secure_url(secure_node, certificates, ca=ca, password=password).replace("esdb:", scheme)
    url = url.replace(f"127.0.0.1:{secure_node.port}", names)

    with closing(opened(url)) as store, pytest.raises(PartUnavailable, match=reason):
        store.head()


@pytest.mark.parametrize(
    ("ca", "password", "reason"),
    [
        ("ca.pem", "wr0ng", "UNAUTHENTICATED"),
        ("missing.pem", "s3cret", "No such file"),
    ],
)
def test_what_can_never_work_fails_at_once(
    secure_node: Node, certificates: Path, ca: str, password: str, reason: str
) -> None:
    started = time.monotonic()
    url = _secure_url(secure_node, certificates, ca=ca, password=password)
    with closing(opened(url, settle_s=2 * DEADLINE_S)) as store:
        for call in (lambda: append(store, a_stream(), NO_STREAM, some_events(1)), store.head):
            with pytest.raises(PartUnavailable, match=reason) as raised:
                call()
            assert password not in f"{raised.value} {raised.value.hint}"

    assert time.monotonic() - started < DEADLINE_S


def test_a_server_that_another_ca_signed_is_not_trusted(secure_node: Node, certificates: Path) -> None:
    url = _secure_url(secure_node, certificates, ca="other.pem")
    with closing(opened(url, settle_s=1.0)) as store, pytest.raises(PartUnavailable):
        append(store, a_stream(), NO_STREAM, some_events(1))

    assert secure_node.calls.total() == 0


def test_the_client_keeps_to_the_streams_and_gossip_services(cluster: Cluster) -> None:
    # Trap: persistent subscriptions redeliver, park and buffer acknowledgements; nothing here uses them.
    with closing(opened(cluster.url)) as store:
        append(store, a_stream(), NO_STREAM, some_events(1))
        store.head()
        store.streams()
        _until_caught_up(store.follow(BEGINNING, stopped=before(DEADLINE_S)))

    assert set().union(*(node.methods for node in cluster.nodes)) == {
        "streams.Streams/BatchAppend",
        "streams.Streams/Read",
        "gossip.Gossip/Read",
    }


# --- what a server says of itself ------------------------------------------------------------


class _Info(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"esVersion":"23.10.7.0"}' if self.path == "/info" else b"{}")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def info_port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Info)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def _now_us() -> int:
    return time.time_ns() // 1000


def test_a_server_tells_its_version_without_a_detour_over_a_proxy(
    info_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    version, ahead_us = server_facts(f"esdb://127.0.0.1:{info_port}?tls=false", now_us=_now_us)

    assert (version, abs(ahead_us) < 1_000_000) == ((23, 10, 7, 0), True)


def test_the_next_host_is_asked_for_the_version_when_one_is_silent(info_port: int) -> None:
    silent = Proxy(info_port)
    silent.freeze()
    url = f"esdb://127.0.0.1:{silent.port},127.0.0.1:{info_port}?tls=false"

    assert server_facts(url, now_us=_now_us)[0] == (23, 10, 7, 0)
    silent.close()


@pytest.mark.parametrize("ca", [None, "", "junk"])
def test_a_ca_that_cannot_be_read_hides_the_version_and_no_more(tmp_path: Path, ca: str | None) -> None:
    path = tmp_path / "ca.pem"
    if ca is not None:
        path.write_text(ca)

    assert server_facts(f"esdb://a:b@127.0.0.1:1?tlsCaFile={path}", now_us=_now_us) == (None, 0)
