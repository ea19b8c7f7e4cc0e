"""The test node follows the protocol, as the plain client sees it, dangers included."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from adapters.eventstoredb.driver import EventStoreDBClient, failures
from tests.support.node import Cluster, Fault, Node, Point, once, seeded
from tests.support.node.protos import NewEvent, RecordedEvent, StreamState
from tests.support.processes import ROOT

TIMEOUT_S = 60.0
THING = "thing-1"
NO_STREAM = StreamState.NO_STREAM


def events(*types: str) -> list[NewEvent]:
    return [NewEvent(type=type_, data=b"{}") for type_ in types]


def append(
    client: EventStoreDBClient, version: int | StreamState, new: list[NewEvent], stream: str = THING
) -> int:
    return client.append_to_stream(stream, current_version=version, events=new, timeout=TIMEOUT_S)


def read(client: EventStoreDBClient, stream: str = THING) -> list[RecordedEvent]:
    return list(client.get_stream(stream, timeout=TIMEOUT_S))


def ids(client: EventStoreDBClient, stream: str = THING) -> list[UUID]:
    return [event.id for event in read(client, stream)]


def test_an_exact_version_is_checked_and_a_retry_recognised(client: EventStoreDBClient) -> None:
    first, second = events("a", "b"), events("c")
    position = append(client, NO_STREAM, first)
    append(client, 1, second)

    assert append(client, NO_STREAM, first) == position
    for version, new in ((NO_STREAM, events("d")), (0, [first[1], *events("e")]), (7, events("f"))):
        with pytest.raises(failures.WrongCurrentVersion):
            append(client, version, new)
    assert ids(client) == [event.id for event in first + second]


def test_the_same_ids_at_the_new_version_are_stored_twice(client: EventStoreDBClient) -> None:
    new = events("a")
    append(client, NO_STREAM, new)

    append(client, 0, new)

    assert ids(client) == [new[0].id] * 2, "the danger that an adapter has to know"


def test_any_and_exists_recognise_recent_ids_only_within_their_stream(client: EventStoreDBClient) -> None:
    new = events("a")
    with pytest.raises(failures.WrongCurrentVersion):
        append(client, StreamState.EXISTS, new)
    for state in (StreamState.ANY, StreamState.ANY, StreamState.EXISTS):
        append(client, state, new)
    append(client, StreamState.ANY, new, "thing-2")

    assert len(ids(client)) == len(ids(client, "thing-2")) == 1


def test_data_is_never_compared(client: EventStoreDBClient) -> None:
    (event,) = events("a")
    append(client, NO_STREAM, [event])

    append(client, NO_STREAM, [NewEvent(type="b", data=b"[]", id=event.id)])

    assert [stored.type for stored in read(client)] == ["a"]


def test_single_events_use_another_rpc(client: EventStoreDBClient, node: Node) -> None:
    append_event = partial(client.append_event, THING, event=events("a")[0], timeout=TIMEOUT_S)

    assert append_event(current_version=NO_STREAM) == append_event(current_version=NO_STREAM)
    assert (node.calls["Append"], node.calls["BatchAppend"]) == (2, 0)
    with pytest.raises(failures.WrongCurrentVersion):
        append_event(current_version=4)


def test_an_append_that_is_too_large_is_refused(client: EventStoreDBClient) -> None:
    large = [NewEvent(type="a", data=b"x" * 600_000) for _ in range(2)]

    with pytest.raises(failures.MaximumAppendSizeExceededError):
        append(client, NO_STREAM, large)


def test_a_deleted_stream_is_not_found_and_its_numbering_continues(client: EventStoreDBClient) -> None:
    append(client, NO_STREAM, events("a", "b"))
    client.delete_stream(THING, current_version=1, timeout=TIMEOUT_S)

    with pytest.raises(failures.NotFound):
        read(client)
    append(client, NO_STREAM, events("c"))
    assert [event.stream_position for event in read(client)] == [2]


def test_a_tombstone_is_final(client: EventStoreDBClient) -> None:
    append(client, NO_STREAM, events("a"))
    client.tombstone_stream(THING, current_version=0, timeout=TIMEOUT_S)
    calls: list[Callable[[], object]] = [
        lambda: read(client),
        lambda: append(client, NO_STREAM, events("b")),
        lambda: client.delete_stream(THING, current_version=StreamState.ANY, timeout=TIMEOUT_S),
    ]

    for call in calls:
        with pytest.raises(failures.StreamIsDeleted):
            call()


def test_a_stream_can_be_truncated(client: EventStoreDBClient) -> None:
    append(client, NO_STREAM, events("a", "b", "c"))
    client.set_stream_metadata(THING, metadata={"$maxCount": 1}, timeout=TIMEOUT_S)

    assert [event.stream_position for event in read(client)] == [2]


def test_only_a_forward_read_includes_its_position(client: EventStoreDBClient) -> None:
    for number in range(3):
        append(client, number - 1 if number else NO_STREAM, events("abc"[number]))
    middle = [event.commit_position for event in client.read_all(timeout=TIMEOUT_S)][1]
    read_all = partial(client.read_all, commit_position=middle, timeout=TIMEOUT_S)

    assert [event.type for event in read_all()] == ["b", "c"]
    assert [event.type for event in read_all(backwards=True)] == ["a"]


def test_a_subscription_excludes_its_position_and_continues_live(client: EventStoreDBClient) -> None:
    position = append(client, NO_STREAM, events("a"))
    with client.subscribe_to_all(commit_position=position, timeout=TIMEOUT_S) as subscription:
        append(client, 0, events("b"))
        assert next(subscription).type == "b"
    with client.subscribe_to_stream(THING, stream_position=0, timeout=TIMEOUT_S) as subscription:
        assert next(subscription).type == "b"
        append(client, 1, events("c"))
        assert next(subscription).type == "c"
    with client.subscribe_to_all(from_end=True, timeout=TIMEOUT_S) as subscription:
        append(client, 2, events("d"))
        assert next(subscription).type == "d"


def test_a_position_is_an_address_of_a_record_and_no_number(client: EventStoreDBClient) -> None:
    position = append(client, NO_STREAM, events("a"))
    append(client, 0, events("b"))

    for number in (position - 1, position + 1):
        with pytest.raises(failures.UnknownError):
            list(client.read_all(commit_position=number, timeout=TIMEOUT_S))
        with pytest.raises(failures.ExceptionThrownByHandler):
            client.subscribe_to_all(commit_position=number, timeout=TIMEOUT_S)
    assert not list(client.read_all(commit_position=position + 10_000, timeout=TIMEOUT_S))


def test_a_scavenged_event_is_absent_and_its_position_can_be_read_from(
    client: EventStoreDBClient, node: Node
) -> None:
    position = append(client, NO_STREAM, events("a"), "thing-2")
    append(client, NO_STREAM, events("b"))
    client.delete_stream("thing-2", current_version=0, timeout=TIMEOUT_S)

    node.log.scavenge()

    found = client.read_all(commit_position=position, timeout=TIMEOUT_S)
    assert [event.type for event in found] == ["b"]
    append(client, StreamState.ANY, events("c"), "thing-2")
    assert [event.stream_position for event in read(client, "thing-2")] == [1]


def test_an_older_copy_is_restored_and_takes_other_events(client: EventStoreDBClient, node: Node) -> None:
    append(client, NO_STREAM, events("a"))
    backup = node.log.copy()
    lost = append(client, 0, events("b"))
    with client.subscribe_to_all(commit_position=lost, timeout=TIMEOUT_S) as subscription:
        node.restore(backup)
        with pytest.raises((StopIteration, failures.ServiceUnavailable)):
            next(subscription)

    assert append(client, 0, events("c")) == lost
    assert [event.type for event in read(client)] == ["a", "c"]


def test_a_list_of_patterns_matches_too_much(client: EventStoreDBClient) -> None:
    append(client, NO_STREAM, events("A", "AX", "XC", "C"))

    found = [event.type for event in client.read_all(filter_include=["A", "C"], timeout=TIMEOUT_S)]

    assert found == ["A", "AX", "XC", "C"], "as a server's regular expressions do"


def test_a_follower_names_the_leader_and_the_client_goes_there() -> None:
    with closing(Cluster()) as cluster:
        follower = cluster.nodes[1]
        with closing(EventStoreDBClient(follower.url)) as client:
            with pytest.raises(failures.NodeIsNotLeader) as raised:
                append(client, NO_STREAM, events("a"))
            assert _leader_of(raised.value) == f"127.0.0.1:{cluster.leader.port}"
        with closing(EventStoreDBClient(cluster.url)) as client:
            append(client, NO_STREAM, events("a"))
            cluster.leader = follower
            append(client, 0, events("b"))
            assert len(ids(client)) == 2


def _leader_of(error: Any) -> str:
    return f"{error.host}:{error.port}" if hasattr(error, "host") else error.leader_grpc_target


def test_a_fault_happens_at_its_point(client: EventStoreDBClient, node: Node) -> None:
    for point, type_ in ((Point.BEFORE_COMMIT, "a"), (Point.AFTER_COMMIT, "b")):
        node.plan = once(point, *[Fault.UNAVAILABLE] * 10)
        with pytest.raises(failures.ServiceUnavailable):
            append(client, NO_STREAM, events(type_))

    assert [event.type for event in read(client)] == ["b"]


def test_the_plain_client_retries_by_itself(client: EventStoreDBClient, node: Node) -> None:
    node.plan = once(Point.BEFORE_COMMIT, *[Fault.UNAVAILABLE] * 50)

    with pytest.raises(failures.ServiceUnavailable):
        append(client, NO_STREAM, events("a"))

    assert node.calls["BatchAppend"] == 4


def test_equal_seeds_draw_equal_faults() -> None:
    def drawn(seed: int) -> list[Fault | None]:
        plan = seeded(seed, 0.5)
        return [plan(Point.BEFORE_COMMIT, THING) for _ in range(50)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert len({*drawn(1)}) > 4


def test_a_node_runs_as_a_process() -> None:
    command = [sys.executable, "-m", "tests.support.node"]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            with closing(EventStoreDBClient(process.stdout.readline().strip())) as client:
                append(client, NO_STREAM, events("a"))
                assert len(ids(client)) == 1
        finally:
            process.terminate()
            assert process.wait(TIMEOUT_S) == 0
