"""Workers and the broker are killed while bulks run: no command is lost and none takes effect twice.

The victims are drawn from a seed, which is printed: ES_TEST_SEED repeats a run, ES_TEST_EFFORT=long makes it larger.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import NAMESPACE_URL, uuid4, uuid5

import pytest

from adapters.rabbitmq.connection import open_channel
from adapters.rabbitmq.messages import PERSISTENT, Properties, queue_of
from tests.support import effort
from tests.support.breakable import Broker
from tests.support.people import confirmed, errors, people
from tests.support.processes import kill
from tests.support.runs import Bulk, Ran
from tests.support.system import System
from tests.support.waiting import eventually

BULK = effort.DISTRIBUTED_BULK

pytestmark = pytest.mark.slow


def _kill_some(system: System, chosen: random.Random, count: int) -> None:
    victims = [*system.processes("users"), *system.processes("ids")]
    kill(chosen.sample(victims, min(count, len(victims))))


def _strike(system: System, broker: Broker, bulks: Sequence[Bulk], count: int) -> None:
    """Kill workers, kill and restart the broker, kill workers again and cut the connections while the bulks run.

    `count` is the number of lines of the first bulk.
    """
    chosen = random.Random(f"{effort.SEED} {count}")
    strikes: list[tuple[str, Callable[[], None]]] = [
        ("kill 2", lambda: _kill_some(system, chosen, 2)),
        ("kill the broker", broker.kill),
        ("start the broker", broker.start),
        ("kill 3", lambda: _kill_some(system, chosen, 3)),
        ("cut", lambda: broker.cut(system)),
    ]
    for number, (what, strike) in enumerate(strikes):
        if what != "start the broker":
            bulks[0].reached(count * number // 8)
        before = [len(bulk.answers()) for bulk in bulks]
        strike()
        after = [len(bulk.answers()) for bulk in bulks]
        print(f"{what}: {before} were answered before, {after} after")
        assert what != "kill the broker" or before[0] < count, "there was nothing left to interrupt"


def _repeated(system: System, command: str, inputs: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Repeat a bulk until every line succeeds. Until then the only errors are of unavailable parts."""

    def complete() -> Ran | None:
        ran = system.start_bulk(command, inputs).end()
        assert set(errors(ran.objects)) <= {"unavailable"}, ran
        return ran if ran.code == 0 else None

    return eventually(complete, "every line succeeds", within_s=effort.BULK_S).objects


def _settled(system: System, command: str, inputs: list[dict[str, str]], first: Ran) -> list[dict[str, Any]]:
    """The answers of the repeated bulk. They hold every confirmed answer of the first run, unchanged."""
    assert set(errors(first.objects)) <= {"unavailable"}, first
    again = _repeated(system, command, inputs)
    for before, after in zip(first.objects, again, strict=True):
        assert "error" in before or before == after, (before, after)
    return again


def _assert_true(system: System, type_: str, answers: list[dict[str, Any]]) -> None:
    """Check that every command has one event, and that its answer names this event."""
    tail = ("events", "tail", "--from", "0", "--no-follow", "--json", "--type", type_)
    events = system.retry(*tail).objects  # a part may still be unavailable so soon after the strikes
    assert set(Counter(event["command_id"] for event in events).values()) == {1}
    stored: Mapping[str, dict[str, Any]] = {event["command_id"]: event for event in events}
    assert stored.keys() == {answer["command_id"] for answer in answers}
    for answer in answers:
        event = stored[answer["command_id"]]
        named = (f"user-{answer['user_id']}", str(answer["position"]))
        assert named == (event["stream"], str(event["position"])), (answer, event)


def test_every_command_takes_effect_once_while_workers_and_the_broker_are_killed(
    on_rabbitmq: System, broker: Broker
) -> None:
    system = on_rabbitmq
    print(f"ES_TEST_SEED={effort.SEED}, {BULK} users")
    system.es("up", "--scale", "users=4", "--scale", "ids=2").ok()
    inputs = people(BULK)
    there = _repeated(system, "create", inputs[: BULK // 4])
    renames = [
        {
            "user_id": answer["user_id"],
            "name": f"Renamed {n}",
            "command_id": str(uuid5(NAMESPACE_URL, f"r{n}")),
        }
        for n, answer in enumerate(there)
    ]

    begun_s = time.monotonic()
    creating = system.start_bulk("create", inputs[BULK // 4 :])
    renaming = system.start_bulk("rename", renames)
    _strike(system, broker, (creating, renaming), BULK - len(there))
    first_created, first_renamed = creating.end(), renaming.end()
    at_once = [len(confirmed(ran.objects)) for ran in (first_created, first_renamed)]
    print(f"{at_once} creates and renames confirmed at once, in {time.monotonic() - begun_s:.1f} s")
    system.ready()
    created = there + _settled(system, "create", inputs[BULK // 4 :], first_created)
    _assert_true(system, "user-registered", created)
    _assert_true(system, "user-renamed", _settled(system, "rename", renames, first_renamed))

    new_names = {rename["user_id"]: rename["name"] for rename in renames}
    wanted = {
        answer["user_id"]: (person["email"], new_names.get(answer["user_id"], person["name"]))
        for answer, person in zip(created, inputs, strict=True)
    }
    assert {user["user_id"]: (user["email"], user["name"]) for user in system.users()} == wanted
    assert len(wanted) == BULK
    eventually(lambda: all(queue["waiting"] == 0 for queue in system.queues().values()), "nothing waits")
    assert [queue["dead"] for queue in system.queues().values()] == [0] * 5


def test_requests_without_a_caller_take_effect_once_while_workers_are_killed(on_rabbitmq: System) -> None:
    on_rabbitmq.es("up", "--scale", "users=2").ok()
    command_ids = [str(uuid4()) for _ in range(effort.ABANDONED_REQUESTS)]
    with open_channel(on_rabbitmq.environment["ES_BROKER"]) as channel:
        for n, command_id in enumerate(command_ids):
            given = {"email": f"abandoned{n}@example.com", "name": f"Abandoned {n}"}
            body = {"command_id": command_id, "actor": "test", "input": given}
            request = json.dumps({"kind": "users.create", "body": body}).encode()
            # Without a queue for the reply: its caller has disconnected and does not retry.
            properties = Properties(delivery_mode=PERSISTENT)
            channel.basic_publish("", queue_of("users"), request, properties, mandatory=True)
            if n % 300 == 200:
                kill(on_rabbitmq.processes("users"))

    # The events alone show the end: the broker does not count what a worker holds as waiting.
    eventually(
        lambda: {event["command_id"] for event in on_rabbitmq.registrations()} >= set(command_ids),
        "all of them are stored",
        within_s=effort.BULK_S,
    )

    assert Counter(event["command_id"] for event in on_rabbitmq.registrations()) == Counter(command_ids)
    assert on_rabbitmq.queues()["users"]["dead"] == 0
