"""Parked events: retried in the order of their stream, dropped, and shown without readable personal values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

import pytest

from adapters.codec import JsonCodec
from adapters.log import Log
from adapters.memory.event_store import MemoryStore
from adapters.sqlite.read_model import SqliteReadModel
from domain.kernel.errors import Damaged, EsError, InvalidInput, Kind
from domain.kernel.events import Event, Recorded
from domain.kernel.history import History
from domain.kernel.messages import Request
from domain.kernel.ports.event_store import Appended
from domain.kernel.ports.read_model import Generation, Parked
from domain.kernel.projection import Add, Change, Operation, Projection, Row
from domain.users.account import USER
from domain.users.projection import Users
from tests.support.accounts import ADA, GRACE, delete, erase, rename
from tests.support.builders import append, metadata
from tests.support.parts import before_call, replaced
from tests.support.read_side import ReadSide
from tests.support.shelves import SHELF, BookPut, Labels, ShelfClosed, ShelfOpened, Shelves
from tests.support.waiting import eventually
from workers.projections.filling import Filler, Filling
from workers.projections.parked_events import Busy, ParkedEvents, Retried
from workers.projections.projector import Projector


class Picky(Shelves):
    """Cannot apply books with some titles. `repaired` is the fix of its code."""

    repaired = False

    def apply(self, recorded: Recorded, event: Event, row: Row | None) -> Sequence[Operation]:
        if isinstance(event, BookPut) and event.title == "bad" and not self.repaired:
            raise ValueError("a bug")
        if isinstance(event, BookPut) and event.title == "huge":
            return [Add(SHELF.id_of(recorded.stream), {"books": 1 << 62})]
        if isinstance(event, ShelfClosed):  # the order shows: the label is what was last
            return [Change(SHELF.id_of(recorded.stream), {"label": event.label, "state": "closed"})]
        return super().apply(recorded, event, row)


class PickyLabels(Labels):
    repaired = False

    def apply(self, recorded: Recorded, event: Event, row: Row | None) -> Sequence[Operation]:
        if SHELF.id_of(recorded.stream) == 1 and not self.repaired:
            raise ValueError("a bug")
        return super().apply(recorded, event, row)


class Desk:
    """A store of shelves, and one projection that is filled by hand."""

    def __init__(self, projection: Projection, read_model: SqliteReadModel, log: Log) -> None:
        self.projection, self.read_model, self.log = projection, read_model, log
        self.codec = JsonCodec(SHELF.events)
        self.store = MemoryStore()

    def happened(self, shelf: int, *events: Event) -> None:
        stream = SHELF.stream_of(shelf)
        version = sum(1 for _ in self.store.read_stream(stream)) - 1
        stored = [
            self.codec.encode(event, event_id=uuid4(), subject=None, metadata=metadata(), sealer=None)
            for event in events
        ]
        assert isinstance(append(self.store, stream, version, stored), Appended)

    @property
    def generation(self) -> Generation:
        return self.read_model.prepare(self.projection, now_us=0)

    def filler(self) -> Filler:
        parts: dict[str, Any] = {"store": self.store, "codec": self.codec, "read_model": self.read_model}
        return Filler(Filling(self.projection, **parts, now_us=lambda: 0, log=self.log), self.generation)

    def fill(self, filler: Filler | None = None) -> bool:
        filler = filler or self.filler()
        events = [*self.store.read_all(filler.generation.checkpoint, 1000)]
        return filler.fill(events, History(self.store.head()))

    def parked_events(self, **parts: Any) -> ParkedEvents:
        own: dict[str, Any] = {"store": self.store, "codec": self.codec, "read_model": self.read_model}
        return ParkedEvents(self.projection, **{"now_us": lambda: 0, **own, **parts})

    def retry(self, shelf: int, **parts: Any) -> Retried | None:
        return self.parked_events(**parts).retry(SHELF.stream_of(shelf))

    @property
    def parked(self) -> list[Parked]:
        return self.read_model.parked(self.projection, self.generation)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self.read_model.rows(self.projection)


@pytest.fixture
def desk(read_model: SqliteReadModel, log: Log) -> Desk:
    """Two open shelves; the first one has a parked book, and three events behind it."""
    made = Desk(Picky(), read_model, log)
    made.happened(1, ShelfOpened("maps"))
    made.happened(2, ShelfOpened("poems"))
    assert made.fill()
    made.happened(1, BookPut("bad"), BookPut("good"), ShelfClosed("maps"))
    made.happened(2, BookPut("good"))
    assert made.fill()
    assert [each.position for each in made.parked] == [3, 4, 5]
    return made


def repair(desk: Desk) -> None:
    desk.projection.repaired = True  # type: ignore[attr-defined]


def row(shelf: int, label: str, books: int, state: str) -> dict[str, Any]:
    return {"shelf_id": shelf, "label": label, "books": books, "state": state}


# --- retry -----------------------------------------------------------------------------------


def test_a_retry_applies_the_parked_events_of_a_stream_and_takes_them_off_the_list(desk: Desk) -> None:
    repair(desk)

    assert desk.retry(1) == Retried("shelf-1", applied=3, left=0, error=None)

    assert desk.rows == [row(1, "maps", 2, "closed"), row(2, "poems", 1, "open")]
    assert desk.parked == []
    assert (desk.generation.checkpoint, desk.generation.events) == (6, 6)


def test_the_events_are_applied_in_the_order_of_their_stream(desk: Desk) -> None:
    desk.happened(1, ShelfClosed("second"), ShelfClosed("third"), ShelfClosed("last"))
    assert desk.fill()
    repair(desk)

    desk.retry(1)

    assert desk.rows[0] == row(1, "last", 2, "closed")


def test_an_event_that_fails_again_stays_with_the_later_ones(desk: Desk) -> None:
    desk.happened(1, BookPut("bad"), BookPut("good"))
    assert desk.fill()

    assert desk.retry(1) == Retried("shelf-1", applied=0, left=5, error="ValueError")
    assert [each.position for each in desk.parked] == [3, 4, 5, 7, 8]
    assert desk.rows[0] == row(1, "maps", 0, "open")


class HalfRepaired(Picky):
    def apply(self, recorded: Recorded, event: Event, row: Row | None) -> Sequence[Operation]:
        if isinstance(event, ShelfClosed):
            raise KeyError("another bug")
        return super().apply(recorded, event, row)


def test_the_events_before_the_one_that_fails_are_applied(desk: Desk) -> None:
    desk.projection = HalfRepaired()
    repair(desk)

    assert desk.retry(1) == Retried("shelf-1", applied=2, left=1, error="KeyError")
    assert desk.parked == [Parked(5, "shelf-1", "KeyError")]
    assert desk.rows[0] == row(1, "maps", 2, "open")


def test_a_value_that_cannot_be_stored_leaves_its_event_and_the_later_ones(desk: Desk) -> None:
    desk.happened(1, *[BookPut("huge"), BookPut("good")] * 4)
    assert desk.fill()
    repair(desk)

    retried = desk.retry(1)

    assert retried is not None
    assert (retried.applied, retried.left) == (5, 6), "the second huge number leaves 64 bits"
    assert desk.rows[0]["books"] == (1 << 62) + 3
    assert [each.position for each in desk.parked] == [9, 10, 11, 12, 13, 14]
    assert {each.error for each in desk.parked[1:]} == {"behind a parked event"}


def test_a_stream_without_parked_events_has_nothing_to_retry(desk: Desk) -> None:
    assert desk.retry(2) is None


def test_an_event_that_the_store_has_no_more_stays_with_the_later_ones(desk: Desk) -> None:
    repair(desk)
    removed = replaced(
        desk.store,
        read_stream=lambda *args, **more: (
            event for event in desk.store.read_stream(*args, **more) if event.position != 4
        ),
    )

    retried = desk.retry(1, store=removed)

    assert retried is not None
    assert (retried.applied, retried.left) == (1, 2)
    assert "does not have this event" in str(retried.error)
    assert [each.position for each in desk.parked] == [4, 5]


def test_a_damaged_stream_is_left_parked(desk: Desk) -> None:
    def damaged(*_: Any, **__: Any) -> Any:
        raise Damaged("event store", "shelf-1 has no version 2")

    retried = desk.retry(1, store=replaced(desk.store, read_stream=damaged))

    assert retried is not None
    assert (retried.applied, retried.left) == (0, 3)
    assert "no version 2" in str(retried.error)


# --- what happens meanwhile ------------------------------------------------------------------


def test_an_event_that_was_parked_meanwhile_is_retried_too(desk: Desk) -> None:
    repair(desk)

    def meanwhile() -> None:
        desk.happened(1, ShelfClosed("last"))
        assert desk.fill()

    model = before_call(desk.read_model, "change_parked", meanwhile)

    assert desk.retry(1, read_model=model) == Retried("shelf-1", applied=3, left=0, error=None)
    assert desk.parked == []
    assert desk.rows[0] == row(1, "last", 2, "closed")


def test_a_projector_that_knew_the_stream_as_parked_starts_over(desk: Desk) -> None:
    filler = desk.filler()
    repair(desk)
    desk.retry(1)
    desk.happened(1, ShelfClosed("last"))

    assert not desk.fill(filler), "it would park the event behind nothing"
    assert desk.fill()

    assert desk.parked == []
    assert desk.rows[0]["label"] == "last"


def test_a_retry_between_translation_and_storing_is_not_overwritten(
    read_model: SqliteReadModel, log: Log
) -> None:
    """Two shelves share the row of a label: the rows that a projector has read before the retry are old."""
    desk = Desk(PickyLabels(), read_model, log)
    desk.happened(2, ShelfOpened("maps"))
    desk.happened(1, ShelfOpened("maps"))
    assert desk.fill()
    assert desk.rows == [{"label": "maps", "shelves": 1}]
    repair(desk)
    desk.happened(2, ShelfClosed("maps"))
    racing = Desk(desk.projection, before_call(read_model, "apply", lambda: desk.retry(1)), log)
    racing.store = desk.store

    assert not racing.fill(), "it would remove the row, with the label of the other shelf"
    assert desk.fill()

    assert desk.rows == [{"label": "maps", "shelves": 1}]


def test_two_retries_at_once_apply_each_event_once(desk: Desk) -> None:
    repair(desk)
    model = before_call(desk.read_model, "change_parked", lambda: desk.retry(1))

    assert desk.retry(1, read_model=model) == Retried("shelf-1", applied=0, left=0, error=None)
    assert desk.rows[0] == row(1, "maps", 2, "closed")


def test_a_rebuild_that_ends_meanwhile_wins(desk: Desk) -> None:
    repair(desk)

    def rebuilt() -> None:
        building = desk.read_model.begin_rebuild(desk.projection, now_us=0)
        parts: dict[str, Any] = {
            "store": desk.store,
            "codec": desk.codec,
            "read_model": desk.read_model,
            "now_us": lambda: 0,
            "log": desk.log,
        }
        filler = Filler(Filling(desk.projection, **parts), building)
        assert filler.fill([*desk.store.read_all(0, 1000)], History(desk.store.head()))
        assert desk.read_model.promote(desk.projection, filler.generation, now_us=0)

    model = before_call(desk.read_model, "change_parked", rebuilt)

    assert desk.retry(1, read_model=model) == Retried("shelf-1", applied=0, left=0, error=None)
    assert desk.generation.number == 2
    assert desk.rows == [row(1, "maps", 2, "closed"), row(2, "poems", 1, "open")]


def test_a_retry_gives_up_while_the_checkpoint_moves_all_the_time(desk: Desk) -> None:
    times = iter(range(100))
    never = replaced(desk.read_model, change_parked=lambda *_, **__: None)

    with pytest.raises(Busy):
        desk.retry(1, read_model=never, monotonic_s=lambda: float(next(times)))

    assert len(desk.parked) == 3


# --- drop ------------------------------------------------------------------------------------


def test_a_dropped_event_leaves_the_list_and_the_rows_alone(desk: Desk) -> None:
    dropped = desk.parked_events().drop(3)

    assert dropped is not None
    assert desk.parked == [
        Parked(4, "shelf-1", "behind event 3, which was dropped"),
        Parked(5, "shelf-1", "behind a parked event"),
    ]
    assert desk.rows[0] == row(1, "maps", 0, "open")
    assert desk.retry(1) == Retried("shelf-1", applied=2, left=0, error=None)
    assert desk.rows[0] == row(1, "maps", 1, "closed")


def test_after_the_last_parked_event_was_dropped_the_stream_goes_on(desk: Desk) -> None:
    for position in (3, 4, 5):
        assert desk.parked_events().drop(position)
    desk.happened(1, BookPut("good"))

    assert desk.fill()

    assert desk.parked == []
    assert desk.rows[0] == row(1, "maps", 1, "open")


def test_only_a_parked_event_is_dropped(desk: Desk) -> None:
    assert desk.parked_events().drop(6) is None
    assert len(desk.parked) == 3


# --- requests --------------------------------------------------------------------------------


@pytest.fixture
def users(read_side: ReadSide) -> tuple[int, int, int]:
    """Two users with parked events, and one without; the first has two events behind it."""
    first, second, sound = (read_side.a_user(email) for email in (ADA, GRACE, "alan@example.com"))
    for user_id in (first, second):
        read_side.store_event(user_id, "user-exploded.v9", b'{"name":"es1:x","note":"canary-1","size":7}')
    read_side.store_event(first, "user-deleted.v1")
    read_side.store_event(first, "user-renamed.v1", b'{"name":"canary-2"}')
    read_side.done(rename(sound, "Still here"))
    read_side.project()
    return first, second, sound


def refused(reply: Any) -> EsError:
    assert isinstance(reply, EsError), reply
    return reply


def test_the_list_has_the_first_parked_event_of_each_stream(
    read_side: ReadSide, users: tuple[int, int, int]
) -> None:
    first, second, _ = users

    found = read_side.answer("projections.parked.list", name="users")

    assert [(each["stream"], each["position"], each["behind"]) for each in found["parked"]] == [
        (USER.stream_of(first), 4, 2),
        (USER.stream_of(second), 5, 0),
    ]
    assert found["parked"][0] == {
        "position": 4,
        "stream": USER.stream_of(first),
        "type": "user-exploded.v9",
        "error": "unknown event type 'user-exploded.v9'",
        "behind": 2,
        "since": "2025-10-09T08:53:20.000000Z",
    }
    assert found["next"] is None


def test_a_long_list_comes_in_pages(read_side: ReadSide, users: tuple[int, int, int]) -> None:
    page = read_side.answer("projections.parked.list", name="users", limit=1)
    rest = read_side.answer("projections.parked.list", name="users", limit=1, **page["next"])

    assert [each["position"] for each in (*page["parked"], *rest["parked"])] == [4, 5]
    assert rest["next"] is None


def test_an_event_is_shown_as_stored_without_a_readable_personal_value(
    read_side: ReadSide, users: tuple[int, int, int]
) -> None:
    unknown = read_side.answer("projections.parked.show", name="users", position=4)
    unsealed = read_side.answer("projections.parked.show", name="users", position=7)

    assert unknown["data"] == {"name": None, "note": None, "size": None}
    assert unknown["unreadable"] == dict.fromkeys(("name", "note", "size"), "not-sealed")
    assert (unknown["error"], unknown["behind"]) == ("unknown event type 'user-exploded.v9'", 2)
    assert (unsealed["data"], unsealed["unreadable"]) == ({"name": None}, {"name": "not-sealed"})
    assert (unsealed["first"], unsealed["behind"], unsealed["version"]) == (4, 0, 3)
    assert "canary" not in f"{unknown}{unsealed}"


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The `users` projection cannot apply the second event of any user, until the returned function is called."""
    apply, is_broken = Users.apply, [True]

    def broken_apply(self: Users, recorded: Recorded, event: Event, row: Row | None) -> Sequence[Operation]:
        if is_broken and recorded.version == 1:
            raise ValueError("a bug")
        return apply(self, recorded, event, row)

    monkeypatch.setattr(Users, "apply", broken_apply)
    return is_broken.clear


def test_sealed_values_and_known_plain_ones_are_shown(
    read_side: ReadSide, broken: Callable[[], None]
) -> None:
    user_id = read_side.a_user(ADA)
    read_side.handle(rename(user_id, "The Countess"), erase(user_id))
    read_side.project()

    renamed = read_side.answer("projections.parked.show", name="users", position=2)
    erased = read_side.answer("projections.parked.show", name="users", position=3)

    assert renamed["data"]["name"].startswith(f"es1:{user_id}:")
    assert list(erased["data"]) == ["basis"]
    assert erased["data"]["basis"]
    assert "unreadable" not in renamed | erased


def test_a_retry_of_one_event_is_one_of_its_stream(read_side: ReadSide, users: tuple[int, int, int]) -> None:
    first, _, _ = users

    reply = read_side.answer("projections.parked.retry", name="users", position=6)

    error = "unknown event type 'user-exploded.v9'"
    retried = {"stream": USER.stream_of(first), "applied": 0, "left": 3, "error": error}
    assert reply == {"retried": [retried], "next": None}


def test_after_a_drop_a_retry_of_all_applies_the_later_events(
    read_side: ReadSide, users: tuple[int, int, int], log_text: Callable[[], str]
) -> None:
    first, _, _ = users
    for position, left in ((4, 2), (5, 0)):
        reply = read_side.answer("projections.parked.drop", name="users", position=position)
        assert reply["left"] == left

    reply = read_side.answer("projections.parked.retry", name="users", all=True)

    stream = USER.stream_of(first)
    assert reply["retried"] == [{"stream": stream, "applied": 2, "left": 0, "error": None}]
    assert read_side.parked() == []
    assert read_side.rows()[first]["status"] == "deleted"
    assert (log_text().count('"parked-dropped"'), log_text().count('"parked-retried"')) == (2, 1)
    assert stream not in log_text()


def test_a_retry_of_all_is_divided_into_requests_of_limited_time(
    read_side: ReadSide, users: tuple[int, int, int]
) -> None:
    streams, after, times = [], "", iter(range(1000))
    while True:
        request = {"name": "users", "all": True, "after": after}
        reply = read_side.queries(monotonic_s=lambda: float(2 * next(times))).handle(
            [Request("projections.parked.retry", request)]
        )[0]
        assert isinstance(reply, dict)
        assert len(reply["retried"]) == 1
        streams += [each["stream"] for each in reply["retried"]]
        if reply["next"] is None:
            break
        after = reply["next"]["after"]

    assert streams == sorted(USER.stream_of(user_id) for user_id in users[:2])


@pytest.mark.parametrize("what", ["list", "show", "retry", "drop"])
def test_an_unknown_projection_or_event_is_not_found(
    read_side: ReadSide, users: tuple[int, int, int], what: str
) -> None:
    kind = f"projections.parked.{what}"
    assert refused(read_side.ask(kind, name="nonsense", position=4)).kind is Kind.NOT_FOUND
    if what != "list":
        assert refused(read_side.ask(kind, name="users", position=3)).code == "not-parked"
        assert isinstance(read_side.ask(kind, name="users", position="4"), InvalidInput)
        assert isinstance(read_side.ask(kind, name="users"), InvalidInput)


def test_a_stream_without_parked_events_is_not_found(
    read_side: ReadSide, users: tuple[int, int, int]
) -> None:
    reply = read_side.ask("projections.parked.retry", name="users", stream=USER.stream_of(users[2]))

    assert refused(reply).code == "not-parked"


# --- with projectors and rebuilds ------------------------------------------------------------

Start = Callable[[Projector], Projector]


def test_commands_that_come_during_a_retry_keep_the_order_of_the_stream(
    read_side: ReadSide, start: Start, broken: Callable[[], None]
) -> None:
    user_id = read_side.a_user(ADA)
    projectors = [start(read_side.projector()) for _ in range(2)]
    read_side.done(rename(user_id, "First"))
    eventually(read_side.generations, "a projector has begun")
    eventually(lambda: len(read_side.parked()) == 1, "parked")
    for number in range(30):
        read_side.done(rename(user_id, f"Name {number}"))
        if number == 10:
            broken()
        if number % 3 == 0:
            read_side.ask("projections.parked.retry", name="users", stream=USER.stream_of(user_id))
    last = read_side.done(rename(user_id, "Last"))
    read_side.done(delete(user_id))
    head = read_side.store.head()
    eventually(lambda: all((each.reached or 0) >= head for each in projectors), "projected")

    assert read_side.parked() == []
    row = read_side.rows()[user_id]
    assert (row["status"], row["version"]) == ("deleted", 33)
    (named,) = read_side.store.read_all(last["position"] - 1, 1)
    assert row["name"] == read_side.codec.stored(named)[1]["name"]


def test_a_rebuild_with_other_code_clears_the_list(read_side: ReadSide, broken: Callable[[], None]) -> None:
    user_id = read_side.a_user(ADA)
    read_side.done(delete(user_id))
    read_side.project()
    assert len(read_side.parked()) == 1

    broken()
    read_side.rebuilt()

    assert read_side.parked() == []
    assert read_side.answer("projections.parked.list", name="users") == {"parked": [], "next": None}
    (state,) = [
        each
        for each in read_side.answer("projections.status", name="users")["projections"]
        if each["state"] == "current"
    ]
    assert state["parked"] == 0
    assert read_side.rows()[user_id]["status"] == "deleted"
