"""Queries about streams and events: as they are stored, in pages without gaps."""

from __future__ import annotations

from uuid import uuid4

from domain.kernel.events import NO_STREAM, EventData
from domain.kernel.messages import Request
from domain.users.account import USER
from tests.support.accounts import ADA, GRACE, rename
from tests.support.builders import a_stream, append, some_events
from tests.support.parts import before_call
from tests.support.read_side import ReadSide
from workers.runtime.queries import PATIENCE_S


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

    first = read_side.answer("streams.list", prefix="user-", limit=2)["streams"]
    rest = read_side.answer("streams.list", prefix="user-", after=first[-1]["stream"])["streams"]

    assert [*first, *rest] == [{"stream": USER.stream_of(id_), "version": int(id_ == ids[0])} for id_ in ids]


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
