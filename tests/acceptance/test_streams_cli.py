"""`es streams list` and `count`: every stream of the store, over every profile, also while the projection is rebuilt."""

from __future__ import annotations

from contextlib import closing

from adapters.wiring import open_store
from domain.kernel.events import NO_STREAM
from tests.support.builders import append, some_events
from tests.support.people import people
from tests.support.system import System

ODD = "odd\x1b[31m\u202e\x07"


def listed(system: System, *options: str) -> dict[str, int]:
    ran = system.es("streams", "list", "--limit", "1000", "--json", *options).ok()
    return {row["stream"]: row["version"] for row in ran.objects}


def counted(system: System, *options: str) -> int:
    return int(system.es("streams", "count", *options).ok().out)


def test_every_stream_is_listed_and_counted_right_after_its_event(shared: System) -> None:
    before = counted(shared, "--prefix", "user-")
    ids = [
        str(answer["user_id"]) for answer in shared.bulk("create", people(30, prefix="streams")).ok().objects
    ]
    assert counted(shared, "--prefix", "user-") == before + 30
    shared.es("users", "rename", ids[0], "Renamed").ok()

    found = listed(shared, "--prefix", "user-")

    assert [found[f"user-{user_id}"] for user_id in ids] == [1, *[0] * 29]
    assert [*found] == sorted(found)
    assert any(name.startswith("lane-") for name in listed(shared, "--prefix", "lane-"))
    assert counted(shared, "--prefix", "no-such-") == 0


def test_a_stream_of_another_program_is_listed_and_its_name_escaped(shared: System) -> None:
    with closing(open_store(shared.settings.store)) as store:
        append(store, ODD, NO_STREAM, some_events(2))

    assert listed(shared, "--prefix", "odd") == {ODD: 1}
    assert counted(shared, "--prefix", ODD) == 1
    shown = shared.es("streams", "list", "--prefix", "odd").ok().out
    assert "odd" in shown
    assert not {"\x1b", "\u202e", "\x07"} & set(shown)


def test_a_rebuild_of_streams_shows_no_less(shared: System) -> None:
    user_id = shared.create("rebuilt@example.com")
    before = listed(shared, "--prefix", "user-")

    shared.es("projections", "rebuild", "streams").ok()

    assert listed(shared, "--prefix", "user-") == before
    assert f"user-{user_id}" in before
    states = shared.es("projections", "status", "streams", "--json").ok().objects
    assert [state["state"] for state in states][-1] == "current"
    assert {state["parked"] for state in states} == {0}
