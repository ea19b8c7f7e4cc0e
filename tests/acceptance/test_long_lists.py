"""Lists that are larger than a reply, and clients that do not read: every row is printed, and no other client waits."""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from pathlib import Path
from uuid import uuid4

import pytest

from adapters import wiring
from domain.kernel.errors import EsError
from tests.support.local import a_frame, connected
from tests.support.people import people
from tests.support.system import System

pytestmark = pytest.mark.usually_over("embedded", because="it is about the command line")

COUNT = 1000


@pytest.fixture(scope="module")
def longest(shared: System) -> System:
    """Users with the longest allowed names and addresses, and a user with as many events."""
    domain = ".".join(["b" * 61] * 3) + ".com"
    users = [
        {**person, "email": f"{number:05}{'a' * 59}@{domain}", "name": "\U0001f389" * 200}
        for number, person in enumerate(people(COUNT, prefix="long"))
    ]
    shared.bulk("create", users).ok()
    shared.caught_up()
    return shared


@pytest.mark.parametrize("limit", [COUNT, COUNT - 1, 3000])
def test_a_list_of_the_longest_users_is_complete(longest: System, limit: int) -> None:
    listed = longest.es("users", "list", "--limit", str(limit), "--json").ok().objects

    ids = [int(user["user_id"]) for user in listed]
    assert ids == sorted(set(ids))
    assert len(ids) == min(limit, COUNT)


def test_all_events_of_the_longest_users_are_printed(longest: System) -> None:
    events = longest.es("events", "tail", "--from", "0", "--no-follow", "--json").ok().objects

    registered = [event for event in events if event["type"] == "user-registered.v1"]
    assert len({event["stream"] for event in registered}) == len(registered) == COUNT


def test_a_stream_of_the_longest_events_is_printed_in_both_directions(longest: System) -> None:
    user_id = longest.create("many@example.com", "Many")
    with closing(wiring.open_caller(longest.settings)) as caller:
        for number in range(500):
            given = {"user_id": user_id, "name": f"{number:03}" + "\U0001f389" * 197}
            caller.ask("users", "users.rename", {"command_id": str(uuid4()), "input": given})

    read = ("streams", "read", f"user-{user_id}", "--limit", "501", "--json")
    forwards = longest.es(*read).ok().objects
    backwards = longest.es(*read, "--backwards").ok().objects

    assert [event["version"] for event in forwards] == list(range(501))
    assert backwards == forwards[::-1]
    assert len(longest.history(user_id)) == 501


def test_a_hostile_actor_is_refused_and_harms_no_history(shared: System) -> None:
    user_id = shared.create("acted@example.com", "Acted")
    body = {"command_id": str(uuid4()), "input": {"user_id": user_id, "name": "New"}}
    with closing(wiring.open_caller(shared.settings)) as caller:
        for actor in ("x" * 900_000, "\x1b[2J"):
            with pytest.raises(EsError, match="actor must be"):
                caller.ask("users", "users.rename", {**body, "actor": actor})

    assert [event["actor"] for event in shared.history(user_id)] == [f"uid:{shared.root.stat().st_uid}"]


# --- clients that do not read ----------------------------------------------------------------


def _resident_mb(pid: int) -> int:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmHWM" in line]
    return int(line.split()[1]) // 1024


@pytest.mark.over("embedded", because="with RabbitMQ the broker holds the replies")
@pytest.mark.parametrize(("kind", "clients"), [("events.read", 1), ("users.list", 20)])
def test_replies_that_are_not_read_take_bounded_memory(longest: System, kind: str, clients: int) -> None:
    pid = longest.pid_of("projections")
    before_mb = _resident_mb(pid)
    flood = a_frame(json.dumps({"id": 1, "kind": kind, "body": {"limit": 1000}})) * 4000
    with ExitStack() as stack:
        for _ in range(clients):
            client = stack.enter_context(connected(longest.settings.run / "projections.sock"))
            client.setblocking(False)
            client.send(flood)

        for _ in range(8):
            longest.es("users", "list", "--limit", "1").ok()
        longest.es("events", "tail", "--from", "0", "--no-follow").ok()

    assert _resident_mb(pid) - before_mb < 150


@pytest.mark.over("embedded", because="over RabbitMQ there are no frames")
def test_a_frame_that_is_all_id_ends_no_worker(shared: System) -> None:
    head, tail = b'{"id":"', b'","kind":"x"}'
    frame = a_frame(head + b"i" * ((1 << 20) - len(head) - len(tail)) + tail)
    pids = [shared.pid_of(role) for role in shared.roles]

    for role in (*shared.roles, "supervisor"):
        with connected(shared.settings.run / f"{role}.sock") as client:
            client.sendall(frame)
            assert client.recv(1) == b"", "the connection is closed"

    assert [shared.pid_of(role) for role in shared.roles] == pids
    shared.create("after-the-frame@example.com", "After")
