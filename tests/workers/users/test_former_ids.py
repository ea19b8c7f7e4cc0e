"""Command ids of version 7 that an earlier version handled: its events have ids that are derived in another way."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pytest

from adapters import wiring
from adapters.sqlite.read_model import SqliteReadModel
from domain.kernel import loaded_stream
from domain.kernel.events import former_event_id
from domain.kernel.messages import Request
from domain.kernel.uuid7 import Uuid7s
from domain.users.account import USER
from tests.support.accounts import ADA, GRACE, Accounts, change, create, delete, rename
from workers.users.consistency import Streams

new_id = Uuid7s(lambda: 1_760_000_000_000_000, os.urandom)


@pytest.fixture
def before(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> Callable[[Request], int]:
    """Handle a request as an earlier version did; returns the user id."""

    def handled(request: Request) -> int:
        with monkeypatch.context() as patched:
            patched.setattr(loaded_stream, "event_id", former_event_id)
            return int(accounts.done(request)["user_id"])

    return handled


@pytest.mark.parametrize(
    "change_of",
    [
        lambda user_id, command: rename(user_id, "Countess", command),
        lambda user_id, command: change(user_id, GRACE, command),
        lambda user_id, command: delete(user_id, command),
    ],
)
def test_a_repeated_change_finds_the_first_result(
    accounts: Accounts, before: Callable[[Request], int], change_of: Callable[[int, UUID], Request]
) -> None:
    user_id = accounts.a_user(ADA)
    request = change_of(user_id, new_id())
    before(request)
    head = accounts.store.head()

    assert accounts.done(request)["position"] == head
    assert accounts.store.head() == head


def test_a_repeated_registration_finds_the_first_user(
    accounts: Accounts, before: Callable[[Request], int]
) -> None:
    request = create(ADA, new_id())
    user_id = before(request)

    assert accounts.done(request)["user_id"] == str(user_id)
    assert accounts.active() == [(user_id, ADA)]


def test_a_registration_whose_claim_was_not_confirmed_is_found(
    accounts: Accounts, before: Callable[[Request], int]
) -> None:
    request = create(ADA, new_id())
    user_id = before(request)
    accounts.change_vault("UPDATE email_claims SET expires_at_us = 9000000000000000")

    assert accounts.done(request)["user_id"] == str(user_id)
    assert accounts.owner(ADA) == user_id
    assert accounts.types(user_id) == ["user-registered.v1"]


@pytest.mark.parametrize("is_changed", [False, True])
def test_the_deep_check_knows_the_former_ids_and_no_others(
    accounts: Accounts, before: Callable[[Request], int], tmp_path: Path, is_changed: bool
) -> None:
    ids = [before(create(ADA, new_id())), int(accounts.done(create(GRACE, new_id()))["user_id"])]
    events = [event for user_id in ids for event in accounts.store.read_stream(USER.stream_of(user_id))]
    assert [event.event_id.version for event in events] == [5, 7]
    if is_changed:
        events = [event._replace(id_bytes=new_id().bytes) for event in events]
    problems: list[str] = []
    with closing(SqliteReadModel(tmp_path / "scratch.db")) as scratch:
        Streams(
            scratch=scratch,
            codec=accounts.codec,
            keyring=wiring.keyring_of(accounts.vault),
            prefixes=(USER.prefix,),
            report=problems.append,
        ).read(events)

    assert (
        len([problem for problem in problems if "follows from its command id" in problem]) == 2 * is_changed
    )
