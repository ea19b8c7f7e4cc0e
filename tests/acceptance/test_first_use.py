"""What everybody tries first: create, get, and the same at once from many shells."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from uuid import uuid4

import pytest

from adapters.wiring import open_caller
from tests.acceptance.conftest import DEADLINE_S, ES, System

_LOOP = """
for i in $(seq "$2"); do
    id=$("$0" users create --email "loop-$1-$i@example.com" --name "Loop $i") || { echo "create $i failed"; exit 1; }
    got=$("$0" users get "$id") || { echo "get $i of $id failed"; exit 1; }
    case $got in *"loop-$1-$i@example.com"*) ;; *) echo "wrong answer for $id: $got"; exit 1 ;; esac
    echo "$id"
done
"""


@pytest.mark.slow
def test_a_get_right_after_its_create_never_misses_in_a_loop(shared: System) -> None:
    rounds = 20

    def loop(number: int) -> list[str]:
        done = subprocess.run(
            ["sh", "-c", _LOOP, ES, str(number), str(rounds)],
            capture_output=True,
            text=True,
            env=shared.environment,
            timeout=DEADLINE_S * 15,
        )
        assert done.returncode == 0, done
        return done.stdout.split()

    with ThreadPoolExecutor(2) as shells:
        ids = [user_id for made in shells.map(loop, range(2)) for user_id in made]

    assert len(set(ids)) == 2 * rounds


@pytest.mark.slow
def test_a_get_right_after_its_create_never_misses_at_the_speed_of_a_program(shared: System) -> None:
    """The same, through what the command line asks with: without the starts of processes it comes much sooner."""
    rounds = 300 if shared.settings.is_local else 100

    def loop(number: int) -> None:
        with (
            closing(open_caller(shared.settings)) as creating,
            closing(open_caller(shared.settings)) as getting,
        ):
            for n in range(rounds):
                email = f"quick-{number}-{n}@example.com"
                fields = {"email": email, "name": f"Quick {n}"}
                made = creating.ask(
                    "users", "users.create", {"command_id": str(uuid4()), "actor": "test", "input": fields}
                )
                got = getting.ask("projections", "users.get", {"user_id": made["user_id"]})
                assert got["email"] == email, (made, got)

    with ThreadPoolExecutor(2) as loops:
        list(loops.map(loop, range(2)))


@pytest.mark.slow
def test_of_50_parallel_creates_with_one_address_exactly_one_succeeds(shared: System) -> None:
    arguments = ("users", "create", "--json", "--email", "wanted@example.com", "--name", "One of Fifty")
    rivals = [shared.start(*arguments) for _ in range(50)]
    said = [(*rival.communicate(timeout=DEADLINE_S), rival.returncode) for rival in rivals]

    winners = [out for out, _, code in said if code == 0]
    losers = [err for _, err, code in said if code == 1]
    assert (len(winners), len(losers)) == (1, 49), said
    assert all(b'"code":"email-taken"' in err for err in losers)
    assert (
        shared.es("users", "find", "--email", "wanted@example.com", "--json").ok().object["status"]
        == "active"
    )


def test_an_account_is_created_renamed_moved_deleted_and_keeps_its_history(shared: System) -> None:
    user_id = shared.create("mary@example.com", "Mary Somerville")
    shared.es("users", "rename", user_id, "Mary Fairfax").ok()
    shared.es("users", "change-email", user_id, "fairfax@example.com").ok()
    before = shared.get(user_id)
    shared.es("users", "delete", user_id).ok()

    assert (before["email"], before["name"], before["status"]) == (
        "fairfax@example.com",
        "Mary Fairfax",
        "active",
    )
    assert shared.get(user_id)["status"] == "deleted"
    types = [event["type"] for event in shared.es("users", "history", user_id, "--json").ok().objects]
    assert types == ["user-registered.v1", "user-renamed.v1", "user-email-changed.v1", "user-deleted.v1"]
    first = shared.es("users", "get", user_id, "--version", "0", "--json").ok().object
    assert (first["email"], first["name"]) == ("mary@example.com", "Mary Somerville")


def test_an_address_is_free_at_once_after_a_change_and_after_a_deletion(shared: System) -> None:
    first = shared.create("free@example.com", "First")
    shared.es("users", "change-email", first, "moved@example.com").ok()
    second = shared.create("free@example.com", "Second")
    shared.es("users", "delete", second).ok()
    third = shared.create("free@example.com", "Third")

    assert len({first, second, third}) == 3
    assert shared.es("users", "find", "--email", "free@example.com", "--json").ok().object["user_id"] == third


def test_an_address_is_the_same_whatever_its_case_and_unicode_form(shared: System) -> None:
    shared.create("zoë.case@example.com", "Zoë")
    for same in ("ZOË.Case@Example.COM", "zoe\u0308.case@example.com"):
        refused = shared.es("users", "create", "--json", "--email", same, "--name", "Other")
        assert (refused.code, refused.error["code"]) == (1, "email-taken"), refused


def test_personal_values_can_come_from_standard_input(shared: System) -> None:
    made = shared.es(
        "users", "create", "--email", "-", "--name", "From Stdin", stdin="stdin@example.com\n"
    ).ok()
    found = shared.es("users", "find", "--email", "-", "--json", stdin="stdin@example.com\n").ok().object
    assert found["user_id"] == made.out.strip()


def test_ids_are_distinct_and_ascending(shared: System) -> None:
    drawn = [int(line) for line in shared.es("ids", "next", "-n", "1000").ok().lines]
    more = [int(line) for line in shared.es("ids", "next", "-n", "10").ok().lines]

    assert len(drawn) == 1000
    assert drawn == sorted(set(drawn))
    assert min(more) > max(drawn)
