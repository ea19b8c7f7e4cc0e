"""Erasures that are decided and not completed: they alarm, are listed, and end as soon as nothing holds them up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from uuid import uuid4

import apsw
import pytest

from adapters.rabbitmq.connection import open_channel
from adapters.rabbitmq.messages import PERSISTENT, Properties, dead_queue_of
from adapters.wiring import open_store
from domain.kernel.events import NO_STREAM, EventData
from tests.support.builders import append
from tests.support.system import System
from tests.support.waiting import eventually


@contextmanager
def a_long_reader(system: System) -> Iterator[None]:
    """Another program that reads the vault in one long transaction."""
    path = str(system.home / "vault.db")
    with closing(apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM data_keys").get
        yield
        reader.execute("ROLLBACK")


@contextmanager
def a_consumer_of_dead_letters(system: System, role: str) -> Iterator[None]:
    with open_channel(system.environment["ES_BROKER"]) as channel:
        channel.basic_consume(dead_queue_of(role), lambda *_: None)
        channel.connection.process_data_events()
        yield


def die(system: System, text: str) -> None:
    """Put a message that no worker can read into the dead letters of `users`."""
    with open_channel(system.environment["ES_BROKER"]) as channel:
        properties = Properties(message_id=str(uuid4()), delivery_mode=PERSISTENT)
        channel.basic_publish("", dead_queue_of("users"), text.encode(), properties, mandatory=True)


@pytest.mark.over("embedded", because="it reads the vault's file")
def test_a_key_is_destroyed_and_the_cleaning_is_owed_while_a_reader_holds_the_vault(running: System) -> None:
    first, second = running.create(), running.create("other@example.com", "Other")
    assert running.es("gdpr", "status").ok().out == "no erasure is owed\n"
    with a_long_reader(running):
        for user_id in (first, second):
            refused = running.es("gdpr", "erase", user_id, "--yes", "--json").refused("key-destroyed", 4)
            assert "reader" in refused.err
            assert running.get(user_id)["status"] == "erased"

        owed = running.es("gdpr", "status", "--json").exits(4).objects
        assert [(row["user_id"], row["erasure"]) for row in owed] == [
            (first, "key-destroyed"),
            (second, "key-destroyed"),
        ]
        assert "reader" in owed[0]["reason"]
        assert "2 erasures are decided and not completed" in running.es("status").exits(4).out
        assert "erasures are decided and not completed" in running.es("doctor", "--quiet").exits(4).out
        assert len(running.es("gdpr", "resume", "--json").exits(4).objects) == 2

    running.es("gdpr", "resume", "--json").ok()
    assert running.es("gdpr", "status", "--json").ok().objects == []
    running.es("status").ok()
    running.erase(first)


def test_an_event_of_another_program_is_quarantined_and_shown(running: System) -> None:
    user_id = running.create()
    with closing(open_store(running.settings.store)) as store:
        append(store, "user-abc", NO_STREAM, [EventData(uuid4(), "user-deleted.v1", b"{}", b"{}")])

    running.erase(user_id)

    assert running.get(user_id)["status"] == "erased"
    (row,) = running.es("gdpr", "status", "--json").ok().objects
    assert (row["erasure"], row["stream"]) == ("quarantined", "user-abc")
    assert "read like an erasure" in running.es("status").exits(1).out
    assert "read like an erasure" in running.es("doctor", "--quiet").exits(1).out


@pytest.mark.over("distributed", because="dead letters are kept in RabbitMQ")
def test_an_erasure_is_completed_once_a_consumer_gives_dead_letters_back(running: System) -> None:
    user_id = running.create("held@example.com", "Held Letter")
    die(running, '{"email": "held@example.com", "nam')
    with a_consumer_of_dead_letters(running, "users"):
        refused = running.es("gdpr", "erase", user_id, "--yes", "--json").refused("key-destroyed", 4)
        assert "another consumer holds the dead letters of users" in refused.err

    assert running.retry("gdpr", "resume", "--json").ok().objects == []
    (completed,) = [e for e in running.events("erasure-completed") if e["stream"] == f"user-{user_id}"]
    assert completed["data"] == {"letters": 1}
    running.erase(user_id)

    die(running, f"a late letter of user-{user_id}")
    eventually(lambda: running.queues()["users"]["dead"] == 0, "the late letter is removed")
