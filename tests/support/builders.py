"""Events, streams, stores and keys for tests, in the public language of the domain. Nothing here checks anything."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Sequence
from dataclasses import fields
from types import ModuleType
from typing import Any, get_type_hints
from uuid import UUID, uuid4

import domain
from adapters import wiring
from adapters.settings import EVENTSTOREDB
from domain.kernel.events import Event, EventData, Metadata, Recorded
from domain.kernel.personal import Personal, PersonalText
from domain.kernel.ports.event_store import Append, AppendResult, EventStore
from domain.kernel.ports.vault import LivingKey
from domain.users.commands import DEFAULT_BASIS

PATIENCE_S = 60.0


def open_store(url: str) -> EventStore:
    """The event store of a URL, as a worker opens it, with longer timeouts where a busy machine could exceed them."""
    if url.startswith(EVENTSTOREDB):
        from adapters.eventstoredb.event_store import EventStoreDbStore

        return EventStoreDbStore(url, call_timeout_s=PATIENCE_S / 2, settle_s=PATIENCE_S)
    return wiring.open_store(url)


def a_stream(kind: str = "thing") -> str:
    """A stream name that no other test and no earlier run on the same server has used."""
    return f"{kind}-{uuid4().hex}"


def an_event(
    type_: str = "thing-happened.v1", *, data: bytes = b"{}", event_id: UUID | None = None
) -> EventData:
    return EventData(event_id or uuid4(), type_, data, b'{"actor":"test"}')


def some_events(count: int) -> list[EventData]:
    return [an_event(data=b'{"number":%d}' % number) for number in range(count)]


def append(
    store: EventStore, stream: str, expected_version: int, events: Sequence[EventData]
) -> AppendResult:
    """Append one item and return its result."""
    (result,) = store.append([Append(stream, expected_version, events)])
    return result


def streams_of(store: EventStore, prefix: str = "") -> list[tuple[str, int]]:
    """Every stream whose name starts with a prefix, by name, with its version: from all events of the store."""
    events = store.read_all(0, 1_000_000, prefixes=[prefix] if prefix else None)
    return sorted({event.stream: event.version for event in events}.items())


def stored(store: EventStore, stream: str) -> list[EventData]:
    """The events of a stream, in the form in which they were appended."""
    return [EventData(e.event_id, e.type, e.data, e.metadata) for e in store.read_stream(stream)]


def metadata(command_id: UUID | None = None) -> Metadata:
    command_id = command_id or uuid4()
    return Metadata(command_id, "rename-user", command_id, command_id, "uid:1000")


def recorded(event: EventData, *, stream: str = "user-1", version: int = 0) -> Recorded:
    return Recorded(
        stream, version, version + 1, 0, event.event_id.bytes, event.type, event.data, event.metadata
    )


def domain_modules() -> Iterator[ModuleType]:
    for module in pkgutil.walk_packages(domain.__path__, "domain."):
        yield importlib.import_module(module.name)


def event_classes() -> list[type[Event]]:
    """Every event class that the domain defines, by wire name."""
    classes = {
        value
        for module in domain_modules()
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Event) and hasattr(value, "type")
        if not value.__name__.startswith("_")  # never stored
    }
    return sorted(classes, key=lambda event_class: event_class.type)


def a_sample(event_class: type[Event]) -> Event:
    """An instance with recognisable values, the same on every call."""
    hints = get_type_hints(event_class)
    by_type: dict[Any, Any] = {PersonalText: Personal("Ada Lovelace"), str: "some text", int: 7, bool: True}
    by_name = {"email": Personal("ada@example.com"), "basis": DEFAULT_BASIS}
    names = [field.name for field in fields(event_class)]
    return event_class(**{name: by_name.get(name, by_type[hints[name]]) for name in names})


def a_key(fill: int = 7) -> LivingKey:
    return LivingKey(bytes([fill]) * 32)
