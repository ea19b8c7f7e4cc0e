"""Queries about users: at least the requested position or an error, and no user is found by another's address."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from adapters import wiring
from domain.kernel.errors import EsError, InvalidInput, Kind, PartUnavailable
from domain.kernel.messages import Body, Request
from domain.users.account import USER, UserErased
from domain.users.errors import NotYetThen, NoUserWithEmail, UserNotFound
from tests.support.accounts import ADA, GRACE, change, create, delete, erase, rename
from tests.support.parts import Steps, replaced, unavailable
from tests.support.read_side import ReadSide
from tests.support.vaults import destroy
from workers.runtime.queries import LIST_LIMIT, PATIENCE_S

DAY_US = 86_400_000_000


# --- one user --------------------------------------------------------------------------------


def test_a_user_is_shown_with_readable_data(read_side: ReadSide) -> None:
    user_id = read_side.a_user(ADA)
    read_side.done(rename(user_id, "Ada Lovelace"))
    read_side.project()

    shown = read_side.answer("users.get", user_id=str(user_id))

    times = [shown.pop("registered_at"), shown.pop("updated_at")]
    assert shown == {
        "user_id": str(user_id),
        "email": ADA,
        "name": "Ada Lovelace",
        "status": "active",
        "version": 1,
    }
    assert all(time.endswith("Z") and "T" in time for time in times)


@pytest.mark.parametrize(("end", "status", "email"), [(delete, "deleted", ADA), (erase, "erased", None)])
def test_a_closed_account_is_shown_with_its_status(
    read_side: ReadSide, end: Callable[[int], Request], status: str, email: str | None
) -> None:
    user_id = read_side.a_user(ADA)
    read_side.done(end(user_id))
    read_side.project()

    shown = read_side.answer("users.get", user_id=str(user_id))

    assert (shown["status"], shown["email"]) == (status, email)


def test_a_missing_user_is_not_found(read_side: ReadSide) -> None:
    read_side.a_user(ADA)
    read_side.project()

    assert read_side.ask("users.get", user_id="5") == UserNotFound(5)


def test_users_of_one_batch_are_answered_as_each_alone(read_side: ReadSide) -> None:
    ada, grace, gone = (read_side.a_user(email) for email in (ADA, GRACE, "gone@example.com"))
    read_side.done(rename(ada, "Ada Lovelace"))
    read_side.done(erase(gone))
    read_side.project()
    bodies: list[dict[str, object]] = [
        {"user_id": str(grace)},
        {"user_id": "five"},
        {"user_id": str(ada)},
        {"user_id": "5"},
        {"user_id": str(ada), "version": 0},
        {"user_id": str(ada), "version": 99},
        {"user_id": str(ada), "after_position": 99},
        {"user_id": str(gone)},
        {"user_id": str(grace)},
        {"user_id": str(ada), "after_position": 4, "fresh": True},
    ]

    together = read_side.queries().handle([Request("users.get", dict(body)) for body in bodies])

    assert together == [read_side.ask("users.get", **body) for body in bodies]
    assert sum(isinstance(reply, dict) for reply in together) == 6


@pytest.mark.parametrize("count", [2, 200])
def test_the_number_of_reads_does_not_depend_on_that_of_the_requests(read_side: ReadSide, count: int) -> None:
    people = [read_side.a_user(f"user{number}@example.com") for number in range(count // 2)]
    read_side.project()
    steps = Steps()
    parts = steps.watched(store=read_side.store, read_model=read_side.read_model, vault=read_side.vault)
    service = read_side.queries(**parts, keyring=lambda subjects: wiring.keyring_of(parts["vault"])(subjects))
    steps.calls.clear()
    missing = [str(number) for number in range(5, 5 + count // 2)]
    requests = [
        Request("users.get", {"user_id": str(id_), "after_position": 1}) for id_ in (*people, *missing)
    ]

    replies = service.handle(requests)

    assert [isinstance(reply, dict) for reply in replies] == [True] * len(people) + [False] * len(missing)
    assert steps.calls == [
        "store.head",
        "read_model.rows",
        "store.head",
        "read_model.rows",
        "vault.data_keys",
    ]


def test_an_outage_of_the_vault_leaves_the_replies_that_need_no_key(read_side: ReadSide) -> None:
    user_id = read_side.a_user(ADA)
    read_side.project()
    requests = [Request("users.get", {"user_id": each}) for each in (str(user_id), "five", "5")]

    found, wrong, missing = read_side.queries(keyring=unavailable).handle(requests)

    assert isinstance(found, PartUnavailable)
    assert isinstance(wrong, InvalidInput)
    assert missing == UserNotFound(5)


def test_an_outage_of_the_rows_leaves_the_replies_that_need_none(read_side: ReadSide) -> None:
    user_id = read_side.a_user(ADA)
    read_side.project()
    bodies: list[dict[str, object]] = [{"user_id": "five"}, {"user_id": str(user_id)}]
    bodies.append({"user_id": str(user_id), "version": 0})
    service = read_side.queries(read_model=replaced(read_side.read_model, rows=unavailable))

    wrong, current, first = service.handle([Request("users.get", body) for body in bodies])

    assert isinstance(wrong, InvalidInput)
    assert isinstance(current, PartUnavailable)
    assert isinstance(first, dict)


def test_a_history_has_every_opened_event_with_command_and_actor(read_side: ReadSide) -> None:
    user_id = read_side.a_user(ADA)
    read_side.done(rename(user_id, "Countess"))
    read_side.done(delete(user_id))

    events = read_side.answer("users.history", user_id=str(user_id))["events"]

    assert [(event["type"], event["version"], event["data"]) for event in events] == [
        ("user-registered.v1", 0, {"email": ADA, "name": "Some Body"}),
        ("user-renamed.v1", 1, {"name": "Countess"}),
        ("user-deleted.v1", 2, {}),
    ]
    assert {event["actor"] for event in events} == {"uid:1000"}
    assert [event["command"] for event in events] == ["register-user", "rename-user", "delete-user"]
    assert read_side.ask("users.history", user_id="5") == UserNotFound(5)


# --- waiting for a position ------------------------------------------------------------------


def test_a_user_that_is_not_projected_yet_is_waited_for(read_side: ReadSide) -> None:
    request = Request("users.get", {"user_id": str(read_side.a_user(ADA))})

    assert read_side.waits(request), "it is not missing"
    read_side.project()

    reply = read_side.reply_to(request)
    assert isinstance(reply, dict)
    assert reply["email"] == ADA


def test_a_query_waits_for_the_position_of_a_command(read_side: ReadSide) -> None:
    user_id = read_side.a_user(ADA)
    read_side.project()
    position = read_side.done(rename(user_id, "New"))["position"]
    request = Request("users.get", {"user_id": str(user_id), "after_position": position})

    assert read_side.waits(request)
    assert read_side.waits(request)
    shown = read_side.answer("users.get", user_id=str(user_id))
    assert shown["name"] != "New", "without a position it does not wait"
    read_side.project()

    reply = read_side.reply_to(request)
    assert isinstance(reply, dict)
    assert reply["name"] == "New"


@pytest.mark.parametrize(
    ("kind", "body"),
    [("users.list", {}), ("users.get", {"user_id": "1000"}), ("users.find", {"email": ADA})],
    ids=["users.list", "users.get", "users.find"],
)
def test_a_fresh_reply_includes_every_event_that_is_stored_now(
    read_side: ReadSide, kind: str, body: Body
) -> None:
    user_id = read_side.a_user(ADA)
    assert user_id == 1000
    read_side.project()
    read_side.done(rename(user_id, "New"))
    request = Request(kind, {**body, "fresh": True})

    assert read_side.waits(request)
    read_side.project()
    read_side.done(rename(user_id, "Even newer"))  # stored after the request, so it does not wait for it

    reply = read_side.reply_to(request)
    assert isinstance(reply, dict)
    assert (reply["users"][0] if kind == "users.list" else reply)["name"] == "New"


def test_a_query_that_waits_too_long_fails_with_the_reached_position(read_side: ReadSide) -> None:
    read_side.a_user(ADA)
    request = Request("users.list", {"fresh": True})
    assert read_side.waits(request)

    read_side.now_s += PATIENCE_S + 0.1
    reply = read_side.reply_to(request)

    assert isinstance(reply, PartUnavailable)
    assert "at position 0, not yet at 1" in str(reply)
    error = {"code": "unavailable", "message": "the disk is full"}
    assert str(read_side.reply_to(request, last_error=lambda _: error)) == f"{reply}: the disk is full"


def test_a_position_after_the_head_is_refused(read_side: ReadSide) -> None:
    read_side.a_user(ADA)
    read_side.project()

    assert isinstance(read_side.ask("users.list", after_position=99), InvalidInput)
    assert isinstance(read_side.ask("users.list", after_position=1), dict)


# --- find ------------------------------------------------------------------------------------


@pytest.mark.parametrize("email", [ADA, " ADA@Example.com "])
def test_a_user_is_found_by_any_spelling_of_the_address(read_side: ReadSide, email: str) -> None:
    user_id = read_side.a_user(ADA)
    read_side.a_user(GRACE)
    read_side.project()

    assert read_side.answer("users.find", email=email)["user_id"] == str(user_id)


def test_an_address_without_a_user_is_not_found(read_side: ReadSide) -> None:
    read_side.a_user(ADA)
    read_side.project()

    assert read_side.ask("users.find", email=GRACE) == NoUserWithEmail()
    assert isinstance(read_side.ask("users.find", email="no address"), InvalidInput)
    assert isinstance(read_side.ask("users.find"), InvalidInput)


@pytest.mark.parametrize("end", [delete, erase])
def test_a_closed_account_is_not_found_by_its_address(
    read_side: ReadSide, end: Callable[[int], Request]
) -> None:
    read_side.done(end(read_side.a_user(ADA)))
    read_side.project()

    assert read_side.ask("users.find", email=ADA) == NoUserWithEmail()


def test_a_user_is_not_found_by_a_former_address(read_side: ReadSide) -> None:
    # The claim of the former address stays until a process has released it.
    user_id = read_side.a_user(ADA)
    read_side.done(change(user_id, GRACE))
    read_side.project()

    assert read_side.answer("users.find", email=GRACE, fresh=True)["user_id"] == str(user_id)
    assert read_side.ask("users.find", email=ADA, fresh=True) == NoUserWithEmail()


@pytest.mark.parametrize("registers", [True, False])
def test_a_reserved_address_is_not_found(read_side: ReadSide, registers: bool) -> None:
    subject = 77 if registers else read_side.a_user(GRACE)
    read_side.reserve(ADA, subject, registers=registers)
    read_side.project()

    reply = read_side.ask("users.find", email=ADA)

    assert isinstance(reply, EsError)
    assert reply.kind is Kind.NOT_FOUND
    assert "77" not in str(reply), "the reply does not name the user that reserved it"


# --- list ------------------------------------------------------------------------------------


@pytest.fixture
def ten(read_side: ReadSide) -> list[str]:
    """The ids of ten read_side. One is deleted, one is erased."""
    ids = [read_side.a_user(f"user{number}@example.com") for number in range(10)]
    read_side.done(delete(ids[3]))
    read_side.done(erase(ids[6]))
    read_side.project()
    return [str(user_id) for user_id in ids]


def listed(read_side: ReadSide, **body: object) -> list[str]:
    return [user["user_id"] for user in read_side.answer("users.list", **body)["users"]]


def test_all_users_are_listed_in_order_of_id(read_side: ReadSide, ten: list[str]) -> None:
    users = read_side.answer("users.list")["users"]

    assert [user["user_id"] for user in users] == ten
    assert [user["email"] for user in users] == [
        None if number == 6 else f"user{number}@example.com" for number in range(10)
    ]


def test_pages_of_a_list_have_no_gap_and_no_repetition(read_side: ReadSide, ten: list[str]) -> None:
    pages = [listed(read_side, limit=4)]
    while page := listed(read_side, limit=4, after=pages[-1][-1]):
        pages.append(page)

    assert pages == [ten[:4], ten[4:8], ten[8:]]


def test_a_list_can_be_limited_to_a_status(read_side: ReadSide, ten: list[str]) -> None:
    assert listed(read_side, status="deleted") == [ten[3]]
    assert listed(read_side, status="erased") == [ten[6]]
    assert len(listed(read_side, status="active")) == 8
    assert listed(read_side, status="active", after=ten[2], limit=2) == ten[4:6]


def test_a_list_has_at_most_a_thousand_users(read_side: ReadSide) -> None:
    for start in range(0, LIST_LIMIT + 50, 50):
        read_side.handle(*(create(f"user{number}@example.com") for number in range(start, start + 50)))
    read_side.project()

    assert len(listed(read_side, limit=10 * LIST_LIMIT)) == LIST_LIMIT
    assert len(listed(read_side)) == 100


# --- as of a version or a time ---------------------------------------------------------------


@pytest.fixture
def life(read_side: ReadSide) -> int:
    """A user: registered on day 0, renamed on day 1, with a new address from day 2, deleted on day 3."""
    read_side.now_us = 0
    user_id = read_side.a_user(ADA)
    for command in (rename(user_id, "Countess"), change(user_id, GRACE), delete(user_id)):
        read_side.now_us += DAY_US
        read_side.done(command)
    return user_id


@pytest.mark.parametrize(
    ("version", "name", "email", "status"),
    [
        (0, "Some Body", ADA, "active"),
        (1, "Countess", ADA, "active"),
        (2, "Countess", GRACE, "active"),
        (3, "Countess", GRACE, "deleted"),
    ],
)
def test_a_user_is_shown_as_of_a_version(
    read_side: ReadSide, life: int, version: int, name: str, email: str, status: str
) -> None:
    shown = read_side.answer("users.get", user_id=str(life), version=version)

    fields = (shown["name"], shown["email"], shown["status"], shown["version"])
    assert fields == (name, email, status, version)
    assert shown["registered_at"] == "1970-01-01T00:00:00.000000Z"
    assert shown["updated_at"] == f"1970-01-0{version + 1}T00:00:00.000000Z"


@pytest.mark.parametrize(("days", "version"), [(0.0, 0), (0.5, 0), (1.0, 1), (2.9, 2), (3.0, 3), (99.0, 3)])
def test_a_user_is_shown_as_of_a_time(read_side: ReadSide, life: int, days: float, version: int) -> None:
    shown = read_side.answer("users.get", user_id=str(life), at_us=int(days * DAY_US))

    assert shown["version"] == version


def test_the_earlier_of_version_and_time_is_shown(read_side: ReadSide, life: int) -> None:
    for version, expected in ((3, 1), (0, 0)):
        shown = read_side.answer("users.get", user_id=str(life), version=version, at_us=DAY_US)
        assert shown["version"] == expected


def test_a_version_after_the_last_is_refused_with_the_last(read_side: ReadSide, life: int) -> None:
    assert read_side.ask("users.get", user_id=str(life), version=99) == NotYetThen(life, 3)
    assert read_side.ask("users.get", user_id=str(life), version=4) == NotYetThen(life, 3)


def test_a_user_does_not_exist_before_the_registration(read_side: ReadSide) -> None:
    user_id = read_side.a_user(ADA)

    assert read_side.ask("users.get", user_id=str(user_id), at_us=5) == NotYetThen(user_id, 0)
    assert read_side.ask("users.get", user_id="5", version=0) == UserNotFound(5)


def test_the_past_of_an_erased_user_is_blank(read_side: ReadSide) -> None:
    user_id = read_side.a_user(ADA)
    read_side.done(erase(user_id))

    # Before the key is destroyed and after it: `user-erased` is enough.
    for _ in range(2):
        shown = read_side.answer("users.get", user_id=str(user_id), version=0)
        assert (shown["email"], shown["name"], shown["status"]) == (None, None, "active")
        history = read_side.answer("users.history", user_id=str(user_id))["events"]
        assert history[0]["data"] == {"email": None, "name": None}
        destroy(read_side.vault, user_id)


def test_an_erasure_of_an_earlier_version_opens_nothing_and_hides_its_text(read_side: ReadSide) -> None:
    user_id = read_side.a_user(ADA)
    read_side.store_event(user_id, "user-erased.v1", b'{"basis":"Ada Lovelace asked for it"}')

    history = read_side.answer("users.history", user_id=str(user_id))["events"]
    read = read_side.answer("streams.read", stream=USER.stream_of(user_id))["events"]

    assert history[0]["data"] == {"email": None, "name": None}
    for events in (history, read, read_side.answer("events.read")["events"]):
        assert (events[-1]["type"], events[-1]["data"]) == (UserErased.type, {"basis": "other"})
        assert "Lovelace" not in str(events)


# --- wrong input -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        *(("users.get", body) for body in ({}, *({"user_id": id_} for id_ in ("x", 0, None, [1])))),
        *(("users.list", {"after_position": value}) for value in (-1, "1", 1.5, True, 1 << 63, [1])),
        *(("users.list", {"status": value}) for value in ("unknown", 5)),
        *(("users.list", {"limit": value}) for value in (-1, "all")),
        ("users.list", {"after": "x"}),
        *(("users.get", {"user_id": "1000", "version": value}) for value in ("0", -1, 1.5, True, [0])),
        *(("users.get", {"user_id": "1000", "at_us": value}) for value in ("0", -1, 1.5, True, [0])),
    ],
    ids=str,
)
def test_a_query_with_a_wrong_field_is_refused(read_side: ReadSide, kind: str, body: Body) -> None:
    assert read_side.a_user(ADA) == 1000
    read_side.project()

    assert isinstance(read_side.ask(kind, **body), InvalidInput)
