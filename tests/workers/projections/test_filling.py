"""Filling a generation: events that cannot be applied are parked alone, and a projection sees the latest rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Any
from uuid import uuid4

import pytest

from adapters.codec import JsonCodec
from adapters.log import Log
from adapters.memory.event_store import MemoryStore
from adapters.sqlite.read_model import SqliteReadModel
from domain.kernel.events import Event, Recorded
from domain.kernel.history import History
from domain.kernel.ports.read_model import Parked
from domain.kernel.projection import Add, Change, Key, Operation, Projection, Put, Row
from domain.users.account import EVENTS
from domain.users.projection import USERS
from tests.support.builders import metadata, recorded
from tests.support.parts import replaced
from tests.support.shelves import SHELF, BookPut, Labels, ShelfClosed, ShelfOpened, Shelves
from workers.projections.filling import Applier, Filler, Filling

# --- parked events ---------------------------------------------------------------------------

_SOUND = b'{"email":"es1:a","name":"es1:b"}'


def _stored(type_: str, data: bytes, *, stream: str = "user-7", position: int = 1) -> Recorded:
    return Recorded(stream, position, position, 0, uuid4().bytes, type_, data, b"{}")


def _translated(
    *events: Recorded, parked: Sequence[Parked] = ()
) -> tuple[Sequence[Operation], list[tuple[int, str]]]:
    operations, now_parked = Applier(USERS, JsonCodec(EVENTS), parked).translate(events)
    return operations, [(item.position, item.error) for item in now_parked]


@pytest.mark.parametrize(
    "poison",
    [
        _stored("user-registered.v1", b"not JSON"),
        _stored("user-registered.v1", b"\xff\xfe"),
        _stored("user-registered.v1", b"[]"),
        _stored("user-registered.v1", b"{}"),
        _stored("user-registered.v1", b'{"email":"a","name":"b","admin":true}'),
        _stored("user-registered.v1", b'{"email":5,"name":{}}'),
        _stored("user-registered.v1", b'{"email":["es1:a"],"name":"es1:b"}'),
        _stored("user-registered.v1", b'{"email":"\\ud800","name":"es1:b"}'),
        _stored("user-registered.v1", b'{"email":' + b"[" * 100_000),
        _stored("user-exploded.v9", b"{}"),
        _stored("user-registered.v1", _SOUND, stream="user-ada"),
        _stored("user-registered.v1", _SOUND, stream="user-"),
        _stored("user-registered.v1", _SOUND, stream=f"user-{1 << 63}"),
        _stored("user-registered.v1", _SOUND, stream="user-07"),
    ],
    ids=range(14),
)
def test_an_event_that_cannot_be_applied_is_parked_alone(poison: Recorded) -> None:
    sound = _stored("user-registered.v1", _SOUND, stream="user-8", position=2)

    operations, parked = _translated(poison, sound)

    assert [operation.key for operation in operations] == [8]
    assert [position for position, _ in parked] == [1]


def test_later_events_of_a_parked_stream_are_parked_and_others_applied() -> None:
    operations, parked = _translated(
        _stored("user-registered.v1", _SOUND, position=1),
        _stored("user-exploded.v9", b"{}", position=2),
        _stored("user-deleted.v1", b"{}", position=3),
        _stored("user-registered.v1", _SOUND, stream="user-8", position=4),
        _stored("user-deleted.v1", b"{}", position=5),
    )

    assert [type(operation) for operation in operations] == [Put, Put]
    assert parked == [
        (2, "unknown event type 'user-exploded.v9'"),
        (3, "behind a parked event"),
        (5, "behind a parked event"),
    ]


def test_streams_that_were_parked_before_stay_parked() -> None:
    operations, parked = _translated(
        _stored("user-deleted.v1", b"{}", position=2), parked=[Parked(1, "user-7", "unknown event type")]
    )

    assert operations == []
    assert parked == [(2, "behind a parked event")]


def test_the_reason_for_parking_does_not_quote_the_event() -> None:
    canary = b"canary-5f1d"
    for data in (canary, b'{"email":"' + canary, b'{"' + canary + b'":1,"email":"a","name":"b"}'):
        _, ((_, reason),) = _translated(_stored("user-registered.v1", data))
        assert "canary" not in reason


def test_a_change_of_a_missing_user_is_not_parked() -> None:
    operations, parked = _translated(_stored("user-deleted.v1", b"{}"))

    assert parked == []
    assert [type(operation) for operation in operations] == [Change]


# --- rows ------------------------------------------------------------------------------------

Fill = Callable[[Projection], Filler]


class _AtLast(Future[Any]):
    """Does its work when it is waited for: as late as a thread may do it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__()
        self._work = work

    def result(self, timeout: float | None = None) -> Any:
        self.exception()
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        if not self.done():
            try:
                self.set_result(self._work())
            except ValueError as error:
                self.set_exception(error)
        return super().exception(0)


class SlowWriter(Executor):
    def submit(self, work: Any, /, *args: Any, **named: Any) -> Future[Any]:
        return _AtLast(lambda: work(*args, **named))


@pytest.fixture(params=[None, SlowWriter()], ids=["stores at once", "stores behind"])
def filler_of(request: pytest.FixtureRequest, read_model: SqliteReadModel, log: Log) -> Fill:
    def made(projection: Projection, **parts: Any) -> Filler:
        codec = JsonCodec(SHELF.events)
        own: dict[str, Any] = {"store": MemoryStore(), "codec": codec, "read_model": read_model}
        filling = Filling(projection, **{**own, **parts}, now_us=lambda: 0, log=log)
        return Filler(filling, read_model.prepare(projection, now_us=0), request.param)

    return made


def _up_to_the_last(events: Sequence[Recorded]) -> History:
    return History(events[-1].position)


class Happening:
    """Makes events of shelves, each at the next position."""

    def __init__(self) -> None:
        self._position = 0

    def __call__(self, shelf: int, event: Event) -> Recorded:
        data = JsonCodec(SHELF.events).encode(
            event, event_id=uuid4(), subject=None, metadata=metadata(), sealer=None
        )
        self._position += 1
        return recorded(data, stream=SHELF.stream_of(shelf), version=self._position - 1)


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_a_projection_sees_each_row_as_earlier_events_left_it(
    read_model: SqliteReadModel, filler_of: Fill, size: int
) -> None:
    happened, labels = Happening(), Labels()
    filler = filler_of(labels)
    events = [
        happened(1, ShelfOpened("maps")),
        happened(2, ShelfOpened("maps")),
        happened(3, ShelfOpened("poems")),
        happened(1, ShelfClosed("maps")),
        happened(3, ShelfClosed("poems")),
        happened(4, ShelfOpened("poems")),
        happened(2, ShelfClosed("maps")),
    ]

    for start in range(0, len(events), size):
        assert filler.begin(events[start : start + size], _up_to_the_last)
    assert filler.finish()

    assert read_model.rows(labels) == [{"label": "poems", "shelves": 1}]


@pytest.mark.parametrize("size", [1, 2])
def test_a_projection_sees_a_row_without_its_key(filler_of: Fill, size: int) -> None:
    happened, seen = Happening(), list[Row | None]()

    class Watching(Labels):
        def apply(self, recorded: Recorded, event: Event, row: Row | None) -> Sequence[Operation]:
            seen.append(row)
            return super().apply(recorded, event, row)

    filler = filler_of(Watching())
    events = [happened(shelf, ShelfOpened("maps")) for shelf in (1, 2)]
    for batch in (events[:size], events[size:]):
        assert filler.fill(batch, History(2 if not batch else batch[-1].position))

    assert seen == [None, {"shelves": 1}]


def test_rows_are_counted_over_batches(read_model: SqliteReadModel, filler_of: Fill) -> None:
    happened, shelves = Happening(), Shelves()
    filler = filler_of(shelves)

    for batch in (
        [happened(1, ShelfOpened("maps")), happened(1, BookPut("A"))],
        [happened(1, BookPut("B")), happened(1, BookPut("C"))],
    ):
        assert filler.fill(batch, History(batch[-1].position))

    assert [row["books"] for row in read_model.rows(shelves)] == [3]


# --- values that cannot be stored ------------------------------------------------------------


class Overflowing(Shelves):
    """Adds so much for each book that a second one leaves 64 bits."""

    def apply(self, recorded: Recorded, event: Event, row: Row | None) -> Sequence[Operation]:
        if isinstance(event, BookPut):
            return [Add(SHELF.id_of(recorded.stream), {"books": 1 << 62})]
        return super().apply(recorded, event, row)


class OverflowingSeen(Overflowing):
    sees_rows = True

    def key_of(self, recorded: Recorded, event: Event) -> int:
        return SHELF.id_of(recorded.stream)


@pytest.mark.parametrize("projection", [Overflowing(), OverflowingSeen()], ids=["unseen", "seen"])
def test_a_sum_beyond_64_bits_parks_its_event_alone(
    read_model: SqliteReadModel, filler_of: Fill, projection: Shelves
) -> None:
    happened = Happening()
    filler = filler_of(projection)
    opening = [happened(shelf, ShelfOpened("maps")) for shelf in (1, 2)]
    assert filler.fill([*opening, happened(1, BookPut("A"))], History(3))

    assert filler.fill([happened(1, BookPut("B")), happened(2, BookPut("A"))], History(9))

    assert [row["books"] for row in read_model.rows(projection)] == [1 << 62, 1 << 62]
    assert [parked.position for parked in read_model.parked(projection, filler.generation)] == [4]
    assert (filler.generation.checkpoint, filler.generation.events) == (9, 5)


@pytest.mark.parametrize("projection", [Overflowing(), OverflowingSeen()], ids=["unseen", "seen"])
def test_events_translated_before_a_batch_failed_are_parked_behind_its_event(
    read_model: SqliteReadModel, filler_of: Fill, projection: Shelves
) -> None:
    happened = Happening()
    filler = filler_of(projection)
    opening = [happened(shelf, ShelfOpened("maps")) for shelf in (1, 2)]
    assert filler.fill([*opening, happened(1, BookPut("A"))], History(3))

    assert filler.begin([happened(1, BookPut("B")), happened(2, BookPut("A"))], _up_to_the_last)
    assert filler.begin([happened(1, ShelfClosed("maps")), happened(2, ShelfClosed("maps"))], _up_to_the_last)
    assert filler.finish()

    assert [row["state"] for row in read_model.rows(projection)] == ["open", "closed"]
    assert [parked.position for parked in read_model.parked(projection, filler.generation)] == [4, 6]
    assert (filler.generation.checkpoint, filler.generation.events) == (7, 7)


class Numbered(Shelves):
    """Stores the title of a book as a number of the shelf."""

    values = {"huge": 1 << 70, "negative": -(1 << 70), "list": ["A"], "text": "A", "surrogate": "\ud800"}  # noqa: RUF012

    def apply(self, recorded: Recorded, event: Event, row: Row | None) -> Sequence[Operation]:
        if isinstance(event, BookPut):
            value: Any = self.values.get(event.title, len(event.title))
            return [Change(SHELF.id_of(recorded.stream), {"books": value})]
        return super().apply(recorded, event, row)


@pytest.mark.parametrize("title", Numbered.values)
def test_a_value_that_cannot_be_stored_parks_its_stream_alone(
    read_model: SqliteReadModel, filler_of: Fill, title: str
) -> None:
    happened, projection = Happening(), Numbered()
    filler = filler_of(projection)
    events = [happened(shelf, ShelfOpened("maps")) for shelf in range(1, 8)]
    events += [happened(shelf, BookPut(title if shelf == 3 else "four")) for shelf in range(1, 8)]
    events += [happened(3, ShelfClosed("maps"))]

    assert filler.fill(events, History(20))

    rows = read_model.rows(projection)
    assert [(row["books"], row["state"]) for row in rows] == [
        (0 if n == 3 else 4, "open") for n in range(1, 8)
    ]
    parked = read_model.parked(projection, filler.generation)
    assert [item.position for item in parked] == [10, 15]
    assert (filler.generation.checkpoint, filler.generation.events) == (20, 15)


class Named(Labels):
    """Needs the row of a given key for the first shelf, and of the label for others."""

    def __init__(self, key: Any) -> None:
        self._key = key

    def key_of(self, recorded: Recorded, event: Event) -> Key | None:
        return self._key if SHELF.id_of(recorded.stream) == 1 else super().key_of(recorded, event)

    def apply(self, recorded: Recorded, event: Event, row: Row | None) -> Sequence[Operation]:
        return [Put(self.key_of(recorded, event) or "", {"shelves": 1})]


@pytest.mark.parametrize("key", ["\ud800", "x" * 2000, 1 << 70], ids=["surrogate", "too long", "huge"])
def test_a_key_that_cannot_be_looked_up_parks_its_event_alone(
    read_model: SqliteReadModel, filler_of: Fill, key: Key
) -> None:
    happened, projection = Happening(), Named(key)
    filler = filler_of(projection)

    assert filler.fill([happened(1, ShelfOpened("maps")), happened(2, ShelfOpened("poems"))], History(2))

    assert [row["label"] for row in read_model.rows(projection)] == ["poems"]
    assert [item.position for item in read_model.parked(projection, filler.generation)] == [1]


class Failing(Shelves):
    """Has a bug for books on the first shelf."""

    def __init__(self, bug: Any) -> None:
        self._bug = bug

    def apply(self, recorded: Recorded, event: Event, row: Row | None) -> Sequence[Operation]:
        is_wrong = isinstance(event, BookPut) and SHELF.id_of(recorded.stream) == 1
        return self._bug(event) if is_wrong else super().apply(recorded, event, row)


@pytest.mark.parametrize(
    "bug",
    [
        lambda event: event.no_such_field,
        lambda event: 1 // 0,
        lambda event: no_such_name,  # type: ignore[name-defined]  # noqa: F821
        lambda event: [].pop(),
        lambda event: (lambda again: again(again))(lambda again: again(again)),
        lambda event: None,
        lambda event: [event],
        lambda event: [Put(1, {"no_such_column": 1})],
        lambda event: [Change(1, {"no_such_column": 1})],
        lambda event: [Add(1, {"no_such_column": 1})],
        lambda event: [Change(1, {"books": event})],
    ],
    ids=[
        "attribute",
        "arithmetic",
        "name",
        "lookup",
        "recursion",
        "none",
        "event",
        "put",
        "change",
        "add",
        "list",
    ],
)
def test_a_bug_of_a_projection_parks_its_event_alone(
    read_model: SqliteReadModel, filler_of: Fill, bug: Any
) -> None:
    happened, projection = Happening(), Failing(bug)
    filler = filler_of(projection)
    events = [happened(shelf, event) for shelf in (1, 2) for event in (ShelfOpened("maps"), BookPut("North"))]

    assert filler.fill(events, History(4))

    assert [(row["shelf_id"], row["books"]) for row in read_model.rows(projection)] == [(1, 0), (2, 1)]
    assert [item.position for item in read_model.parked(projection, filler.generation)] == [2]


def test_another_filler_that_moved_the_checkpoint_ends_the_filling(
    read_model: SqliteReadModel, filler_of: Fill
) -> None:
    happened, shelves = Happening(), Shelves()
    late, first = filler_of(shelves), filler_of(shelves)
    batch = [happened(1, ShelfOpened("maps"))]

    assert first.fill(batch, History(1))

    assert not late.fill(batch, History(1))
    assert late.generation.checkpoint == 0
    assert first.generation.events == 1


def test_an_error_without_an_event_is_raised(read_model: SqliteReadModel, filler_of: Any) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        filler_of(Shelves(), read_model=replaced(read_model, apply=fail)).fill([], History(5))
