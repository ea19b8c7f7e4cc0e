"""The first commands of a new user of the program: create, get, and the same from many shells at once."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support import effort
from tests.support.people import people
from tests.support.runs import ES, finish
from tests.support.system import System
from tests.support.waiting import DEADLINE_S

_LOOP = """
for i in $(seq "$2"); do
    id=$("$0" users create --email "loop-$1-$i@example.com" --name "Loop $i") || { echo "create $i failed"; exit 1; }
    got=$("$0" users get "$id") || { echo "get $i of $id failed"; exit 1; }
    case $got in *"loop-$1-$i@example.com"*) ;; *) echo "wrong answer for $id: $got"; exit 1 ;; esac
    echo "$id"
done
"""


@pytest.mark.usually_over("embedded", because="the loop in one process covers the parts")
@pytest.mark.slow
def test_a_get_right_after_its_create_never_misses_in_shell_loops(shared: System) -> None:
    rounds = effort.SHELL_ROUNDS

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
def test_a_get_right_after_its_create_never_misses_in_one_process(shared: System) -> None:
    """Without the start of a process in between, the get follows its create much sooner than in a shell."""
    rounds = effort.GETS if shared.settings.is_local else effort.GETS // 3
    inputs = [people(rounds, prefix=f"quick-{number}-") for number in range(2)]
    with ThreadPoolExecutor(2) as loops:
        assert [*loops.map(shared.misses, inputs)] == [[], []]


@pytest.mark.slow
def test_of_50_parallel_creates_with_one_address_exactly_one_succeeds(shared: System) -> None:
    create = ("users", "create", "--json", "--email", "wanted@example.com", "--name", "One of Fifty")
    ended = [finish(rival) for rival in [shared.start(*create) for _ in range(50)]]

    assert len([ran.refused("email-taken") for ran in ended if ran.code != 0]) == 49, ended
    assert shared.find("wanted@example.com")["status"] == "active"


def test_an_account_is_created_renamed_moved_and_deleted_with_its_history(shared: System) -> None:
    user_id = shared.create("mary@example.com", "Mary Somerville")
    shared.es("users", "rename", user_id, "Mary Fairfax").ok()
    shared.es("users", "change-email", user_id, "fairfax@example.com").ok()
    before = shared.get(user_id)
    shared.es("users", "delete", user_id).ok()

    assert (before["email"], before["name"]) == ("fairfax@example.com", "Mary Fairfax")
    assert (before["status"], shared.get(user_id)["status"]) == ("active", "deleted")
    types = [event["type"] for event in shared.history(user_id)]
    assert types == ["user-registered.v1", "user-renamed.v1", "user-email-changed.v1", "user-deleted.v1"]
    first = shared.get(user_id, "--version", "0")
    assert (first["email"], first["name"]) == ("mary@example.com", "Mary Somerville")


def test_an_address_is_free_at_once_after_a_change_and_after_a_deletion(shared: System) -> None:
    first = shared.create("free@example.com", "First")
    shared.es("users", "change-email", first, "moved@example.com").ok()
    second = shared.create("free@example.com", "Second")
    shared.es("users", "delete", second).ok()
    third = shared.create("free@example.com", "Third")

    assert len({first, second, third}) == 3
    assert shared.find("free@example.com")["user_id"] == third


def test_an_address_is_the_same_in_any_case_and_unicode_form(shared: System) -> None:
    zoe = shared.create("zoë.case@example.com", "Zoë")
    for same in ("ZOË.Case@Example.COM", "zoe\u0308.case@example.com"):
        shared.register(same, "Other", "--json").refused("email-taken")
        assert shared.find(same)["user_id"] == zoe


def test_personal_values_can_come_from_standard_input(shared: System) -> None:
    address = "stdin@example.com\n"
    made = shared.es("users", "create", "--email", "-", "--name", "From Stdin", stdin=address).ok()
    found = shared.es("users", "find", "--email", "-", "--json", stdin=address).ok().object
    assert found["user_id"] == made.out.strip()


def test_ids_are_distinct_and_ascending(shared: System) -> None:
    drawn = [int(line) for line in shared.es("ids", "next", "-n", "1000").ok().lines]
    more = [int(line) for line in shared.es("ids", "next", "-n", "10").ok().lines]

    assert len(drawn) == 1000
    assert drawn == sorted(set(drawn))
    assert min(more) > max(drawn)
