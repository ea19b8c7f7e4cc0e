"""The relay over RabbitMQ: every stored event arrives in order, sealed, and at least once."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from uuid import uuid4

from adapters.wiring import open_codec
from domain.kernel.events import BEGINNING, NO_STREAM
from domain.kernel.history import History, Mark
from domain.kernel.messages import Request
from domain.users.account import UserDeleted, UserErased
from tests.support.builders import append, some_events
from tests.support.relaying import Relay, Relaying, Subscriber, a_sealed_event
from tests.support.servers import RabbitMQ
from tests.support.waiting import eventually
from workers.relay.process import BATCH_LIMIT


def test_an_event_arrives_with_sealed_fields_that_say_what_they_are_sealed_for(
    relay: Relay, subscriber: Subscriber
) -> None:
    event = a_sealed_event()
    append(relay.store, "user-7", NO_STREAM, [event])

    relay.publish_all()

    ((method, properties, body),) = subscriber.messages()
    assert method.routing_key == properties.type == "user-registered.v1"
    assert properties.message_id == str(event.event_id)
    assert properties.delivery_mode == 2, "persistent"
    message = json.loads(body)
    (stored,) = relay.store.read_stream("user-7")
    assert message["data"] == open_codec().stored(stored)[1]
    assert all(text.startswith(f"es1:7:{event.event_id.hex}:") for text in message["data"].values())
    assert (message["stream"], message["version"], message["position"]) == ("user-7", 0, relay.store.head())
    assert message["command_id"] == json.loads(event.metadata)["command_id"]
    assert b"Ada" not in body
    assert b"ada@" not in body


def test_an_event_of_an_earlier_version_arrives_in_its_latest(relay: Relay, subscriber: Subscriber) -> None:
    event = replace(a_sealed_event(UserErased), type="user-erased.v1", data=b'{"basis":"Ada Lovelace asked"}')
    append(relay.store, "user-7", NO_STREAM, [event])

    relay.publish_all()

    ((method, properties, body),) = subscriber.messages()
    message = json.loads(body)
    assert method.routing_key == properties.type == message["type"] == UserErased.type
    assert message["data"] == {"basis": "other"}
    assert b"Lovelace" not in body


def test_stored_and_new_events_arrive_in_order(relay: Relay, subscriber: Subscriber) -> None:
    ids = relay.store_events(2 * BATCH_LIMIT + 7)
    relaying = Relaying(relay.process)
    relaying.wait_for(relay.store.head())

    ids += relay.store_events(3)
    relaying.wait_for(relay.store.head())
    relaying.stop()

    assert subscriber.ids() == ids


def test_a_subscriber_chooses_events_by_their_type(relay: Relay, rabbitmq: RabbitMQ) -> None:
    with closing(Subscriber(rabbitmq.url, "user-deleted.*")) as chosen:
        append(relay.store, "user-7", NO_STREAM, [a_sealed_event(), a_sealed_event(UserDeleted)])

        relay.publish_all()

        assert [method.routing_key for method, _, _ in chosen.messages()] == ["user-deleted.v1"]


def test_events_without_a_subscriber_do_not_block_the_relay(relay: Relay) -> None:
    relay.store_events(5)

    relay.publish_all()

    assert relay.process.reached == relay.store.head()


def test_a_stopped_relay_resumes_from_its_checkpoint(relay: Relay, subscriber: Subscriber) -> None:
    first = relay.store_events(3)
    relay.publish_all()
    assert relay.checkpoints.position == relay.store.head()
    second = relay.store_events(2)

    relay.publish_all()

    assert subscriber.ids() == first + second


def test_events_after_an_older_checkpoint_are_published_again(relay: Relay, subscriber: Subscriber) -> None:
    ids = relay.store_events(3)
    relay.publish_all()

    relay.checkpoints.reached = relay.checkpoints.reached.back_to(
        1
    )  # as after a crash, or from an older copy of the vault
    relaying = Relaying(relay.process)
    eventually(lambda: relay.checkpoints.position == relay.store.head(), "it has caught up")
    relaying.stop()

    assert subscriber.ids() == ids + ids[1:], "under the same ids"


def test_the_events_of_another_history_are_published(relay: Relay, subscriber: Subscriber) -> None:
    relay.store_events(1)
    (first,) = relay.store.read_all(BEGINNING, 1)
    lost = [
        Mark(position, uuid4()) for position in (2, 3)
    ]  # as before an older copy of the store was restored
    relay.checkpoints.reached = History(3, (Mark(first.position, first.event_id), *lost))
    new = relay.store_events(4)

    relay.publish_all()

    assert subscriber.ids() == new
    assert relay.checkpoints.moves[0] == ("rewind", first.position)
    assert relay.checkpoints.position == relay.store.head()


def test_a_relay_without_marks_starts_again_if_the_store_ends_before_its_checkpoint(
    relay: Relay, subscriber: Subscriber
) -> None:
    ids = relay.store_events(2)
    relay.checkpoints.reached = History(5000)
    relaying = Relaying(relay.process)
    eventually(lambda: relay.checkpoints.position == relay.store.head(), "it has caught up")
    relaying.stop()

    assert subscriber.ids() == ids, "at least once"


def test_an_event_of_another_program_is_skipped(relay: Relay, subscriber: Subscriber) -> None:
    append(relay.store, "elsewhere-1", NO_STREAM, some_events(1))  # its metadata is not ours
    ours = relay.store_events(1)

    relay.publish_all()

    assert subscriber.ids() == ours


def test_the_progress_is_the_position_that_any_relay_reached(relay: Relay) -> None:
    relay.store_events(3)
    head, progress = relay.store.head(), [Request("relay.progress", {})]

    (before,) = relay.service().handle(progress)
    relay.publish_all()

    assert before == {"position": 0, "head": head, "lag": head}
    for process in (relay.process, relay.another()):  # also of a standby, which has published nothing
        assert relay.service(process).handle(progress) == [{"position": head, "head": head, "lag": 0}]
