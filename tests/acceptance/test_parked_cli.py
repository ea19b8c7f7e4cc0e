"""`es projections parked …`: an event that a projection cannot apply is told of, shown, given up, and the rest applied."""

from __future__ import annotations

from contextlib import closing
from uuid import uuid4

import pytest

from adapters.wiring import open_store
from domain.kernel.events import EventData
from domain.kernel.ports.event_store import Appended
from tests.support.builders import append
from tests.support.system import System
from tests.support.terminal import on_terminal, plain

USERS = ("projections", "parked")


pytestmark = pytest.mark.over(
    "embedded", "distributed", because="the broker carries these requests as it carries all others"
)


def _store(system: System, user_id: str, *events: tuple[str, bytes]) -> None:
    stored = [EventData(uuid4(), type_, data, b"{}") for type_, data in events]
    with closing(open_store(system.settings.store)) as store:
        assert isinstance(append(store, f"user-{user_id}", 0, stored), Appended)


def test_parked_events_are_told_of_shown_given_up_and_retried(shared: System) -> None:
    user_id, other = shared.create(), shared.create("grace@example.com", "Grace")
    assert (
        shared.es(*USERS, "list", "users").ok().out
        == shared.es(*USERS, "retry", "users", "--all").ok().out
        == ""
    )
    _store(shared, user_id, ("user-exploded.v9", b'{"name":"canary-8"}'), ("user-deleted.v1", b"{}"))
    shared.caught_up()
    stream = f"user-{user_id}"

    (listed,) = shared.es(*USERS, "list", "users", "--json").ok().objects
    assert (listed["stream"], listed["type"], listed["behind"]) == (stream, "user-exploded.v9", 1)
    assert listed in shared.es(*USERS, "list", "--json").ok().objects, (
        "without a name it lists all projections"
    )
    position = str(listed["position"])
    shown = shared.es(*USERS, "show", "users", position, "--json").ok()
    assert shown.object["data"] == {"name": None}
    text = shared.es(*USERS, "show", "users", position).ok().out
    assert "canary" not in shown.out + text
    assert "data.name  (unreadable: not-sealed)" in text
    assert shared.get(other)["status"] == "active", "other streams go on"

    status, doctor = shared.es("status").exits(1), shared.es("doctor", "--quiet").exits(1)
    for said in (status.out, doctor.out):
        assert "`es projections parked list users`" in said
        assert "`es projections parked retry users --all`" in said

    failed = shared.es(*USERS, "retry", "users", "--all", "--json").exits(1)
    assert failed.objects == [
        {"stream": stream, "applied": 0, "left": 2, "error": "unknown event type 'user-exploded.v9'"}
    ]
    assert failed.error["code"] == "still-parked"

    refused = shared.es(*USERS, "drop", "users", position).failed(2)
    assert "--yes is needed" in refused.err
    asked = on_terminal(shared, *USERS, "drop", "users", position, typed=b"n\n")
    assert "parked for: unknown event type" in plain(asked.out)
    assert (asked.code, "may be wrong until `es projections rebuild users`" in plain(asked.out)) == (1, True)
    (unchanged,) = shared.es(*USERS, "list", "users", "--json").ok().objects
    assert unchanged == listed, "nothing was dropped"
    dropped = shared.es(*USERS, "drop", "users", position, "--yes").ok()
    assert f"es projections parked retry users --stream {stream}" in dropped.err
    assert shared.es(*USERS, "retry", "users", "--stream", stream).ok().out == f"{stream}: 1 applied\n"
    assert shared.get(user_id)["status"] == "deleted"
    shared.es("status").ok()

    shared.es("projections", "rebuild", "users").ok()
    (again,) = shared.es(*USERS, "list", "users", "--json").ok().objects
    assert (str(again["position"]), again["behind"]) == (position, 1), "a rebuild reads dropped events too"


def test_wrong_arguments_of_parked_commands_are_told(shared: System) -> None:
    for words in (
        ("list", "nonsense"),
        ("show", "users", "0"),
        ("retry", "users", "0"),
        ("drop", "users", "0", "--yes"),
    ):
        shared.es(*USERS, *words).failed(3)
    for words in (("retry", "users"), ("retry", "users", "0", "--all"), ("show", "users", "x")):
        shared.es(*USERS, *words).failed(2)
