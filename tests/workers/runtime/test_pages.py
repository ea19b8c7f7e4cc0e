"""Lists in pages: every row once and in order, whatever the size of the rows and of a reply."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import pytest

from domain.kernel.events import NO_STREAM, EventData
from domain.kernel.messages import MAX_MESSAGE_BYTES, Body, Later, Request, encode
from domain.users.account import USER
from tests.support.accounts import ADA, rename
from tests.support.builders import append
from tests.support.read_side import ReadSide

COUNT = 12
LISTS: Mapping[str, tuple[str, Body]] = {
    "users.list": ("users", {}),
    "users.history": ("events", {"user_id": "1000"}),
    "streams.list": ("streams", {}),
    "streams.read": ("events", {"stream": USER.stream_of(1000)}),
    "streams.read backwards": (
        "events",
        {"stream": USER.stream_of(1000), "backwards": True, "from_version": 2},
    ),
}


@pytest.fixture
def full(read_side: ReadSide) -> ReadSide:
    """Users, of whom the first has a stream as long as the list of users."""
    for number in range(COUNT):
        read_side.a_user(f"user{number}@example.com")
    for number in range(COUNT - 1):
        read_side.done(rename(1000, f"Name {number}"))
    read_side.project()
    read_side.project_streams()
    return read_side


def pages(read_side: ReadSide, kind: str, name: str, body: Body, **more: Any) -> list[list[Body]]:
    """The pages of a list, to its end."""
    found: list[list[Body]] = []
    following: Body | None = {}
    while following is not None:
        page = read_side.answer(kind.partition(" ")[0], **{**body, **more, **following})
        found.append(page[name])
        following = page["next"]
    return found


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize(("page_bytes", "limit"), [(1, 1000), (300, 1000), (10**6, 5), (10**6, COUNT)])
def test_pages_hold_every_row_once_and_in_order(
    full: ReadSide, monkeypatch: pytest.MonkeyPatch, kind: str, page_bytes: int, limit: int
) -> None:
    name, body = LISTS[kind]
    (expected,) = pages(full, kind, name, body, limit=1000)
    monkeypatch.setattr("workers.runtime.pages.PAGE_BYTES", page_bytes)

    found = pages(full, kind, name, body, limit=limit)

    assert [row for page in found for row in page] == expected
    assert len(expected) >= COUNT - 2
    assert all(found), "no page is empty"
    assert (len(found) == 1) == (page_bytes > 1000 and limit >= len(expected))


def test_events_are_read_in_pages_that_fit(full: ReadSide, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.runtime.pages.PAGE_BYTES", 1500)
    found: list[int] = []
    position, sizes = 0, set()
    while position < full.store.head():
        page = full.answer("events.read", after_position=position, type="user-renamed")
        found += [event["position"] for event in page["events"]]
        sizes.add(len(page["events"]))
        position = page["position"]

    assert found == list(range(COUNT + 1, 2 * COUNT))
    assert max(sizes) < COUNT - 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"a":"%s"}' % (b"x" * 2 * MAX_MESSAGE_BYTES), "too-large"),
        (b'{"a":' + b"[" * 900 + b"]" * 900 + b"}", "damaged"),
    ],
    ids=["large", "deep"],
)
def test_an_event_that_no_reply_can_carry_is_shown_without_its_data(
    read_side: ReadSide, data: bytes, reason: str
) -> None:
    foreign = EventData(uuid4(), "foreign", data, b"")
    append(read_side.store, "elsewhere", NO_STREAM, [foreign])
    read_side.a_user(ADA)

    page = read_side.answer("events.read")

    assert len(encode(page, "the reply")) < 10_000
    assert [(event["type"], event.get("unreadable")) for event in page["events"]] == [
        ("foreign", {"data": reason}),
        ("user-registered.v1", None),
    ]
    assert page["events"][0]["data"] == {}


@pytest.mark.parametrize("actor", ["x" * 900_000, "Ada Lovelace <ada@example.com>"], ids=["long", "a person"])
def test_an_actor_of_an_earlier_version_that_is_no_name_is_not_shown(read_side: ReadSide, actor: str) -> None:
    ids = dict.fromkeys(("command_id", "correlation_id", "causation_id"), str(uuid4()))
    metadata = json.dumps({**ids, "command": "open", "actor": actor}).encode()
    append(read_side.store, "old", NO_STREAM, [EventData(uuid4(), "opened", b"{}", metadata)])

    (event,) = read_side.answer("streams.read", stream="old")["events"]

    assert event["actor"] == "unknown"
    assert "unreadable" not in event


def test_the_pages_of_one_batch_are_limited(full: ReadSide, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.projections.service._BATCH_BYTES", 3000)
    requests = [Request("users.list", {}) for _ in range(5)]
    rounds: list[int] = []
    while requests:
        replies = full.queries().handle(requests)
        requests = [
            request for request, reply in zip(requests, replies, strict=True) if isinstance(reply, Later)
        ]
        rounds.append(len(replies) - len(requests))

    assert sum(rounds) == 5
    assert len(rounds) > 1
