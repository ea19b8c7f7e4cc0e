"""`es.Client` with real workers: a program sends commands, reads what it wrote, and gets typed errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import es
from adapters.settings import load_settings
from tests.support.processes import ROOT
from tests.support.profiles import Profile, a_system
from tests.support.shelves import OpenShelf, PutBook
from tests.support.system import System

pytestmark = [
    pytest.mark.own_store("the events of the feature are unknown to systems without it"),
    pytest.mark.over("embedded", "rabbitmq", because="these are the two transports"),
]


@pytest.fixture(scope="module")
def shared(profile: Profile, request: pytest.FixtureRequest) -> Iterator[System]:
    with a_system(profile, request) as made:
        made.environment |= {"ES_FEATURES": "tests.support.shelves", "PYTHONPATH": str(ROOT)}
        yield made.up()


@pytest.fixture
def client(shared: System) -> Iterator[es.Client]:
    with es.Client(settings=load_settings(environment=shared.environment), actor="test:client") as made:
        yield made


def new_id(shared: System) -> int:
    return int(shared.es("ids", "next").ok().out)


def test_a_program_writes_and_reads_what_it_wrote(shared: System, client: es.Client) -> None:
    shelf = new_id(shared)
    opened = client.send(OpenShelf(shelf, "maps"))
    repeated = client.send(OpenShelf(shelf, "maps"), opened.command_id)

    assert repeated == opened
    assert (opened.id, opened.version) == (shelf, 0)
    row = client.get("shelves", shelf, after=opened.position)
    assert row == {"shelf_id": str(shelf), "label": "maps", "books": 0, "state": "open"}
    event = shared.es("streams", "read", f"shelf-{shelf}", "--json").ok().objects[0]
    assert (event["command_id"], event["actor"]) == (opened.command_id, "test:client")


def test_many_commands_are_answered_in_order_with_errors_in_their_places(
    shared: System, client: es.Client
) -> None:
    shelves = [new_id(shared) for _ in range(3)]
    answers = list(client.send_many(OpenShelf(shelf, "bulk") for shelf in shelves))
    assert [answer.id for answer in answers if isinstance(answer, es.Answer)] == shelves

    filled = list(client.send_many(PutBook(shelves[0], f"Part {number}") for number in range(1200)))

    assert [answer.version for answer in filled[:3] if isinstance(answer, es.Answer)] == [1, 2, 3]
    refused = filled[3:]
    assert len(refused) == 1197
    assert {each.code for each in refused if isinstance(each, es.Refused)} == {"shelf-full"}
    assert len({each.command_id for each in filled}) == 1200
    listed = client.list("shelves", after_key=shelves[0] - 1, limit=1, fresh=True)
    assert [row["books"] for row in listed] == [3]


def test_errors_have_classes_and_say_what_to_do(shared: System, client: es.Client) -> None:
    missing = new_id(shared)

    with pytest.raises(es.NotFound) as not_found:
        client.send(PutBook(missing, "North"))
    with pytest.raises(es.Invalid, match="title is longer than 200 characters"):
        client.send(PutBook(missing, "x" * 201))
    with pytest.raises(es.NotFound):
        client.get("shelves", missing)

    assert (not_found.value.code, not_found.value.hint) == (
        "shelf-not-open",
        "Open it with `es shelves open`.",
    )
    assert not_found.value.command_id is not None


@pytest.mark.over("embedded", because="a home without workers has no broker")
def test_a_home_without_workers_is_unavailable_at_once(tmp_path: Path) -> None:
    with (
        closing(es.Client(home=tmp_path)) as client,
        pytest.raises(es.Unavailable, match="it is not running"),
    ):
        client.get("users", 7)
