"""The clean-up counts what it removed and what failed, and waits for erasures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import es
from adapters.settings import load_settings
from load.cleanup import Cleaned, cleanup
from tests.support.kept import USER, Kept


class Client:
    """Answers as it is told, and notes what it was asked to do."""

    def __init__(self, kept: Kept, replies: dict[int, Any], owed: Sequence[Sequence[int]] = ()) -> None:
        self.sent: list[tuple[str, dict[str, str]]] = []
        self._kept = kept
        self._replies = replies
        self._owed = iter(owed)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ask(self, kind: str, body: dict[str, Any], *, role: str = "projections") -> dict[str, Any]:
        if kind != "erasures.owed":
            return self._kept.ask(kind, body)
        assert role == "erasures"
        return {"owed": [{"user_id": str(user_id)} for user_id in next(self._owed)], "next": None}

    def send_many(self, commands: Sequence[tuple[str, dict[str, str]]]) -> Iterator[object]:
        self.sent += commands
        for _, given in commands:
            yield self._replies.get(int(given["user_id"]), es.Answer("", 0, 1, "1"))


def clean(kept: Kept, client: Client, monkeypatch: pytest.MonkeyPatch, *, erase: bool = False) -> Cleaned:
    monkeypatch.setattr("load.cleanup.Client", lambda **_: client)
    monkeypatch.setattr("load.cleanup.time.sleep", lambda _: None)
    settings = load_settings(environment={"ES_HOME": str(kept.folder)})
    return cleanup(settings, [kept.journal.path], since_position="5", erase=erase)


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    """A run that created three users, one of them without an answer, and a user of another client."""
    kept = Kept(tmp_path)
    for number in range(2):
        kept.create(USER + 1024 * number)
    kept.keep(kept.journal.send("users.create", email="c@example.com", name="C"), USER + 2048)
    kept.journal.send("users.create", email="d@example.com", name="D")
    kept.store("user-99", "user-registered.v1", es.new_command_id())
    return kept


def test_the_users_of_the_run_alone_are_deleted(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(kept, {})

    assert clean(kept, client, monkeypatch) == Cleaned(users=3, done=3)
    assert client.sent == [("users.delete", {"user_id": str(USER + 1024 * number)}) for number in range(3)]


def test_a_failure_is_counted_and_an_erased_user_is_done(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    erased = es.Refused("user-erased", es.Kind.REFUSED, "", "")
    failed = es.Unavailable("unavailable", es.Kind.UNAVAILABLE, "", "")

    found = clean(kept, Client(kept, {USER: erased, USER + 1024: failed}), monkeypatch)

    assert found == Cleaned(users=3, done=2, errors={"unavailable": 1})
    assert not found.is_complete


def test_erasures_of_the_run_are_waited_for(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(kept, {}, owed=[[99, USER, USER + 1024], [99, USER], [99]])

    found = clean(kept, client, monkeypatch, erase=True)

    assert found == Cleaned(users=3, done=3)
    assert client.sent[0] == ("users.erase", {"user_id": str(USER), "basis": "gdpr-request"})


def test_erasures_that_do_not_get_on_are_counted(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(0, 1000, 20))
    monkeypatch.setattr("load.cleanup.time.monotonic", lambda: next(seconds))

    found = clean(kept, Client(kept, {}, owed=[[USER, USER + 1024]] + [[USER]] * 9), monkeypatch, erase=True)

    assert found == Cleaned(users=3, done=3, owed=1)
    assert not found.is_complete
