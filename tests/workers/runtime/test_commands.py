"""The generic service of commands, over a store in memory and the shelves of an outside package."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar
from uuid import uuid4

import pytest

import es
from adapters.codec import JsonCodec
from adapters.log import Log
from adapters.memory.event_store import MemoryStore
from adapters.settings import load_settings
from adapters.wiring import erased_keyring
from domain.kernel.aggregate import Aggregate
from domain.kernel.commands import Command, Input
from domain.kernel.errors import CommandIdReused, InvalidInput, UnknownRequest
from domain.kernel.events import Event
from domain.kernel.messages import Reply, Request
from domain.kernel.personal import PersonalText
from domain.kernel.ports.event_store import Append, AppendResult
from tests.support.builders import streams_of
from tests.support.shelves import SHELF, ShelfIsFull, ShelfNotOpen, parse_label
from workers.runtime.commands import CommandService, open_service
from workers.runtime.control import Control
from workers.runtime.worker import Worker

# --- a second aggregate ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CratePacked(Event):
    label: str
    type: ClassVar[str] = "crate-packed.v1"


@dataclass(frozen=True, slots=True)
class PackCrate(Command):
    crate_id: es.Id
    label: Annotated[str, Input(parse_label, "What is in it.", "LABEL")]
    wire: ClassVar[str] = "pack-crate"
    request: ClassVar[str] = "crates.pack"


CRATE: Aggregate[None, PackCrate] = Aggregate(
    name="crate",
    initial=None,
    evolve=lambda state, event: state,
    decide=lambda state, command: [CratePacked(command.label)],
    events=(CratePacked,),
    commands=(PackCrate,),
)

# --- the service under test ------------------------------------------------------------------


class Store(MemoryStore):
    """Records how many streams each durable append is for."""

    def __init__(self) -> None:
        super().__init__()
        self.appends: list[int] = []

    def append(self, batch: Sequence[Append]) -> list[AppendResult]:
        self.appends.append(len(batch))
        return super().append(batch)


CODEC = JsonCodec([*SHELF.events, *CRATE.events], {})


@pytest.fixture
def store() -> Store:
    return Store()


def a_service(store: Store, *aggregates: Aggregate[Any, Any]) -> CommandService:
    return CommandService(
        aggregates, store=store, codec=CODEC, keyring=lambda _: erased_keyring(), pause=lambda _: None
    )


@pytest.fixture
def service(store: Store) -> Iterator[CommandService]:
    with closing(a_service(store, SHELF, CRATE)) as opened:
        yield opened


def request(kind: str, command_id: object = None, **given: object) -> Request:
    body = {"command_id": command_id or str(uuid4()), "actor": "uid:1000", "input": given}
    return Request(kind, body)


def open_shelf(shelf_id: str, label: str = "maps") -> Request:
    return request("shelves.open", shelf_id=shelf_id, label=label)


def put_book(shelf_id: str, title: str = "North", command_id: object = None) -> Request:
    return request("shelves.put-book", command_id, shelf_id=shelf_id, title=title)


def versions(replies: Sequence[Reply]) -> list[object]:
    """The version of each reply, the class of an error in its place."""
    return [reply["version"] if isinstance(reply, dict) else type(reply) for reply in replies]


# --- batches ---------------------------------------------------------------------------------


def test_a_batch_is_one_durable_append(store: Store, service: CommandService) -> None:
    requests = [open_shelf(str(number)) for number in range(1, 6)]

    replies = service.handle(requests)

    assert store.appends == [5]
    assert replies == [
        {
            "command_id": sent.body["command_id"],
            "shelf_id": sent.body["input"]["shelf_id"],
            "version": 0,
            "position": position,
        }
        for position, sent in enumerate(requests, start=1)
    ]


def test_commands_for_one_stream_see_each_other(store: Store, service: CommandService) -> None:
    replies = service.handle([open_shelf("1"), open_shelf("2"), put_book("1"), put_book("1"), put_book("2")])

    assert versions(replies) == [0, 0, 1, 2, 1]
    assert store.appends == [2], "one for the batch, with one item for each stream"


def test_several_aggregates_share_a_batch_and_replies_keep_their_order(
    store: Store, service: CommandService
) -> None:
    pack = request("crates.pack", crate_id="1", label="pots")

    replies = service.handle([open_shelf("1"), pack, put_book("1"), open_shelf("2")])

    is_crate = [isinstance(reply, dict) and "crate_id" in reply for reply in replies]
    assert is_crate == [False, True, False, False]
    assert versions(replies) == [0, 0, 1, 0]
    assert streams_of(store) == [("crate-1", 0), ("shelf-1", 1), ("shelf-2", 0)]


def test_an_empty_batch_has_no_replies_and_appends_nothing(store: Store, service: CommandService) -> None:
    assert service.handle([]) == []
    assert store.appends == []


# --- requests that fail alone ----------------------------------------------------------------


def test_refused_and_unknown_requests_fail_alone(store: Store, service: CommandService) -> None:
    service.handle([open_shelf("1"), *(put_book("1") for _ in range(3))])

    replies = service.handle(
        [put_book("1"), put_book("2"), request("shelves.burn", shelf_id="1"), open_shelf("3")]
    )

    assert replies[:3] == [ShelfIsFull(limit=3), ShelfNotOpen(), UnknownRequest("shelves.burn")]
    assert versions(replies[3:]) == [0]


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (request("shelves.open", shelf_id="1", label="two words"), "label"),
        (request("shelves.open", shelf_id="one", label="maps"), "shelf_id"),
        (request("shelves.open", shelf_id="1"), "label"),
        (request("shelves.open", shelf_id="1", label="maps", colour="red"), "input"),
        (Request("shelves.open", {"command_id": str(uuid4())}), "input"),
        (Request("shelves.open", {"command_id": str(uuid4()), "input": ["shelf_id", "label"]}), "input"),
        (request("shelves.open", "seven", shelf_id="1", label="maps"), "command_id"),
        (Request("shelves.open", {"input": {"shelf_id": "1", "label": "maps"}}), "command_id"),
    ],
    ids=["value", "id", "missing", "unknown", "no input", "no object", "command id", "no command id"],
)
def test_bad_input_is_refused_by_field_and_fails_alone(
    service: CommandService, bad: Request, field: str
) -> None:
    replies = service.handle([open_shelf("2"), bad, open_shelf("3")])

    assert versions(replies) == [0, InvalidInput, 0]
    refused = replies[1]
    assert isinstance(refused, InvalidInput)
    assert refused.field == field


# --- command ids -----------------------------------------------------------------------------


@pytest.mark.parametrize("batches", [[2], [1, 1]], ids=["in one batch", "in two batches"])
def test_a_repeated_command_returns_its_first_result(
    store: Store, service: CommandService, batches: list[int]
) -> None:
    service.handle([open_shelf("1")])
    command_id = str(uuid4())

    replies = [
        reply for size in batches for reply in service.handle([put_book("1", command_id=command_id)] * size)
    ]

    assert versions(replies) == [1, 1]
    assert replies[0] == replies[1]
    assert store.head() == 2


def test_a_command_id_of_another_command_is_refused(store: Store, service: CommandService) -> None:
    opened = open_shelf("1")
    service.handle([opened])

    replies = service.handle([put_book("1", command_id=opened.body["command_id"]), put_book("1")])

    assert versions(replies) == [CommandIdReused, 1]


@pytest.mark.parametrize("actor", [7, "x" * 101, "\x1b[2J", "ada@example.com"])
def test_an_actor_that_is_no_short_name_is_refused(
    store: Store, service: CommandService, actor: object
) -> None:
    sent = open_shelf("1")
    sent.body["actor"] = actor

    (refused,) = service.handle([sent])

    assert isinstance(refused, InvalidInput)
    assert refused.field == "actor"
    assert list(store.read_stream("shelf-1")) == []


@pytest.mark.parametrize(("actor", "stored"), [("uid:1000", "uid:1000"), (None, "unknown")])
def test_the_event_holds_the_command_and_its_actor(
    store: Store, service: CommandService, actor: object, stored: str
) -> None:
    sent = open_shelf("1")
    sent.body["actor"] = actor
    service.handle([sent])

    (recorded,) = store.read_stream("shelf-1")
    metadata = CODEC.metadata(recorded)
    assert (metadata.command, metadata.actor) == ("open-shelf", stored)
    ids = {metadata.command_id, metadata.correlation_id, metadata.causation_id}
    assert {str(id_) for id_ in ids} == {sent.body["command_id"]}


# --- opening ---------------------------------------------------------------------------------


def test_a_command_without_the_id_of_its_aggregate_is_a_bug_found_at_once(store: Store) -> None:
    box: Aggregate[None, PackCrate] = Aggregate(
        name="box", initial=None, evolve=CRATE.evolve, decide=CRATE.decide, commands=(PackCrate,)
    )

    with pytest.raises(TypeError, match="PackCrate takes no box_id"):
        a_service(store, box)


def test_a_feature_without_personal_fields_needs_no_vault(tmp_path: Path, log: Log) -> None:
    settings = load_settings(environment={"ES_HOME": str(tmp_path), "ES_FEATURES": "tests.support.shelves"})
    control = Control(None, role="shelves", instance=1)
    worker = Worker("shelves", settings, threading.Event(), control, log)

    with closing(worker):
        assert versions(worker.open().handle([open_shelf("1")])) == [0]

    assert (tmp_path / "events.db").exists()
    assert not (tmp_path / "vault.db").exists()


@dataclass(frozen=True, slots=True)
class CrateSent(Event):
    recipient: PersonalText
    type: ClassVar[str] = "crate-sent.v1"


class StandInWorker:
    """A worker with one aggregate that records which parts were opened."""

    def __init__(self, aggregate: Aggregate[Any, Any]) -> None:
        self.registry = self
        self.feature = None
        self.codec = CODEC
        self.opened: list[str] = []
        self._aggregate = aggregate

    def aggregates_of(self, _: object) -> Sequence[Aggregate[Any, Any]]:
        return (self._aggregate,)

    def store(self) -> MemoryStore:
        self.opened.append("store")
        return MemoryStore()

    def vault(self) -> object:
        self.opened.append("vault")
        return object()


@pytest.mark.parametrize(
    ("event", "opened"),
    [(CratePacked, ["store"]), (CrateSent, ["store", "vault"])],
    ids=["plain", "personal"],
)
def test_the_vault_is_opened_for_personal_fields_alone(event: type[Event], opened: list[str]) -> None:
    worker: Any = StandInWorker(
        Aggregate(name="crate", initial=None, evolve=CRATE.evolve, decide=CRATE.decide, events=(event,))
    )

    open_service(worker)

    assert worker.opened == opened
