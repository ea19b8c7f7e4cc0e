"""Event store in one SQLite file.

Promise: one durable transaction per batch, per-item results, positions in commit order. Refusal: an
event is never updated or deleted, not even by hand: triggers say no.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from adapters.clock import now_us
from adapters.sqlite.database import SCHEMA_VERSION, Connection, Database
from domain.kernel.errors import DuplicateEventId, StoreBehind, VersionConflict
from domain.kernel.events import NO_STREAM, Position, Recorded
from domain.kernel.ports.event_store import Append, Appended, AppendResult, CaughtUp

# AUTOINCREMENT never reuses a position. BEGIN IMMEDIATE lets one writer in at a time, so a position is
# visible only after all smaller ones: a reader that checkpoints on it skips nothing.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS events(
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    stream TEXT NOT NULL,
    version INTEGER NOT NULL,
    event_id BLOB NOT NULL UNIQUE,
    type TEXT NOT NULL,
    recorded_at_us INTEGER NOT NULL,
    data BLOB NOT NULL,
    metadata BLOB NOT NULL,
    UNIQUE(stream, version)
) STRICT;
CREATE TRIGGER IF NOT EXISTS events_are_not_updated BEFORE UPDATE ON events
BEGIN SELECT raise(ABORT, 'events are never updated'); END;
CREATE TRIGGER IF NOT EXISTS events_are_not_deleted BEFORE DELETE ON events
BEGIN SELECT raise(ABORT, 'events are never deleted'); END;
-- REPLACE deletes the rows in its way without asking the trigger above.
CREATE TRIGGER IF NOT EXISTS events_are_not_replaced BEFORE INSERT ON events
WHEN EXISTS(SELECT 1 FROM events WHERE position = NEW.position)
  OR EXISTS(SELECT 1 FROM events WHERE event_id = NEW.event_id)
  OR EXISTS(SELECT 1 FROM events WHERE stream = NEW.stream AND version = NEW.version)
BEGIN SELECT raise(ABORT, 'events are never replaced'); END;
"""
_COLUMNS = "stream, version, position, recorded_at_us, event_id, type, data, metadata"
_INSERT = """INSERT INTO events(stream, version, event_id, type, recorded_at_us, data, metadata)
             VALUES(?, ?, ?, ?, ?, ?, ?) RETURNING position"""
_PAGE = 1000
_POLL_S = (0.002, 0.05)  # live readers look this often: at first, and when nothing has come for long


class SqliteStore:
    def __init__(
        self,
        path: Path,
        *,
        now_us: Callable[[], int] = now_us,
        page_limit: int | None = None,
    ) -> None:
        self._now_us = now_us
        self._database = Database(path, part="event store", schema=_SCHEMA, page_limit=page_limit)
        self.schema_version = SCHEMA_VERSION

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
        ids = [event.event_id.bytes for event in item.events]
        # Looked up rather than caught: a failed INSERT would undo the neighbours' or need a savepoint each.
        # One by one: the number of variables in a statement is limited.
        known = any(connection.execute("SELECT 1 FROM events WHERE event_id = ?", (id_,)).get for id_ in ids)
        if known or len(set(ids)) < len(ids):
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
            position = connection.execute(_INSERT, row).get
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
            rows: list[Any] = connection.execute(
                f"SELECT {_COLUMNS} FROM events WHERE stream = ? AND version >= ? ORDER BY version {order} LIMIT ?",
                (stream, from_version, -1 if limit is None else limit),
            ).fetchall()
        yield from map(_recorded, rows)

    def read_all(
        self, after: Position, limit: int, *, prefixes: Sequence[str] | None = None
    ) -> Iterator[Recorded]:
        condition, arguments = _of_prefixes(prefixes)
        while limit > 0:
            # Page by page, so that no read transaction stays open while the consumer works: it would keep
            # the write-ahead log from being truncated.
            with self._database.reading() as connection:
                rows: list[Any] = connection.execute(
                    f"SELECT {_COLUMNS} FROM events WHERE position > ? {condition} ORDER BY position LIMIT ?",
                    (after, *arguments, min(limit, _PAGE)),
                ).fetchall()
            yield from map(_recorded, rows)
            if len(rows) < min(limit, _PAGE):
                return
            after, limit = rows[-1][2], limit - len(rows)

    def follow(
        self, after: Position, *, stopped: Callable[[], bool], prefixes: Sequence[str] | None = None
    ) -> Iterator[Recorded | CaughtUp]:
        shortest_s, longest_s = _POLL_S
        pause_s = shortest_s
        while not stopped():
            head = self.head()
            if head < after:
                raise StoreBehind(head, after)
            if head > after:
                pause_s = shortest_s
                for event in self.read_all(after, head - after, prefixes=prefixes):
                    if event.position > head:
                        break
                    yield event
                    if stopped():
                        return
                after = head
            yield CaughtUp(head)
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, longest_s)

    def head(self) -> Position:
        with self._database.reading() as connection:
            head: Any = connection.execute("SELECT coalesce(max(position), 0) FROM events").get
            return int(head)

    def streams(self, *, after: str = "", prefix: str = "", limit: int = 100) -> list[tuple[str, int]]:
        condition, arguments = _of_prefixes([prefix] if prefix else None)
        with self._database.reading() as connection:
            rows: list[Any] = connection.execute(
                f"SELECT stream, max(version) FROM events WHERE stream > ? {condition}"
                " GROUP BY stream ORDER BY stream LIMIT ?",
                (after, *arguments, limit),
            ).fetchall()
        return [(name, version) for name, version in rows]

    def close(self) -> None:
        self._database.close()


def _version(connection: Connection, stream: str) -> int:
    version: Any = connection.execute(
        "SELECT version FROM events WHERE stream = ? ORDER BY version DESC LIMIT 1", (stream,)
    ).get
    return NO_STREAM if version is None else int(version)


def _of_prefixes(prefixes: Sequence[str] | None) -> tuple[str, list[str]]:
    """A condition that an index can serve: a prefix is the range from itself to itself + the last character."""
    if prefixes is None:
        return "", []
    condition = " OR ".join("(stream >= ? AND stream < ?)" for _ in prefixes) or "FALSE"
    return f"AND ({condition})", [end for prefix in prefixes for end in (prefix, prefix + "\U0010ffff")]


def _recorded(row: tuple[str, int, int, int, bytes, str, bytes, bytes]) -> Recorded:
    stream, version, position, recorded_at_us, event_id, type_, data, metadata = row
    return Recorded(stream, version, position, recorded_at_us, UUID(bytes=event_id), type_, data, metadata)
