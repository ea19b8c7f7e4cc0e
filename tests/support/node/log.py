"""The log of a test node: streams, revisions, positions, idempotency, deletion and truncation.

The rules of expected versions and idempotency are those of the server's `IndexWriter.CheckCommit`.
"""

from __future__ import annotations

import bisect
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID, uuid4

ANY, NO_STREAM, STREAM_EXISTS = -2, -1, -4
DELETED = 2**63 - 1
"""The revision of a tombstone, and the "truncate before" of a deleted stream."""
_RECENT = 10_000
_RECORD_OVERHEAD = 120


class Proposed(NamedTuple):
    id: UUID
    type: str
    content_type: str
    data: bytes
    metadata: bytes


@dataclass(slots=True, eq=False)
class Record:
    position: int
    stream: str
    revision: int
    created_ticks: int  # of 100 ns since 1970
    event: Proposed
    message: bytes = b""
    """The record as clients read it, once one has read it."""


Wanted = Callable[[Record], bool]


class Page(NamedTuple):
    """What one step of a read finds. `next` is where the next step begins."""

    records: list[Record]
    next: int
    examined: int
    at_end: bool = False


class Written(NamedTuple):
    revision: int
    position: int | None


class WrongVersion(NamedTuple):
    current: int


class StreamDeleted(Exception):
    """The stream has a tombstone."""


class StreamNotFound(Exception):
    """The stream never existed, or it was deleted softly."""


class Log:
    """All committed records, in order. Thread-safe. `changed` is notified after every commit."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.forgets_positions = False
        """Whether a retry of a stored item is answered without its position, as servers may do."""
        self._records: list[Record] = []
        self._positions: list[int] = []
        self._addresses = {0}
        """Where a read may begin: where a record begins, or began before it was scavenged."""
        self._streams: dict[str, list[Record]] = {}
        self._tombstones: set[str] = set()
        self._recent: OrderedDict[UUID, Record] = OrderedDict()
        self._end = 0
        # A server writes to streams of its own before it accepts clients.
        self.system_event("$users", "$UserCreated")
        self.system_event("$$$settings", "$metadata")

    # --- writing -----------------------------------------------------------------------------

    def append(
        self, stream: str, expected: int, events: Sequence[Proposed], *, announced: bool = True
    ) -> Written | WrongVersion:
        """Subscriptions wait for `notify` if it is not announced. Raises StreamDeleted."""
        with self.changed:
            decided = self._decide(stream, expected, [event.id for event in events])
            if decided is not None:
                return decided
            if self._is_deleted_softly(stream):
                self._set_metadata(stream, {"$tb": self.last_revision(stream) + 1})
            for event in events:
                self._commit(stream, self.last_revision(stream) + 1, event)
            if announced:
                self.changed.notify_all()
            return Written(self._records[-1].revision, self._records[-1].position)

    def _decide(self, stream: str, expected: int, ids: Sequence[UUID]) -> Written | WrongVersion | None:
        """The answer, or None if the events have to be stored."""
        if stream in self._tombstones:
            raise StreamDeleted(stream)
        current = self.last_revision(stream)
        if expected == STREAM_EXISTS:
            if self._is_deleted_softly(stream):
                raise StreamDeleted(stream)
            if current < 0 and f"$${stream}" not in self._streams:
                return WrongVersion(current)
        if expected in (ANY, STREAM_EXISTS):
            known = [self._recent.get(id_) for id_ in ids]
            stored = [record for record in known if record is not None and record.stream == stream]
            if not known or known[0] is None or known[0].stream != stream:
                return None
            return self._repeated(stored[-1]) if len(stored) == len(ids) else WrongVersion(current)
        if expected < current:
            stored = self._streams[stream][expected + 1 : expected + 1 + len(ids)]
            if [record.event.id for record in stored] == list(ids):
                return self._repeated(stored[-1])
            if stored[0].event.id != ids[0] and expected == NO_STREAM and self._is_deleted_softly(stream):
                return None
            return WrongVersion(current)
        return WrongVersion(current) if expected > current else None

    def _repeated(self, last: Record) -> Written:
        return Written(last.revision, None if self.forgets_positions else last.position)

    def _commit(self, stream: str, revision: int, event: Proposed, created_ticks: int = 0) -> None:
        record = Record(self._end, stream, revision, created_ticks or time.time_ns() // 100, event)
        self._end += len(event.data) + len(event.metadata) + len(stream) + _RECORD_OVERHEAD
        self._records.append(record)
        self._positions.append(record.position)
        self._addresses.add(record.position)
        self._streams.setdefault(stream, []).append(record)
        self._recent[event.id] = record
        if len(self._recent) > _RECENT:
            self._recent.popitem(last=False)

    def system_event(self, stream: str, type_: str, data: bytes = b"{}") -> None:
        with self.changed:
            event = Proposed(uuid4(), type_, "application/json", data, b"")
            self._commit(stream, self.last_revision(stream) + 1, event)
            self.changed.notify_all()

    def notify(self) -> None:
        with self.changed:
            self.changed.notify_all()

    # --- deleting and truncating -------------------------------------------------------------

    def delete(self, stream: str, expected: int) -> int | WrongVersion:
        """Delete softly: numbering continues. Returns the position of the deletion."""
        with self.changed:
            wrong = self._wrong_to_delete(stream, expected)
            if wrong is None:
                self._set_metadata(stream, {"$tb": DELETED})
            return self.end() if wrong is None else wrong

    def tombstone(self, stream: str, expected: int) -> int | WrongVersion:
        """Delete permanently. Returns the position of the tombstone."""
        with self.changed:
            wrong = self._wrong_to_delete(stream, expected)
            if wrong is None:
                self._commit(stream, DELETED, Proposed(uuid4(), "$streamDeleted", "", b"", b""))
                self._streams[stream].pop()
                self._tombstones.add(stream)
                self.changed.notify_all()
            return self.end() if wrong is None else wrong

    def _wrong_to_delete(self, stream: str, expected: int) -> WrongVersion | None:
        if stream in self._tombstones:
            raise StreamDeleted(stream)
        current = self.last_revision(stream)
        missing = current < 0 or self._is_deleted_softly(stream)
        if expected in (ANY, current) or (expected == STREAM_EXISTS and not missing):
            return None
        return WrongVersion(-1 if missing else current)

    def scavenge(self) -> None:
        """Remove the events of deleted and truncated streams. Their positions can still be read from."""
        with self.changed:
            visible = {record.position for name in self._streams for record in self._visible(name)}
            kept = [r for r in self._records if r.position in visible or r.revision == DELETED]
            self._records, self._positions = kept, [record.position for record in kept]

    def _visible(self, name: str) -> list[Record]:
        try:
            return self.stream(name)
        except (StreamNotFound, StreamDeleted):
            return []

    def copy(self) -> Log:
        """A backup: a log of its own with the same records."""
        copy = Log()
        with self.changed:
            copy._records, copy._positions = list(self._records), list(self._positions)
            copy._addresses, copy._end = set(self._addresses), self._end
            copy._streams = {name: list(records) for name, records in self._streams.items()}
            copy._tombstones, copy._recent = set(self._tombstones), OrderedDict(self._recent)
        return copy

    def _set_metadata(self, stream: str, metadata: dict[str, int]) -> None:
        self.system_event(f"$${stream}", "$metadata", json.dumps(metadata).encode())

    def _metadata(self, stream: str) -> dict[str, Any]:
        records = self._streams.get(f"$${stream}")
        return dict(json.loads(records[-1].event.data)) if records else {}

    def _is_deleted_softly(self, stream: str) -> bool:
        return bool(self._metadata(stream).get("$tb") == DELETED)

    # --- reading -----------------------------------------------------------------------------

    def last_revision(self, stream: str) -> int:
        return len(self._streams.get(stream, ())) - 1

    def stream(self, name: str) -> list[Record]:
        """The visible records of a stream. Raises StreamNotFound and StreamDeleted."""
        with self.changed:
            if name in self._tombstones:
                raise StreamDeleted(name)
            records = self._streams.get(name, [])
            if not records or self._is_deleted_softly(name):
                raise StreamNotFound(name)
            metadata = self._metadata(name)
            first = max(metadata.get("$tb", 0), len(records) - metadata.get("$maxCount", len(records)))
            return records[first:]

    def page_of(self, name: str, start: int, *, backwards: bool, size: int) -> Page:
        """At most `size` records of a stream. Raises StreamNotFound and StreamDeleted."""
        records = self.stream(name)
        first = records[0].revision if records else 0
        if backwards:
            end = max(0, min(start - first + 1, len(records)))
            found = records[max(0, end - size) : end][::-1]
            return Page(found, found[-1].revision - 1 if found else start, len(found), end <= size)
        at = max(0, start - first)
        found = records[at : at + size]
        return Page(found, found[-1].revision + 1 if found else start, len(found), at + size >= len(records))

    def after_position(self, position: int) -> list[Record]:
        with self.changed:
            return self._records[bisect.bisect_right(self._positions, position) :]

    def forwards(self, start: int, wanted: Wanted | None, *, size: int, window: int) -> Page:
        """Examine records from a position on, until `size` are wanted or `window` are examined."""
        window = min(size, window) if wanted is None else window
        with self.changed:
            at = bisect.bisect_left(self._positions, start)
            records = self._records[at : at + window]
            after = self._positions[at + window] if at + window < len(self._positions) else self._end
        found, examined = _examined(records, wanted, size)
        if examined < len(records):
            return Page(found, records[examined].position, examined)
        return Page(found, max(start, after), examined, examined < window and len(found) < size)

    def backwards(self, start: int, wanted: Wanted | None, *, size: int, window: int) -> Page:
        """Examine records from below a position down."""
        window = min(size, window) if wanted is None else window
        with self.changed:
            at = bisect.bisect_left(self._positions, start)
            records = self._records[max(0, at - window) : at][::-1]
        found, examined = _examined(records, wanted, size)
        end = records[examined - 1].position if examined else start
        is_all = examined == len(records) and examined < window and len(found) < size
        return Page(found, end, examined, is_all)

    def can_read_from(self, position: int) -> bool:
        """Whether a record begins, or began, at a position, or the log ends before it."""
        with self.changed:
            return position in self._addresses or position >= self._end

    def end(self) -> int:
        """The position of the last record of any kind."""
        return self._positions[-1]

    def next_position(self) -> int:
        """The position that the next record will have."""
        return self._end


def _examined(records: list[Record], wanted: Wanted | None, size: int) -> tuple[list[Record], int]:
    """The first `size` wanted ones of these records, and how many were examined for them."""
    if wanted is None:
        return records, len(records)
    found: list[Record] = []
    for number, record in enumerate(records):
        if len(found) == size:
            return found, number
        if wanted(record):
            found.append(record)
    return found, len(records)
