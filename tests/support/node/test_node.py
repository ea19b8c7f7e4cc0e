"""The test node behaves as the protocol says, seen through the plain client. Its dangers are real, too."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from uuid import UUID

import pytest
from esdbclient import EventStoreDBClient, NewEvent, StreamState
from esdbclient.exceptions import (
    MaximumAppendSizeExceededError,
    NodeIsNotLeader,
    NotFound,
    ServiceUnavailable,
    StreamIsDeleted,
    WrongCurrentVersion,
)

from tests.support.builders import ROOT
from tests.support.node import Cluster, Fault, Node, Point, once, seeded

TIMEOUT_S = 60.0
NO_STREAM = StreamState.NO_STREAM


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    yield node
    node.stop()


@pytest.fixture
def client(node: Node) -> Iterator[EventStoreDBClient]:
    with closing(EventStoreDBClient(node.url)) as client:
        yield client


def events(*types: str) -> list[NewEvent]:
    return [NewEvent(type=type_, data=b"{}") for type_ in types]


def append(
    client: EventStoreDBClient, version: int | StreamState, new: list[NewEvent], stream: str = "thing-1"
) -> int:
    return client.append_to_stream(stream, current_version=version, events=new, timeout=TIMEOUT_S)


def ids(client: EventStoreDBClient, stream: str = "thing-1") -> list[UUID]:
    return [event.id for event in client.get_stream(stream, timeout=TIMEOUT_S)]


def test_an_exact_version_is_checked_and_a_repeat_recognised(client: EventStoreDBClient) -> None:
    first, second = events("a", "b"), events("c")
    position = append(client, NO_STREAM, first)
    append(client, 1, second)

    assert append(client, NO_STREAM, first) == position
    with pytest.raises(WrongCurrentVersion):
        append(client, NO_STREAM, events("d"))
    with pytest.raises(WrongCurrentVersion):
        append(client, 0, [first[1], *events("e")])
    with pytest.raises(WrongCurrentVersion):
        append(client, 7, events("f"))
    assert ids(client) == [event.id for event in first + second]


def test_the_same_ids_at_the_new_version_are_stored_twice(client: EventStoreDBClient) -> None:
    once_ = events("a")
    append(client, NO_STREAM, once_)

    append(client, 0, once_)

    assert ids(client) == [once_[0].id] * 2, "the danger that an adapter has to know"


def test_any_and_exists_recognise_recent_ids_only_within_their_stream(client: EventStoreDBClient) -> None:
    new = events("a")
    with pytest.raises(WrongCurrentVersion):
        append(client, StreamState.EXISTS, new)
    append(client, StreamState.ANY, new)
    append(client, StreamState.ANY, new)
    append(client, StreamState.EXISTS, new)
    append(client, StreamState.ANY, new, "thing-2")

    assert len(ids(client)) == len(ids(client, "thing-2")) == 1


def test_data_is_never_compared(client: EventStoreDBClient) -> None:
    (event,) = events("a")
    append(client, NO_STREAM, [event])

    append(client, NO_STREAM, [NewEvent(type="b", data=b"[]", id=event.id)])

    assert [stored.type for stored in client.get_stream("thing-1", timeout=TIMEOUT_S)] == ["a"]


def test_single_events_go_over_the_other_rpc(client: EventStoreDBClient, node: Node) -> None:
    (event,) = events("a")
    first = client.append_event("thing-1", current_version=NO_STREAM, event=event, timeout=TIMEOUT_S)

    again = client.append_event("thing-1", current_version=NO_STREAM, event=event, timeout=TIMEOUT_S)

    assert again == first
    assert (node.calls["Append"], node.calls["BatchAppend"]) == (2, 0)
    with pytest.raises(WrongCurrentVersion):
        client.append_event("thing-1", current_version=4, event=event, timeout=TIMEOUT_S)


def test_what_is_too_large_is_refused(client: EventStoreDBClient) -> None:
    large = [NewEvent(type="a", data=b"x" * 600_000) for _ in range(2)]

    with pytest.raises(MaximumAppendSizeExceededError):
        append(client, NO_STREAM, large)


def test_a_deleted_stream_is_not_found_and_goes_on_counting(client: EventStoreDBClient) -> None:
    append(client, NO_STREAM, events("a", "b"))
    client.delete_stream("thing-1", current_version=1, timeout=TIMEOUT_S)

    with pytest.raises(NotFound):
        client.get_stream("thing-1", timeout=TIMEOUT_S)
    append(client, NO_STREAM, events("c"))
    assert [event.stream_position for event in client.get_stream("thing-1", timeout=TIMEOUT_S)] == [2]


def test_a_tombstone_is_final(client: EventStoreDBClient) -> None:
    append(client, NO_STREAM, events("a"))
    client.tombstone_stream("thing-1", current_version=0, timeout=TIMEOUT_S)

    with pytest.raises(StreamIsDeleted):
        client.get_stream("thing-1", timeout=TIMEOUT_S)
    with pytest.raises(StreamIsDeleted):
        append(client, NO_STREAM, events("b"))
    with pytest.raises(StreamIsDeleted):
        client.delete_stream("thing-1", current_version=StreamState.ANY, timeout=TIMEOUT_S)


def test_a_stream_can_be_truncated(client: EventStoreDBClient) -> None:
    append(client, NO_STREAM, events("a", "b", "c"))
    client.set_stream_metadata("thing-1", metadata={"$maxCount": 1}, timeout=TIMEOUT_S)

    assert [event.stream_position for event in client.get_stream("thing-1", timeout=TIMEOUT_S)] == [2]


def test_a_forward_read_includes_its_position_and_a_backward_read_does_not(
    client: EventStoreDBClient,
) -> None:
    for number in range(3):
        append(client, number - 1 if number else NO_STREAM, events("abc"[number]))
    middle = [event.commit_position for event in client.read_all(timeout=TIMEOUT_S)][1]

    forwards = [event.type for event in client.read_all(commit_position=middle, timeout=TIMEOUT_S)]
    backwards = [
        event.type for event in client.read_all(commit_position=middle, backwards=True, timeout=TIMEOUT_S)
    ]

    assert (forwards, backwards) == (["b", "c"], ["a"])


def test_a_subscription_excludes_its_position_and_goes_on_live(client: EventStoreDBClient) -> None:
    position = append(client, NO_STREAM, events("a"))
    with client.subscribe_to_all(commit_position=position, timeout=TIMEOUT_S) as subscription:
        append(client, 0, events("b"))
        assert next(subscription).type == "b"
    with client.subscribe_to_stream("thing-1", stream_position=0, timeout=TIMEOUT_S) as subscription:
        assert next(subscription).type == "b"
        append(client, 1, events("c"))
        assert next(subscription).type == "c"
    with client.subscribe_to_all(from_end=True, timeout=TIMEOUT_S) as subscription:
        append(client, 2, events("d"))
        assert next(subscription).type == "d"


def test_a_filtered_subscription_tells_how_far_it_has_looked(client: EventStoreDBClient) -> None:
    last = append(client, NO_STREAM, events(*"abcdefgh"))
    with client.subscribe_to_all(
        filter_include="x",
        include_checkpoints=True,
        window_size=2,
        checkpoint_interval_multiplier=2,
        timeout=TIMEOUT_S,
    ) as subscription:
        first, second, third = (next(subscription) for _ in range(3))

    assert first.is_checkpoint
    assert (first.commit_position or 0) < (second.commit_position or 0) <= last
    assert third.commit_position == last


def test_a_list_of_patterns_takes_in_too_much(client: EventStoreDBClient) -> None:
    append(client, NO_STREAM, events("A", "AX", "XC", "C"))

    found = [event.type for event in client.read_all(filter_include=["A", "C"], timeout=TIMEOUT_S)]

    assert found == ["A", "AX", "XC", "C"], "as a server's regular expressions do"


def test_a_follower_names_the_leader_and_the_client_goes_there() -> None:
    cluster = Cluster()
    follower = cluster.nodes[1]
    try:
        with closing(EventStoreDBClient(follower.url)) as client:
            with pytest.raises(NodeIsNotLeader) as raised:
                append(client, NO_STREAM, events("a"))
            assert raised.value.leader_grpc_target == f"127.0.0.1:{cluster.leader.port}"
        with closing(EventStoreDBClient(cluster.url)) as client:
            append(client, NO_STREAM, events("a"))
            cluster.elect(follower)
            append(client, 0, events("b"))
            assert len(ids(client)) == 2
    finally:
        cluster.stop()


def test_a_fault_happens_where_it_was_asked_for(client: EventStoreDBClient, node: Node) -> None:
    node.plan = once(Point.BEFORE_COMMIT, *[Fault.UNAVAILABLE] * 10)
    with pytest.raises(ServiceUnavailable):
        append(client, NO_STREAM, events("a"))
    node.plan = once(Point.AFTER_COMMIT, *[Fault.UNAVAILABLE] * 10)
    with pytest.raises(ServiceUnavailable):
        append(client, NO_STREAM, events("b"))

    assert [event.type for event in client.get_stream("thing-1", timeout=TIMEOUT_S)] == ["b"]


def test_the_client_repeats_behind_our_back(client: EventStoreDBClient, node: Node) -> None:
    node.plan = once(Point.BEFORE_COMMIT, *[Fault.UNAVAILABLE] * 50)

    with pytest.raises(ServiceUnavailable):
        append(client, NO_STREAM, events("a"))

    assert node.calls["BatchAppend"] == 4


def test_seeded_faults_are_the_same_again() -> None:
    def drawn(seed: int) -> list[Fault | None]:
        plan = seeded(seed, 0.5)
        return [plan(Point.BEFORE_COMMIT, "thing-1") for _ in range(50)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert len({*drawn(1)}) > 4


def test_a_node_runs_as_a_process_of_its_own() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.node"], cwd=ROOT, text=True, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        with closing(EventStoreDBClient(process.stdout.readline().strip())) as client:
            append(client, NO_STREAM, events("a"))
            assert len(ids(client)) == 1
    finally:
        process.terminate()
        assert process.wait(TIMEOUT_S) == 0
        process.stdout.close()
