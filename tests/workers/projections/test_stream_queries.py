"""Queries about streams and events: as they are stored, in pages without gaps."""

from __future__ import annotations

from uuid import uuid4

import pytest

from domain.kernel.errors import InvalidInput
from domain.kernel.events import NO_STREAM, EventData
from domain.kernel.messages import Request
from domain.streams.projection import STREAMS
from domain.users.account import USER
from tests.support.accounts import ADA, GRACE, rename
from tests.support.builders import a_stream, append, some_events
from tests.support.parts import before_call
from tests.support.read_side import ReadSide
from workers.runtime.queries import PATIENCE_S, ProjectionBehind


def test_a_stream_is_shown_as_it_is_stored(read_side: ReadSide) -> None:
    user_id = read_side.a_user(ADA)
    read_side.done(rename(user_id, "Countess"))
    stream = USER.stream_of(user_id)

    forwards = read_side.answer("streams.read", stream=stream)["events"]
    backwards = read_side.answer("streams.read", stream=stream, backwards=True, limit=1)["events"]

    assert [event["version"] for event in forwards] == [0, 1]
    assert [event["version"] for event in backwards] == [1]
    assert forwards[0]["data"]["email"].startswith(f"es1:{user_id}:")
    assert ADA not in str(forwards)
    assert read_side.answer("streams.read", stream=stream, from_version=1)["events"] == backwards
    assert read_side.answer("streams.read", stream="none")["events"] == []


def test_streams_are_listed_in_pages(read_side: ReadSide) -> None:
    ids = [read_side.a_user(f"user{number}@example.com") for number in range(3)]
    read_side.done(rename(ids[0]))
    read_side.project_streams()

    first = read_side.answer("streams.list", prefix="user-", limit=2)["streams"]
    rest = read_side.answer("streams.list", prefix="user-", after=first[-1]["stream"])["streams"]

    assert [*first, *rest] == [{"stream": USER.stream_of(id_), "version": int(id_ == ids[0])} for id_ in ids]


def test_streams_of_every_kind_are_listed_and_counted(read_side: ReadSide) -> None:
    odd = {"elsewhere": 2, "odd\x00\x1b[31m\u202e\x7f": 0, "user": 0, "é/\U0010ffff": 1}
    for name, last in odd.items():
        events = [EventData(uuid4(), "never-heard-of.v9", b"\xff no JSON", b"") for _ in range(last + 1)]
        append(read_side.store, name, NO_STREAM, events)
    user_id = read_side.a_user(ADA)
    read_side.project_streams()

    listed = {row["stream"]: row["version"] for row in read_side.answer("streams.list")["streams"]}

    assert listed == {**odd, USER.stream_of(user_id): 0}
    assert read_side.answer("streams.count") == {"streams": 5, "more": False}
    assert read_side.answer("streams.count", prefix="user") == {"streams": 2, "more": False}
    assert read_side.answer("streams.count", prefix="é/\U0010ffff") == {"streams": 1, "more": False}
    assert read_side.read_model.parked(STREAMS, read_side.read_model.prepare(STREAMS, now_us=0)) == []


@pytest.mark.parametrize("kind", ["streams.list", "streams.count"])
def test_no_incomplete_list_of_streams_is_shown(read_side: ReadSide, kind: str) -> None:
    read_side.project_streams()
    read_side.a_user(ADA)
    request = Request(kind, {})

    assert read_side.waits(request)
    read_side.now_s += PATIENCE_S + 1
    reply = read_side.reply_to(request)

    assert isinstance(reply, ProjectionBehind)
    assert "position 0, not yet at 1" in str(reply)
    read_side.project_streams()
    assert isinstance(read_side.ask(kind), dict)


def test_a_count_is_cut_at_its_limit(read_side: ReadSide, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.projections.stream_queries.COUNT_LIMIT", 2)
    for count in ({"streams": 1, "more": False}, {"streams": 2, "more": False}, {"streams": 2, "more": True}):
        append(read_side.store, a_stream(), NO_STREAM, some_events(1))
        read_side.project_streams()
        assert read_side.answer("streams.count") == count


@pytest.mark.parametrize("field", ["after", "prefix"])
def test_a_name_that_is_no_unicode_text_is_refused(read_side: ReadSide, field: str) -> None:
    assert isinstance(read_side.ask("streams.list", **{field: "\ud800"}), InvalidInput)


def test_rows_of_streams_hold_no_personal_data(read_side: ReadSide) -> None:
    user_id = read_side.a_user(ADA)
    read_side.project_streams()

    assert read_side.read_model.rows(STREAMS) == [{"stream": USER.stream_of(user_id), "version": 0}]


def test_events_are_paged_by_position(read_side: ReadSide) -> None:
    for number in range(5):
        read_side.a_user(f"user{number}@example.com")

    first = read_side.answer("events.read", limit=3)
    rest = read_side.answer("events.read", after_position=first["position"], limit=3)

    assert [event["position"] for event in first["events"] + rest["events"]] == [1, 2, 3, 4, 5]
    assert (first["position"], rest["position"]) == (3, 5)
    assert read_side.answer("events.read", after_position=5) == {"events": [], "position": 5}
    assert read_side.answer("events.read", from_end=True) == {"events": [], "position": 5}


def test_an_event_that_is_stored_while_a_page_is_read_is_shown_once(read_side: ReadSide) -> None:
    read_side.a_user(ADA)
    store = before_call(read_side.store, "read_all", lambda: read_side.a_user(GRACE))

    page = read_side.reply_to(Request("events.read", {}), store=store)
    assert isinstance(page, dict)
    rest = read_side.answer("events.read", after_position=page["position"])

    assert [event["position"] for event in page["events"] + rest["events"]] == [1, 2]


def test_a_query_waits_for_the_next_event_for_a_limited_time(read_side: ReadSide) -> None:
    request = Request("events.read", {"wait": True})
    assert read_side.waits(request)
    read_side.a_user(ADA)

    reply = read_side.reply_to(request)

    assert isinstance(reply, dict)
    assert len(reply["events"]) == 1
    nothing = Request("events.read", {"wait": True, "after_position": 1})
    assert read_side.waits(nothing)
    read_side.now_s += PATIENCE_S
    assert read_side.reply_to(nothing) == {"events": [], "position": 1}


def test_an_event_of_another_program_does_not_hide_other_events(read_side: ReadSide) -> None:
    read_side.a_user(ADA)
    foreign = EventData(uuid4(), "$metadata", b'{"a":1}', b"")
    append(read_side.store, "elsewhere", NO_STREAM, [foreign])
    append(read_side.store, a_stream(), NO_STREAM, some_events(1))
    read_side.a_user(GRACE)

    shown = read_side.answer("events.read")["events"]

    assert [event["position"] for event in shown] == [1, 2, 3, 4]
