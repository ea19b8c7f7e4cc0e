"""Event store in one SQLite file.

Promise: one durable transaction for a batch, a result for each item, and positions in commit order.
Refusal: triggers refuse to update, delete or replace an event, also by hand.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from adapters.clock import now_us
from adapters.sqlite.database import Connection, Database, migration_files
from domain.kernel.errors import DuplicateEventId, StoreBehind, VersionConflict
from domain.kernel.events import BEGINNING, NO_STREAM, Position, Recorded
from domain.kernel.history import Fit, Mark
from domain.kernel.ports.event_store import Append, Appended, AppendResult, CaughtUp

_COLUMNS = "stream, version, position, recorded_at_us, event_id, type, data, metadata"
_INSERT = """INSERT INTO events(stream, version, event_id, type, recorded_at_us, data, metadata)
             VALUES(?, ?, ?, ?, ?, ?, ?) RETURNING position"""
_PAGE = 1000
_POLL_S = (0.002, 0.05)
"""The shortest and the longest pause of a follower: it grows while no events arrive."""


class SqliteStore:
    def __init__(self, path: Path, *, now_us: Callable[[], int] = now_us) -> None:
        self._now_us = now_us
        steps = migration_files("events")
        self._database = Database(path, part="event store", migrations=steps)
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
        ids = [event.event_id.bytes for event in item.events]
        # Look the ids up instead of catching a failed INSERT: that would need a savepoint for each item.
        # One by one: SQLite limits the number of variables in a statement.
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
            # Page by page: a read transaction that stays open while the consumer works prevents truncation
            # of the write-ahead log.
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
            head, event_id = self._head()
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
            yield CaughtUp(head, event_id)
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, longest_s)

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

    def streams(self, *, after: str = "", prefix: str = "", limit: int = 100) -> list[tuple[str, int]]:
        condition, arguments = _of_prefixes([prefix] if prefix else None)
        with self._database.reading() as connection:
            rows: list[Any] = connection.execute(
                f"SELECT stream, max(version) FROM events WHERE stream > ? {condition}"
                " GROUP BY stream ORDER BY stream LIMIT ?",
                (after, *arguments, limit),
            ).fetchall()
        return [(name, version) for name, version in rows]

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


def _version(connection: Connection, stream: str) -> int:
    version: Any = connection.execute(
        "SELECT version FROM events WHERE stream = ? ORDER BY version DESC LIMIT 1", (stream,)
    ).get
    return NO_STREAM if version is None else int(version)


def _of_prefixes(prefixes: Sequence[str] | None) -> tuple[str, list[str]]:
    """A condition that can use an index: from the prefix up to the prefix and the last character of Unicode."""
    if prefixes is None:
        return "", []
    condition = " OR ".join("(stream >= ? AND stream < ?)" for _ in prefixes) or "FALSE"
    return f"AND ({condition})", [end for prefix in prefixes for end in (prefix, prefix + "\U0010ffff")]


def _recorded(row: tuple[str, int, int, int, bytes, str, bytes, bytes]) -> Recorded:
    stream, version, position, recorded_at_us, event_id, type_, data, metadata = row
    return Recorded(stream, version, position, recorded_at_us, _uuid(event_id), type_, data, metadata)


def _uuid(raw: bytes) -> UUID:
    """The event id. One of another length is damaged: its event must not hide the others of its page."""
    return UUID(bytes=raw.ljust(16, b"\0")[:16])
