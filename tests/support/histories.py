"""Stores whose content is put back to an older copy, or replaced by that of another store."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

import apsw

from adapters.memory.event_store import MemoryStore
from adapters.sqlite.event_store import SqliteStore
from domain.kernel.events import BEGINNING, NO_STREAM, EventData
from domain.kernel.ports.event_store import Append, Appended, EventStore
from tests.support.builders import a_stream, an_event
from tests.support.waiting import DEADLINE_S

if TYPE_CHECKING:
    from tests.support.node import Node

_BATCH = 50


class Restorable(Protocol):
    """A store, its backups, and how a backup is put back while no worker runs."""

    @property
    def store(self) -> EventStore: ...

    def backup(self) -> Callable[[], None]:
        """Copy the store. The result puts the copy in its place."""
        ...

    def swap(self) -> None:
        """Put an empty store in its place."""
        ...


class RestorableMemory:
    """The content is replaced while followers of the store run."""

    def __init__(self) -> None:
        self.store = MemoryStore()

    def backup(self) -> Callable[[], None]:
        copy = MemoryStore()
        for e in self.store.read_all(BEGINNING, sys.maxsize):
            event = EventData(e.event_id, e.type, e.data, e.metadata)
            copy.append([Append(e.stream, e.version - 1, [event])])
        return lambda: self.replace(copy)

    def swap(self) -> None:
        self.replace(MemoryStore())

    def replace(self, other: MemoryStore) -> None:
        with self.store._changed:
            for name in ("_log", "_by_event_id", "_streams"):
                setattr(self.store, name, getattr(other, name))
            self.store._changed.notify_all()


class RestorableSqlite:
    def __init__(self, folder: Path) -> None:
        self._path = folder / "events.db"
        self._backups = 0
        self.store: EventStore = SqliteStore(self._path)

    def backup(self) -> Callable[[], None]:
        self._backups += 1
        copy = self._path.with_name(f"backup-{self._backups}.db")
        with closing(apsw.Connection(str(self._path))) as connection:
            connection.execute("VACUUM INTO ?", (str(copy),))
        return lambda: self._replace(copy)

    def swap(self) -> None:
        self._replace(None)

    def _replace(self, copy: Path | None) -> None:
        self.store.close()
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        if copy is not None:
            copy.rename(self._path)
        self.store = SqliteStore(self._path)


class RestorableNode:
    def __init__(self, node: Node) -> None:
        from adapters.eventstoredb.event_store import EventStoreDbStore  # here: it needs an extra

        self.node = node
        self.store: EventStore = EventStoreDbStore(node.url, call_timeout_s=DEADLINE_S, settle_s=DEADLINE_S)

    def backup(self) -> Callable[[], None]:
        copy = self.node.log.copy()
        return lambda: self.node.restore(copy)

    def swap(self) -> None:
        from tests.support.node.log import Log

        self.node.restore(Log())


@contextmanager
def restorable(kind: str, folder: Path) -> Iterator[Restorable]:
    """A store of a kind: `memory`, `sqlite` or `node`."""
    if kind == "memory":
        yield RestorableMemory()
        return
    if kind == "node":
        from tests.support.node import Node

        with closing(Node()) as node:
            found = RestorableNode(node)
            with closing(found.store):
                yield found
        return
    place = RestorableSqlite(folder)
    yield place
    place.store.close()


def register(store: EventStore, count: int) -> list[UUID]:
    """Append an event to each of `count` new streams; return the ids of the events, in commit order."""
    ids: list[UUID] = []
    while len(ids) < count:
        batch = [
            Append(a_stream("user"), NO_STREAM, [_an_event()]) for _ in range(min(count - len(ids), _BATCH))
        ]
        assert all(isinstance(result, Appended) for result in store.append(batch))
        ids += [item.events[0].event_id for item in batch]
    return ids


def _an_event() -> EventData:
    """One of any size: after a restore the events of EventStoreDB begin at other positions than the lost ones."""
    return an_event(data=b'{"text":"%s"}' % (b"x" * random.randrange(200)))
