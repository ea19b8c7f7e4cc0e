"""Personal values that cannot be opened: an error that says why, never a blank, and never the value."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.sqlite.vault import SqliteVault
from domain.kernel.errors import EsError, KeyUnavailable, PartUnavailable, Tampered, UnknownRequest
from domain.kernel.messages import Body, Request
from domain.users.account import USER
from tests.support.accounts import ADA, ALAN, GRACE
from tests.support.parts import Unavailable
from tests.support.read_side import ReadSide


@pytest.fixture
def moved(read_side: ReadSide) -> tuple[int, int]:
    """Two users; the sealed name of the first was copied into the row of the second."""
    ada, grace = read_side.a_user(ADA), read_side.a_user(GRACE)
    read_side.project()
    sealed = read_side.rows()[ada]["name"]
    read_side.change_rows("UPDATE users_g1 SET name = ? WHERE user_id = ?", sealed, grace)
    return ada, grace


def test_a_sealed_value_in_the_row_of_another_user_is_tampered(
    read_side: ReadSide, moved: tuple[int, int]
) -> None:
    ada, grace = moved

    assert read_side.ask("users.get", user_id=str(grace)) == Tampered(grace, "name")
    assert isinstance(read_side.ask("users.list"), Tampered)
    assert read_side.answer("users.get", user_id=str(ada))["email"] == ADA


def test_a_sealed_value_in_another_column_is_tampered(read_side: ReadSide) -> None:
    user_id = read_side.a_user(ADA)
    read_side.project()
    read_side.change_rows("UPDATE users_g1 SET name = email")

    assert read_side.ask("users.get", user_id=str(user_id)) == Tampered(user_id, "name")


@pytest.mark.parametrize("text", ["", "readable", "es1:1000:x:y", "es2:1000:" + "0" * 32 + ":AAAA"])
def test_a_value_that_is_not_sealed_is_tampered_and_not_shown(read_side: ReadSide, text: str) -> None:
    user_id = read_side.a_user(ADA)
    read_side.project()
    read_side.change_rows("UPDATE users_g1 SET name = ?", text)

    assert read_side.ask("users.get", user_id=str(user_id)) == Tampered(user_id, "name")


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
    ada, grace = moved
    requests = [
        Request("users.get", {"user_id": str(grace)}),
        Request("users.get", {"user_id": str(ada)}),
        Request("users.explode", {}),
        Request("users.get", {"user_id": "5"}),
        Request("users.list", {"limit": 1}),
    ]

    replies = read_side.queries().handle(requests)

    names = [type(reply).__name__ for reply in replies]
    assert names == ["Tampered", "dict", "UnknownRequest", "UserNotFound", "dict"]
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
