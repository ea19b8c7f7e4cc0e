"""Filling a generation: what cannot be applied is parked alone, and a projection that sees rows sees them as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest

from adapters.codec import JsonCodec
from adapters.log import open_log
from adapters.memory.event_store import MemoryStore
from adapters.sqlite.read_model import SqliteReadModel
from domain.kernel.events import Event, Recorded
from domain.kernel.projection import Add, Change, Operation, Projection, Put, Row
from domain.users.account import EVENTS
from domain.users.projection import USERS
from tests.support.builders import metadata
from tests.support.shelves import SHELF, BookPut, Labels, ShelfClosed, ShelfOpened, Shelves
from workers.projections.filling import Applier, Filler, Filling

# --- what cannot be applied ------------------------------------------------------------------

_SOUND = b'{"email":"es1:a","name":"es1:b"}'


def _stored(type_: str, data: bytes, *, stream: str = "user-7", position: int = 1) -> Recorded:
    return Recorded(stream, position, position, 0, uuid4(), type_, data, b"{}")


def _translated(*events: Recorded) -> tuple[Sequence[Operation], list[tuple[int, str]]]:
    applier = Applier(USERS, JsonCodec(EVENTS), [])
    operations, parked = applier.translate(events)
    return operations, [(item.position, item.error) for item in parked]


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
def test_what_cannot_be_applied_is_parked_alone_and_never_reaches_a_database(poison: Recorded) -> None:
    sound = _stored("user-registered.v1", _SOUND, stream="user-8", position=2)

    operations, parked = _translated(poison, sound)

    assert [operation.key for operation in operations] == [8]
    assert [position for position, _ in parked] == [1]


def test_what_comes_behind_a_parked_event_is_parked_and_other_streams_go_on() -> None:
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


def test_what_was_parked_before_is_remembered() -> None:
    _, first = Applier(USERS, JsonCodec(EVENTS), []).translate([_stored("user-exploded.v9", b"{}")])

    operations, parked = Applier(USERS, JsonCodec(EVENTS), first).translate(
        [_stored("user-deleted.v1", b"{}", position=2)]
    )

    assert operations == []
    assert [item.position for item in parked] == [2]


def test_the_reason_of_parking_does_not_quote_the_event() -> None:
    canary = b"canary-5f1d"
    for data in (canary, b'{"email":"' + canary, b'{"' + canary + b'":1,"email":"a","name":"b"}'):
        _, ((_, reason),) = _translated(_stored("user-registered.v1", data))
        assert "canary" not in reason


def test_a_change_of_a_user_that_is_not_there_is_harmless() -> None:
    operations, parked = _translated(_stored("user-deleted.v1", b"{}"))

    assert parked == []
    assert [type(operation) for operation in operations] == [Change]


# --- rows ------------------------------------------------------------------------------------


@pytest.fixture
def read_model(tmp_path: Path) -> Iterator[SqliteReadModel]:
    with closing(SqliteReadModel(tmp_path / "read.db")) as opened:
        yield opened


def a_filler(read_model: SqliteReadModel, projection: Projection, tmp_path: Path) -> Filler:
    parts = Filling(
        projection,
        store=MemoryStore(),
        codec=JsonCodec(SHELF.events),
        read_model=read_model,
        now_us=lambda: 0,
        log=open_log("filling", tmp_path / "filling.log"),
    )
    return Filler(parts, read_model.prepare(projection, now_us=0))


class Happening:
    """Events of shelves, each at the next position."""

    def __init__(self) -> None:
        self._position = 0

    def __call__(self, shelf: int, event: Event) -> Recorded:
        self._position += 1
        data = JsonCodec(SHELF.events).encode(
            event, event_id=uuid4(), subject=None, metadata=metadata(), sealer=None
        )
        return Recorded(
            *(SHELF.stream_of(shelf), self._position, self._position, 0),
            *(data.event_id, data.type, data.data, data.metadata),
        )


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_a_projection_sees_each_row_as_the_events_before_left_it(
    read_model: SqliteReadModel, tmp_path: Path, size: int
) -> None:
    happened, labels = Happening(), Labels()
    filler = a_filler(read_model, labels, tmp_path)
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
        batch = events[start : start + size]
        assert filler.fill(batch, batch[-1].position)

    assert read_model.rows(labels) == [{"label": "poems", "shelves": 1}]


def test_rows_are_counted_over_batches(read_model: SqliteReadModel, tmp_path: Path) -> None:
    happened, shelves = Happening(), Shelves()
    filler = a_filler(read_model, shelves, tmp_path)

    for batch in (
        [happened(1, ShelfOpened("maps")), happened(1, BookPut("A"))],
        [happened(1, BookPut("B")), happened(1, BookPut("C"))],
    ):
        assert filler.fill(batch, batch[-1].position)

    assert [row["books"] for row in read_model.rows(shelves)] == [3]


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
    read_model: SqliteReadModel, tmp_path: Path, projection: Shelves
) -> None:
    happened = Happening()
    filler = a_filler(read_model, projection, tmp_path)
    opening = [happened(shelf, ShelfOpened("maps")) for shelf in (1, 2)]
    assert filler.fill([*opening, happened(1, BookPut("A"))], 3)

    assert filler.fill([happened(1, BookPut("B")), happened(2, BookPut("A"))], 9)

    assert [row["books"] for row in read_model.rows(projection)] == [1 << 62, 1 << 62]
    assert [parked.position for parked in read_model.parked(projection, filler.generation)] == [4]
    assert (filler.generation.checkpoint, filler.generation.events) == (9, 5)
