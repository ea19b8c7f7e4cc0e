"""One damaged row or event hides no other, and its person can be erased: SQLite keeps whatever bytes a disk gives it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from adapters.log import Log
from adapters.sqlite.read_model import SqliteReadModel
from adapters.wiring import erased_keyring
from domain.kernel.errors import Damaged, EsError, Tampered
from domain.kernel.history import History
from domain.kernel.messages import Request
from domain.kernel.projection import Put
from domain.users.account import USER
from tests.support.accounts import ADA, ALAN, GRACE, Accounts, erase, rename
from tests.support.erasures import Erasures
from tests.support.read_side import ReadSide
from tests.support.shelves import Labels, Shelves
from workers.projections.row_queries import RowQueries

NO_UTF8 = "CAST(x'ff41' AS TEXT)"

# --- rows ------------------------------------------------------------------------------------


@pytest.fixture
def three(read_side: ReadSide) -> list[int]:
    ids = [read_side.a_user(email) for email in (ADA, GRACE, ALAN)]
    read_side.project()
    return ids


@pytest.mark.parametrize(
    ("damage", "field", "reason"),
    [
        ("email = NULL", "email", "damaged"),
        (f"email = {NO_UTF8}", "email", "tampered"),
        (f"name = {NO_UTF8}", "name", "tampered"),
        ("status = NULL", "status", "damaged"),
        ("status = 'odd'", "status", "damaged"),
        (f"status = {NO_UTF8}", "status", "damaged"),
        ("version = NULL", "version", "damaged"),
        ("registered_at_us = NULL", "registered_at", "damaged"),
        ("updated_at_us = NULL", "updated_at", "damaged"),
    ],
)
def test_a_damaged_row_is_shown_as_unreadable_and_the_others_are_shown(
    read_side: ReadSide, three: list[int], damage: str, field: str, reason: str
) -> None:
    sound = read_side.answer("users.list")["users"]
    read_side.change_rows(f"UPDATE users_g1 SET {damage} WHERE user_id = ?", three[1])

    first, damaged, last = read_side.answer("users.list")["users"]

    assert [first, last] == [sound[0], sound[2]]
    assert (damaged["status"], damaged["unreadable"]) == ("unreadable", {field: reason})
    assert {name for name in damaged.keys() & sound[1].keys() if damaged[name] != sound[1][name]} == {
        "status",
        field,
    }
    assert read_side.answer("users.get", user_id=str(three[1])) == damaged


@pytest.mark.parametrize("damage", ["email = NULL", "status = 'odd'", "status = NULL", f"email = {NO_UTF8}"])
def test_a_search_that_meets_a_damaged_row_does_not_say_that_there_is_no_user(
    read_side: ReadSide, three: list[int], damage: str
) -> None:
    read_side.change_rows(f"UPDATE users_g1 SET {damage} WHERE user_id = ?", three[1])

    assert isinstance(read_side.ask("users.find", email=GRACE), Damaged | Tampered)
    assert read_side.answer("users.find", email=ALAN)["user_id"] == str(three[2])


@pytest.mark.parametrize("projection", [Shelves(), Labels()], ids=lambda each: each.name)
def test_damaged_rows_of_an_outside_service_hide_no_other(
    read_side: ReadSide, read_model: SqliteReadModel, projection: Any
) -> None:
    keys: list[Any] = [1, 2, 3] if projection.key_type == "INTEGER" else ["a", "b", "c"]
    puts = [Put(key, dict.fromkeys(projection.columns)) for key in keys]
    generation = read_model.prepare(projection, now_us=0)
    assert read_model.apply(projection, generation, puts, reached=History(1), events=1)
    column = "label" if projection.key == "shelf_id" else "shelves"
    value = NO_UTF8 if projection.columns[column] == "TEXT" else "NULL"
    read_side.change_rows(
        f"UPDATE {projection.name}_g1 SET {column} = {value} WHERE {projection.key} = ?", keys[1]
    )
    sources: Any = _Sources(read_model, read_side.codec)

    reply = RowQueries(projection, sources).list_rows(Request("shelves.list", {}))

    assert isinstance(reply, dict)
    assert [found[projection.key] for found in reply["rows"]] == [str(key) for key in keys]


class _Sources:
    def __init__(self, read_model: SqliteReadModel, codec: Any) -> None:
        self.read_model, self.codec = read_model, codec

    def keyring(self, _: object) -> Any:
        return erased_keyring()

    def target(self, _: Request) -> int:
        return 0

    def wait_for(self, *_: object) -> None:
        return None


# --- events ----------------------------------------------------------------------------------

DAMAGES = [
    "data = x'00'",
    "metadata = x'00'",
    "type = ''",
    f"type = {NO_UTF8}",
    "type = 'user-deleted.v9'",
    "event_id = x'00'",
    "recorded_at_us = -9223372036854775807",
]


def damage_event(folder: Path, damage: str, position: int) -> None:
    """Change a stored event as a disk would."""
    with closing(apsw.Connection(str(folder / "events.db"))) as connection:
        connection.execute("DROP TRIGGER IF EXISTS events_are_not_updated")
        connection.execute(f"UPDATE events SET {damage} WHERE position = ?", (position,))


@pytest.mark.parametrize("damage", [*DAMAGES, f"stream = {NO_UTF8}"])
def test_a_damaged_event_hides_no_other_event_and_no_other_row(
    read_side: ReadSide, three: list[int], tmp_path: Path, damage: str
) -> None:
    sound = read_side.answer("events.read")["events"]
    damage_event(tmp_path / "accounts", damage, 2)

    shown = read_side.answer("events.read")["events"]
    read_side.rebuilt()

    assert [shown[0], shown[2]] == [sound[0], sound[2]]
    assert shown[1]["position"] == 2
    assert {three[0], three[2]} <= read_side.rows().keys()
    assert {item.position for item in read_side.parked()} <= {2}
    assert read_side.answer("projections.parked.list", name="users")["next"] is None
    assert isinstance(read_side.ask("users.history", user_id=str(three[1])), dict | EsError)
    for request in map(erase, (three[0], three[2])):
        assert isinstance(read_side.handle(request)[0], dict)


@pytest.fixture
def stored(tmp_path: Path, log: Log) -> Iterator[Erasures]:
    with closing(Erasures(tmp_path / "accounts", log, durable=True)) as opened:
        yield opened


@pytest.mark.parametrize("position", [1, 2], ids=["registration", "later event"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_person_whose_events_cannot_be_read_is_erased(
    stored: Erasures, tmp_path: Path, damage: str, position: int
) -> None:
    damaged = stored.a_user(ADA)
    stored.done(rename(damaged, "Countess"))
    other = stored.a_user(GRACE)
    damage_event(tmp_path / "accounts", damage, position)

    for user_id in (damaged, other):
        stored.done(erase(user_id))
    stored.run()

    assert [stored.is_erased(user_id) for user_id in (damaged, other)] == [True, True]
    assert [stored.completions(user_id) for user_id in (damaged, other)] == [1, 1]
    assert stored.holders(ADA, GRACE) == [None, None]


def test_every_way_to_read_events_keeps_those_beside_a_damaged_text(stored: Accounts, tmp_path: Path) -> None:
    user_id = stored.a_user(ADA)
    stored.done(rename(user_id, "Countess"))
    stored.done(rename(user_id, "Lovelace"))
    damage_event(tmp_path / "accounts", f"type = {NO_UTF8}", 2)
    stream, store = USER.stream_of(user_id), stored.store
    ways: list[Callable[[], Any]] = [
        lambda: store.read_stream(stream),
        lambda: reversed([*store.read_stream(stream, backwards=True)]),
        lambda: store.read_streams([stream])[stream],
        lambda: store.read_all(0, 100),
        lambda: (next(following) for _ in range(3)),
    ]
    following: Any = store.follow(0, stopped=lambda: False)

    for read in ways:
        assert [event.type for event in read()] == ["user-registered.v1", "\ufffdA", "user-renamed.v1"]
