"""What holds over every set of parts: embedded, RabbitMQ with SQLite, RabbitMQ with PostgreSQL and EventStoreDB.

One set of tests, run over each profile. Nothing in it knows which one it runs over.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from contextlib import suppress
from uuid import uuid4

import pytest

from tests.acceptance.conftest import (
    PROFILES,
    ROLES,
    System,
    assert_exact,
    confirmed,
    errors,
    people,
    wait_until,
)

BULK = 1500
SEED = int(os.environ.get("ES_TEST_SEED", random.randrange(1 << 32)))


@pytest.fixture(scope="module", params=PROFILES)
def profile(request: pytest.FixtureRequest) -> str:
    """Every one, unless --profile names one."""
    chosen = request.config.getoption("--profile", None)
    if chosen not in (None, request.param):
        pytest.skip(f"--profile {chosen}")
    return str(request.param)


# --- single commands -------------------------------------------------------------------------


def test_a_created_user_is_there_for_the_very_next_call(shared: System) -> None:
    for n in range(3):
        user_id = shared.create(f"next{n}@example.com", f"Next {n}")
        user = shared.get(user_id)
        assert (user["email"], user["name"], user["status"]) == (
            f"next{n}@example.com",
            f"Next {n}",
            "active",
        )


def test_of_parallel_creates_with_one_address_exactly_one_wins(shared: System) -> None:
    rivals = [
        shared.start("users", "create", "--json", "--email", "wanted@example.com", "--name", f"Rival {n}")
        for n in range(6)
    ]
    outcomes = [(process.communicate(timeout=60), process.returncode) for process in rivals]

    assert sorted(code for _, code in outcomes) == [0, 1, 1, 1, 1, 1], outcomes
    refused = [json.loads(err)["error"]["code"] for (_, err), code in outcomes if code]
    assert set(refused) == {"email-taken"}
    (winner,) = [json.loads(out)["user_id"] for (out, _), code in outcomes if not code]
    found = shared.es("users", "find", "--email", "wanted@example.com", "--json").ok().object
    assert found["user_id"] == winner


def test_of_two_bulks_with_the_same_addresses_each_address_is_won_once(shared: System) -> None:
    inputs = people(200, prefix="race")
    bulks = [
        shared.start_bulk("create", [{**person, "command_id": str(uuid4())} for person in inputs])
        for _ in range(2)
    ]
    one, other = (bulk.end().without_traceback().objects for bulk in bulks)

    assert set(errors([*one, *other])) == {"email-taken"}
    for left, right in zip(one, other, strict=True):
        assert ("error" in left) != ("error" in right), (left, right)


def test_a_user_is_renamed_moved_deleted_found_and_listed_and_its_history_tells_it_all(
    shared: System,
) -> None:
    user_id = shared.create("first@example.com", "First Name")
    shared.es("users", "rename", user_id, "Second Name").ok()
    shared.es("users", "change-email", user_id, "second@example.com").ok()

    user = shared.get(user_id)
    assert (user["email"], user["name"]) == ("second@example.com", "Second Name")
    assert shared.es("users", "find", "--email", "second@example.com", "--json").ok().object == user
    shared.es("users", "find", "--email", "first@example.com").failed(3)
    assert [u for u in shared.users() if u["user_id"] == user_id] == [user]
    shared.create("first@example.com", "Heir of a free address")

    shared.es("users", "delete", user_id).ok()
    assert shared.get(user_id)["status"] == "deleted"
    shared.es("users", "rename", user_id, "Third Name").failed(1)
    history = shared.es("users", "history", user_id, "--json").ok().objects
    types = ["user-registered.v1", "user-renamed.v1", "user-email-changed.v1", "user-deleted.v1"]
    assert [event["type"] for event in history] == types


def test_a_user_that_never_was_is_not_found(shared: System) -> None:
    shared.es("users", "get", "1234567890123").failed(3)


def test_repeated_command_ids_answer_the_same_and_store_nothing_new(shared: System) -> None:
    command_id = str(uuid4())
    create = ("users", "create", "--json", "--email", "again@example.com", "--name", "Again")
    first, again = (shared.es(*create, "--command-id", command_id).ok().object for _ in range(2))
    assert first == again
    user_id = first["user_id"]
    for arguments in (
        ("rename", user_id, "Renamed"),
        ("change-email", user_id, "moved@example.com"),
        ("delete", user_id),
    ):
        repeated = ("users", *arguments, "--json", "--command-id", str(uuid4()))
        assert shared.es(*repeated).ok().object == shared.es(*repeated).ok().object
    assert len(shared.es("users", "history", user_id, "--json").ok().objects) == 4
    reused = shared.es("users", "create", "--json", "--email", "x@example.com", "--name", "X")
    refused = shared.es(
        "users", "rename", user_id, "X", "--json", "--command-id", reused.object["command_id"]
    )
    assert refused.code == 1, refused


# --- many commands ---------------------------------------------------------------------------


def test_bad_lines_of_a_bulk_are_answered_in_their_place(shared: System) -> None:
    lines = [json.dumps(person) for person in people(300, prefix="lines")]
    lines[7], lines[100], lines[299] = (
        "{not json",
        '{"email": "no name"}',
        lines[0].replace("lines0@", "bad@@"),
    )
    ran = shared.es("users", "create", "--from", "-", stdin="\n".join(lines) + "\n").without_traceback()

    answers = ran.objects
    assert ran.code != 0
    assert [n for n, answer in enumerate(answers) if "error" in answer] == [7, 100, 299], errors(answers)
    assert len(answers) == 300
    assert len(confirmed(answers)) == 297


def test_a_repeated_bulk_answers_the_same_line_by_line(shared: System) -> None:
    inputs = people(300, prefix="twice")
    first, again = (shared.bulk("create", inputs).ok().objects for _ in range(2))
    assert first == again
    assert [answer["command_id"] for answer in first] == [person["command_id"] for person in inputs]


def test_a_rebuild_while_users_are_created_loses_nobody(running: System) -> None:
    there = confirmed(running.bulk("create", people(500)).ok().objects)
    bulk = running.start_bulk("create", people(BULK, prefix="w"))
    rebuilt = [running.es("projections", "rebuild", "users", "--json").ok().object for _ in range(2)]
    for user_id in list(there.values())[:3]:
        assert running.get(user_id)["status"] == "active"
    written = confirmed(bulk.end().ok().objects)

    assert [generation["generation"] for generation in rebuilt] == [2, 3]
    assert {user["user_id"] for user in running.users()} == {*there.values(), *written.values()}
    assert len(written) == BULK


def test_ids_are_unique_over_parallel_calls(shared: System) -> None:
    calls = [shared.start("ids", "next", "-n", "500") for _ in range(4)]
    drawn = [line for call in calls for line in call.communicate(timeout=60)[0].split()]

    assert [call.returncode for call in calls] == [0] * 4
    assert len(drawn) == len(set(drawn)) == 2000


# --- erasure, events, operation --------------------------------------------------------------


def test_an_erased_user_is_null_everywhere_its_address_free_and_its_commands_refused(shared: System) -> None:
    user_id = shared.create("erased@example.com", "Erased Person")
    shared.es("gdpr", "erase", user_id, "--yes").ok()

    user = shared.get(user_id)
    assert (user["status"], user["email"], user["name"]) == ("erased", None, None)
    refused = shared.es("users", "rename", user_id, "X", "--json")
    assert (refused.code, refused.error["code"]) == (1, "user-erased"), refused
    shared.es("users", "find", "--email", "erased@example.com").failed(3)
    history = shared.es("users", "history", user_id, "--json").ok()
    assert history.objects[0]["data"] == {"email": None, "name": None}
    # Asked again before the erasure is complete it may still be taken, but not for long.
    heir = ("users", "create", "--email", "erased@example.com", "--name", "Heir")
    wait_until(lambda: shared.es(*heir).code == 0, "the address is free")


def test_events_are_told_in_order_once_each_and_their_values_are_sealed(shared: System) -> None:
    user_id = shared.create("sealed-value@example.com", "Sealed Value")
    told = shared.es("events", "tail", "--from", "0", "--no-follow", "--json").ok()

    positions = [int(event["position"]) for event in told.objects]
    assert positions == sorted(set(positions))
    assert [event["type"] for event in told.objects if event["stream"] == f"user-{user_id}"] == [
        "user-registered.v1"
    ]
    assert "sealed-value@example.com" not in told.out


def test_an_event_is_told_to_a_follower_when_it_happens(shared: System) -> None:
    tail = shared.start("events", "tail", "--from", "0", "--json", "--type", "user-renamed")
    assert tail.stdout is not None
    user_id = shared.create("followed@example.com", "Followed")
    shared.es("users", "rename", user_id, "Followed on").ok()
    watchdog = time.monotonic() + 60
    while json.loads(tail.stdout.readline())["stream"] != f"user-{user_id}":
        assert time.monotonic() < watchdog
    tail.kill()


def test_status_shows_every_worker_ready_and_doctor_has_no_complaint(shared: System) -> None:
    shared.ready()
    status = shared.status()
    assert {worker["role"] for worker in status["workers"]} >= set(ROLES)
    assert any(projection["state"] == "current" for projection in status["projections"])
    found = shared.es("doctor", "--json").ok().objects
    assert found
    assert all(finding["state"] != "failed" for finding in found), found


# --- kills -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("role", ROLES)
def test_a_bulk_survives_kills_of_a_worker(running: System, role: str) -> None:
    inputs = people(BULK)
    bulk = running.start_bulk("create", inputs)
    chosen = random.Random(f"{SEED} {role}")
    moments = sorted(chosen.randrange(BULK) for _ in range(2))
    print(f"ES_TEST_SEED={SEED}: {role} is killed after {moments} answers")
    for moment in moments:
        bulk.reached(moment)
        with suppress(ProcessLookupError):
            running.signal(role, signal.SIGKILL)
    first = bulk.end().without_traceback().objects
    running.ready()
    assert_exact(running, inputs, first)
