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
pytestmark = [
    pytest.mark.usually_over("embedded", because="parts know nothing of features"),
    pytest.mark.own_store("the events of the feature are unknown to systems without it"),
]


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


def test_its_history_and_earlier_states_come_from_the_events(shared: System) -> None:
    shelf = opened(shared, "past")
    shared.es("shelves", "put-book", shelf, "North").ok()
    closed = shared.es("shelves", "close", shelf, "--json").ok().object

    events = shared.es("shelves", "history", shelf, "--json").ok().objects
    assert [event["type"] for event in events] == ["shelf-opened.v1", "book-put.v1", "shelf-closed.v2"]
    assert events[2]["command_id"] == closed["command_id"]
    assert events[2]["actor"].startswith("uid:")
    assert "title=North" in shared.es("shelves", "history", shelf).ok().lines[1]
    assert "book-put.v1" in on_terminal(shared, "shelves", "history", shelf).ok().out

    def state(*words: str) -> dict[str, Any]:
        found = shared.es("shelves", "get", shelf, *words, "--json").ok().object
        return {name: found[name] for name in ("shelf_id", "books", "is_open", "version")}

    assert state("--version", "0") == {"shelf_id": shelf, "books": 0, "is_open": True, "version": 0}
    assert state("--at", events[1]["time"])["books"] == 1
    assert state("--at", "2999-01-01")["is_open"] is False
    after = shared.es("shelves", "get", shelf, "--after", str(closed["position"]), "--json").ok().object
    assert after == {"shelf_id": shelf, "label": "past", "books": 1, "state": "closed"}

    shared.es("shelves", "get", shelf, "--version", "9").failed(3)
    shared.es("shelves", "history", "7").failed(3)
    assert "of must be one of shelf" in shared.es("shelves", "history", shelf, "--of", "crate").failed(2).err


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
        (("open", "--label", "x"), "--shelf-id SHELF_ID is missing"),
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
    assert {"users", "registrations", "streams", "shelves", "labels"} == set(projections)
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


RACKS = """
from typing import Annotated
import es

@es.command("racks.make", creates=True)
class MakeRack(es.Command):
    shelf_x_id: es.Id

RACK = es.Aggregate(
    name="shelf-x", initial=0, evolve=lambda state, _: state, decide=lambda *_: [], commands=(MakeRack,)
)
AGGREGATES = (RACK,)
FEATURE = es.Feature(name="racks", help="Racks.", model=__name__, roles=(es.Role("racks"),))
"""
BROKEN = {
    "missing_package": (None, "cannot be imported: ModuleNotFoundError: No module named 'missing_package'"),
    "raising_package": ("raise LookupError('no licence')", "cannot be imported: LookupError: no licence"),
    "racks_package": (RACKS, f"streams shelf-x-…, like those of the aggregate shelf of {FEATURE}: shelf-…"),
    "copied_package": ("from tests.support.shelves import *", "the feature 'shelves'"),
}


@pytest.fixture
def beside_broken(
    profile: Profile, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    """A running system with the feature and three modules that cannot be used."""
    folder = tmp_path_factory.mktemp("packages")
    for module, (source, _) in BROKEN.items():
        if source is not None:
            (folder / f"{module}.py").write_text(source)
    with a_system(profile, request) as made:
        made.environment |= {
            "ES_FEATURES": ",".join(["missing_package", FEATURE, *list(BROKEN)[1:]]),
            "PYTHONPATH": f"{ROOT}:{folder}",
        }
        made.es("up").failed(2)
        yield made


@pytest.mark.over("embedded", because="settings are read before any part is opened")
def test_modules_that_cannot_be_used_harm_no_other_feature_and_are_named(beside_broken: System) -> None:
    shared = beside_broken
    opened(shared, "sound")
    shared.create("ada@example.com", "Ada")
    said = [text for _, text in BROKEN.values()]

    status = shared.es("status")
    assert status.code == 4
    assert [text for text in said if text not in status.out] == []
    assert [f"feature {module}" for module in BROKEN if f"feature {module}" not in status.out] == []
    doctor = shared.es("doctor", "--quiet", "--json")
    assert doctor.code == 4
    assert {found["part"] for found in doctor.objects} == {f"feature {module}" for module in BROKEN}

    for words in (
        ("wallets", "list"),
        ("up",),
        ("up", "--scale", "wallets=2"),
        ("workers", "run", "wallets"),
        ("logs", "wallets"),
        ("projections", "status", "wallets"),
    ):
        failed = shared.es(*words).failed(2)
        assert [text for text in said if text not in failed.err] == [], words
    for lost in (("racks", "history", "7"), ("racks", "make", "--shelf-x-id", "7")):
        assert "name racks_package, whose aggregate shelf-x has" in shared.es(*lost).failed(2).err
    assert "Keep books on shelves." in shared.es("--help").ok().out
    logged = shared.es("logs", "supervisor").ok().out
    assert [module for module in BROKEN if f"name {module}" not in logged] == []


@pytest.mark.over("embedded", because="the events are stored by then")
def test_events_of_a_feature_that_is_missing_are_shown_as_stored(shared: System) -> None:
    shelf = opened(shared, "remains")
    shown = shared.es("streams", "read", f"shelf-{shelf}", "--json").ok().objects

    shared.es("down").ok()
    kept = dict(shared.environment)
    shared.environment |= {"ES_FEATURES": ""}
    try:
        shared.up()
        without = shared.es(
            "events", "tail", "--from", "0", "--no-follow", "--stream", f"shelf-{shelf}", "--json"
        )
        assert without.ok().objects == shown
    finally:
        shared.es("down").ok()
        shared.environment |= kept
        shared.up()


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


@pytest.mark.over("embedded", because="only the command without a broker finds no socket of the role")
@pytest.mark.parametrize("autostart", ["1", "0"])
def test_workers_that_run_without_it_are_named_at_once(
    profile: Profile, request: pytest.FixtureRequest, autostart: str
) -> None:
    with a_system(profile, request) as system:
        system.up()
        with_it = {"ES_FEATURES": FEATURE, "PYTHONPATH": str(ROOT), "ES_AUTOSTART": autostart}

        refused = system.es("shelves", "open", "--shelf-id", "5", "--label", "maps", environment=with_it)
        assert f"features is empty now, and {FEATURE} is asked for" in refused.failed(1).err

        unknown = system.es("shelves", "list", environment=with_it).failed(2)
        assert "other features in ES_FEATURES" in unknown.err
