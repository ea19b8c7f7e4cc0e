"""A subscription catches up, goes live, and is ended if its client is too slow, as by the server."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from adapters.eventstoredb.driver import EventStoreDBClient, failures
from tests.support.node import Node
from tests.support.node.protos import CaughtUp, Checkpoint, NewEvent, StreamState
from tests.support.waiting import DEADLINE_S

LARGE = b"x" * 20_000
"""So that few events fill the window of the connection."""


def append(client: EventStoreDBClient, *types: str, stream: str = "thing-1", data: bytes = b"{}") -> int:
    new = [NewEvent(type=type_, data=data) for type_ in types]
    return client.append_to_stream(stream, current_version=StreamState.ANY, events=new, timeout=DEADLINE_S)


def subscribe(client: EventStoreDBClient, **options: Any) -> Any:
    return client.subscribe_to_all(timeout=DEADLINE_S, include_caught_up=True, **options)


def until_caught_up(subscription: Any) -> list[str]:
    """The types of the events before the next `CaughtUp`."""
    seen: list[str] = []
    for item in subscription:
        if isinstance(item, CaughtUp):
            return seen
        if not isinstance(item, Checkpoint):
            seen.append(item.type)
    raise AssertionError("the subscription ended")


def test_caught_up_comes_once_after_the_stored_events(client: EventStoreDBClient) -> None:
    append(client, *"ab")

    with subscribe(client) as subscription:
        assert until_caught_up(subscription) == ["a", "b"]
        append(client, "c")
        append(client, "d")
        assert [next(subscription).type for _ in "cd"] == ["c", "d"]


def test_caught_up_comes_at_once_from_the_end(client: EventStoreDBClient) -> None:
    append(client, "a")

    with subscribe(client, from_end=True) as subscription:
        assert until_caught_up(subscription) == []
    with client.subscribe_to_stream("thing-1", include_caught_up=True, timeout=DEADLINE_S) as subscription:
        assert until_caught_up(subscription) == ["a"]


def test_an_older_server_does_not_say_that_a_subscription_has_caught_up(
    client: EventStoreDBClient, node: Node
) -> None:
    node.says_caught_up = False
    append(client, "a")

    with subscribe(client) as subscription:
        assert next(subscription).type == "a"
        append(client, "b")
        assert next(subscription).type == "b"


def test_a_slow_client_is_ended_with_no_gap_before_the_end(client: EventStoreDBClient) -> None:
    with subscribe(client) as subscription:
        until_caught_up(subscription)
        for number in range(400):
            append(client, f"type-{number}", data=LARGE)

        seen: list[str] = []
        with pytest.raises(failures.ConsumerTooSlow):
            seen.extend(event.type for event in subscription)

    assert 0 < len(seen) < 400
    assert seen == [f"type-{number}" for number in range(len(seen))]


def test_the_limit_of_a_slow_client_can_be_lowered(client: EventStoreDBClient, node: Node) -> None:
    node.live_buffer = 1
    with subscribe(client) as subscription:
        until_caught_up(subscription)
        append(client, *"abcdefgh")
        with pytest.raises(failures.ConsumerTooSlow):
            for _ in subscription:
                pass


def test_a_slow_client_may_take_its_time_to_catch_up(client: EventStoreDBClient, node: Node) -> None:
    node.live_buffer = 1
    append(client, *map(str, range(100)), data=LARGE[:5000])

    with subscribe(client) as subscription:
        assert len(until_caught_up(subscription)) == 100


def test_with_a_newer_server_a_slow_client_catches_up_again(client: EventStoreDBClient, node: Node) -> None:
    node.live_buffer, node.falls_behind = 1, True
    with subscribe(client, filter_include=("[a-z]",)) as subscription:
        until_caught_up(subscription)
        append(client, *"abcdefgh")
        assert until_caught_up(subscription) == [*"abcdefgh"]


@pytest.mark.parametrize("filters", [{"filter_include": ("x",)}, {"filter_exclude": ("[^x].*",)}])
def test_checkpoints_come_while_no_event_matches(client: EventStoreDBClient, filters: dict[str, Any]) -> None:
    append(client, *"abcdefghij")
    with subscribe(
        client, include_checkpoints=True, window_size=2, checkpoint_interval_multiplier=2, **filters
    ) as subscription:
        caught_up: list[Any] = []
        for item in subscription:
            caught_up.append(item)
            if isinstance(item, CaughtUp):
                break
        live = append(client, *"klmn")
        later = next(subscription)

    positions = [item.commit_position for item in caught_up[:-1]]
    assert all(isinstance(item, Checkpoint) for item in [*caught_up[:-1], later])
    assert len(positions) >= 2
    assert positions == sorted(set(positions))
    assert positions[-1] < later.commit_position <= live


def test_a_checkpoint_is_a_position_to_subscribe_from(client: EventStoreDBClient) -> None:
    append(client, *"abcdefgh")
    options: dict[str, Any] = {"filter_include": ("x",), "include_checkpoints": True, "window_size": 2}
    with subscribe(client, checkpoint_interval_multiplier=1, **options) as subscription:
        items = itertools.takewhile(lambda item: not isinstance(item, CaughtUp), subscription)
        checkpoints = [item.commit_position for item in items]
    assert checkpoints
    append(client, "x")

    for position in checkpoints:
        with subscribe(client, commit_position=position or None, **options) as subscription:
            assert "x" in until_caught_up(subscription)


def test_a_start_at_a_scavenged_event_skips_the_next_event(client: EventStoreDBClient, node: Node) -> None:
    # The server reads one record from the position on, and begins after it: a trap, mended in 24.2.
    position = append(client, "a", stream="thing-2")
    append(client, "b")
    append(client, "c")
    client.delete_stream("thing-2", current_version=0, timeout=DEADLINE_S)
    node.log.scavenge()

    with subscribe(client, commit_position=position) as subscription:
        assert until_caught_up(subscription)[0] == "c"
    node.falls_behind = True
    with subscribe(client, commit_position=position) as subscription:
        assert until_caught_up(subscription)[0] == "b"


def test_a_start_after_the_end_takes_every_live_event(client: EventStoreDBClient) -> None:
    position = append(client, "a")

    with subscribe(client, commit_position=position + 10_000) as subscription:
        assert until_caught_up(subscription) == []
        append(client, "b")
        event = next(subscription)
        assert (event.type, event.commit_position < position + 10_000) == ("b", True)
