"""Queries over real stores: at least what was asked for or an error, opened at the edge, never a false blank."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from adapters import wiring
from adapters.log import Log, open_log
from adapters.sqlite.event_store import SqliteStore
from adapters.sqlite.read_model import SqliteReadModel
from adapters.sqlite.vault import SqliteVault
from domain.features import registry
from domain.kernel.errors import (
    EsError,
    InvalidInput,
    KeyUnavailable,
    Kind,
    PartUnavailable,
    Tampered,
    UnknownRequest,
)
from domain.kernel.events import NO_STREAM, EventData
from domain.kernel.messages import Body, Later, Reply, Request
from domain.kernel.ports.read_model import GenerationState
from domain.kernel.ports.vault import ClaimRequest
from domain.users.account import USER
from domain.users.errors import NotYetThen, NoUserWithEmail, UserNotFound
from domain.users.projection import Users
from tests.support.builders import a_stream, append, some_events
from tests.workers.users.test_users_service import (
    ADA,
    ALAN,
    GRACE,
    Hooked,
    People,
    change,
    create,
    delete,
    erase,
    rename,
)
from workers.projections.filling import Filling
from workers.projections.projector import Projector
from workers.projections.rebuild import Rebuild, Rebuilds
from workers.projections.service import QueriesService, queries_of
from workers.runtime.queries import LIST_LIMIT, PATIENCE_S, Sources

USERS = Users()


class Desk:
    """The queries service, a projector that runs when told, and a clock that is moved by hand."""

    def __init__(self, people: People, read_model: SqliteReadModel, log: Log) -> None:
        self.people = people
        self.read_model = read_model
        self.now_s = 0.0
        self._log = log
        parts = Filling(
            USERS,
            store=people.store,
            codec=people.codec,
            read_model=read_model,
            now_us=lambda: people.now_us,
            log=log,
        )
        read_model.prepare(USERS, now_us=people.now_us)
        self.projector = Projector(parts)
        self.rebuilds = Rebuilds(lambda _: Rebuild(parts), lambda: False, log)

    def service(self, **parts: Any) -> QueriesService:
        people = self.people
        given: dict[str, Any] = {
            "store": people.store,
            "codec": people.codec,
            "vault": people.vault,
            "keyring": lambda subjects: wiring.keyring_of(people.vault)(subjects),
            "erased_keyring": wiring.erased_keyring(),
            "read_model": self.read_model,
            "projections": registry().projections,
            "reached": lambda _: self.projector.reached,
            "ensure_rebuild": self.rebuilds.ensure,
            "now_us": lambda: people.now_us,
            "monotonic_s": lambda: self.now_s,
        }
        return QueriesService(queries_of(registry(), Sources(**{**given, **parts})))

    def project(self) -> None:
        head = self.people.store.head()
        self.projector.run(lambda: self.projector.reached >= head)

    def ask(self, kind: str, /, **body: object) -> Reply:
        (reply,) = self.service().handle([Request(kind, dict(body))])
        return reply

    def answer(self, kind: str, /, **body: object) -> Body:
        reply = self.ask(kind, **body)
        assert isinstance(reply, dict), reply
        return reply


@pytest.fixture
def people(tmp_path: Path) -> Iterator[People]:
    with closing(People(tmp_path / "people", store=SqliteStore(tmp_path / "events.db"))) as opened:
        yield opened


@pytest.fixture
def desk(people: People, tmp_path: Path) -> Iterator[Desk]:
    log = open_log(f"queries-{tmp_path.name}", tmp_path / "log")
    with closing(SqliteReadModel(tmp_path / "read.db")) as read_model:
        yield Desk(people, read_model, log)


# --- one user --------------------------------------------------------------------------------


def test_a_user_is_shown_with_readable_data(people: People, desk: Desk) -> None:
    user_id = people.a_user(ADA)
    people.done(rename(user_id, "Ada Lovelace"))
    desk.project()

    shown = desk.answer("users.get", user_id=str(user_id))

    times = [shown.pop("registered_at"), shown.pop("updated_at")]
    assert shown == {
        "user_id": str(user_id),
        "email": ADA,
        "name": "Ada Lovelace",
        "status": "active",
        "version": 1,
    }
    assert all(time.endswith("Z") and "T" in time for time in times)


@pytest.mark.parametrize(("end", "status", "email"), [(delete, "deleted", ADA), (erase, "erased", None)])
def test_the_end_of_an_account_is_shown(
    people: People, desk: Desk, end: Callable[[int], Request], status: str, email: str | None
) -> None:
    user_id = people.a_user(ADA)
    people.done(end(user_id))
    desk.project()

    shown = desk.answer("users.get", user_id=str(user_id))

    assert (shown["status"], shown["email"]) == (status, email)


def test_a_user_that_never_was_is_not_found(people: People, desk: Desk) -> None:
    people.a_user(ADA)
    desk.project()

    assert desk.ask("users.get", user_id="5") == UserNotFound(5)


def test_a_user_that_is_stored_but_not_projected_yet_is_waited_for(people: People, desk: Desk) -> None:
    user_id = people.a_user(ADA)
    request = Request("users.get", {"user_id": str(user_id)})

    assert isinstance(desk.service().handle([request])[0], Later), "not: there is no such user"
    desk.project()

    (reply,) = desk.service().handle([request])
    assert isinstance(reply, dict)
    assert reply["email"] == ADA


@pytest.mark.parametrize("wrong", [{}, {"user_id": "x"}, {"user_id": 0}, {"user_id": None}, {"user_id": [1]}])
def test_a_wrong_id_is_refused(desk: Desk, wrong: dict[str, object]) -> None:
    assert isinstance(desk.ask("users.get", **wrong), InvalidInput)


# --- waiting for a position ------------------------------------------------------------------


def test_what_was_just_written_is_read_by_waiting_for_its_position(people: People, desk: Desk) -> None:
    user_id = people.a_user(ADA)
    desk.project()
    position = people.done(rename(user_id, "New"))["position"]
    request = Request("users.get", {"user_id": str(user_id), "after_position": position})
    service = desk.service()

    assert isinstance(service.handle([request])[0], Later)
    assert isinstance(service.handle([request])[0], Later)
    assert desk.answer("users.get", user_id=str(user_id))["name"] != "New", "without waiting: what is there"
    desk.project()

    (reply,) = service.handle([request])
    assert isinstance(reply, dict)
    assert reply["name"] == "New"


@pytest.mark.parametrize(
    "query",
    [("users.list", {}), ("users.get", {"user_id": "1000"}), ("users.find", {"email": ADA})],
    ids=lambda q: q[0],
)
def test_a_fresh_answer_waits_for_everything_that_is_stored_now(
    people: People, desk: Desk, query: tuple[str, dict[str, object]]
) -> None:
    user_id = people.a_user(ADA)
    assert user_id == 1000
    desk.project()
    people.done(rename(user_id, "New"))
    kind, body = query
    request = Request(kind, {**body, "fresh": True})

    assert isinstance(desk.service().handle([request])[0], Later)
    desk.project()
    people.done(rename(user_id, "Even newer"))  # nobody waits for what comes after the question

    (reply,) = desk.service().handle([request])
    assert isinstance(reply, dict)
    assert (reply["users"][0] if kind == "users.list" else reply)["name"] == "New"


def test_patience_ends_with_an_error_that_says_how_far_it_is(people: People, desk: Desk) -> None:
    people.a_user(ADA)
    request = Request("users.list", {"fresh": True})
    assert isinstance(desk.service().handle([request])[0], Later)

    desk.now_s += PATIENCE_S + 0.1
    (reply,) = desk.service().handle([request])

    assert isinstance(reply, PartUnavailable)
    assert "at position 0, not yet at 1" in str(reply)


def test_a_position_beyond_the_store_is_refused_not_waited_for(people: People, desk: Desk) -> None:
    people.a_user(ADA)
    desk.project()

    assert isinstance(desk.ask("users.list", after_position=99), InvalidInput)
    assert isinstance(desk.ask("users.list", after_position=1), dict)


@pytest.mark.parametrize("wrong", [-1, "1", 1.5, True, 1 << 63, [1]])
def test_a_position_that_is_none_is_refused(desk: Desk, wrong: object) -> None:
    assert isinstance(desk.ask("users.list", after_position=wrong), InvalidInput)


# --- as of a time or a version ---------------------------------------------------------------


@pytest.fixture
def life(people: People) -> int:
    """Registered, renamed, moved, deleted: a day apart each."""
    days = iter(range(100))
    people.store.close()
    people.store = SqliteStore(
        people.vault_path.with_name("timed.db"), now_us=lambda: next(days) * 86_400_000_000
    )
    user_id = people.a_user(ADA)
    people.done(rename(user_id, "Countess"))
    people.done(change(user_id, GRACE))
    people.done(delete(user_id))
    return user_id


_BY_VERSION = [
    (0, "Some Body", ADA, "active"),
    (1, "Countess", ADA, "active"),
    (2, "Countess", GRACE, "active"),
    (3, "Countess", GRACE, "deleted"),
]


@pytest.mark.parametrize(("version", "name", "email", "status"), _BY_VERSION)
def test_a_user_is_shown_as_of_a_version_without_any_projection(
    desk: Desk, life: int, version: int, name: str, email: str, status: str
) -> None:
    shown = desk.answer("users.get", user_id=str(life), version=version)

    assert (shown["name"], shown["email"], shown["status"], shown["version"]) == (
        name,
        email,
        status,
        version,
    )
    assert shown["registered_at"] == "1970-01-01T00:00:00.000000Z"
    assert shown["updated_at"] == f"1970-01-0{version + 1}T00:00:00.000000Z"


@pytest.mark.parametrize(("days", "version"), [(0.0, 0), (0.5, 0), (1.0, 1), (2.9, 2), (3.0, 3), (99.0, 3)])
def test_a_user_is_shown_as_of_a_time(desk: Desk, life: int, days: float, version: int) -> None:
    shown = desk.answer("users.get", user_id=str(life), at_us=int(days * 86_400_000_000))

    assert shown["version"] == version


def test_as_of_both_a_time_and_a_version_the_earlier_counts(desk: Desk, life: int) -> None:
    assert desk.answer("users.get", user_id=str(life), version=3, at_us=86_400_000_000)["version"] == 1
    assert desk.answer("users.get", user_id=str(life), version=0, at_us=86_400_000_000)["version"] == 0


def test_a_version_that_is_not_there_yet_is_refused_with_those_that_are(desk: Desk, life: int) -> None:
    assert desk.ask("users.get", user_id=str(life), version=99) == NotYetThen(life, 3)
    assert desk.ask("users.get", user_id=str(life), version=4) == NotYetThen(life, 3)


def test_before_a_user_was_registered_there_is_none(people: People, desk: Desk) -> None:
    user_id = people.a_user(ADA)

    assert desk.ask("users.get", user_id=str(user_id), at_us=5) == NotYetThen(user_id, 0)
    assert desk.ask("users.get", user_id="5", version=0) == UserNotFound(5)


@pytest.mark.parametrize("wrong", ["0", -1, 1.5, True, [0]])
@pytest.mark.parametrize("field", ["version", "at_us"])
def test_a_version_or_time_that_is_none_is_refused(desk: Desk, life: int, field: str, wrong: object) -> None:
    assert isinstance(desk.ask("users.get", user_id=str(life), **{field: wrong}), InvalidInput)


def test_the_past_of_an_erased_person_is_blank(people: People, desk: Desk) -> None:
    user_id = people.a_user(ADA)
    people.done(erase(user_id))

    # Before and after the key is destroyed: the decision is enough.
    for _ in range(2):
        shown = desk.answer("users.get", user_id=str(user_id), version=0)
        assert (shown["email"], shown["name"], shown["status"]) == (None, None, "active")
        history = desk.answer("users.history", user_id=str(user_id))["events"]
        assert history[0]["data"] == {"email": None, "name": None}
        people.vault.destroy_key(user_id, process="erasures", position=2)


# --- find ------------------------------------------------------------------------------------


@pytest.mark.parametrize("email", [ADA, " ADA@Example.com "])
def test_a_user_is_found_by_address_however_it_is_written(people: People, desk: Desk, email: str) -> None:
    user_id = people.a_user(ADA)
    people.a_user(GRACE)
    desk.project()

    assert desk.answer("users.find", email=email)["user_id"] == str(user_id)


def test_nobody_is_found_by_an_address_that_nobody_has(people: People, desk: Desk) -> None:
    people.a_user(ADA)
    desk.project()

    assert desk.ask("users.find", email=GRACE) == NoUserWithEmail()
    assert isinstance(desk.ask("users.find", email="no address"), InvalidInput)
    assert isinstance(desk.ask("users.find"), InvalidInput)


@pytest.mark.parametrize("end", [delete, erase])
def test_a_user_whose_account_ended_is_not_found_by_address(
    people: People, desk: Desk, end: Callable[[int], Request]
) -> None:
    people.done(end(people.a_user(ADA)))
    desk.project()

    assert desk.ask("users.find", email=ADA) == NoUserWithEmail()


def test_a_user_is_not_found_by_an_address_that_they_have_left(people: People, desk: Desk) -> None:
    # The claim of the old address lives until a process has released it; that must not show.
    user_id = people.a_user(ADA)
    people.done(change(user_id, GRACE))
    desk.project()

    assert desk.answer("users.find", email=GRACE, fresh=True)["user_id"] == str(user_id)
    assert desk.ask("users.find", email=ADA, fresh=True) == NoUserWithEmail()


@pytest.mark.parametrize("registers", [True, False])
def test_nobody_is_found_by_an_address_that_is_only_reserved(
    people: People, desk: Desk, registers: bool
) -> None:
    subject = 77 if registers else people.a_user(GRACE)
    people.vault.reserve([ClaimRequest(ADA, subject, uuid4(), uuid4(), registers)], now_us=people.now_us)
    desk.project()

    reply = desk.ask("users.find", email=ADA)

    assert isinstance(reply, EsError)
    assert reply.kind is Kind.NOT_FOUND
    assert "77" not in str(reply), "whose it may become is nobody's business"


# --- list ------------------------------------------------------------------------------------


@pytest.fixture
def ten(people: People, desk: Desk) -> list[str]:
    ids = [people.a_user(f"user{number}@example.com") for number in range(10)]
    people.done(delete(ids[3]))
    people.done(erase(ids[6]))
    desk.project()
    return [str(user_id) for user_id in ids]


def ids_of(reply: Body) -> list[str]:
    return [user["user_id"] for user in reply["users"]]


def test_everybody_is_listed_in_order_of_id(desk: Desk, ten: list[str]) -> None:
    reply = desk.answer("users.list")

    assert ids_of(reply) == ten
    assert [user["email"] for user in reply["users"]] == [
        None if number == 6 else f"user{number}@example.com" for number in range(10)
    ]


def test_a_list_is_paged_without_gaps_or_repetition(desk: Desk, ten: list[str]) -> None:
    pages: list[list[str]] = [ids_of(desk.answer("users.list", limit=4))]
    while page := ids_of(desk.answer("users.list", limit=4, after=pages[-1][-1])):
        pages.append(page)

    assert pages == [ten[:4], ten[4:8], ten[8:]]


def test_a_list_may_be_of_one_status(desk: Desk, ten: list[str]) -> None:
    assert ids_of(desk.answer("users.list", status="deleted")) == [ten[3]]
    assert ids_of(desk.answer("users.list", status="erased")) == [ten[6]]
    assert len(ids_of(desk.answer("users.list", status="active"))) == 8
    assert ids_of(desk.answer("users.list", status="active", after=ten[2], limit=2)) == ten[4:6]


@pytest.mark.parametrize(
    "wrong", [{"status": "unknown"}, {"status": 5}, {"after": "x"}, {"limit": -1}, {"limit": "all"}]
)
def test_a_list_that_makes_no_sense_is_refused(desk: Desk, ten: list[str], wrong: dict[str, object]) -> None:
    assert isinstance(desk.ask("users.list", **wrong), InvalidInput)
    assert len(ten) == 10


def test_a_list_has_a_greatest_length(people: People, desk: Desk) -> None:
    for start in range(0, LIST_LIMIT + 50, 50):
        people.handle(*(create(f"user{number}@example.com") for number in range(start, start + 50)))
    desk.project()

    assert len(ids_of(desk.answer("users.list", limit=10 * LIST_LIMIT))) == LIST_LIMIT
    assert len(ids_of(desk.answer("users.list"))) == 100


# --- what can't be opened --------------------------------------------------------------------


def _swap_sealed(desk: Desk, one: int, other: int) -> None:
    with desk.read_model._database.writing() as connection:
        connection.execute(
            "UPDATE users_g1 SET name = (SELECT name FROM users_g1 WHERE user_id = ?) WHERE user_id = ?",
            (one, other),
        )


def test_a_sealed_value_in_another_persons_row_is_tampered_not_blank(people: People, desk: Desk) -> None:
    ada, grace = people.a_user(ADA), people.a_user(GRACE)
    desk.project()
    _swap_sealed(desk, ada, grace)

    assert desk.ask("users.get", user_id=str(grace)) == Tampered(grace, "name")
    assert isinstance(desk.ask("users.list"), Tampered)
    assert desk.answer("users.get", user_id=str(ada))["email"] == ADA


def test_a_sealed_value_in_another_column_is_tampered_not_blank(people: People, desk: Desk) -> None:
    user_id = people.a_user(ADA)
    desk.project()
    with desk.read_model._database.writing() as connection:
        connection.execute("UPDATE users_g1 SET name = email")

    assert desk.ask("users.get", user_id=str(user_id)) == Tampered(user_id, "name")


@pytest.mark.parametrize("text", ["", "readable", "es1:1000:x:y", "es2:1000:" + "0" * 32 + ":AAAA"])
def test_what_is_no_sealed_value_is_tampered_not_shown(people: People, desk: Desk, text: str) -> None:
    user_id = people.a_user(ADA)
    desk.project()
    with desk.read_model._database.writing() as connection:
        connection.execute("UPDATE users_g1 SET name = ?", (text,))

    assert desk.ask("users.get", user_id=str(user_id)) == Tampered(user_id, "name")


@pytest.mark.parametrize(
    "query",
    [("users.get", {}), ("users.get", {"version": 0}), ("users.history", {}), ("users.list", {})],
    ids=str,
)
def test_a_missing_key_is_an_error_and_never_a_blank(
    people: People, desk: Desk, tmp_path: Path, query: tuple[str, dict[str, object]]
) -> None:
    user_id = people.a_user(ADA)
    desk.project()
    kept, people.vault = people.vault, SqliteVault(tmp_path / "another.db", kek=bytes(32))

    kind, body = query
    reply = desk.ask(kind, user_id=str(user_id), **body)

    assert isinstance(reply, KeyUnavailable)
    people.vault.close()
    people.vault = kept
    assert isinstance(desk.ask(kind, user_id=str(user_id), **body), dict), "and it recovers"


def test_a_vault_that_is_down_is_an_error_and_never_a_blank(people: People, desk: Desk) -> None:
    user_id = people.a_user(ADA)
    desk.project()
    people.vault.close()
    people.vault = Broken()  # type: ignore[assignment]

    for kind in ("users.get", "users.list", "users.history"):
        assert isinstance(desk.ask(kind, user_id=str(user_id)), PartUnavailable)
    assert isinstance(desk.ask("users.find", email=ADA), PartUnavailable)
    assert isinstance(desk.ask("streams.read", stream=USER.stream_of(user_id)), dict), "sealed needs no key"


class Broken:
    """A vault that is down."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def refuse(*_: object, **__: object) -> Any:
            raise PartUnavailable("vault", "it is down")

        return refuse

    def close(self) -> None:
        """Nothing is held."""


def test_one_bad_request_does_not_fail_its_neighbours(people: People, desk: Desk) -> None:
    ada, grace = people.a_user(ADA), people.a_user(GRACE)
    desk.project()
    _swap_sealed(desk, ada, grace)
    requests = [
        Request("users.get", {"user_id": str(grace)}),
        Request("users.get", {"user_id": str(ada)}),
        Request("users.explode", {}),
        Request("users.get", {"user_id": "5"}),
        Request("users.list", {"limit": 1}),
    ]

    replies = desk.service().handle(requests)

    assert [type(reply).__name__ for reply in replies] == [
        "Tampered",
        "dict",
        "UnknownRequest",
        "UserNotFound",
        "dict",
    ]
    assert replies[2] == UnknownRequest("users.explode")


# --- history, streams, events ----------------------------------------------------------------


def test_a_history_tells_every_event_opened_and_who_asked(people: People, desk: Desk) -> None:
    user_id = people.a_user(ADA)
    people.done(rename(user_id, "Countess"))
    people.done(delete(user_id))

    events = desk.answer("users.history", user_id=str(user_id))["events"]

    assert [(event["type"], event["version"], event["data"]) for event in events] == [
        ("user-registered.v1", 0, {"email": ADA, "name": "Some Body"}),
        ("user-renamed.v1", 1, {"name": "Countess"}),
        ("user-deleted.v1", 2, {}),
    ]
    assert {event["actor"] for event in events} == {"uid:1000"}
    assert [event["command"] for event in events] == ["register-user", "rename-user", "delete-user"]
    assert desk.ask("users.history", user_id="5") == UserNotFound(5)


def test_a_stream_is_shown_as_it_is_stored(people: People, desk: Desk) -> None:
    user_id = people.a_user(ADA)
    people.done(rename(user_id, "Countess"))

    forwards = desk.answer("streams.read", stream=USER.stream_of(user_id))["events"]
    backwards = desk.answer("streams.read", stream=USER.stream_of(user_id), backwards=True, limit=1)["events"]

    assert [event["version"] for event in forwards] == [0, 1]
    assert [event["version"] for event in backwards] == [1]
    assert forwards[0]["data"]["email"].startswith(f"es1:{user_id}:")
    assert ADA not in str(forwards)
    assert desk.answer("streams.read", stream=USER.stream_of(user_id), from_version=1)["events"] == backwards
    assert desk.answer("streams.read", stream="none")["events"] == []


def test_streams_are_listed_in_pages(people: People, desk: Desk) -> None:
    ids = [people.a_user(f"user{number}@example.com") for number in range(3)]
    people.done(rename(ids[0]))

    first = desk.answer("streams.list", prefix="user-", limit=2)["streams"]
    rest = desk.answer("streams.list", prefix="user-", after=first[-1]["stream"])["streams"]

    assert [*first, *rest] == [{"stream": USER.stream_of(id_), "version": int(id_ == ids[0])} for id_ in ids]


def test_events_are_paged_by_position(people: People, desk: Desk) -> None:
    for number in range(5):
        people.a_user(f"user{number}@example.com")

    first = desk.answer("events.read", limit=3)
    rest = desk.answer("events.read", after_position=first["position"], limit=3)

    assert [event["position"] for event in first["events"] + rest["events"]] == [1, 2, 3, 4, 5]
    assert (first["position"], rest["position"]) == (3, 5)
    assert desk.answer("events.read", after_position=5) == {"events": [], "position": 5}
    assert desk.answer("events.read", from_end=True) == {"events": [], "position": 5}


def test_an_event_that_is_stored_while_a_page_is_read_is_shown_once(people: People, desk: Desk) -> None:
    people.a_user(ADA)
    store = Hooked(people.store, "read_all", lambda: people.a_user(GRACE))

    (page,) = desk.service(store=store).handle([Request("events.read", {})])
    assert isinstance(page, dict)
    rest = desk.answer("events.read", after_position=page["position"])

    assert [event["position"] for event in page["events"] + rest["events"]] == [1, 2]


def test_events_are_waited_for(people: People, desk: Desk) -> None:
    request = Request("events.read", {"wait": True})
    service = desk.service()
    assert isinstance(service.handle([request])[0], Later)
    people.a_user(ADA)

    (reply,) = service.handle([request])

    assert isinstance(reply, dict)
    assert len(reply["events"]) == 1
    nothing = Request("events.read", {"wait": True, "after_position": 1})
    assert isinstance(service.handle([nothing])[0], Later)
    desk.now_s += PATIENCE_S
    assert service.handle([nothing]) == [{"events": [], "position": 1}], "and not for ever"


def test_an_event_of_another_program_does_not_hide_the_others(people: People, desk: Desk) -> None:
    people.a_user(ADA)
    foreign = EventData(uuid4(), "$metadata", b'{"a":1}', b"")
    append(people.store, "elsewhere", NO_STREAM, [foreign])
    append(people.store, a_stream(), NO_STREAM, some_events(1))
    people.a_user(GRACE)

    shown = desk.answer("events.read")["events"]

    assert [event["position"] for event in shown] == [1, 2, 3, 4]


# --- projections -----------------------------------------------------------------------------


def test_the_state_of_projections_tells_how_far_they_are(people: People, desk: Desk) -> None:
    people.a_user(ADA)
    (before,) = desk.answer("projections.status")["projections"]
    desk.project()
    (after,) = desk.answer("projections.status", name="users")["projections"]

    assert (before["position"], before["lag"], before["events"]) == (0, 1, 0)
    assert (after["position"], after["lag"], after["events"], after["head"]) == (1, 0, 1, 1)
    assert (after["generation"], after["state"], after["parked"]) == (1, "current", 0)


def test_a_rebuild_is_started_and_leaves_a_new_generation(people: People, desk: Desk) -> None:
    people.a_user(ADA)
    desk.project()

    reply = desk.answer("projections.rebuild", name="users")
    desk.rebuilds.join()

    assert reply == {"projection": "users", "generation": 2, "head": 1}
    states = [state["state"] for state in desk.answer("projections.status")["projections"]]
    assert states == [GenerationState.RETIRED.value, GenerationState.CURRENT.value]
    assert len(ids_of(desk.answer("users.list"))) == 1


@pytest.mark.parametrize("kind", ["projections.status", "projections.rebuild"])
def test_an_unknown_projection_is_not_found(desk: Desk, kind: str) -> None:
    reply = desk.ask(kind, name="nonsense")

    assert isinstance(reply, EsError)
    assert reply.kind is Kind.NOT_FOUND


def test_nobody_is_shown_by_the_way_in_an_error(people: People, desk: Desk) -> None:
    people.a_user(ADA)
    people.a_user(ALAN)
    desk.project()
    errors = [
        desk.ask("users.find", email="canary-5f1d@example.com"),
        desk.ask("users.find", email="canary-5f1d"),
        desk.ask("users.list", status="canary-5f1d"),
        desk.ask("users.get", user_id="canary-5f1d"),
    ]

    assert all(isinstance(error, EsError) for error in errors)
    assert "canary" not in str([error.to_wire() for error in errors if isinstance(error, EsError)])
