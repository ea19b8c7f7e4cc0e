"""Data of persons in streams of other aggregates: the index, what an erasure reaches, and what is left after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from adapters import wiring
from adapters.log import Log
from adapters.sqlite.read_model import SqliteReadModel
from domain.features import registry
from domain.kernel.errors import PersonErased
from domain.kernel.events import NO_STREAM, Event, EventData, Recorded
from domain.kernel.history import History
from domain.kernel.messages import Request
from domain.kernel.person_streams import NAME, key_of, person_streams
from domain.kernel.process import Process, by_stream
from domain.kernel.process_events import ProcessNoted
from domain.kernel.projection import Put
from domain.kernel.system import CommandRemembered
from domain.users.account import USER, UserRegistered
from domain.users.errors import UserNotFound
from tests.support.accounts import ADA, GRACE, erase
from tests.support.builders import append
from tests.support.leases import LEASE, LeaseSigned, RentPaid
from tests.support.letting import KNOWN, Letting
from tests.support.parts import replaced
from tests.support.shelves import SHELF
from workers.projections.person_queries import PersonQueries
from workers.projections.row_queries import RowQueries

CANARY = "Canary Wharfinger"


@pytest.fixture
def letting(tmp_path: Path, read_model: SqliteReadModel, log: Log) -> Iterator[Letting]:
    with closing(Letting(tmp_path / "letting", read_model, log)) as opened:
        yield opened


def named(letting: Letting, person: int, **more: object) -> list[tuple[object, object]]:
    found = letting.answer("streams.list", person=str(person), **more)["streams"]
    return [(row["stream"], row["version"]) for row in found]


# --- the index -------------------------------------------------------------------------------


def test_without_an_aggregate_that_names_persons_there_is_no_index() -> None:
    assert person_streams([USER, SHELF]) == ()
    assert [each.name for each in registry().projections if each.name.startswith(NAME)] == []


def test_each_aggregate_that_names_persons_has_a_part_of_the_index() -> None:
    parts = person_streams([USER, LEASE, SHELF, replace(LEASE, name="sub-lease")])

    assert {part.name: part.prefixes for part in parts} == {
        "person_streams_lease": ("lease-",),
        "person_streams_sub_lease": ("sub-lease-",),
    }
    assert "person_streams_lease" in [each.name for each in KNOWN.projections]


def test_streams_of_several_aggregates_are_in_one_order(letting: Letting) -> None:
    ada = letting.a_user()
    leases = [letting.a_lease(ada, "Ada") for _ in range(2)]
    letting.project()
    (part,) = person_streams([LEASE])
    (other,) = person_streams([replace(LEASE, name="a-loan")])
    generation = letting.read_model.prepare(other, now_us=1)
    rows = [Put(key_of(ada, f"a-loan-{number}"), {"version": 3}) for number in range(2)]
    assert letting.read_model.apply(other, generation, rows, reached=History(1), events=2)
    sources = letting.sources(projections=(part, other), reached=lambda _: 1 << 40)
    queries = PersonQueries(sources)

    paged, after = [], ""
    while after is not None:
        page = queries.streams(
            Request("streams.list", {"person": str(ada), "limit": 1}), after=after, prefix=""
        )
        assert isinstance(page, dict)
        paged += [row["stream"] for row in page["streams"]]
        after = page["next"] and page["next"]["after"]
    reached = queries.reach(Request("gdpr.reach", {"user_id": str(ada)}))

    assert paged == ["a-loan-0", "a-loan-1", *(f"lease-{lease}" for lease in leases), f"user-{ada}"]
    assert isinstance(reached, dict)
    assert reached["streams"] == 5


def test_a_process_that_notes_personal_data_is_in_the_index(letting: Letting) -> None:
    def process(name: str, *types: type[Event]) -> Process[None]:
        starts = dict.fromkeys(types, by_stream)
        return Process(
            name=name, initial=lambda _: None, evolve=lambda s, _: s, react=lambda _, __: [], starts=starts
        )

    ada, grace = letting.a_user(ADA), letting.a_user(GRACE)
    lease = letting.a_lease(ada, CANARY)
    letting.let("leases.hand-over", lease_id=lease, to_id=grace, to_name="Grace")
    letting.let("leases.pay", lease_id=lease, amount=1)
    for stream in (LEASE.stream_of(lease), USER.stream_of(grace)):
        for recorded in letting.store.read_stream(stream):
            _note(letting, f"process-move-in-{recorded.position}", recorded)

    part, *others = person_streams(
        [USER, LEASE], [process("move-in", LeaseSigned, UserRegistered), process("rents", RentPaid)]
    )[1:]
    assert others == [], "a process that notes no personal data has no part"
    letting.project_one(part)

    assert (part.name, part.prefixes) == ("person_streams__move_in", ("process-move-in-",))
    rows = sorted(str(row["person_stream"]) for row in letting.read_model.rows(part))
    signed, handed, _, registered = (
        event.stream for event in letting.store.read_all(0, 100, prefixes=["process-move-in-"])
    )
    assert rows == sorted(
        [f"{ada}:{signed}", f"{ada}:{handed}", f"{grace}:{handed}", f"{grace}:{registered}"]
    )


def _note(letting: Letting, stream: str, recorded: Recorded) -> None:
    noted = ProcessNoted(
        str(recorded.event_id),
        recorded.stream,
        recorded.version,
        recorded.position,
        0,
        recorded.type,
        recorded.data.decode(),
    )
    metadata = letting.codec.metadata(recorded)
    event = letting.codec.encode(noted, event_id=uuid4(), subject=None, metadata=metadata, sealer=None)
    append(letting.store, stream, NO_STREAM, [event])


# --- assignments -----------------------------------------------------------------------------


def test_streams_of_assignments_are_listed_only_on_request(letting: Letting) -> None:
    ada = letting.a_user()
    append(letting.store, "a-first", NO_STREAM, [EventData(uuid4(), "odd.v1", b"{}", b"{}")])
    leases = [letting.a_lease(ada, "Ada") for _ in range(3)]
    letting.project()

    shown = ["a-first", *(f"lease-{lease}" for lease in leases), f"user-{ada}"]
    assert [row["stream"] for row in letting.answer("streams.list")["streams"]] == shown
    everything = letting.answer("streams.list", all=True)["streams"]
    assert len(everything) == 8
    assert len(letting.answer("streams.list", prefix="created-lease-")["streams"]) == 3
    assert letting.answer("streams.count") == {"streams": 5, "more": False}
    assert letting.answer("streams.count", all=True) == {"streams": 8, "more": False}
    assert letting.answer("streams.count", prefix="created-") == {"streams": 3, "more": False}
    assert letting.answer("streams.count", prefix="lease-") == {"streams": 3, "more": False}


def test_pages_of_streams_skip_assignments_without_gaps(letting: Letting) -> None:
    ada = letting.a_user()
    append(letting.store, "a-first", NO_STREAM, [EventData(uuid4(), "odd.v1", b"{}", b"{}")])
    for _ in range(3):
        letting.a_lease(ada, "Ada")
    letting.project()
    whole = letting.answer("streams.list")["streams"]

    paged, following = [], {"after": ""}
    while following is not None:
        page = letting.answer("streams.list", limit=1, **following)
        paged += page["streams"]
        following = page["next"]

    assert paged == whole
    inside = [row["stream"] for row in letting.answer("streams.list", all=True)["streams"]][2]
    assert letting.answer("streams.list", after=inside)["streams"] == whole[1:]


# --- what an erasure reaches -----------------------------------------------------------------


def test_what_an_erasure_reaches_is_shown_and_nothing_changes(letting: Letting) -> None:
    ada = letting.a_user()
    letting.a_lease(ada, CANARY)
    letting.project()
    head = letting.store.head()

    reached = letting.answer("gdpr.reach", user_id=str(ada))

    assert reached == {
        "user_id": str(ada),
        "erased": False,
        "key": "living",
        "streams": 2,
        "more": False,
        "email_claims": 1,
        "other_claims": 0,
    }
    assert letting.store.head() == head
    assert isinstance(letting.ask("gdpr.reach", user_id="5"), UserNotFound)


def test_an_erasure_reaches_a_person_whose_own_stream_is_lost(letting: Letting) -> None:
    ada = letting.a_user()
    letting.project()
    sources = letting.sources(store=_Without(letting.store, USER.stream_of(ada)))
    reached = PersonQueries(sources).reach(Request("gdpr.reach", {"user_id": str(ada)}))

    assert isinstance(reached, dict)
    assert (reached["streams"], reached["key"], reached["email_claims"]) == (0, "living", 1)


class _Without:
    """A store that has lost one stream."""

    def __init__(self, store: object, lost: str) -> None:
        self._store, self._lost = store, lost

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def read_stream(self, stream: str, *args: object, **more: object) -> object:
        return iter(()) if stream == self._lost else self._store.read_stream(stream, *args, **more)  # type: ignore[attr-defined]


# --- erasing ---------------------------------------------------------------------------------


def test_an_erasure_blanks_rows_states_and_histories_and_a_rebuild_leaves_them_blank(
    letting: Letting,
) -> None:
    ada, grace = letting.a_user(ADA), letting.a_user(GRACE)
    kept, handed = letting.a_lease(ada, CANARY), letting.a_lease(ada, CANARY)
    letting.let("leases.hand-over", lease_id=handed, to_id=grace, to_name="Grace")
    letting.project()
    rows = letting.answer("leases.list")["rows"]
    assert [row["tenant"] for row in rows] == [CANARY, "Grace"]
    assert letting.answer("leases.get", key=str(kept))["tenant"] == CANARY
    assert letting.answer("leases.state", id=str(kept))["tenant"] == CANARY
    stored = letting.read_model.rows(KNOWN.projections_of(KNOWN.features[-1])[0])
    assert CANARY not in str(stored), "rows hold sealed text"

    letting.done(erase(ada))
    letting.run()
    letting.project()

    for _ in range(2):
        assert [row["tenant"] for row in letting.answer("leases.list")["rows"]] == [None, "Grace"]
        assert letting.answer("leases.get", key=str(kept)) == {
            "lease_id": str(kept),
            "tenant": None,
            "flat": "attic",
            "paid": 0,
        }
        assert letting.answer("leases.state", id=str(kept))["tenant"] is None
        history = letting.answer("leases.history", id=str(handed))["events"]
        assert [event["data"].get("from_name", "-") for event in history] == ["-", None]
        assert history[1]["data"]["to_name"] == "Grace"
        assert CANARY not in str(
            [letting.answer("streams.read", stream=f"lease-{id_}") for id_ in (kept, handed)]
        )
        letting.rebuild()
        letting.project()

    assert letting.a_lease(grace, "Grace")
    assert letting.let("leases.hand-over", lease_id=handed, to_id=ada, to_name="Ada") == PersonErased(ada)
    letting.project()
    reached = letting.answer("gdpr.reach", user_id=str(ada))
    assert (reached["erased"], reached["key"], reached["streams"]) == (True, "destroyed", 3)


def test_a_column_that_cannot_be_opened_names_the_reason_and_hides_no_other(letting: Letting) -> None:
    ada, grace = letting.a_user(ADA), letting.a_user(GRACE)
    lost, moved, sound = (
        letting.a_lease(ada, "Ada"),
        letting.a_lease(grace, "Grace"),
        letting.a_lease(grace, "Grace"),
    )
    letting.project()
    with letting.read_model._database.writing() as connection:
        connection.execute(
            "UPDATE leases_g1 SET tenant = replace(tenant, ?, ?) WHERE lease_id = ?",
            (f":{grace}:", f":{ada}:", moved),
        )
    letting.change_vault("DELETE FROM data_keys WHERE subject = ?", ada)

    rows = {row["lease_id"]: row for row in letting.answer("leases.list")["rows"]}

    assert rows[str(lost)]["unreadable"] == {"tenant": "key-missing"}
    assert rows[str(moved)]["unreadable"] == {"tenant": "key-missing"}
    assert (rows[str(sound)]["tenant"], "unreadable" in rows[str(sound)]) == ("Grace", False)


def test_plain_text_like_a_sealed_one_is_not_opened_for_it(letting: Letting) -> None:
    ada = letting.a_user(ADA)
    letting.let("leases.sign", tenant_id=ada, tenant="Ada", flat="es1:no-sealed-text")
    letting.let("leases.sign", tenant_id=ada, tenant="Ada", flat=f"es1:{ada}:{'0' * 32}:AAAA")
    letting.project()

    first, second = letting.answer("leases.list")["rows"]

    assert (first["flat"], "unreadable" in first) == ("es1:no-sealed-text", False)
    assert (second["flat"], second["unreadable"]) == (None, {"flat": "tampered"})


def test_a_page_of_rows_fetches_its_keys_at_once(letting: Letting) -> None:
    people = [letting.a_user(f"person{number}@example.com") for number in range(5)]
    for person in people:
        letting.a_lease(person, "Name")
    letting.project()
    asked: list[list[int]] = []

    def data_keys(subjects: list[int], **more: bool) -> object:
        asked.append([*subjects])
        return letting.vault.data_keys(subjects, **more)

    keyring = wiring.keyring_of(replaced(letting.vault, data_keys=data_keys))
    (leases,) = KNOWN.projections_of(KNOWN.features[-1])

    reply = RowQueries(leases, letting.sources(keyring=keyring)).list_rows(Request("leases.list", {}))

    assert isinstance(reply, dict)
    assert [sorted(each) for each in asked] == [people]
    assert CommandRemembered.type not in str(reply)
