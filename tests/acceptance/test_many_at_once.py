"""Many commands at once, from many shells, while workers are killed: each takes effect once."""

from __future__ import annotations

from uuid import uuid4

import pytest

from tests.support import effort
from tests.support.people import confirmed, errors, people
from tests.support.runs import finish
from tests.support.system import ROLES, System


def test_of_two_bulks_with_the_same_addresses_one_wins_each_address(shared: System) -> None:
    inputs = people(200, prefix="race")
    bulks = [
        shared.start_bulk("create", [{**person, "command_id": str(uuid4())} for person in inputs])
        for _ in range(2)
    ]
    one, other = (bulk.end().objects for bulk in bulks)

    assert set(errors([*one, *other])) == {"email-taken"}
    for left, right in zip(one, other, strict=True):
        assert ("error" in left) != ("error" in right), (left, right)


def test_a_rebuild_while_users_are_created_loses_none(running: System) -> None:
    there = confirmed(running.bulk("create", people(500)).ok().objects)
    bulk = running.start_bulk("create", people(effort.BULK, prefix="w"))
    rebuilt = [running.es("projections", "rebuild", "users", "--json").ok().object for _ in range(2)]
    for user_id in list(there.values())[:3]:
        assert running.get(user_id)["status"] == "active"
    written = confirmed(bulk.end().ok().objects)

    assert [generation["generation"] for generation in rebuilt] == [2, 3]
    assert {user["user_id"] for user in running.users()} == {*there.values(), *written.values()}
    assert len(written) == effort.BULK


def test_ids_are_unique_over_parallel_calls(shared: System) -> None:
    calls = [shared.start("ids", "next", "-n", "500") for _ in range(4)]
    drawn = [line for call in calls for line in finish(call).ok().lines]

    assert len(drawn) == len(set(drawn)) == 2000


@pytest.mark.slow
@pytest.mark.usually_over("distributed", because="tests/faults/test_killed_workers.py does it over embedded")
@pytest.mark.parametrize("role", ROLES)
def test_a_bulk_survives_kills_of_a_worker(running: System, role: str) -> None:
    bulk = running.start_bulk("create", people(effort.BULK))
    for _ in bulk.moments(role, 2):
        running.kill(role)
    bulk.assert_exactly_once()
