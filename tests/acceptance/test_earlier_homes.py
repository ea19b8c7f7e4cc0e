"""A home that an earlier version wrote goes on under this one: people, histories, addresses and ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import pytest

from adapters.wiring import open_vault
from domain.kernel.ports.vault import DestroyedKey, Reason
from tests.support.earlier_homes import EarlierHome, earlier_home
from tests.support.system import System, new_root
from tests.support.waiting import eventually

Moved = tuple[EarlierHome, System]
"""A home of an earlier schema version, and the system of this version that runs in it."""


@pytest.fixture(params=["sqlite 1", "sqlite 2", "postgresql 1"])
def moved(request: pytest.FixtureRequest) -> Iterator[Moved]:
    root = new_root()
    technology, version = request.param.split()
    url = request.getfixturevalue("postgres_url") if technology == "postgresql" else None
    earlier = earlier_home(root / "home", version=int(version), postgres_url=url)
    with closing(System(root, parts=earlier.parts)) as system:
        yield earlier, system.up()


def test_everybody_and_every_event_of_an_earlier_version_is_shown(moved: Moved) -> None:
    earlier, system = moved
    fields = ("user_id", "email", "name", "status")

    shown = [{field: user[field] or "" for field in fields} for user in system.users()]

    assert shown == [{field: user[field] for field in fields} for user in earlier.shown["users"]]
    for user_id, lines in earlier.shown["histories"].items():
        history = system.history(user_id)
        kinds = [str(event["type"]).partition(".")[0] for event in history]
        assert kinds[: len(lines)] == [line[2].partition(".")[0] for line in lines]
        # An erasure may be completed once more: the earlier version did not say so in the vault.
        assert set(kinds[len(lines) :]) <= {"erasure-completed"}


def test_people_of_an_earlier_version_are_counted(moved: Moved) -> None:
    """The projection is new to the home: it is filled from the beginning while the others serve."""
    _, system = moved
    users = system.users()
    by_status = Counter(user["status"] for user in users)
    by_day = Counter(user["registered_at"][:10] for user in users)

    counted = system.es("users", "count", "--fresh", "--json").ok().object

    assert counted == {"users": len(users), "active": 0, "deleted": 0, "erased": 0, **by_status}
    for status in by_status:
        assert system.es("users", "count", "--status", status).ok().out == f"{by_status[status]}\n"
    days = system.es("users", "count", "--by-day", "--json").ok().objects
    assert {day.pop("day"): sum(day.values()) for day in days} == by_day, (
        "ids tell the day of the registration"
    )


def test_addresses_of_an_earlier_version_are_held_or_free_as_before(moved: Moved) -> None:
    _, system = moved

    for taken in ("ada@example.com", "hopper@example.com", "mary@example.com", "grace@example.com"):
        refused = system.register(taken)
        assert (refused.code, "taken by another user" in refused.err) == (1, True), refused
    for free in (
        "katherine@example.com",
        "dorothy@example.com",
        "dora@example.com",
        "dora.later@example.com",
    ):
        system.create(free)


def test_people_of_an_earlier_version_are_changed_deleted_and_erased(moved: Moved) -> None:
    earlier, system = moved
    ada, grace, mary = (
        earlier.user(name)["user_id"] for name in ("Ada King", "Grace Hopper", "Mary Jackson")
    )

    system.es("users", "change-email", ada, "king@example.com").ok()
    system.es("users", "delete", mary).ok()
    system.erase(grace)

    assert system.get(ada)["email"] == "king@example.com"
    system.create("ada@example.com")
    system.create("mary@example.com")
    system.create("hopper@example.com")
    eventually(lambda: system.get(grace)["status"] == "erased", "the erasure is shown")


def test_who_was_erased_by_an_earlier_version_stays_erased(moved: Moved) -> None:
    earlier, system = moved
    erased = earlier.ids("erased")

    for user_id in erased:
        system.erase(str(user_id))

    assert {user["email"] for user in system.users() if int(user["user_id"]) in erased} == {None}
    with closing(open_vault(system.settings)) as vault:
        keys = vault.data_keys(erased)
        assert all(
            isinstance(key, DestroyedKey) and key.reason is not Reason.ABANDONED for key in keys.values()
        )
        assert vault.owed(limit=9) == []


def test_streams_of_an_earlier_version_are_listed(moved: Moved) -> None:
    earlier, system = moved
    histories = {f"user-{user_id}": len(lines) for user_id, lines in earlier.shown["histories"].items()}

    listed = eventually(
        lambda: system.es("streams", "list", "--prefix", "user-", "--json").objects, "streams are listed"
    )

    assert {row["stream"] for row in listed} == histories.keys()
    for row in listed:
        assert row["version"] + 1 >= histories[row["stream"]]
        assert row["version"] + 1 == len(system.history(row["stream"].removeprefix("user-")))


def test_ids_are_greater_than_those_of_an_earlier_version(moved: Moved) -> None:
    earlier, system = moved
    before = [*map(int, earlier.shown["ids"]), *(int(user["user_id"]) for user in earlier.shown["users"])]

    (issued,) = system.es("ids", "next").ok().out.split()

    assert int(issued) > max(before)
