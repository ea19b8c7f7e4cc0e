"""Queries of the `erasures` role: the state of an erasure as the vault has it, and what is owed."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from domain.kernel.errors import InvalidInput, UnknownRequest
from domain.kernel.events import NO_STREAM, EventData
from domain.kernel.history import History, Mark
from domain.kernel.messages import Request
from domain.kernel.ports.vault import Decided
from domain.users.errors import UserNotFound
from tests.support.accounts import ADA, GRACE, create, erase
from tests.support.builders import append
from tests.support.erasures import Erasures, Letters
from tests.support.parts import replaced, unavailable
from workers.erasures.service import ErasuresService
from workers.users.owed import LISTED


def asked(service: ErasuresService, kind: str, /, **body: object) -> Any:
    (reply,) = service.handle([Request(f"erasures.{kind}", dict(body))])
    return reply


def status(erasures: Erasures, user_id: int) -> str:
    state: str = asked(erasures.queries(), "status", user_id=str(user_id))["erasure"]
    return state


def test_the_status_of_a_user_shows_how_far_the_erasure_is(erasures: Erasures) -> None:
    user_id = erasures.a_user(ADA)
    assert asked(erasures.queries(), "status", user_id=str(user_id)) == {
        "user_id": str(user_id),
        "erasure": "none",
        "reason": None,
    }
    erasures.done(erase(user_id))
    assert status(erasures, user_id) == "decided"

    erasures.process().run(lambda: False)
    assert status(erasures, user_id) == "key-destroyed"

    erasures.cleaning().clean()
    assert status(erasures, user_id) == "completed"


def test_the_status_of_a_waiting_cleaning_has_the_reason(erasures: Erasures) -> None:
    user_id = erasures.a_user(ADA)
    erasures.done(erase(user_id))

    erasures.run(dead_letters=replaced(Letters(), purge=unavailable))
    waiting = asked(erasures.queries(), "status", user_id=str(user_id))

    assert waiting["erasure"] == "key-destroyed"
    assert waiting["reason"] == "a part is unavailable: it is unavailable"


@pytest.mark.parametrize(
    "left",
    ["UPDATE data_keys SET destroyed = 0", "DELETE FROM data_keys"],
    ids=["a key", "no tombstone"],
)
def test_an_erasure_is_completed_only_if_this_vault_says_so(erasures: Erasures, left: str) -> None:
    user_id = erasures.a_user(ADA)
    erasures.done(erase(user_id))
    erasures.run()
    assert status(erasures, user_id) == "completed"

    erasures.change_vault(left)

    assert status(erasures, user_id) == "decided"
    assert erasures.owed() == {user_id: "decided"}, "it is listed at once"
    erasures.run()
    assert status(erasures, user_id) == "completed"
    assert erasures.completions(user_id) == 1


def test_resuming_an_erasure_purges_dead_letters_again(erasures: Erasures) -> None:
    user_id = erasures.a_user(ADA)
    erasures.done(erase(user_id))
    erasures.run()
    letters = Letters({"kind": "users.rename", "body": {"input": {"user_id": str(user_id)}}})

    found = asked(erasures.queries(), "resume", user_id=str(user_id))
    assert found["owed"] == {"decided": 1}
    erasures.process().run(lambda: False)
    cleaning = erasures.cleaning(dead_letters=letters)
    cleaning._late = None
    cleaning.clean()

    assert (letters.items, erasures.owed()) == ([], {})
    assert erasures.completions(user_id) == 1


def test_a_resumed_process_tries_at_once_what_failed(erasures: Erasures) -> None:
    user_id = erasures.a_user(ADA)
    erasures.done(erase(user_id))
    process = erasures.process()
    process.run(lambda: False)
    erasures.vault.erasure_failed([user_id], "RabbitMQ is unavailable")
    cleaning = erasures.cleaning()
    cleaning._monotonic_s = lambda: 100.0  # no time passes
    cleaning._retried_at_s = 100.0
    cleaning.clean()
    assert erasures.owed() == {user_id: "key-destroyed"}

    asked(erasures.queries(process, cleaning), "resume")
    cleaning.clean()

    assert erasures.owed() == {}


def test_a_person_whose_stream_was_deleted_is_erased_without_an_event(erasures: Erasures) -> None:
    user_id = erasures.a_user(ADA)
    gone = replaced(erasures.store, read_streams=lambda streams, **_: {stream: [] for stream in streams})
    service = erasures.queries(store=gone)
    assert asked(service, "status", user_id=str(user_id)) == UserNotFound(user_id)
    assert asked(service, "resume", user_id=str(user_id)) == UserNotFound(user_id)

    erasures.vault.owe([Decided(user_id, None, 1)], now_us=erasures.now_us)
    erasures.run(store=gone)

    assert erasures.is_erased(user_id)
    assert erasures.holders(ADA) == [None]
    assert asked(service, "status", user_id=str(user_id))["erasure"] == "completed"
    asked(service, "resume", user_id=str(user_id))
    assert erasures.owed() == {user_id: "decided"}, "its dead letters are purged again"


def test_owed_erasures_and_quarantined_events_are_listed_page_by_page(erasures: Erasures) -> None:
    ids = [erasures.a_user(f"user{number}@example.com") for number in range(3)]
    for user_id in ids:
        erasures.done(erase(user_id))
    append(erasures.store, "user-abc", NO_STREAM, [EventData(uuid4(), "user-erased.v1", b"{}", b"{}")])
    erasures.process().run(lambda: False)
    erasures.vault.erasure_failed([ids[0]], "RabbitMQ is unavailable")
    erasures.now_us += 2_500_000
    service = erasures.queries()

    first = asked(service, "owed", limit=2)
    second = asked(service, "owed", limit=2, after=int(first["next"]["after"]))

    assert [row["user_id"] for row in first["owed"] + second["owed"]] == list(map(str, ids))
    assert first["owed"][0] == {
        "user_id": str(ids[0]),
        "erasure": "key-destroyed",
        "position": 4,
        "age_s": 2.5,
        "attempts": 1,
        "letters": 0,
        "reason": "RabbitMQ is unavailable",
    }
    assert [row["stream"] for row in first["quarantined"]] == ["user-abc"]
    assert (second["quarantined"], second["next"]) == ([], None)


def test_the_progress_shows_what_is_owed_and_what_was_found(erasures: Erasures) -> None:
    erasures.done(erase(erasures.a_user(ADA)))
    erasures.vault.save_checkpoint(LISTED, History(9, (Mark(1, uuid4()),)))
    process = erasures.process()
    service = erasures.queries(process)
    head = erasures.store.head()
    assert asked(service, "progress")["lag"] == head

    process.run(lambda: False)
    erasures.vault.erasure_failed([1000], "RabbitMQ is unavailable")
    erasures.now_us += 11_000_000
    found = asked(service, "progress")

    assert (found["position"], found["lag"]) == (head, 0)
    assert (found["owed"], found["failing"], found["oldest_s"]) == ({"key-destroyed": 1}, 1, 11.0)
    assert (found["reason"], found["quarantined"]) == ("RabbitMQ is unavailable", 0)
    (divergence,) = found["divergences"]
    assert (divergence["process"], divergence["seen"], divergence["back_to"]) == (LISTED, 9, 0)


def test_the_progress_is_known_while_the_vault_is_unavailable(erasures: Erasures) -> None:
    erasures.done(create(GRACE))

    found = asked(erasures.queries(vault=replaced(erasures.vault, owed=unavailable)), "progress")

    assert found.keys() == {"position", "head", "lag"}


def test_a_missing_user_and_a_wrong_query_are_refused(erasures: Erasures) -> None:
    service = erasures.queries()

    assert asked(service, "status", user_id="5") == UserNotFound(5)
    assert isinstance(asked(service, "status", user_id="x"), InvalidInput)
    assert isinstance(asked(service, "status"), InvalidInput)
    assert asked(service, "undo") == UnknownRequest("erasures.undo")
