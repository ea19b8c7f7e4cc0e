"""Followers on a subscription. `Trap` marks surprises of esdbclient and the server."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from adapters.eventstoredb import heads
from adapters.eventstoredb.client import Client
from adapters.eventstoredb.feed import BUFFERED_EVENTS
from adapters.eventstoredb.reading import page_after
from domain.kernel.errors import PartUnavailable
from domain.kernel.events import BEGINNING, NO_STREAM, Position, Recorded
from domain.kernel.ports.event_store import Appended, CaughtUp
from tests.support.builders import an_event, append
from tests.support.eventstoredb import GIVE_UP_S, SLACK_S, OpenStore, Store, types_of, until_caught_up
from tests.support.node import Fault, Node, Point, Proxy, always, once
from tests.support.waiting import DEADLINE_S, assert_within, before, eventually


@pytest.mark.parametrize("fault", [Fault.ENDS, Fault.UNAVAILABLE, Fault.BROKEN], ids=str)
def test_the_end_of_a_subscription_is_a_failure(store: Store, node: Node, fault: Fault) -> None:
    # Trap: esdbclient ends it without an error, as if there were no more events.
    store.write()
    following = store.caught_up()

    node.plan = always(fault, Point.SUBSCRIBED)
    node.log.system_event("$stats", "$statsCollected")
    store.write()

    with pytest.raises(PartUnavailable) as raised:
        list(following)
    assert "stalled" not in str(raised.value), "at once, not after a timeout"


def test_a_subscription_survives_failing_appends(store: Store, node: Node) -> None:
    # Trap: over a shared client a failed append would end the subscription.
    following = store.caught_up("kind")
    names = [f"kind-{number}" for number in range(5)]
    for name in names:
        node.plan = once(Point.BEFORE_COMMIT, Fault.UNAVAILABLE, Fault.BROKEN)
        store.write(name)

    events = (item for item in following if isinstance(item, Recorded))

    assert [event.stream for event in itertools.islice(events, 5)] == names


def test_a_half_open_subscription_is_noticed_by_its_keepalive(open_store: OpenStore, proxy: Proxy) -> None:
    # Trap: the interval of the URL has no effect in esdbclient. The other timeouts are longer than the test.
    store = open_store(f"{proxy.url}&keepAliveInterval=500&keepAliveTimeout=3000", settle_s=10 * DEADLINE_S)
    following = store.follow(BEGINNING, stopped=before(2 * DEADLINE_S))
    until_caught_up(following)
    proxy.freeze()
    started_s = time.monotonic()

    with pytest.raises(PartUnavailable):
        list(following)

    assert time.monotonic() - started_s < DEADLINE_S


def test_a_stalled_subscription_fails_and_reports_no_catch_up(open_store: OpenStore, node: Node) -> None:
    store = open_store(settle_s=GIVE_UP_S)
    following = store.caught_up()
    node.plan = always(Fault.BLACK_HOLE, Point.SUBSCRIBED)
    result = store.write()

    seen: list[Recorded | CaughtUp] = []
    with pytest.raises(PartUnavailable, match="stalled"):
        seen.extend(following)
    assert isinstance(result, Appended)
    assert all(item.position < result.position for item in seen)


def test_a_follower_stops_in_time_while_the_network_is_silent(open_store: OpenStore, node: Node) -> None:
    def stop_in_silence() -> float:
        stop, items = threading.Event(), list[Recorded | CaughtUp]()
        with closing(Proxy(node.port)) as proxy, closing(open_store(proxy.url)) as store:
            following = store.follow(BEGINNING, stopped=stop.is_set)
            until_caught_up(following)
            proxy.freeze()
            with ThreadPoolExecutor(1) as pool:
                drained = pool.submit(items.extend, following)
                eventually(lambda: len(items) >= 2, "its consumer can do timed work")
                stop.set()
                stopped_at_s = time.monotonic()
                drained.result(DEADLINE_S)
        assert {*types_of(items)} == {CaughtUp}
        return time.monotonic() - stopped_at_s

    assert_within(0.2 + SLACK_S, stop_in_silence)


def test_a_checkpoint_without_a_position_does_not_hide_an_owed_event(store: Store, node: Node) -> None:
    node.has_checkpoint_bug = True
    sent, gate = itertools.count(), threading.Event()
    items: list[Recorded | CaughtUp] = []

    def hold_events_back(at: Point, stream: str) -> None:
        # The first three messages are the confirmation, a checkpoint and "caught up".
        if at is Point.SUBSCRIBED and next(sent) >= 3:
            gate.wait(DEADLINE_S)

    def follow_to_the_first_event() -> None:
        for item in store.live():
            items.append(item)
            if isinstance(item, Recorded):
                return

    node.plan = hold_events_back
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(follow_to_the_first_event)
        eventually(lambda: bool(items), "it has caught up with the empty store")
        result = store.write()
        assert isinstance(result, Appended)
        reads = node.calls["Read"]
        eventually(lambda: node.calls["Read"] >= reads + 2, "it has read the head, and what it owes")
        seen = len(items)
        eventually(lambda: len(items) > seen + 1, "it has not caught up with the event")
        gate.set()
        following.result(DEADLINE_S)

    assert all(item.position < result.position for item in items[:-1])
    assert items[-1].position == result.position


def test_a_follower_from_no_record_looks_for_what_is_owed(
    store: Store, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = store.write(), store.write()
    assert isinstance(first, Appended)
    assert isinstance(second, Appended)
    sent, gate = itertools.count(), threading.Event()

    def hold_events_back(at: Point, stream: str) -> None:
        if at is Point.SUBSCRIBED and next(sent) >= 1:  # all but the confirmation
            gate.wait(DEADLINE_S)

    def next_event() -> Recorded:
        following = store.follow(first.position + 1, stopped=before(DEADLINE_S))
        return next(item for item in following if isinstance(item, Recorded))

    looks: list[Position] = []

    def look(client: Client, after: Position, *others: Any) -> tuple[list[Recorded], bool]:
        looks.append(after)
        return page_after(client, after, *others)

    monkeypatch.setattr("adapters.eventstoredb.subscription.page_after", look)
    node.plan = hold_events_back
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(next_event)
        eventually(lambda: looks == [first.position + 1], "it has looked")
        gate.set()
        assert found.result(DEADLINE_S).position == second.position


def test_a_subscription_buffers_a_bounded_number_of_events(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        store.write(count=1500)
    taken: list[Any] = []
    subscribe = Client.subscribe

    def counted(client: Client, *arguments: Any) -> Iterator[Any]:
        for event in subscribe(client, *arguments):
            taken.append(event)
            yield event

    monkeypatch.setattr(Client, "subscribe", counted)
    following = store.live()
    first = next(following)

    assert isinstance(first, Recorded)
    # Some were taken with the first, the buffer is full, and the thread holds one for which there is no room.
    counts: list[int] = []

    def is_full() -> bool:
        counts.append(len(taken))
        return counts[-1] > BUFFERED_EVENTS and len({*counts[-20:]}) == 1 < len(counts) - 20

    eventually(is_full, "no more is taken")
    assert len(taken) <= 2 * BUFFERED_EVENTS + 1
    assert len(until_caught_up(following)) == 4499


# --- how seldom the server is asked ----------------------------------------------------------


def test_idle_followers_together_ask_for_the_head_once_a_second(store: Store, node: Node) -> None:
    followers = [store.caught_up(f"kind-{number}") for number in range(4)]
    reads, ticks = node.calls["Read"], 0

    while ticks < 100:
        for following in followers:
            assert isinstance(next(following), CaughtUp)
            ticks += 1

    assert node.calls["Read"] - reads < ticks / 3


def test_nothing_is_asked_while_events_come(store: Store, node: Node) -> None:
    following = store.caught_up("kind")
    reads, seen = node.calls["Read"], 0

    for number in range(60):
        result = store.write(f"kind-{number}")
        assert isinstance(result, Appended)
        while next(following).position < result.position:
            seen += 1

    assert node.calls["Read"] - reads < (60 + seen) / 3


def test_a_head_that_a_query_reads_reaches_the_followers(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    following = store.caught_up("mine")
    monkeypatch.setattr(heads, "_INTERVAL_S", 1e9)  # they ask for nothing themselves
    result = store.write("other-1")
    assert isinstance(result, Appended)
    positions = [next(following).position for _ in range(5)]

    head = store.head()

    assert all(position < result.position for position in positions)
    assert any(item.position == head for item in following)


def test_a_follower_of_rare_events_is_told_of_none_in_between(store: Store, node: Node) -> None:
    following = store.follow(BEGINNING, stopped=before(DEADLINE_S), types=["rare"])
    until_caught_up(following)
    for _ in range(20):
        store.write(count=50)
    append(store, "thing-1", NO_STREAM, [an_event("rare.v1")])

    items = list(itertools.takewhile(lambda item: not isinstance(item, Recorded), following))

    assert all(isinstance(item, CaughtUp) for item in items)
    assert {item.position for item in items} <= {0, *(e.position for e in store.read_all(BEGINNING, 2000))}


# --- the end ---------------------------------------------------------------------------------


def test_closing_the_store_ends_its_followers(store: Store) -> None:
    following = store.caught_up()

    store.close()

    with pytest.raises(PartUnavailable, match="closed"):
        list(following)


def test_a_closed_follower_leaves_no_thread(store: Store) -> None:
    def is_running() -> bool:
        return any(thread.name == "eventstoredb-subscription" for thread in threading.enumerate())

    following = store.caught_up()
    assert is_running()

    following.close()  # type: ignore[attr-defined]

    eventually(lambda: not is_running(), "the thread ends")
