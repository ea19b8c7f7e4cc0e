"""What a server does that a kind double would not: each test was red against an adapter that expected less."""

from __future__ import annotations

import itertools
from contextlib import closing

import pytest

from adapters.eventstoredb.driver import EventStoreDBClient
from domain.kernel.events import BEGINNING, Recorded
from domain.kernel.ports.event_store import Appended, CaughtUp
from tests.support.builders import a_stream
from tests.support.eventstoredb import OpenStore, Store, an_item, types_of, until_caught_up
from tests.support.node import Cluster, Node
from tests.support.node.protos import StreamState
from tests.support.waiting import DEADLINE_S, before


def test_a_batch_is_answered_within_one_call(store: Store, node: Node) -> None:
    # The server ends a call whose client side has ended after one more answer.
    node.flush_s = 0.2
    results = store.append([an_item() for _ in range(50)])

    assert {*types_of(results)} == {Appended}
    assert node.calls["BatchAppend"] == 1


@pytest.mark.parametrize("live_buffer", [1, 64])
def test_a_follower_that_is_too_slow_goes_on_without_an_error(
    store: Store, node: Node, live_buffer: int
) -> None:
    node.live_buffer, node.flush_s = live_buffer, 0.2  # so that many are committed together
    following = store.caught_up("kind")
    names = [f"kind-{number}" for number in range(300)]

    store.append([an_item(name) for name in names])
    events = (item.stream for item in following if isinstance(item, Recorded))

    assert list(itertools.islice(events, len(names))) == names


@pytest.mark.parametrize("says_caught_up", [True, False])
def test_a_follower_catches_up_with_servers_of_any_age(
    store: Store, node: Node, says_caught_up: bool
) -> None:
    node.says_caught_up = says_caught_up
    result = store.write("kind-1")
    assert isinstance(result, Appended)

    following = store.follow(BEGINNING, stopped=before(DEADLINE_S))
    assert [event.stream for event in until_caught_up(following)] == ["kind-1"]
    caught_up = next(item for item in following if isinstance(item, CaughtUp))
    assert caught_up.position >= result.position


def test_a_follower_loses_no_event_after_a_scavenged_checkpoint(store: Store, node: Node) -> None:
    # A server before 24.2 skips the next event if the one at the start of a subscription was scavenged.
    checkpoint = store.write("kind-1")
    for name in ("kind-2", "kind-3"):
        store.write(name)
    assert isinstance(checkpoint, Appended)
    with closing(EventStoreDBClient(node.url)) as client:
        client.delete_stream("kind-1", current_version=StreamState.ANY, timeout=DEADLINE_S)
    node.log.scavenge()

    following = store.follow(checkpoint.position, stopped=before(DEADLINE_S), prefixes=["kind"])

    assert [event.stream for event in until_caught_up(following)] == ["kind-2", "kind-3"]


@pytest.mark.parametrize("dies", [False, True])
def test_a_batch_is_stored_once_while_the_leader_changes(
    cluster: Cluster, open_store: OpenStore, dies: bool
) -> None:
    store = open_store(cluster.url)
    streams = [a_stream() for _ in range(200)]
    batches = [streams[at : at + 20] for at in range(0, len(streams), 20)]
    for number, batch in enumerate(batches):
        if number == 4:
            cluster.elect(cluster.nodes[1], dies=dies)
        items = [an_item(stream) for stream in batch]
        assert {*types_of(store.append(items))} == {Appended}

    assert [store.versions(stream) for stream in streams] == [[0]] * len(streams)
