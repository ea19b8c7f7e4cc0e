"""Read a stream of which events may be missing, because an administrator deleted or truncated it."""

from __future__ import annotations

from contextlib import suppress

from domain.kernel.errors import Damaged
from domain.kernel.events import Recorded
from domain.kernel.ports.event_store import EventStore


def remaining(store: EventStore, stream: str) -> tuple[list[Recorded], Damaged | None]:
    """The events of a stream in order and None; or the events that can be read at its end, and its damage."""
    try:
        return list(store.read_stream(stream)), None
    except Damaged as damage:
        left: list[Recorded] = []
        with suppress(Damaged):
            left.extend(store.read_stream(stream, backwards=True))
        return left[::-1], damage
