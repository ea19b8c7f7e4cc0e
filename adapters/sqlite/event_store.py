"""Event store in one SQLite file.

Promise: one durable transaction for a batch, a result for each item, and positions in commit order.
Refusal: triggers refuse to update, delete or replace an event, also by hand.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from adapters.clock import now_us
from adapters.sqlite.damaged_text import fetched
from adapters.sqlite.database import Connection, ConstraintError, Database, migration_files
from adapters.sqlite.news import News
from domain.kernel.errors import Damaged, DuplicateEventId, StoreBehind, VersionConflict
from domain.kernel.events import BEGINNING, NO_STREAM, EventData, Position, Recorded
from domain.kernel.history import Fit, Mark
from domain.kernel.ports.event_store import Append, Appended, AppendResult, CaughtUp

_COLUMNS = "stream, version, position, recorded_at_us, event_id, type, data, metadata"
_INSERT = """INSERT INTO events(stream, version, event_id, type, recorded_at_us, data, metadata)
             VALUES(?, ?, ?, ?, ?, ?, ?) RETURNING position"""
_READ_STREAM = f"SELECT {_COLUMNS} FROM events WHERE stream = ? AND version >= ? ORDER BY version"
_PAGE = 1000
_WINDOW = 20_000
"""Positions that one read transaction looks at, at most."""
_SILENCE_S = 0.18
"""While no events arrive: how long a follower says nothing, at the longest overlooks an event, and goes on after a stop."""


class SqliteStore:
    is_remote = False

    def __init__(self, path: Path, *, now_us: Callable[[], int] = now_us) -> None:
        self._now_us = now_us
        steps = migration_files("events")
        self._database = Database(path, part="event store", migrations=steps)
        self._log = f"{path}-wal"
        self.schema_version = len(steps)

    def append(self, batch: Sequence[Append]) -> list[AppendResult]:
        for item in batch:
            if not item.events or item.expected_version < NO_STREAM:
                raise ValueError("an append needs events and an expected version of at least -1")
        with self._database.writing() as connection:
            return [self._append_one(connection, item) for item in batch]

    def _append_one(self, connection: Connection, item: Append) -> AppendResult:
        actual = _version(connection, item.stream)
        if actual != item.expected_version:
            repeated = self._stored_before(connection, item)
            return repeated or VersionConflict(item.stream, item.expected_version, actual)
        if len(item.events) > 1 and _holds_one_of(connection, item.events):
            return DuplicateEventId(item.stream)
        position: Any = 0
        for version, event in enumerate(item.events, start=actual + 1):
            row = (
                item.stream,
                version,
                event.event_id.bytes,
                event.type,
                self._now_us(),
                event.data,
                event.metadata,
            )
            try:
                position = connection.execute(_INSERT, row).get
            except ConstraintError:
                # SQLite has undone the statement. It was all of the item if that has one event.
                if len(item.events) == 1 and _holds_one_of(connection, item.events):
                    return DuplicateEventId(item.stream)
                raise
        return Appended(actual + len(item.events), position)

    def _stored_before(self, connection: Connection, item: Append) -> Appended | None:
        first = item.expected_version + 1
        rows: list[Any] = connection.execute(
            "SELECT event_id, version, position FROM events WHERE stream = ? AND version >= ? ORDER BY version LIMIT ?",
            (item.stream, first, len(item.events)),
        ).fetchall()
        if [row[0] for row in rows] != [event.event_id.bytes for event in item.events]:
            return None
        return Appended(rows[-1][1], rows[-1][2])

    def read_stream(
        self, stream: str, from_version: int = 0, *, backwards: bool = False, limit: int | None = None
    ) -> Iterator[Recorded]:
        order = "DESC" if backwards else "ASC"
        with self._database.reading() as connection:
            bounds = (stream, from_version, -1 if limit is None else limit)
            rows = _fetched(connection, f"{_READ_STREAM} {order} LIMIT ?", bounds)
        yield from map(_recorded, rows)

    def read_streams(
        self, streams: Sequence[str], *, first: Mapping[str, int] | None = None
    ) -> Mapping[str, Sequence[Recorded] | Damaged]:
        first = first or {}
        with self._database.reading() as connection:
            found: dict[str, list[Any]] = {
                stream: _fetched(connection, _READ_STREAM, (stream, first.get(stream, 0)))
                for stream in streams
            }
        return {stream: [*map(_recorded, rows)] for stream, rows in found.items()}

    def read_all(
        self, after: Position, limit: int, *, prefixes: Sequence[str] | None = None
    ) -> Iterator[Recorded]:
        wanted = _of_prefixes("stream", prefixes)
        head = self.head()
        while limit > 0 and after < head:
            events, after = self._page(after, head, limit, wanted)
            limit -= len(events)
            yield from events

    def _page(
        self, after: Position, head: Position, limit: int, *wanted: tuple[str, list[str]]
    ) -> tuple[list[Recorded], Position]:
        """The wanted events among the next ones, at most `limit`, and the position up to which it looked.

        It looks at a window of positions: if few events are wanted, a read transaction would else last for the whole
        store. One that stays open prevents truncation of the write-ahead log.

        NOT INDEXED leaves the primary key alone. SQLite plans by the bound limit: with a small one it would otherwise
        read every stream of a prefix by the index of streams and sort all their events.
        """
        end = min(max(after, BEGINNING) + _WINDOW, head)
        size = min(limit, _PAGE)
        conditions = " ".join(condition for condition, _ in wanted)
        arguments = [argument for _, arguments in wanted for argument in arguments]
        with self._database.reading() as connection:
            rows = _fetched(
                connection,
                f"SELECT {_COLUMNS} FROM events NOT INDEXED WHERE position > ? AND position <= ? {conditions}"
                " ORDER BY position LIMIT ?",
                (after, end, *arguments, size),
            )
        return [*map(_recorded, rows)], rows[-1][2] if len(rows) == size else end

    def follow(
        self,
        after: Position,
        *,
        stopped: Callable[[], bool],
        prefixes: Sequence[str] | None = None,
        types: Sequence[str] | None = None,
    ) -> Iterator[Recorded | CaughtUp]:
        wanted = _of_prefixes("stream", prefixes), _of_prefixes("type", types)
        with closing(News(self._log)) as news:
            yield from self._follow(after, news, stopped, wanted)

    def _follow(
        self,
        after: Position,
        news: News,
        stopped: Callable[[], bool],
        wanted: tuple[tuple[str, list[str]], ...],
    ) -> Iterator[Recorded | CaughtUp]:
        while not stopped():
            head, event_id = self._head()
            if head < after:
                raise StoreBehind(head, after)
            while after < head:
                events, after = self._page(after, head, _PAGE, *wanted)
                for event in events:
                    yield event
                    if stopped():
                        return
                if stopped():
                    return
            yield CaughtUp(head, event_id)
            self._await_news(head, news, stopped)

    def _await_news(self, head: Position, news: News, stopped: Callable[[], bool]) -> None:
        """Wait until the head has moved, for 0.1 s at most."""
        news.renew()
        give_up_at_s = time.monotonic() + _SILENCE_S
        while not stopped() and (left_s := give_up_at_s - time.monotonic()) > 0:
            if news.wait(left_s) and self.head() != head:
                news.found()
                return

    def head(self) -> Position:
        return self._head()[0]

    def _head(self) -> tuple[Position, UUID | None]:
        with self._database.reading() as connection:
            last: Any = connection.execute(
                "SELECT position, event_id FROM events ORDER BY position DESC LIMIT 1"
            ).fetchone()
        return (last[0], _uuid(last[1])) if last else (BEGINNING, None)

    def fit(self, mark: Mark) -> Fit:
        with self._database.reading() as connection:
            event_id: Any = connection.execute(
                "SELECT event_id FROM events WHERE position = ?", (mark.position,)
            ).get
        if event_id is None:
            return Fit.ABSENT if self.head() > mark.position else Fit.OTHER
        return Fit.SAME if _uuid(event_id) == mark.event_id else Fit.OTHER

    def system_id(self) -> UUID | None:
        return self._database.system_id()

    def claim_system(self, system_id: UUID, *, instead_of: UUID | None = None) -> UUID:
        return self._database.claim_system(system_id, instead_of=instead_of)

    def place(self) -> str:
        """Where the store was made or adopted, see `adapters.place.py`; empty if that was never recorded."""
        with self._database.reading() as connection:
            return str(connection.execute("SELECT place FROM system").get or "")

    def record_place(self, place: str) -> None:
        """Replace the recorded place of a store that has an id."""
        with self._database.writing() as connection:
            connection.execute("UPDATE system SET place = ?", (place,))

    def close(self) -> None:
        self._database.close()


def _holds_one_of(connection: Connection, events: Sequence[EventData]) -> bool:
    """Whether an id is stored, or comes twice. Looked up, because a failed INSERT would leave the events before it."""
    ids = [event.event_id.bytes for event in events]
    # One by one: SQLite limits the number of variables in a statement.
    known = any(connection.execute("SELECT 1 FROM events WHERE event_id = ?", (id_,)).get for id_ in ids)
    return known or len(set(ids)) < len(ids)


def _version(connection: Connection, stream: str) -> int:
    version: Any = connection.execute(
        "SELECT version FROM events WHERE stream = ? ORDER BY version DESC LIMIT 1", (stream,)
    ).get
    return NO_STREAM if version is None else int(version)


def _of_prefixes(column: str, prefixes: Sequence[str] | None) -> tuple[str, list[str]]:
    """A condition: from the prefix up to the prefix and the last character of Unicode."""
    if prefixes is None:
        return "", []
    condition = " OR ".join(f"({column} >= ? AND {column} < ?)" for _ in prefixes) or "FALSE"
    return f"AND ({condition})", [end for prefix in prefixes for end in (prefix, prefix + "\U0010ffff")]


_recorded: Callable[[tuple[Any, ...]], Recorded] = partial(tuple.__new__, Recorded)
"""A row with `_COLUMNS`, which are the fields in order, as an event. As `Recorded._make`, in a third of its time."""


def _fetched(connection: Connection, statement: str, values: Sequence[Any]) -> list[Any]:
    return fetched(connection, statement, values, columns=_COLUMNS.split(", "), texts=("stream", "type"))


def _uuid(raw: bytes) -> UUID:
    """An event id, as `Recorded.event_id` tells it."""
    return UUID(bytes=raw.ljust(16, b"\0")[:16])
