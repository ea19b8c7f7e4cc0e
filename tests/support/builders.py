"""What tests build again and again: events, stores by URL, and a deadline to wait until.

Promise: everything here is public language of the domain, without surprises. Refusal: nothing here checks
anything; checks live where a test can be read from top to bottom.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints
from uuid import UUID, uuid4

import domain
from adapters import wiring
from domain.kernel.events import Event, EventData, Metadata, Recorded
from domain.kernel.personal import Personal, PersonalText
from domain.kernel.ports.event_store import Append, AppendResult, EventStore
from domain.kernel.ports.vault import LivingKey

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0
"""How long a test waits for something that has to happen. Long, because it is only ever used up by a failure."""


PROFILES = ("embedded", "rabbitmq", "distributed")
"""What the systems of the acceptance tests run over; see tests/acceptance/conftest.py."""


# --- event stores ----------------------------------------------------------------------------


def open_store(url: str) -> EventStore:
    """The event store behind a URL, opened as a worker would: here a real server is plugged in.

    But with patience, where one can give up: a machine that is busy for long is no fault of a store.
    """
    if url.startswith("esdb"):
        from adapters.eventstoredb.event_store import EventStoreDbStore

        return EventStoreDbStore(
            url, call_timeout_s=DEADLINE_S / 2, settle_s=DEADLINE_S, listing_s=DEADLINE_S
        )
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
    """Append one item and give its one result."""
    (result,) = store.append([Append(stream, expected_version, events)])
    return result


def stored(store: EventStore, stream: str) -> list[EventData]:
    """What a stream holds, in the form in which it was handed in."""
    return [EventData(e.event_id, e.type, e.data, e.metadata) for e in store.read_stream(stream)]


# --- processes and waiting -------------------------------------------------------------------


def start_python(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A real process of its own that runs `code` from the root of the repository."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def open_sockets() -> int:
    """How many sockets this process has open; another thread may close one between the listing and the look."""
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found += "socket" in os.readlink(f"/proc/self/fd/{fd}")
    return found


def eventually(condition: Callable[[], bool], what: str, *, within_s: float = DEADLINE_S) -> None:
    """Wait until a condition holds; fails with `what` when the deadline passes first."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {within_s} s"
        time.sleep(0.005)


def assert_within(bound_s: float, act: Callable[[], object], *, chances: int = 5) -> None:
    """Something ends in time. What is too slow by itself is so every time; a busy machine is not."""
    taken_s = []
    for _ in range(chances):
        started_s = time.monotonic()
        own_s = act()  # which may have measured itself what counts
        taken_s.append(own_s if isinstance(own_s, float) else time.monotonic() - started_s)
        if taken_s[-1] < bound_s:
            return
    raise AssertionError(f"took {taken_s} s, not less than {bound_s} s")


def before(deadline_s: float) -> Callable[[], bool]:
    """A `stopped` for followers that turns true when the time is up, so that a test can't hang."""
    end = time.monotonic() + deadline_s
    return lambda: time.monotonic() > end


# --- domain events ---------------------------------------------------------------------------


def metadata(command_id: UUID | None = None) -> Metadata:
    command_id = command_id or uuid4()
    return Metadata(command_id, "rename-user", command_id, command_id, "uid:1000")


def recorded(event: EventData, *, stream: str = "user-1", version: int = 0) -> Recorded:
    return Recorded(stream, version, version + 1, 0, event.event_id, event.type, event.data, event.metadata)


def domain_modules() -> Iterator[ModuleType]:
    for module in pkgutil.walk_packages(domain.__path__, "domain."):
        yield importlib.import_module(module.name)


def event_classes() -> list[type[Event]]:
    """Every event class that the domain defines, whichever module it sits in, by wire name."""
    classes = {
        value
        for module in domain_modules()
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Event) and hasattr(value, "type")
    }
    return sorted(classes, key=lambda event_class: event_class.type)


def a_sample(event_class: type[Event]) -> Event:
    """An instance with telling values, the same on every call."""
    hints = get_type_hints(event_class)
    by_type: dict[Any, Any] = {PersonalText: Personal("Ada Lovelace"), str: "some text", int: 7, bool: True}
    by_name = {"email": Personal("ada@example.com")}
    names = [field.name for field in fields(event_class)]
    return event_class(**{name: by_name.get(name, by_type[hints[name]]) for name in names})


def a_key(fill: int = 7) -> LivingKey:
    return LivingKey(bytes([fill]) * 32)
