"""`es events tail`: every event once, in order, now and later; personal fields stay sealed."""

from __future__ import annotations

import json
import time

from tests.acceptance.conftest import DEADLINE_S, System


def test_events_are_told_in_order_once_each_and_their_values_are_sealed(shared: System) -> None:
    user_id = shared.create("sealed-value@example.com", "Sealed Value")
    told = shared.events()

    positions = [int(event["position"]) for event in told]
    assert positions == sorted(set(positions))
    assert [event["type"] for event in told if event["stream"] == f"user-{user_id}"] == ["user-registered.v1"]
    assert "sealed-value@example.com" not in json.dumps(told)


def test_an_event_is_told_to_a_follower_when_it_happens(shared: System) -> None:
    since = str(shared.came.position)
    tail = shared.start("events", "tail", "--from", since, "--json", "--type", "user-renamed")
    assert tail.stdout is not None
    user_id = shared.create("followed@example.com", "Followed")
    shared.es("users", "rename", user_id, "Followed on").ok()
    watchdog = time.monotonic() + DEADLINE_S
    while json.loads(tail.stdout.readline())["stream"] != f"user-{user_id}":
        assert time.monotonic() < watchdog
    tail.kill()
