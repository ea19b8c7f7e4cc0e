"""The projector over real stores: every event takes effect once, and a damaged event parks its stream alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from domain.kernel.errors import PartUnavailable
from domain.kernel.events import NO_STREAM, EventData
from domain.kernel.ports.event_store import Appended
from domain.users.account import USER, UserRegistered
from tests.support.accounts import ADA, GRACE, create, delete, rename
from tests.support.builders import a_stream, append, some_events
from tests.support.parts import replaced, unavailable
from tests.support.read_side import ReadSide, a_busy_history
from tests.support.waiting import DEADLINE_S, eventually
from workers.projections.projector import Projector

Start = Callable[[Projector], Projector]


def test_the_rows_include_every_event(read_side: ReadSide) -> None:
    ada, grace, alan = a_busy_history(read_side)

    read_side.project()

    rows = read_side.rows()
    assert [(rows[id_]["status"], rows[id_]["version"]) for id_ in (ada, grace, alan)] == [
        ("active", 2),
        ("deleted", 2),
        ("erased", 1),
    ]
    assert (rows[alan]["email"], rows[alan]["name"]) == (None, None)
    assert str(rows[ada]["email"]).startswith(f"es1:{ada}:"), "sealed as in the event"
    (generation,) = read_side.generations()
    assert generation.events == sum(len(read_side.types(id_)) for id_ in rows)


def test_a_new_event_is_projected_while_the_projector_runs(read_side: ReadSide, start: Start) -> None:
    projector = start(read_side.projector())
    for number in range(20):
        reply = read_side.done(create(f"user{number}@example.com"))
        eventually(lambda: (projector.reached or 0) >= reply["position"], "projected")  # noqa: B023
        assert int(reply["user_id"]) in read_side.rows()


def test_a_stopped_projector_resumes_from_its_checkpoint(read_side: ReadSide) -> None:
    for round_ in range(3):
        user_id = read_side.a_user(f"user{round_}@example.com")
        read_side.handle(rename(user_id, "One"), rename(user_id, "Two"))
        read_side.project()

    assert read_side.current().events == 9, "each event once"
    assert {row["version"] for row in read_side.rows().values()} == {2}


def test_two_projectors_apply_every_event_once(read_side: ReadSide, start: Start) -> None:
    projectors = [start(read_side.projector()) for _ in range(2)]
    replies = [read_side.done(create(f"user{number}@example.com")) for number in range(60)]
    last = replies[-1]["position"]

    eventually(
        lambda: all((projector.reached or 0) >= last for projector in projectors), "both have reached it"
    )

    assert read_side.current().events == 60
    assert len(read_side.rows()) == 60


def test_the_reached_position_is_never_ahead_of_the_rows(read_side: ReadSide, start: Start) -> None:
    read_side.prepare()
    projector = start(read_side.projector())
    for number in range(200):
        read_side.done(create(f"user{number}@example.com"))
        reached = projector.reached or 0
        registered = [r for r in read_side.store.read_all(0, 1000) if r.position <= reached]
        assert len(read_side.rows()) >= len(registered)


def test_an_idle_projector_notices_that_the_rows_lost_their_last_commits(
    read_side: ReadSide, log_text: Callable[[], str]
) -> None:
    a_busy_history(read_side)
    lost: list[int] = []

    def generations(*args: Any) -> Any:
        """Once, a checkpoint as after a crash of the database server."""
        (generation,) = read_side.read_model.generations(*args)
        if generation.checkpoint and not lost:
            lost.append(1)
            return [replace(generation, checkpoint=0)]
        return [generation]

    deadline = time.monotonic() + DEADLINE_S
    read_side.projector(read_model=replaced(read_side.read_model, generations=generations)).run(
        lambda: log_text().count('"projecting"') >= 2 or time.monotonic() > deadline
    )

    assert log_text().count('"projecting"') == 2, "it starts again from the stored checkpoint"


def test_events_of_other_streams_move_the_checkpoint_only(
    read_side: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.projections.projector._IDLE_SAVE_S", 0.0)
    append(read_side.store, a_stream(), NO_STREAM, some_events(5))

    read_side.project()

    assert (read_side.current().checkpoint, read_side.current().events) == (5, 0)
    assert read_side.rows() == {}


# --- outages ---------------------------------------------------------------------------------


def test_an_outage_of_the_store_is_raised_and_no_event_is_skipped(read_side: ReadSide) -> None:
    a_busy_history(read_side)

    def follow(*args: Any, **more: Any) -> Iterator[Any]:
        for number, item in enumerate(read_side.store.follow(*args, **more)):
            if number == 2:
                raise PartUnavailable("event store", "the connection was lost")
            yield item

    with pytest.raises(PartUnavailable):
        read_side.projector(store=replaced(read_side.store, follow=follow)).run(lambda: False)

    read_side.project()
    assert len(read_side.rows()) == 3
    assert read_side.current().events == 8


def test_an_outage_of_the_read_model_is_raised_and_no_event_is_skipped(read_side: ReadSide) -> None:
    a_busy_history(read_side)
    projector = read_side.projector(read_model=replaced(read_side.read_model, apply=unavailable))

    with pytest.raises(PartUnavailable):
        projector.run(lambda: False)
    assert not projector.reached

    read_side.project()
    assert len(read_side.rows()) == 3


# --- parked events ---------------------------------------------------------------------------


def test_an_event_that_cannot_be_applied_parks_its_own_stream_only(
    read_side: ReadSide, log_text: Callable[[], str]
) -> None:
    bad, good = read_side.a_user(ADA), read_side.a_user(GRACE)
    read_side.store_event(bad, "user-exploded.v9")
    read_side.done(rename(good, "Still here"))
    read_side.store_event(bad, "user-deleted.v1")
    read_side.done(delete(good))

    read_side.project()

    rows = read_side.rows()
    assert (rows[bad]["status"], rows[bad]["version"]) == ("active", 0)
    assert (rows[good]["status"], rows[good]["version"]) == ("deleted", 2)
    assert [(item.stream, item.error) for item in read_side.parked()] == [
        (USER.stream_of(bad), "unknown event type 'user-exploded.v9'"),
        (USER.stream_of(bad), "behind a parked event"),
    ]
    assert log_text().count("event-parked") == 2


def test_later_events_of_a_parked_stream_are_parked_after_a_restart(read_side: ReadSide) -> None:
    bad = read_side.a_user(ADA)
    read_side.store_event(bad, "user-exploded.v9")
    read_side.project()
    read_side.store_event(bad, "user-deleted.v1")

    read_side.project()

    assert len(read_side.parked()) == 2
    assert read_side.rows()[bad]["status"] == "active"


@pytest.mark.parametrize(
    ("stream", "data"),
    [
        ("user-7", b'{"email":["es1:a"],"name":"es1:b"}'),
        ("user-7", b'{"email":"\\ud800","name":"es1:b"}'),
        ("user-7", b'{"email":' + b"9" * 400 + b',"name":"es1:b"}'),
        ("user-7", b'{"email":' + b"[" * 5000 + b"]" * 5000 + b',"name":"es1:b"}'),
        (f"user-{1 << 70}", b'{"email":"es1:a","name":"es1:b"}'),
        ("user-seven", b'{"email":"es1:a","name":"es1:b"}'),
    ],
    ids=["a list", "a lone surrogate", "a huge number", "deep nesting", "a huge id", "no id"],
)
def test_no_event_stops_the_projection_of_other_streams(
    read_side: ReadSide, stream: str, data: bytes
) -> None:
    event = EventData(uuid4(), UserRegistered.type, data, b"{}")
    assert isinstance(append(read_side.store, stream, NO_STREAM, [event]), Appended)
    good = read_side.a_user(ADA)

    read_side.project()

    assert list(read_side.rows()) == [good]
    assert [item.stream for item in read_side.parked()] == [stream]


def test_log_and_parked_reasons_contain_nothing_of_the_event(
    read_side: ReadSide, log_text: Callable[[], str]
) -> None:
    bad = read_side.a_user("canary-5f1d@example.com")
    read_side.store_event(bad, "user-renamed.v1", b'{"name":"x","canary-77aa":1}')

    read_side.project()

    assert len(read_side.parked()) == 1
    assert "canary" not in log_text() + str(read_side.parked())
