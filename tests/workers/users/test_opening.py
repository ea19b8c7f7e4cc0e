"""Personal values that cannot be opened: shown as unreadable with the reason, never as erased, and never the value."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from adapters.sqlite.vault import SqliteVault
from domain.kernel.errors import (
    EsError,
    KeyDamaged,
    KeyMissing,
    KeyUnavailable,
    PartUnavailable,
    SealedByNewer,
    Tampered,
    UnknownRequest,
)
from domain.kernel.events import EventData
from domain.kernel.messages import Body, Request
from domain.users.account import USER
from tests.support.accounts import ADA, ALAN, GRACE, change, delete, erase
from tests.support.builders import append
from tests.support.parts import Unavailable
from tests.support.read_side import ReadSide
from tests.support.vaults import destroy


@pytest.fixture
def moved(read_side: ReadSide) -> tuple[int, int]:
    """Two users; the sealed name of the first was copied into the row of the second."""
    ada, grace = read_side.a_user(ADA), read_side.a_user(GRACE)
    read_side.project()
    sealed = read_side.rows()[ada]["name"]
    read_side.change_rows("UPDATE users_g1 SET name = ? WHERE user_id = ?", sealed, grace)
    return ada, grace


def unreadable(shown: Body, **reasons: str) -> bool:
    """Whether these fields, and no others, are shown as unreadable."""
    fields = {field for field in ("email", "name") if shown[field] is None}
    return shown["status"] == "unreadable" and shown["unreadable"] == reasons and fields == set(reasons)


def test_a_sealed_value_in_the_row_of_another_user_is_tampered(
    read_side: ReadSide, moved: tuple[int, int]
) -> None:
    ada, grace = moved

    assert unreadable(read_side.answer("users.get", user_id=str(grace)), name="tampered")
    first, second = read_side.answer("users.list")["users"]
    assert (first["email"], first["status"]) == (ADA, "active"), "the others are shown"
    assert unreadable(second, name="tampered")
    assert read_side.answer("users.find", email=GRACE) == second
    assert read_side.answer("users.get", user_id=str(ada))["email"] == ADA


@pytest.mark.parametrize("text", ["", "readable", "es1:1000:x:y"])
def test_a_value_that_is_not_sealed_is_tampered_and_not_shown(read_side: ReadSide, text: str) -> None:
    user_id = read_side.a_user(ADA)
    read_side.project()
    read_side.change_rows("UPDATE users_g1 SET name = ?", text)
    assert unreadable(read_side.answer("users.get", user_id=str(user_id)), name="tampered")

    read_side.change_rows("UPDATE users_g1 SET name = email, email = ?", text)
    assert unreadable(read_side.answer("users.get", user_id=str(user_id)), name="tampered", email="tampered")
    assert read_side.ask("users.find", email=ADA) == Tampered(user_id, "email"), "it may be their address"


def test_a_value_that_a_newer_version_sealed_is_said_as_such(read_side: ReadSide) -> None:
    ada, grace = read_side.a_user(ADA), read_side.a_user(GRACE)
    read_side.project()
    newer = str(read_side.rows()[ada]["name"]).replace("es1:", "es3:")
    read_side.change_rows("UPDATE users_g1 SET name = ? WHERE user_id = ?", newer, ada)

    first, second = read_side.answer("users.list")["users"]
    assert unreadable(first, name="sealed-by-newer")
    assert (second["email"], second["status"]) == (GRACE, "active"), "the others are shown"

    (registered,) = read_side.store.read_stream(USER.stream_of(grace))
    renamed = EventData(uuid4(), "user-renamed.v1", b'{"name":"es3:of another form"}', registered.metadata)
    append(read_side.store, registered.stream, 0, [renamed])
    shown = read_side.answer("users.history", user_id=str(grace))["events"][-1]
    assert (shown["data"], shown["unreadable"]) == ({"name": None}, {"name": "sealed-by-newer"})
    assert read_side.handle(change(grace, ALAN)) == [SealedByNewer(grace, "name")], "nothing is decided on it"
    read_side.done(erase(grace))


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("UPDATE data_keys SET wrapped = zeroblob(60) WHERE subject = ?", "key-damaged"),
        ("DELETE FROM data_keys WHERE subject = ?", "key-missing"),
    ],
)
def test_a_damaged_key_makes_its_user_alone_unreadable(
    read_side: ReadSide, statement: str, reason: str
) -> None:
    ada, grace = read_side.a_user(ADA), read_side.a_user(GRACE)
    read_side.project()
    read_side.change_vault(statement, ada)

    first, second = read_side.answer("users.list")["users"]

    assert unreadable(first, email=reason, name=reason)
    assert (second["user_id"], second["email"]) == (str(grace), GRACE)
    assert unreadable(read_side.answer("users.get", user_id=str(ada)), email=reason, name=reason)
    assert unreadable(read_side.answer("users.get", user_id=str(ada), version=0), email=reason, name=reason)
    (registered,) = read_side.answer("users.history", user_id=str(ada))["events"]
    assert (registered["data"], registered["unreadable"]) == (
        {"email": None, "name": None},
        {"email": reason, "name": reason},
    )
    assert isinstance(read_side.ask("users.find", email=ADA), KeyDamaged | KeyMissing)


def test_a_damaged_event_is_shown_as_unreadable_and_the_others_are_shown(read_side: ReadSide) -> None:
    user_id = read_side.a_user(ADA)
    read_side.damage(user_id)
    read_side.store_event(user_id, "user-promoted.v9", b'{"rank":1}')
    read_side.done(delete(user_id))
    shown = [
        (None, {"email": ADA, "name": "Some Body"}),
        ({"data": "damaged"}, {}),
        ({"data": "unknown-event-type"}, {"rank": 1}),
        (None, {}),
    ]

    history = read_side.answer("users.history", user_id=str(user_id))["events"]
    stored = read_side.answer("streams.read", stream=USER.stream_of(user_id))["events"]
    tail = read_side.answer("events.read")["events"]

    assert [(event.get("unreadable"), event["data"]) for event in history] == shown
    assert [event.get("unreadable") for event in stored] == [None, {"data": "damaged"}, None, None]
    assert tail == stored
    last = read_side.answer("users.get", user_id=str(user_id), version=1)
    assert unreadable(last, name="damaged"), "the damaged event may have changed the name"
    assert last["email"] == ADA


def test_an_erased_user_behind_a_parked_event_is_shown_as_erased(read_side: ReadSide) -> None:
    user_id = read_side.a_user(ADA)
    read_side.damage(user_id)
    read_side.project()
    read_side.done(erase(user_id))
    destroy(read_side.vault, user_id)

    (shown,) = read_side.answer("users.list")["users"]

    assert read_side.rows()[user_id]["status"] == "active"
    assert (shown["status"], shown["email"], "unreadable" in shown) == ("erased", None, False)


@pytest.mark.parametrize(
    ("kind", "body"),
    [("users.get", {}), ("users.get", {"version": 0}), ("users.history", {}), ("users.list", {})],
    ids=str,
)
def test_a_missing_key_is_an_error_and_never_a_blank(
    read_side: ReadSide, tmp_path: Path, kind: str, body: Body
) -> None:
    user_id = read_side.a_user(ADA)
    read_side.project()
    kept, read_side.vault = read_side.vault, SqliteVault(tmp_path / "another.db", kek=bytes(32))

    reply = read_side.ask(kind, user_id=str(user_id), **body)

    assert isinstance(reply, KeyUnavailable)
    read_side.vault.close()
    read_side.vault = kept
    assert isinstance(read_side.ask(kind, user_id=str(user_id), **body), dict), "it recovers"


def test_an_unavailable_vault_is_an_error_and_never_a_blank(read_side: ReadSide) -> None:
    user_id = read_side.a_user(ADA)
    read_side.project()
    read_side.vault.close()
    read_side.vault = Unavailable()

    for kind in ("users.get", "users.list", "users.history"):
        assert isinstance(read_side.ask(kind, user_id=str(user_id)), PartUnavailable)
    assert isinstance(read_side.ask("users.find", email=ADA), PartUnavailable)
    sealed = read_side.ask("streams.read", stream=USER.stream_of(user_id))
    assert isinstance(sealed, dict), "a sealed value needs no key"


def test_a_query_that_fails_does_not_fail_the_others_of_its_batch(
    read_side: ReadSide, moved: tuple[int, int]
) -> None:
    ada, _ = moved
    requests = [
        Request("users.find", {"email": "no address"}),
        Request("users.get", {"user_id": str(ada)}),
        Request("users.explode", {}),
        Request("users.get", {"user_id": "5"}),
        Request("users.list", {"limit": 1}),
    ]

    replies = read_side.queries().handle(requests)

    names = [type(reply).__name__ for reply in replies]
    assert names == ["InvalidInput", "dict", "UnknownRequest", "UserNotFound", "dict"]
    assert replies[2] == UnknownRequest("users.explode")


def test_an_error_does_not_repeat_the_input(read_side: ReadSide) -> None:
    read_side.a_user(ADA)
    read_side.a_user(ALAN)
    read_side.project()
    errors = [
        read_side.ask("users.find", email="canary-5f1d@example.com"),
        read_side.ask("users.find", email="canary-5f1d"),
        read_side.ask("users.list", status="canary-5f1d"),
        read_side.ask("users.get", user_id="canary-5f1d"),
    ]

    assert all(isinstance(error, EsError) for error in errors)
    assert "canary" not in str([error.to_wire() for error in errors if isinstance(error, EsError)])
