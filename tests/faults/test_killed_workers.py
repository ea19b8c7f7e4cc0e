"""`kill -9` at any moment of a bulk: what was confirmed is there, and repeating the input completes it exactly.

The moments are drawn from a seed, which is printed: ES_TEST_SEED repeats a run, ES_TEST_BULK makes it larger.
"""

from __future__ import annotations

import os
import random
import signal
from contextlib import suppress

import pytest

from tests.acceptance.conftest import ROLES, Bulk, System, confirmed, errors, people, wait_until

BULK = int(os.environ.get("ES_TEST_BULK", "4000"))
LONG_S = max(180.0, BULK / 20)
"""For whatever grows with the bulk; a guard, not a measure."""
SEED = int(os.environ.get("ES_TEST_SEED", random.randrange(1 << 32)))

pytestmark = pytest.mark.slow


def _moments(what: str, count: int) -> list[int]:
    """After how many answers to strike."""
    chosen = random.Random(f"{SEED} {what}")
    moments = sorted(chosen.randrange(BULK) for _ in range(count))
    print(f"ES_TEST_SEED={SEED} ES_TEST_BULK={BULK}: {what} is killed after {moments} answers")
    return moments


def _kill(system: System, role: str) -> None:
    # It may be dead already: two moments can lie closer together than a restart takes.
    with suppress(ProcessLookupError):
        system.signal(role, signal.SIGKILL)


def _repeat_until_settled(system: System, inputs: list[dict[str, str]], bulk: Bulk) -> None:
    """Whatever the first run said, repeating it completes it; nobody is there twice, nobody is missing."""
    first = bulk.end(LONG_S).without_traceback().objects
    assert [answer["command_id"] for answer in first] == [person["command_id"] for person in inputs]
    assert set(errors(first)) <= {"unavailable"}, set(errors(first))
    system.ready()
    settled = confirmed(system.bulk("create", inputs).ok().objects)

    assert confirmed(first).items() <= settled.items()
    registered = system.registrations()
    assert len(registered) == len(settled) == len(set(settled.values())) == len(inputs)
    assert {event["command_id"]: event["stream"].removeprefix("user-") for event in registered} == settled
    shown = {user["user_id"]: user for user in system.users()}
    assert shown.keys() == set(settled.values())
    for person in inputs:
        user = shown[settled[person["command_id"]]]
        assert (user["email"], user["name"]) == (person["email"], person["name"])


@pytest.mark.parametrize("role", ROLES)
def test_a_bulk_survives_kills_of_a_worker(running: System, role: str) -> None:
    inputs = people(BULK)
    bulk = running.start_bulk("create", inputs)
    for moment in _moments(role, 3):
        bulk.reached(moment)
        _kill(running, role)
    _repeat_until_settled(running, inputs, bulk)


def test_a_bulk_survives_kills_of_any_worker_and_of_one_of_two(system: System) -> None:
    system.es("up", "--scale", "users=2", "--scale", "ids=2").ok()
    system.ready()
    inputs = people(BULK)
    bulk = system.start_bulk("create", inputs)
    chosen = random.Random(f"{SEED} victims")
    for moment in _moments("any worker", 6):
        bulk.reached(moment)
        victims = [worker["pid"] for worker in system.status()["workers"] if worker["pid"]]
        with suppress(ProcessLookupError):
            os.kill(chosen.choice(victims), signal.SIGKILL)
    _repeat_until_settled(system, inputs, bulk)


def test_a_bulk_survives_kills_of_the_supervisor(running: System) -> None:
    inputs = people(BULK)
    bulk = running.start_bulk("create", inputs)
    for moment in _moments("supervisor", 2):
        bulk.reached(moment)
        _kill(running, "supervisor")
        running.up()
    _repeat_until_settled(running, inputs, bulk)


def test_a_bulk_survives_the_end_of_everything_at_once(running: System) -> None:
    inputs = people(BULK)
    bulk = running.start_bulk("create", inputs)
    for moment in _moments("everything", 2):
        bulk.reached(moment)
        for pid in running.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not running.processes(), "everything is dead")
        running.up()
    _repeat_until_settled(running, inputs, bulk)


def test_a_killed_client_leaves_what_it_sent_safe_to_repeat(running: System) -> None:
    inputs = people(BULK)
    for moment in _moments("client", 2):
        bulk = running.start_bulk("create", inputs)
        bulk.reached(moment)
        bulk.process.kill()
        bulk.process.wait()
        heard = confirmed(bulk.answers())
        stored = {event["command_id"] for event in running.registrations()}
        assert heard.keys() <= stored
    _repeat_until_settled(running, inputs, running.start_bulk("create", inputs))


@pytest.mark.parametrize("role", ["users", "erasures"])
def test_an_address_of_a_bulk_of_changes_is_neither_lost_nor_taken_twice(running: System, role: str) -> None:
    count = BULK // 8
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
    for moment in _moments(f"{role} during changes", 2):
        bulk.reached(moment * count // BULK)
        _kill(running, role)
    bulk.end(LONG_S).without_traceback()
    running.ready()
    running.bulk("change-email", moves).ok()

    assert [user["email"] for user in running.users()] == [move["email"] for move in moves]
    # The old addresses are free again, the new ones are not.
    heirs = people(count, prefix="u")
    for heir in heirs:
        heir.pop("command_id")
    running.bulk("create", heirs).ok()
    taken = running.bulk("create", [{"email": move["email"], "name": "Late"} for move in moves])
    assert set(errors(taken.objects)) == {"email-taken"}
    assert len(errors(taken.objects)) == count
