"""Dead letters: how a message becomes one, and what an operator can do with it."""

from __future__ import annotations

import functools
import json
import struct
from typing import Any
from uuid import uuid4

import pytest

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
    assert dead.purge(lambda _: False) == 0
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

    def matches(request: dict[str, Any]) -> bool:
        return "da@" in json.dumps(request) or '"7"' in json.dumps(request)

    assert dead.purge(matches) == 5
    assert dead.purge(matches) == 0

    left = dead.show(ROLE)
    assert sorted(letter.unreadable or letter.message_id for letter in left) == ["bob@", "m-1"]
    assert [item.body for letter in left for item in letter.requests] == [bodies[1]]
