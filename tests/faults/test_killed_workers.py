"""`kill -9` at any moment of a bulk: confirmed users are stored, and repeating the input completes it exactly.

The moments are drawn from a seed, which is printed: ES_TEST_SEED repeats a run, ES_TEST_EFFORT=long makes it larger.
"""

from __future__ import annotations

import random

import pytest

from tests.support import effort
from tests.support.people import confirmed, errors, people
from tests.support.processes import kill
from tests.support.system import ROLES, System

INPUTS = people(effort.KILLED_BULK)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("role", ROLES)
def test_a_bulk_survives_kills_of_a_worker(running: System, role: str) -> None:
    bulk = running.start_bulk("create", INPUTS)
    for _ in bulk.moments(role, 3):
        running.kill(role)
    bulk.assert_exactly_once()


def test_a_bulk_survives_kills_of_any_worker_and_of_one_of_two(system: System) -> None:
    system.es("up", "--scale", "users=2", "--scale", "ids=2").ok()
    bulk = system.ready().start_bulk("create", INPUTS)
    chosen = random.Random(f"{effort.SEED} victims")
    for _ in bulk.moments("any worker", 6):
        kill([chosen.choice([worker["pid"] for worker in system.status()["workers"] if worker["pid"]])])
    bulk.assert_exactly_once()


def test_a_bulk_survives_kills_of_the_supervisor(running: System) -> None:
    bulk = running.start_bulk("create", INPUTS)
    for _ in bulk.moments("supervisor", 2):
        running.kill("supervisor")
        running.up()
    bulk.assert_exactly_once()


def test_a_bulk_survives_a_kill_of_all_processes_at_once(running: System) -> None:
    bulk = running.start_bulk("create", INPUTS)
    for _ in bulk.moments("everything", 2):
        running.kill_everything()
        running.up()
    bulk.assert_exactly_once()


def test_the_bulk_of_a_killed_client_is_safe_to_repeat(running: System) -> None:
    for n in range(2):
        bulk = running.start_bulk("create", INPUTS)
        for _ in bulk.moments(f"client {n}", 1):
            bulk.process.kill()
        bulk.process.wait()
        assert confirmed(bulk.answers()).keys() <= running.registered().keys()
    running.start_bulk("create", INPUTS).assert_exactly_once()


@pytest.mark.parametrize("role", ["users", "erasures"])
def test_a_disturbed_bulk_of_email_changes_leaves_each_address_with_one_user(
    running: System, role: str
) -> None:
    count = len(INPUTS) // 8
    inputs = people(count)
    ids = [answer["user_id"] for answer in running.bulk("create", inputs).ok().objects]
    moves = [
        {
            "user_id": user_id,
            "email": f"moved{n}@example.com",
            "command_id": person["command_id"][:-4] + f"{n:04x}",
        }
        for n, (user_id, person) in enumerate(zip(ids, inputs, strict=True))
    ]
    bulk = running.start_bulk("change-email", moves)
    for _ in bulk.moments(f"{role} during changes", 2):
        running.kill(role)
    bulk.end()
    running.ready()
    running.bulk("change-email", moves).ok()

    assert [user["email"] for user in running.users()] == [move["email"] for move in moves]
    # The old addresses are free and the new ones are claimed.
    running.bulk("create", [{"email": person["email"], "name": "Heir"} for person in inputs]).ok()
    taken = running.bulk("create", [{"email": move["email"], "name": "Late"} for move in moves])
    assert errors(taken.objects) == ["email-taken"] * count
