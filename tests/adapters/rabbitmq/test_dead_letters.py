"""Dead letters: how a message becomes one, and what an operator can do with it."""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from uuid import uuid4

import pytest

from adapters.rabbitmq.connection import open_channel
from adapters.rabbitmq.dead_letters import DeadLetterNotFound, DeadLetters
from adapters.rabbitmq.messages import Properties
from domain.kernel.errors import PartUnavailable
from domain.kernel.messages import Reply, Request
from domain.kernel.ports.transport import Caller
from tests.support.rabbitmq import Role, a_request, receive
from tests.support.servers import RabbitMQ
from tests.support.transports import ROLE, Serving, Transport, asked
from tests.support.waiting import eventually

# --- becoming one ----------------------------------------------------------------------------

MALFORMED = [b"", b"{", b"[]", b"[1]", b"7", b'{"kind":1}', b'{"requests":[]}', b"\xff\xfe", b"[" * 100_000]


def test_an_unreadable_message_is_a_dead_letter_and_disturbs_no_caller(
    role: Role, echoing: Serving, caller: Caller, dead: DeadLetters
) -> None:
    role.put(*MALFORMED)

    assert asked(caller, 10) == list(range(10))
    eventually(lambda: dead.counts()[0].dead == len(MALFORMED), "all are dead letters")
    assert {letter.reason for letter in dead.show(ROLE)} == {
        "no worker can read it, or a part was unavailable when it was retried"
    }


class RawHeader(Properties):
    """A message id, and a header of raw bytes that pika itself would not send."""

    def __init__(self, message_id: str, value: bytes) -> None:
        super().__init__(message_id=message_id)
        self._value = value

    def encode(self) -> Any:
        table, text = b"\x03odd" + self._value, str(self.message_id).encode()
        flags = struct.pack(">H", self.FLAG_HEADERS | self.FLAG_MESSAGE_ID)
        return [flags, struct.pack(">I", len(table)) + table, bytes([len(text)]) + text]


BAD_HEADERS = {
    "a time beyond year 9999": b"T" + (10**15).to_bytes(8, "big"),
    "too deep": functools.reduce(
        lambda deep, _: b"A" + struct.pack(">I", len(deep)) + deep, range(2000), b"V"
    ),
}


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_a_message_with_unreadable_headers_is_a_dead_letter_like_others(
    role: Role, echoing: Serving, caller: Caller, dead: DeadLetters, transport: Transport, name: str
) -> None:
    for message_id in ("m-1", "m-2"):
        role.publish(role.queue, a_request(message_id), RawHeader(message_id, BAD_HEADERS[name]))

    assert asked(caller, 10) == list(range(10))
    eventually(lambda: dead.counts()[0].dead == 2, "both are dead letters")
    assert "broker-lost" not in transport.log(), "a lost connection counts as a delivery for others"
    assert sorted((letter.message_id, letter.reason) for letter in dead.show(ROLE)) == [
        (message_id, "no worker can read its headers; a retry leaves them out")
        for message_id in ("m-1", "m-2")
    ]
    assert dead.purge(lambda _: set()) == {}
    assert dead.retry(ROLE, ["m-1"]) == 1
    eventually(lambda: "m-1" in echoing.service.effects, "it is handled")
    assert dead.drop(ROLE, None) == 1
    assert dead.counts()[0].dead == 0


def test_a_message_that_exceeds_the_delivery_limit_is_a_dead_letter(
    role: Role, transport: Transport, dead: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.rabbitmq.messages.DELIVERY_LIMIT", 2)
    role.declare()
    role.put(a_request(1, command_id=str(uuid4())))

    for _ in range(3):
        server = transport.server()
        receive(server, 1)
        server.close()

    eventually(lambda: dead.counts()[0].dead == 1, "it is a dead letter")
    assert "delivery limit" in dead.show(ROLE)[0].reason


@pytest.mark.parametrize("error", [PartUnavailable("vault", "it is down"), ZeroDivisionError()])
def test_a_dead_letter_that_fails_again_is_a_dead_letter_again(
    role: Role, transport: Transport, dead: DeadLetters, error: Exception
) -> None:
    is_down = True

    def answer(request: Request) -> Reply:
        if is_down:
            raise error
        return {}

    serving = transport.serve(answer)
    role.put_dead(a_request(1), message_id="m-1")
    assert dead.retry(ROLE, None) == 1
    eventually(lambda: bool(serving.service.seen) and dead.counts()[0].dead == 1, "it is a dead letter again")

    is_down = False
    assert dead.retry(ROLE, ["m-1"]) == 1
    eventually(lambda: serving.service.effects == {1}, "it is handled")
    eventually(lambda: dead.counts()[0].waiting == 0, "it is acknowledged")
    assert dead.counts()[0].dead == 0


# --- looking ---------------------------------------------------------------------------------


def test_missing_queues_are_empty(dead: DeadLetters, role: Role) -> None:
    (state,) = dead.counts()

    assert (state.waiting, state.workers, state.dead) == (0, 0, 0)
    assert dead.show(ROLE) == []
    assert dead.retry(ROLE, None) == 0


@pytest.mark.parametrize("x_death", ["odd", [], ["odd"], {"odd": 1}, 7])
def test_a_dead_letter_with_a_false_record_of_its_death_is_shown(
    role: Role, dead: DeadLetters, x_death: Any
) -> None:
    role.declare()
    role.put_dead(a_request(1), message_id="m-1", headers={"x-death": x_death})

    assert [letter.reason for letter in dead.show(ROLE)] == ["unknown"]


def test_looking_at_dead_letters_leaves_them_in_their_queue(role: Role, dead: DeadLetters) -> None:
    role.declare()
    command_id = str(uuid4())
    person = a_request(1, command_id=command_id, input={"name": "Ada Lovelace"})
    role.put_dead(person, b"garbage of Ada", message_id="m-1")

    def all_there() -> None:
        eventually(lambda: dead.counts()[0].dead == 2, "the broker has requeued both")

    for _ in range(30):  # more often than the default delivery limit
        all_there()
        first, second = dead.show(ROLE)

    request = first.requests[0]
    assert (first.message_id, request.kind, request.command_id) == ("m-1", "users.rename", command_id)
    assert request.body["input"] == {"name": "Ada Lovelace"}
    assert second.unreadable == "garbage of Ada"
    all_there()
    assert len(dead.show(ROLE, limit=1)) == 1
    all_there()


# --- retrying and removing -------------------------------------------------------------------


def test_a_retried_dead_letter_is_handled(role: Role, echoing: Serving, dead: DeadLetters) -> None:
    role.put_dead(a_request("again"), message_id="m-1")
    role.put_dead(a_request("not this"), message_id="m-2")

    assert dead.retry(ROLE, ["m-1"]) == 1

    eventually(lambda: echoing.service.numbers == ["again"], "the worker has it")
    assert [letter.message_id for letter in dead.show(ROLE)] == ["m-2"]


def test_a_dead_letter_is_removed_only_after_its_replacement_is_stored(
    rabbitmq: RabbitMQ, role: Role, dead: DeadLetters
) -> None:
    role.declare()
    role.put_dead(a_request(1), message_id="m-1")
    rabbitmq.delete_queues(role.queue)  # so that no replacement can be stored

    with pytest.raises(PartUnavailable, match="queue of this role does not exist"):
        dead.retry(ROLE, None)

    eventually(lambda: dead.counts()[0].dead == 1, "it is still there")


def test_dropping_removes_the_named_letters_and_names_a_missing_one(role: Role, dead: DeadLetters) -> None:
    role.declare()
    for name in ("m-1", "m-2", "m-3"):
        role.put_dead(a_request(name), message_id=name)

    with pytest.raises(DeadLetterNotFound, match="m-9"):
        dead.drop(ROLE, ["m-9", "m-2"])
    assert [letter.message_id for letter in dead.show(ROLE)] == ["m-1", "m-3"]

    assert dead.drop(ROLE, None) == 2
    assert dead.counts()[0].dead == 0


def test_a_person_is_removed_from_dead_letters_and_other_users_stay(role: Role, dead: DeadLetters) -> None:
    role.declare()
    bodies = [
        {"input": {"user_id": "7", "name": "Ada"}},
        {"input": {"user_id": "8", "name": "Bob"}},
        {"input": {"email": "ada@example.com"}},
    ]
    together = json.dumps({"requests": [{"kind": "users.rename", "body": body} for body in bodies]})
    role.put_dead(together.encode(), message_id="m-1")
    role.put_dead(a_request(1, **bodies[0]), b"ada@", "äda@".encode("utf-16"), b"bob@", message_id="m-2")

    def about(request: dict[str, Any]) -> set[int]:
        return {7} if "da@" in json.dumps(request) or '"7"' in json.dumps(request) else set()

    assert dead.purge(about) == {7: 5}
    assert dead.purge(about) == {}

    left = dead.show(ROLE)
    assert sorted(letter.unreadable or letter.message_id for letter in left) == ["bob@", "m-1"]
    assert [item.body for letter in left for item in letter.requests] == [bodies[1]]


@pytest.mark.parametrize("held_at_once", [65_535, 1000])
def test_one_pass_sees_every_letter_once_and_leaves_the_others(
    role: Role, dead: DeadLetters, monkeypatch: pytest.MonkeyPatch, held_at_once: int
) -> None:
    monkeypatch.setattr("adapters.rabbitmq.dead_letters._PREFETCH_LIMIT", held_at_once)
    role.declare()
    role.put_dead_quickly(a_request(n) for n in range(2500))  # an unlimited consumer gets 2000 at once
    seen: list[int] = []

    def about(request: dict[str, Any]) -> set[int]:
        seen.append(request["body"]["n"])
        return {1, 2} if seen[-1] == 2400 else set()

    assert dead.purge(about) == {1: 1, 2: 1}

    left = [n for n in range(2500) if n != 2400]
    assert (seen[:2500], sorted(seen[2500:])) == ([*range(2500)], left), "a second pass finds nothing more"
    assert dead.dead() == 2499, "the others are in their queue again"
    assert dead.drop(ROLE, None) == 2499


def test_a_purge_repeats_until_it_finds_nothing(role: Role, dead: DeadLetters) -> None:
    role.declare()
    role.put_dead(a_request(0))
    late = iter(range(1, 4))

    def about(request: dict[str, Any]) -> set[int]:
        for n in late:  # one dies while each of three passes runs
            role.put_dead(a_request(n))
            break
        return {7}

    assert dead.purge(about) == {7: 4}
    assert dead.dead() == 0


@contextmanager
def another_consumer(role: Role) -> Iterator[None]:
    """A program that consumes from the dead-letter queue, and gives the letters back at its end."""
    with open_channel(role.url) as channel:
        channel.basic_qos(prefetch_count=10)
        channel.basic_consume(role.dead_queue, lambda *_: None)
        channel.connection.process_data_events()
        yield


def test_letters_that_another_consumer_holds_are_not_passed_over(
    role: Role, dead: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.rabbitmq.dead_letters._HELD_WAIT_S", 0.1)
    role.declare()
    role.put_dead(a_request(1), message_id="m-1")
    for act in (lambda: dead.purge(lambda _: {7}), lambda: dead.show(ROLE), lambda: dead.drop(ROLE, ["m-1"])):
        with another_consumer(role), pytest.raises(PartUnavailable, match="another consumer holds"):
            act()

    eventually(lambda: dead.dead() == 1, "the consumer has given it back")
    assert dead.purge(lambda _: {7}) == {7: 1}


def test_a_letter_that_another_consumer_took_during_a_pass_is_looked_for_again(
    role: Role, dead: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.rabbitmq.dead_letters._SILENCE_S", 0.1)
    monkeypatch.setattr("adapters.rabbitmq.dead_letters._PREFETCH_LIMIT", 1)
    role.declare()
    role.put_dead(a_request(0), a_request(7))
    passes: list[None] = []

    with ExitStack() as other:

        def about(request: dict[str, Any]) -> set[int]:
            if request["body"]["n"] == 0 and not passes:
                other.enter_context(another_consumer(role))  # it takes the letter about user 7
            elif request["body"]["n"] == 0:
                other.close()
            passes.append(None)
            return {7} if request["body"]["n"] == 7 else set()

        monkeypatch.setattr("adapters.rabbitmq.dead_letters._HELD_WAIT_S", 0.3)
        with pytest.raises(PartUnavailable, match="another consumer holds"):
            dead.purge(about)

    eventually(lambda: dead.dead() == 2, "both are there again")
    assert dead.purge(about) == {7: 1}
