"""`es dead …`: a request that no worker can read ends in the dead letters, and a person decides about it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from uuid import uuid4

import pytest

from adapters.rabbitmq.connection import open_channel
from adapters.rabbitmq.messages import PERSISTENT, Properties, dead_queue_of, queue_of
from tests.support.system import System
from tests.support.terminal import on_terminal
from tests.support.waiting import eventually

SECRET = "private.person@example.com"

pytestmark = pytest.mark.over("rabbitmq", "distributed", because="dead letters are kept in RabbitMQ")


@pytest.fixture
def dead(shared: System) -> Iterator[list[str]]:
    """The ids of three dead letters of `users`; none are left after the test."""
    message_ids = [str(uuid4()) for _ in range(3)]
    with open_channel(shared.environment["ES_BROKER"]) as channel:
        for message_id in message_ids:
            channel.basic_publish(
                "",
                queue_of("users"),
                f"no request, but it names {SECRET}".encode(),
                Properties(message_id=message_id, delivery_mode=PERSISTENT),
                mandatory=True,
            )
    eventually(lambda: _count(shared) == 3, "they are dead letters")
    yield message_ids
    if _count(shared):
        shared.es("dead", "drop", "users", "--all", "--yes").ok()


def _count(system: System) -> int:
    """How many dead letters `users` has."""
    queues = system.es("dead", "list", "--json").ok().objects
    return int(next(queue["dead"] for queue in queues if queue["role"] == "users"))


def _shown(system: System) -> list[str]:
    return [letter["message_id"] for letter in system.es("dead", "show", "users", "--json").ok().objects]


def test_list_shows_every_role_with_its_workers_and_dead_letters(shared: System, dead: list[str]) -> None:
    queues = {queue["role"]: queue for queue in shared.es("dead", "list", "--json").ok().objects}
    assert queues.keys() == set(shared.roles)
    assert {role: queue["dead"] for role, queue in queues.items() if queue["dead"]} == {"users": 3}
    assert all(queue["workers"] == 1 for queue in queues.values())
    assert "users" in shared.es("dead", "list").ok().out


def test_show_names_the_letters_and_prints_no_values_unless_asked(shared: System, dead: list[str]) -> None:
    plain = shared.es("dead", "show", "users").ok()
    as_json = shared.es("dead", "show", "users", "--json").ok()
    assert sorted(letter["message_id"] for letter in as_json.objects) == sorted(dead)
    assert "no worker can read it" in plain.out
    assert SECRET not in plain.out + plain.err + as_json.out + as_json.err

    with_values = shared.es("dead", "show", "users", "--json", "--values").ok()
    assert all(SECRET in letter["unreadable"] for letter in with_values.objects)
    assert sorted(_shown(shared)) == sorted(dead), "looking takes nothing away"


def test_show_says_how_to_see_all_letters(shared: System, dead: list[str]) -> None:
    shown = on_terminal(shared, "dead", "show", "users", "--limit", "2", columns=200).ok().out
    assert "there are more than these 2; the others: es dead show users --limit 3" in shown
    assert "the others" not in on_terminal(shared, "dead", "show", "users", columns=200).ok().out


def test_drop_removes_the_named_letter_alone(shared: System, dead: list[str]) -> None:
    shared.es("dead", "drop", "users", dead[1]).failed(2)
    assert sorted(_shown(shared)) == sorted(dead), "without a yes nothing is removed"
    assert shared.es("dead", "drop", "users", dead[1], "--yes", "--json").ok().object == {"dropped": 1}
    assert sorted(_shown(shared)) == sorted([dead[0], dead[2]])
    shared.es("dead", "drop", "users", dead[1], "--yes").failed(3)
    assert shared.es("dead", "drop", "users", "--all", "--yes", "--json").ok().object == {"dropped": 2}
    assert _count(shared) == 0


def test_retry_sends_a_letter_to_its_role_again(shared: System, dead: list[str]) -> None:
    assert shared.es("dead", "retry", "users", "--all", "--json").ok().object == {"retried": 3}
    # No worker can read them now either, so they come back.
    eventually(lambda: sorted(_shown(shared)) == sorted(dead), "they are dead letters again")


def test_retry_and_drop_want_to_know_which(shared: System) -> None:
    for command in ("retry", "drop"):
        assert "--all" in shared.es("dead", command, "users").failed(2).err
        assert "--all" in shared.es("dead", command, "users", "some-id", "--all").failed(2).err
    assert "role must be one of" in shared.es("dead", "show", "nobody").failed(2).err


def test_no_log_tells_what_is_in_a_dead_letter(shared: System, dead: list[str]) -> None:
    logs = shared.es("logs", "users", "-n", "1000").ok()
    assert SECRET not in logs.out
    assert [json.loads(line) for line in logs.lines], "every line is JSON"


def test_without_a_broker_there_are_no_dead_letters_and_it_says_so(shared: System) -> None:
    ran = shared.es("dead", "list", environment={"ES_BROKER": "local:"}).failed(2)
    assert "broker" in ran.err


def test_an_erasure_takes_the_requests_of_the_person_out_of_the_dead_letters(shared: System) -> None:
    address = f"{uuid4().hex}@example.com"
    user_id = shared.create(address, "Private Person")
    of_others = {"kind": "users.create", "body": {"input": {"email": SECRET, "name": "Somebody Else"}}}
    torn_of_others = '{"kind":"users.create","body":{"input":{"name":"Somebody Else'
    together = [
        {"kind": "users.create", "body": {"input": {"email": address, "name": "Private Person"}}},
        {"kind": "users.rename", "body": {"input": {"user_id": user_id, "name": "Private"}}},
        of_others,
    ]
    with open_channel(shared.environment["ES_BROKER"]) as channel:
        find = json.dumps({"kind": "users.find", "body": {"email": address.upper()}})
        torn = json.dumps(together[1])[:-20] + ' "Private\\u0020Person" '
        for raw in (json.dumps({"requests": together}), json.dumps(together[0]), find, torn, torn_of_others):
            properties = Properties(message_id=str(uuid4()), delivery_mode=PERSISTENT)
            channel.basic_publish("", dead_queue_of("users"), raw.encode(), properties, mandatory=True)
    eventually(lambda: _count(shared) == 5, "they are dead letters")

    shared.es("gdpr", "erase", user_id, "--yes").ok()

    left = shared.es("dead", "show", "users", "--json", "--values").ok()
    shared.es("dead", "drop", "users", "--all", "--yes").ok()
    assert "Private" not in left.out
    assert address not in left.out
    assert [request["body"] for letter in left.objects for request in letter["requests"]] == [
        of_others["body"]
    ]
    assert [letter["unreadable"] for letter in left.objects if "unreadable" in letter] == [torn_of_others]
