"""Queries derived from an aggregate: its history, and its state now, at a version or at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import uuid4

import pytest

import es
from adapters.codec import JsonCodec
from adapters.memory.event_store import MemoryStore
from adapters.wiring import erased_keyring
from domain.kernel.aggregate import Aggregate
from domain.kernel.errors import Damaged, EsError, InvalidInput
from domain.kernel.events import EventData
from domain.kernel.messages import Body, Reply, Request
from domain.kernel.ports.event_store import Append
from domain.kernel.ports.vault import Destruction, Reason
from domain.kernel.system import EVENTS as SYSTEM_EVENTS
from domain.users.account import USER
from tests.support.accounts import ADA, change, delete, erase, rename
from tests.support.leases import LEASE
from tests.support.read_side import ReadSide
from tests.support.shelves import SHELF
from workers.projections.instance_queries import NoSuchInstance, NotYetThen, _shown, instance_queries
from workers.runtime.commands import CommandService
from workers.runtime.queries import Sources

Ask = Callable[..., Reply]
UNUSED: Any = None
ANY_SHELF: Aggregate[Any, Any] = SHELF


def sources_of(**parts: Any) -> Sources:
    names = ("store", "codec", "vault", "keyring", "erased_keyring", "read_model", "projections", "reached")
    others = ("last_error", "ensure_rebuild", "rebuild_error", "now_us")
    return Sources(**{**dict.fromkeys((*names, *others), UNUSED), **parts})


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def a_system(store: MemoryStore, *aggregates: Aggregate[Any, Any]) -> tuple[Ask, Ask]:
    """Functions that send a command to shelves, and a query."""
    codec = JsonCodec(SHELF.events, SHELF.upcasters)
    service = CommandService(
        [SHELF], store=store, codec=codec, keyring=lambda _: erased_keyring(), pause=lambda _: None
    )

    def no_key(subjects: object) -> Any:
        raise AssertionError("no personal value, so no key is read")

    sources = sources_of(store=store, codec=codec, erased_keyring=erased_keyring(), keyring=no_key)
    queries = instance_queries("shelves", aggregates or (SHELF,), sources)

    def send(kind: str, **fields: object) -> Reply:
        [reply] = service.handle(
            [Request(kind, {"command_id": str(uuid4()), "actor": "test:1", "input": fields})]
        )
        assert not isinstance(reply, EsError), reply
        return reply

    def ask(kind: str, **body: object) -> Reply:
        try:
            return queries[kind](Request(kind, dict(body)))
        except EsError as error:
            return error

    return send, ask


@pytest.fixture
def life(store: MemoryStore) -> Ask:
    """A shelf with the id 7 and four events."""
    send, ask = a_system(store)
    send("shelves.open", shelf_id="7", label="maps")
    send("shelves.put-book", shelf_id="7", title="North")
    send("shelves.put-book", shelf_id="7", title="South")
    send("shelves.close", shelf_id="7")
    return ask


def body(reply: Reply) -> Body:
    assert isinstance(reply, dict), reply
    return reply


# --- history ---------------------------------------------------------------------------------


def test_a_history_has_every_event_with_its_command_and_actor(life: Ask) -> None:
    events = body(life("shelves.history", id="7"))["events"]

    assert [event["type"] for event in events] == [
        "shelf-opened.v1",
        "book-put.v1",
        "book-put.v1",
        "shelf-closed.v2",
    ]
    assert [event["version"] for event in events] == [0, 1, 2, 3]
    assert events[1]["data"] == {"title": "North"}
    assert {event["actor"] for event in events} == {"test:1"}
    assert events[3]["command"] == "close-shelf"
    assert "unreadable" not in events[0]


def test_a_long_history_comes_in_pages(life: Ask, store: MemoryStore) -> None:
    first = body(life("shelves.history", id="7", limit=3))
    rest = body(life("shelves.history", id="7", limit=3, **first["next"]))

    assert [event["version"] for event in first["events"]] == [0, 1, 2]
    assert [event["version"] for event in rest["events"]] == [3]
    assert rest["next"] is None
    assert body(life("shelves.history", id="7", from_version=9)) == {"events": [], "next": None}


# --- state -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "books", "is_open"), [(0, 0, True), (1, 1, True), (2, 2, True), (3, 2, False)]
)
def test_the_state_at_a_version_is_the_fold_up_to_it(
    life: Ask, version: int, books: int, is_open: bool
) -> None:
    found = body(life("shelves.state", id="7", version=version))

    assert found.keys() == {"shelf_id", "label", "books", "is_open", "version", "created_at", "updated_at"}
    assert (found["shelf_id"], found["label"], found["version"]) == ("7", "maps", version)
    assert (found["books"], found["is_open"]) == (books, is_open)


def test_the_state_without_a_version_is_that_of_the_last_event(life: Ask) -> None:
    assert life("shelves.state", id="7") == life("shelves.state", id="7", version=3)


def test_the_state_at_a_time_counts_the_events_until_then(store: MemoryStore, life: Ask) -> None:
    times = [recorded.recorded_at_us for recorded in store.read_stream("shelf-7")]

    for version, time in enumerate(times):
        last_until_then = max(number for number, each in enumerate(times) if each <= time)
        assert body(life("shelves.state", id="7", at_us=time))["version"] == last_until_then >= version
    assert life("shelves.state", id="7", at_us=times[0] - 1) == NotYetThen("shelf", 3)


def test_what_did_not_exist_is_not_found(life: Ask) -> None:
    assert life("shelves.state", id="8") == life("shelves.history", id="8") == NoSuchInstance("shelf")
    assert life("shelves.state", id="7", version=4) == NotYetThen("shelf", 3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "x"},
        {},
        {"id": "7", "version": -1},
        {"id": "7", "at_us": "0"},
        {"id": "7", "after_position": 99},
    ]
    + [{"id": "7", "of": of} for of in ("crate", "", 7, ["shelf"])],
)
def test_wrong_fields_are_refused(life: Ask, wrong: Body) -> None:
    assert isinstance(life("shelves.state", **wrong), InvalidInput)


def test_of_names_another_aggregate_of_the_feature(store: MemoryStore) -> None:
    first: Aggregate[Any, Any] = replace(SHELF, name="crate")
    send, ask = a_system(store, first, SHELF)
    send("shelves.open", shelf_id="7", label="maps")

    assert ask("shelves.state", id="7") == NoSuchInstance("crate")
    assert body(ask("shelves.state", id="7", of="shelf"))["label"] == "maps"
    assert len(body(ask("shelves.history", id="7", of="shelf"))["events"]) == 1


def test_a_feature_without_aggregates_has_no_such_queries() -> None:
    assert instance_queries("empty", (), UNUSED) == {}


# --- damage ----------------------------------------------------------------------------------


def test_an_event_that_cannot_be_folded_is_an_error_that_names_it(store: MemoryStore) -> None:
    def strict(shelf: Any, event: es.Event) -> Any:
        if type(event) not in SHELF.events:
            raise KeyError("no case")
        return SHELF.evolve(shelf, event)

    aggregate: Aggregate[Any, Any] = replace(ANY_SHELF, evolve=strict)
    send, ask = a_system(store, aggregate)
    send("shelves.open", shelf_id="7", label="maps")
    store.append([Append("shelf-7", 0, [EventData(uuid4(), "unknown.v1", b"{}", b"{}")])])

    found = ask("shelves.state", id="7")
    assert isinstance(found, Damaged)
    assert "event 1 of shelf-7 cannot be folded (KeyError)" in str(found)
    assert body(ask("shelves.state", id="7", version=0))["label"] == "maps"
    assert body(ask("shelves.history", id="7"))["events"][1]["unreadable"] == {"data": "unknown-event-type"}


# --- personal values -------------------------------------------------------------------------


@pytest.fixture
def people(read_side: ReadSide) -> Callable[[str, Body], Body]:
    """The derived queries over the accounts of users, to compare with those that users have."""
    from adapters.wiring import keyring_of

    sources = sources_of(
        store=read_side.store,
        codec=read_side.codec,
        keyring=keyring_of(read_side.vault),
        erased_keyring=erased_keyring(),
    )
    queries = instance_queries("accounts", (USER,), sources)
    return lambda kind, fields: body(queries[f"accounts.{kind}"](Request(kind, fields)))


def test_personal_values_are_opened_as_the_queries_of_users_open_them(
    read_side: ReadSide, people: Callable[[str, Body], Body]
) -> None:
    user = read_side.a_user(ADA)
    read_side.done(rename(user, "Ada Lovelace"))
    read_side.done(change(user, "lovelace@example.com"))
    read_side.done(delete(user))

    history = people("history", {"id": str(user)})
    assert history["events"] == read_side.answer("users.history", user_id=str(user))["events"]
    for version in range(4):
        state = people("state", {"id": str(user), "version": version})
        shown = read_side.answer("users.get", user_id=str(user), version=version)
        assert {name: state[name] for name in ("user_id", "email", "name", "status", "version")} == {
            name: shown[name] for name in ("user_id", "email", "name", "status", "version")
        }
        assert (state["created_at"], state["updated_at"]) == (shown["registered_at"], shown["updated_at"])


def test_an_erased_person_is_shown_without_values(
    read_side: ReadSide, people: Callable[[str, Body], Body]
) -> None:
    user = read_side.a_user(ADA)
    read_side.done(erase(user))

    state = people("state", {"id": str(user)})
    assert (state["email"], state["name"], state["status"]) == (None, None, "erased")


@pytest.fixture
def leases(read_side: ReadSide) -> tuple[Ask, Ask]:
    """Functions that send a command to leases, which hold data of users, and a query about them."""
    from adapters.wiring import keyring_of

    codec, store = JsonCodec([*LEASE.events, *SYSTEM_EVENTS]), read_side.store
    service = CommandService(
        [LEASE],
        store=store,
        codec=codec,
        keyring=keyring_of(read_side.vault),
        pause=lambda _: None,
        take_ids=read_side.take_ids,
    )
    sources = sources_of(
        store=store, codec=codec, erased_keyring=erased_keyring(), keyring=keyring_of(read_side.vault)
    )
    queries = instance_queries("leases", (LEASE,), sources)

    def send(kind: str, **fields: object) -> Reply:
        [reply] = service.handle([Request(kind, {"command_id": str(uuid4()), "input": fields})])
        return reply

    return send, lambda kind, **fields: queries[kind](Request(kind, dict(fields)))


def test_values_of_other_persons_are_opened_until_their_erasure(
    read_side: ReadSide, leases: tuple[Ask, Ask]
) -> None:
    send, ask = leases
    tenant, other = str(read_side.a_user(ADA)), read_side.a_user("grace@example.com")
    signed = body(send("leases.sign", tenant_id=tenant, tenant="Ada Lovelace", flat="3"))
    id_ = signed["lease_id"]

    assert body(ask("leases.state", id=id_))["tenant"] == "Ada Lovelace"
    assert body(ask("leases.history", id=id_))["events"][0]["data"]["tenant"] == "Ada Lovelace"

    body(send("leases.hand-over", lease_id=id_, to_id=str(other), to_name="Grace"))
    read_side.vault.destroy([Destruction(int(tenant), Reason.ERASURE)], now_us=read_side.now_us)

    state, first = body(ask("leases.state", id=id_)), body(ask("leases.state", id=id_, version=0))
    assert (state["tenant"], state["tenant_id"]) == ("Grace", str(other))
    assert (first["tenant"], "unreadable" in first) == (None, False)


# --- a state as JSON -------------------------------------------------------------------------


class Colour(StrEnum):
    RED = "red"


class Point(NamedTuple):
    x: int
    y: int


@dataclass(frozen=True)
class Inner:
    amount: int


@dataclass(frozen=True)
class Everything:
    owner_id: int
    big: int
    colour: Colour
    tags: frozenset[str]
    inner: Inner
    points: tuple[Point, ...]
    by_id: dict[int, Inner]
    name: es.PersonalText
    note: es.PersonalText


def test_every_kind_of_value_in_a_state_becomes_json() -> None:
    state = Everything(
        7, 1 << 60, Colour.RED, frozenset("ba"), Inner(3), (Point(1, 2),), {5: Inner(4)}, es.Personal("Ada"),
        es.Unreadable("tampered"),
    )  # fmt: skip

    assert _shown(state) == {
        "owner_id": "7",
        "big": str(1 << 60),
        "colour": "red",
        "tags": ["a", "b"],
        "inner": {"amount": 3},
        "points": [[1, 2]],
        "by_id": {"5": {"amount": 4}},
        "name": "Ada",
        "note": None,
        "unreadable": {"note": "tampered"},
    }
    assert _shown(5) == {"state": 5}
