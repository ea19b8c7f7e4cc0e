"""A read costs what it costs at the server: page by page, and every record that a filter leaves out is examined."""

from __future__ import annotations

from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest

from adapters.eventstoredb.driver import EventStoreDBClient
from tests.support.node import Node
from tests.support.node.protos import NewEvent, StreamState, shared_pb2, streams_pb2, streams_pb2_grpc
from tests.support.proxy import HOST
from tests.support.waiting import DEADLINE_S

EVENTS = 200
Options = streams_pb2.ReadReq.Options


@pytest.fixture
def client(node: Node, client: EventStoreDBClient) -> EventStoreDBClient:
    """The client of a node with many events of one stream, and one of another."""
    new = [NewEvent(type=f"type-{number % 2}", data=b"{}") for number in range(EVENTS - 1)]
    for stream, events in (("many", new), ("rare", [NewEvent(type="last", data=b"{}")])):
        client.append_to_stream(
            stream, current_version=StreamState.NO_STREAM, events=events, timeout=DEADLINE_S
        )
    node.examined = 0
    return client


def test_a_rare_stream_costs_as_much_as_all_events(client: EventStoreDBClient, node: Node) -> None:
    found = list(client.read_all(filter_include="rare", filter_by_stream_name=True, timeout=DEADLINE_S))

    assert [event.type for event in found] == ["last"]
    assert node.examined >= EVENTS


def test_a_read_ends_at_its_limit(client: EventStoreDBClient, node: Node) -> None:
    backwards = client.read_all(backwards=True, limit=1, filter_by_stream_name=True, timeout=DEADLINE_S)
    assert [event.stream_name for event in backwards] == ["rare"]
    assert node.examined <= 2

    found = list(client.read_all(limit=50, filter_include="type-1", timeout=DEADLINE_S))
    assert [event.stream_position for event in found] == list(range(1, 101, 2))
    assert node.examined < EVENTS


@pytest.mark.parametrize("limit", [1, 31, 32, 33, 199, 300])
def test_pages_join_without_a_gap(client: EventStoreDBClient, limit: int) -> None:
    forwards = [e.stream_position for e in client.get_stream("many", limit=limit, timeout=DEADLINE_S)]
    backwards = client.get_stream("many", limit=limit, backwards=True, timeout=DEADLINE_S)
    everything = [e.commit_position for e in client.read_all(timeout=DEADLINE_S)]
    reverse = [e.commit_position for e in client.read_all(backwards=True, limit=limit, timeout=DEADLINE_S)]

    expected = list(range(EVENTS - 1))
    assert forwards == expected[:limit]
    assert [event.stream_position for event in backwards] == expected[::-1][:limit]
    assert len(everything) == EVENTS
    assert reverse == everything[::-1][:limit]


@pytest.mark.parametrize(
    ("by", "expression", "streams"),
    [
        ("stream_identifier", {"regex": "^r"}, ["rare"]),
        ("stream_identifier", {"prefix": ["ra", "x"]}, ["rare"]),
        ("event_type", {"regex": "as"}, ["rare"]),
        ("event_type", {"prefix": ["as"]}, []),
        ("event_type", {"prefix": ["type-0"]}, ["many"]),
    ],
)
def test_a_filter_is_a_pattern_or_prefixes_of_a_name(
    client: EventStoreDBClient, node: Node, by: str, expression: dict[str, Any], streams: list[str]
) -> None:
    wanted = Options.FilterOptions(**{by: Options.FilterOptions.Expression(**expression)}, max=7)
    options = Options(
        all=Options.AllOptions(start=shared_pb2.Empty()),
        filter=wanted,
        count=EVENTS,
        uuid_option=Options.UUIDOption(string=shared_pb2.Empty()),
    )
    with grpc.insecure_channel(f"{HOST}:{node.port}") as channel:
        stub = streams_pb2_grpc.StreamsStub(channel)  # type: ignore[no-untyped-call]
        found = list(stub.Read(streams_pb2.ReadReq(options=options), timeout=DEADLINE_S))

    assert sorted({read.event.event.stream_identifier.stream_name.decode() for read in found}) == streams
