"""`es events tail`: every event once, in order, now and later; personal fields stay sealed."""

from __future__ import annotations

import json
import time

from tests.support.system import System
from tests.support.waiting import DEADLINE_S


def test_events_are_shown_once_in_order_with_sealed_values(shared: System) -> None:
    user_id = shared.create("sealed-value@example.com", "Sealed Value")
    events = shared.events()

    positions = [int(event["position"]) for event in events]
    assert positions == sorted(set(positions))
    assert [each["type"] for each in events if each["stream"] == f"user-{user_id}"] == ["user-registered.v1"]
    assert "sealed-value@example.com" not in json.dumps(events)


def test_events_since_a_time_are_those_that_were_stored_then_or_later(shared: System) -> None:
    for name in ("Before", "Then", "After"):
        shared.create(f"{name.lower()}@example.com", name)
    *_, before, then, after = shared.registrations()

    found = shared.es("events", "tail", "--since", then["time"], "--no-follow", "--json").ok().objects

    assert before not in found
    assert [event for event in found if event in (then, after)] == [then, after]


def test_a_follower_sees_an_event_when_it_happens(shared: System) -> None:
    since = str(shared.baseline.position)
    tail = shared.start("events", "tail", "--from", since, "--json", "--type", "user-renamed")
    assert tail.stdout is not None
    user_id = shared.create("followed@example.com", "Followed")
    shared.es("users", "rename", user_id, "Followed on").ok()
    deadline_s = time.monotonic() + DEADLINE_S
    while json.loads(tail.stdout.readline())["stream"] != f"user-{user_id}":
        assert time.monotonic() < deadline_s
    tail.kill()
