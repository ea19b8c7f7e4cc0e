"""A feature of an outside package runs end to end without an edit anywhere: it is only named in ES_FEATURES."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from tests.support.people import ndjson
from tests.support.processes import ROOT
from tests.support.profiles import Profile, a_system
from tests.support.runs import Ran
from tests.support.system import System
from tests.support.terminal import on_terminal

FEATURE = "tests.support.shelves"
pytestmark = pytest.mark.own_store("the events of the feature are unknown to systems without it")


@pytest.fixture(scope="module")
def shared(profile: Profile, request: pytest.FixtureRequest) -> Iterator[System]:
    """A running system with the feature."""
    with a_system(profile, request) as made:
        made.environment |= {"ES_FEATURES": FEATURE, "PYTHONPATH": str(ROOT)}
        yield made.up()


def shelf_id(shared: System) -> str:
    return shared.es("ids", "next").ok().out.strip()


def opened(shared: System, label: str) -> str:
    """A new shelf; its id."""
    new = shelf_id(shared)
    answer = shared.es("shelves", "open", "--shelf-id", new, "--label", label, "--json").ok().object
    assert answer.keys() == {"command_id", "shelf_id", "version", "position"}
    assert (answer["shelf_id"], answer["version"]) == (new, 0)
    return new


def row(shared: System, *words: str) -> dict[str, Any]:
    return shared.es("shelves", *words, "--fresh", "--json").ok().object


def test_its_commands_queries_and_projections_work(shared: System) -> None:
    shelf = opened(shared, "maps")
    shared.es("shelves", "put-book", shelf, "North").ok()
    said = on_terminal(shared, "shelves", "put-book", shelf, "South").ok().out
    assert f"put the book on shelf {shelf} (version 2" in said

    assert row(shared, "get", shelf) == {"shelf_id": shelf, "label": "maps", "books": 2, "state": "open"}
    assert row(shared, "labels-get", "maps") == {"label": "maps", "shelves": 1}

    opened(shared, "charts")
    listed = on_terminal(shared, "shelves", "list", "--fresh", "--limit", "1", columns=200).ok().out
    assert f"the others: es shelves list --after {shelf} --limit 1 --fresh" in listed

    closed = on_terminal(shared, "shelves", "close", shelf, typed=b"y\n").ok().out
    assert f"shelf_id {shelf}, label maps, books 2, state open" in closed
    assert "Close this shelf for good?" in closed
    assert "shelves close: done (version 3" in closed

    assert row(shared, "get", shelf)["state"] == "closed"
    shared.es("shelves", "labels-get", "maps", "--fresh").failed(3)


def test_a_rule_of_it_refuses_with_its_own_code_and_hint(shared: System) -> None:
    shelf = opened(shared, "full")
    for number in range(3):
        shared.es("shelves", "put-book", shelf, f"Volume {number}").ok()

    refused = shared.es("shelves", "put-book", shelf, "One more", "--json")

    assert refused.code == 1
    assert refused.error == {
        "code": "shelf-full",
        "message": "the shelf holds 3 books already",
        "hint": "Put the book on another shelf.",
    }


def test_a_repeated_command_of_it_has_one_effect(shared: System) -> None:
    shelf = opened(shared, "once")
    words = ("shelves", "put-book", shelf, "The only one", "--command-id", str(uuid4()), "--json")

    first, second = (shared.es(*words).ok().object for _ in range(2))

    assert first == second
    assert row(shared, "get", shelf)["books"] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("open", "--shelf-id", "7", "--label", "two words"), "label must be a word"),
        (("open", "--label", "x"), "--shelf-id ID is missing"),
        (("put-book", "seven", "Title"), "shelf_id is not an id"),
    ],
    ids=["label", "missing", "id"],
)
def test_bad_input_to_it_is_refused_by_field(shared: System, words: tuple[str, ...], said: str) -> None:
    assert said in shared.es("shelves", *words).failed(2).err


def test_its_commands_come_in_bulk(shared: System) -> None:
    shelf = opened(shared, "bulk")
    lines = [{"shelf_id": shelf, "title": f"Part {number}"} for number in range(4)]

    done = shared.es("shelves", "put-book", "--from", "-", stdin=ndjson([*lines, {"title": "no shelf"}]))

    answers = done.objects
    assert [answer["version"] for answer in answers[:3]] == [1, 2, 3]
    assert [answer["error"]["code"] for answer in answers[3:]] == ["shelf-full", "invalid-input"]
    assert row(shared, "get", shelf)["books"] == 3


def test_rows_are_listed_in_order_of_key(shared: System) -> None:
    for label in ("zebra", "ant", "Ärger"):
        opened(shared, label)

    listed = shared.es("shelves", "labels-list", "--fresh", "--json").ok().objects
    labels = [found["label"] for found in listed]
    after = shared.es("shelves", "labels-list", "--after", "ant", "--json").ok().objects

    assert labels == sorted(labels)
    assert {"zebra", "ant", "Ärger"} <= set(labels)
    assert [found["label"] for found in after] == [label for label in labels if label > "ant"]


def test_streams_events_status_and_help_know_it(shared: System) -> None:
    shelf = opened(shared, "known")

    events = shared.es("streams", "read", f"shelf-{shelf}", "--json").ok().objects
    assert [(event["type"], event["data"]) for event in events] == [("shelf-opened.v1", {"label": "known"})]
    assert "shelves" in {worker["role"] for worker in shared.status()["workers"]}
    projections = shared.es("projections", "list").ok().lines
    assert {"users", "shelves", "labels"} == set(projections)
    assert "Keep books on shelves." in shared.es("--help").ok().out
    assert "put-book" in shared.es("shelves", "--help").ok().out
    assert shared.es("doctor", "--quiet").ok().out == ""


def test_its_projections_are_rebuilt_to_the_same_rows(shared: System) -> None:
    shelf = opened(shared, "again")
    shared.es("shelves", "put-book", shelf, "First").ok()
    before = _rows(shared, "list"), _rows(shared, "labels-list")

    for name in ("shelves", "labels"):
        shared.es("projections", "rebuild", name).ok()

    assert (_rows(shared, "list"), _rows(shared, "labels-list")) == before
    parked = [state["parked"] for state in shared.es("projections", "status", "--json").ok().objects]
    assert set(parked) == {0}


def _rows(shared: System, words: str) -> list[dict[str, Any]]:
    return shared.es("shelves", words, "--fresh", "--json").ok().objects


@pytest.mark.over("embedded", because="settings are read before any part is opened")
@pytest.mark.parametrize(
    ("module", "said"),
    [("tests.support.nowhere", "cannot be imported"), ("tests.support.builders", "cannot be imported")],
    ids=["no module", "no feature"],
)
def test_a_feature_that_cannot_be_had_is_named(shared: System, module: str, said: str) -> None:
    def asked(*words: str) -> Ran:
        return shared.es(*words, environment={"ES_FEATURES": module})

    failed = asked("shelves", "list").failed(2)
    assert module in failed.err
    assert said in failed.err
    assert asked("--help").ok().lines, "help works all the same"
    found = json.loads(asked("ids", "next", "--json").ok().out)
    assert found["id"].isdecimal(), "commands of other features do not import it"
