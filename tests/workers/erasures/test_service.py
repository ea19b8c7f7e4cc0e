"""Queries of the `erasures` role: the state of an erasure and the progress of the process."""

from __future__ import annotations

from typing import Any

import pytest

from domain.kernel.errors import InvalidInput, PartUnavailable, UnknownRequest
from domain.kernel.messages import Request
from domain.users.errors import UserNotFound
from tests.support.accounts import ADA, erase
from tests.support.erasures import Erasures
from tests.support.parts import before_call
from workers.erasures.service import ErasuresService


def asked(service: ErasuresService, kind: str, /, **body: object) -> Any:
    (reply,) = service.handle([Request(f"erasures.{kind}", dict(body))])
    return reply


def test_the_status_of_a_user_shows_how_far_the_erasure_is(erasures: Erasures) -> None:
    user_id = erasures.a_user(ADA)
    status = {"user_id": str(user_id), "erasure": "none", "position": 1, "waits_for": None}
    assert asked(erasures.queries(), "status", user_id=str(user_id)) == status
    erasures.done(erase(user_id))
    assert asked(erasures.queries(), "status", user_id=str(user_id))["erasure"] == "under-way"

    erasures.run()

    completed = {**status, "erasure": "completed", "position": 3}
    assert asked(erasures.queries(), "status", user_id=str(user_id)) == completed


def test_the_status_of_a_waiting_erasure_has_the_reason(erasures: Erasures) -> None:
    user_id = erasures.a_user(ADA)
    erasures.done(erase(user_id))
    outage = PartUnavailable("vault", "PostgreSQL at db: connection refused")

    def fail() -> None:
        raise outage

    process = erasures.process(vault=before_call(erasures.vault, "destroy_key", fail))
    service = erasures.queries(process)

    with pytest.raises(PartUnavailable):
        process.run(lambda: False)
    waiting = asked(service, "status", user_id=str(user_id))
    process.run(lambda: False)
    done = asked(service, "status", user_id=str(user_id))

    assert (waiting["erasure"], waiting["waits_for"]) == ("under-way", outage.to_wire())
    assert (done["erasure"], done["waits_for"]) == ("completed", None)


def test_the_progress_is_the_position_that_the_process_reached(erasures: Erasures) -> None:
    erasures.a_user(ADA)
    process = erasures.process()
    service = erasures.queries(process)
    head = erasures.store.head()

    before = asked(service, "progress")
    process.run(lambda: False)

    assert before == {"position": 0, "head": head, "lag": head}
    assert asked(service, "progress") == {"position": head, "head": head, "lag": 0}


def test_a_missing_user_and_a_wrong_query_are_refused(erasures: Erasures) -> None:
    service = erasures.queries()

    assert asked(service, "status", user_id="5") == UserNotFound(5)
    assert isinstance(asked(service, "status", user_id="x"), InvalidInput)
    assert isinstance(asked(service, "status"), InvalidInput)
    assert asked(service, "undo") == UnknownRequest("erasures.undo")
