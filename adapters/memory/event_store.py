"""The event store in memory: the shortest implementation of the contract, for tests and for reading.

Promise: it passes the same contract tests as the other stores. Refusal: its events end with the process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from uuid import UUID

from adapters.clock import now_us
from domain.kernel.errors import Damaged, DuplicateEventId, StoreBehind, VersionConflict
from domain.kernel.events import NO_STREAM, Position, Recorded
from domain.kernel.history import Fit, Mark
from domain.kernel.ports.event_store import Append, Appended, AppendResult, CaughtUp

_IDLE_S = 0.1


class MemoryStore:
    is_remote = False

    def __init__(self, *, now_us: Callable[[], int] = now_us) -> None:
        self._now_us = now_us
        self._log: list[Recorded] = []
        self._streams: dict[str, list[Recorded]] = {}
        self._by_event_id: dict[UUID, Recorded] = {}
        self._system_id: UUID | None = None
        self._changed = threading.Condition()

    def append(self, batch: Sequence[Append]) -> list[AppendResult]:
        for item in batch:
            if not item.events or item.expected_version < NO_STREAM:
                raise ValueError("an append needs events and an expected version of at least -1")
        with self._changed:
            results = [self._append_one(item) for item in batch]
            self._changed.notify_all()
            return results

    def _append_one(self, item: Append) -> AppendResult:
        stream = self._streams.get(item.stream, [])
        actual = len(stream) - 1
        if actual != item.expected_version:
            first = item.expected_version + 1
            stored = stream[first : first + len(item.events)]
            if [event.event_id for event in stored] == [event.event_id for event in item.events]:
                return Appended(stored[-1].version, stored[-1].position)
            return VersionConflict(item.stream, item.expected_version, actual)
        ids = [event.event_id for event in item.events]
        if len(set(ids)) < len(ids) or any(id_ in self._by_event_id for id_ in ids):
            return DuplicateEventId(item.stream)
        for version, event in enumerate(item.events, start=actual + 1):
            recorded = Recorded(
                item.stream,
                version,
                len(self._log) + 1,
                self._now_us(),
                event.event_id.bytes,
                event.type,
                event.data,
                event.metadata,
            )
            self._log.append(recorded)
            self._by_event_id[event.event_id] = recorded
            self._streams.setdefault(item.stream, []).append(recorded)
        return Appended(actual + len(item.events), len(self._log))

    def read_stream(
        self, stream: str, from_version: int = 0, *, backwards: bool = False, limit: int | None = None
    ) -> Iterator[Recorded]:
        with self._changed:
            events = self._streams.get(stream, [])[from_version:]
        if backwards:
            events.reverse()
        yield from events[:limit]

    def read_streams(
        self, streams: Sequence[str], *, first: Mapping[str, int] | None = None
    ) -> Mapping[str, Sequence[Recorded] | Damaged]:
        first = first or {}
        return {stream: [*self.read_stream(stream, first.get(stream, 0))] for stream in streams}

    def read_all(
        self, after: Position, limit: int, *, prefixes: Sequence[str] | None = None
    ) -> Iterator[Recorded]:
        with self._changed:
            events = self._log[max(after, 0) :]
        wanted = (e for e in events if prefixes is None or e.stream.startswith(tuple(prefixes)))
        for _, event in zip(range(limit), wanted, strict=False):
            yield event

    def follow(
        self,
        after: Position,
        *,
        stopped: Callable[[], bool],
        prefixes: Sequence[str] | None = None,
        types: Sequence[str] | None = None,
    ) -> Iterator[Recorded | CaughtUp]:
        while not stopped():
            head = self.head()
            if head < after:
                raise StoreBehind(head, after)
            for event in self.read_all(after, head - after, prefixes=prefixes):
                if event.position > head:
                    break
                if types is not None and not event.type.startswith(tuple(types)):
                    continue
                yield event
                if stopped():
                    return
            after = head
            yield CaughtUp(head, self._log[head - 1].event_id if head else None)
            with self._changed:
                if len(self._log) == head:
                    self._changed.wait(_IDLE_S)

    def head(self) -> Position:
        with self._changed:
            return len(self._log)

    def fit(self, mark: Mark) -> Fit:
        with self._changed:
            if not 0 < mark.position <= len(self._log):
                return Fit.OTHER
            return Fit.SAME if self._log[mark.position - 1].event_id == mark.event_id else Fit.OTHER

    def system_id(self) -> UUID | None:
        return self._system_id

    def claim_system(self, system_id: UUID, *, instead_of: UUID | None = None) -> UUID:
        with self._changed:
            if self._system_id in (None, instead_of):
                self._system_id = system_id
            return self._system_id or system_id

    def close(self) -> None:
        """Do nothing: the store holds no resources."""
