"""Reads of streams and of all events. `Trap` marks surprises of esdbclient and the server."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from adapters.eventstoredb.driver import EventStoreDBClient
from domain.kernel.errors import Damaged, PartUnavailable
from domain.kernel.events import BEGINNING
from domain.kernel.ports.event_store import Appended
from tests.support.eventstoredb import SHORT_CALL_S, OpenStore, Store, an_item, types_of
from tests.support.node import Fault, Node, Point, always, delayed
from tests.support.waiting import DEADLINE_S


def test_a_long_stream_is_read_backwards_without_a_gap(store: Store) -> None:
    store.write("thing-1", count=1501)

    assert store.versions("thing-1", backwards=True) == list(range(1500, -1, -1))
    limited = store.read_stream("thing-1", 700, backwards=True, limit=1000)
    assert [event.version for event in limited] == list(range(1500, 699, -1))


def test_a_slow_consumer_does_not_cut_a_read(open_store: OpenStore) -> None:
    store = open_store(call_timeout_s=SHORT_CALL_S)
    store.write("thing-1", count=1200)

    reading = store.read_stream("thing-1")
    first = next(reading)
    time.sleep(SHORT_CALL_S * 1.5)

    assert [first.version, *(event.version for event in reading)] == list(range(1200))


def test_reads_are_never_cut_short_by_failures_of_other_calls(store: Store, node: Node) -> None:
    """Trap: an esdbclient that reconnects ends the reads of others, which looks like the end of the stream."""
    store.write("thing-1", count=3000)
    fault, chance = always(Fault.UNAVAILABLE, Point.BEFORE_COMMIT), random.Random(1)
    node.plan = lambda at, stream: fault(at, stream) if chance.random() < 0.5 else None
    done = threading.Event()

    def disturb() -> None:
        while not done.is_set():
            store.write()

    with ThreadPoolExecutor(2) as pool:
        disturbing = [pool.submit(disturb) for _ in range(2)]
        try:
            lengths = [len(store.stored("thing-1")) for _ in range(4)]
        finally:
            done.set()
        for disturber in disturbing:
            disturber.result()

    assert lengths == [3000] * 4


# --- damaged streams -------------------------------------------------------------------------


@pytest.fixture
def admin(node: Node) -> Iterator[EventStoreDBClient]:
    with closing(EventStoreDBClient(node.url)) as client:
        yield client


def test_a_deleted_stream_that_continues_is_damaged(store: Store, admin: EventStoreDBClient) -> None:
    # Trap: a deleted stream reads as missing, and its numbering continues.
    store.write("thing-1", count=3)
    admin.delete_stream("thing-1", current_version=2, timeout=DEADLINE_S)
    assert store.stored("thing-1") == []

    result = store.write("thing-1")

    assert isinstance(result, Appended)
    assert result.version == 3, "its caller can see that it is not the version it expected"
    with pytest.raises(Damaged, match="version 0"):
        store.stored("thing-1")


def test_a_truncated_stream_is_damaged(store: Store, admin: EventStoreDBClient) -> None:
    store.write("thing-1", count=5)
    admin.set_stream_metadata("thing-1", metadata={"$maxCount": 2}, timeout=DEADLINE_S)

    assert store.versions("thing-1", 3) == [3, 4]
    with pytest.raises(Damaged, match="version 0"):
        store.stored("thing-1")
    assert store.versions("thing-1", 3, backwards=True) == [4, 3]
    with pytest.raises(Damaged, match="version 2"):
        store.versions("thing-1", backwards=True)


def test_a_tombstoned_stream_is_damaged_and_its_neighbours_are_not(
    open_store: OpenStore, store: Store, admin: EventStoreDBClient
) -> None:
    store.write("gone-1")
    admin.tombstone_stream("gone-1", current_version=0, timeout=DEADLINE_S)

    for version, writer in ((-1, store), (0, open_store())):  # the second has to read the ids first
        results = writer.append([an_item("gone-1", version), an_item("other-1", version)])
        assert types_of(results) == [Damaged, Appended]
    with pytest.raises(Damaged):
        store.stored("gone-1")
    assert store.found() == ["gone-1", "other-1", "other-1"]
    assert store.followed() == ["gone-1", "other-1", "other-1"], "without the tombstone itself"


# --- all events ------------------------------------------------------------------------------


def test_system_events_are_never_returned(store: Store, node: Node) -> None:
    head = store.head()
    store.write("thing-1")
    node.log.system_event("$stats-127.0.0.1:2113", "$statsCollected")

    assert head == BEGINNING, "a server without events of ours contains system events"
    assert store.found() == ["thing-1"]
    assert store.head() == next(store.read_stream("thing-1")).position
    assert store.followed() == ["thing-1"]


@pytest.mark.parametrize("prefix", ["", "$", "$st"])
def test_a_prefix_does_not_select_system_events(store: Store, node: Node, prefix: str) -> None:
    store.write("thing-1")
    node.log.system_event("$stats-127.0.0.1:2113", "statistics collected")

    assert store.found(prefix) == store.followed(prefix) == ["thing-1"] * (prefix == "")


def test_prefixes_match_at_the_beginning_only(store: Store) -> None:
    # Trap: esdbclient makes `^A|C$` of two patterns.
    for name in ("A-1", "XC-1", "AC", "C-1", "XC", "line\nbreak", "A\nC"):
        store.write(name)
    assert store.found("A", "C") == ["A-1", "AC", "C-1", "A\nC"]

    for name in ("a.b-1", "axb-1", "a(b-1"):  # special characters of patterns
        store.write(name)
    assert store.found("a.b-") == ["a.b-1"]
    assert store.found("a(b-") == ["a(b-1"]
    assert store.found("$") == []
    assert len(store.found()) == 10


def test_events_that_take_longer_than_one_call_to_find_are_read(open_store: OpenStore, node: Node) -> None:
    store, item = open_store(settle_s=1.0), an_item("rare-1", count=15)
    store.append([item])
    node.plan = delayed(Point.FOUND, 0.2)

    found = [event.event_id for event in store.read_all(BEGINNING, 100, prefixes=["rare"])]

    assert found == [event.event_id for event in item.events]
    assert node.calls["Read"] >= 3, "one call cannot have found them"


def test_a_search_that_times_out_does_not_block_other_calls(open_store: OpenStore, node: Node) -> None:
    node.plan = always(Fault.BLACK_HOLE, Point.FOUND)
    store = open_store(settle_s=0.5)
    open_store().write("rare-1")
    with pytest.raises(PartUnavailable, match="in time"):
        store.found("rare")

    assert len(store.stored("rare-1")) == 1
