"""Read streams of which events may be missing, because an administrator deleted or truncated them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

from domain.kernel.errors import Damaged
from domain.kernel.events import Recorded
from domain.kernel.ports.event_store import EventStore

Remaining = tuple[Sequence[Recorded], Damaged | None]
"""The events of a stream in order and None; or the events that can be read at its end, and its damage."""

_NEAR = 16
"""Versions that are at most so far apart are read at once, with those between them."""


def remaining(
    store: EventStore, streams: Sequence[str], first: Mapping[str, int] | None = None
) -> Mapping[str, Remaining]:
    """What is left of streams, by name: in one wait for the store, and one more for each damaged stream.

    A stream that `first` names is read from that version on, unless it is damaged.
    """
    if not streams:
        return {}
    found = store.read_streams(streams, first=first)
    return {
        stream: (_end_of(store, stream), events) if isinstance(events, Damaged) else (events, None)
        for stream, events in found.items()
    }


def _end_of(store: EventStore, stream: str) -> Sequence[Recorded]:
    left: list[Recorded] = []
    with suppress(Damaged):
        left.extend(store.read_stream(stream, backwards=True))
    return left[::-1]


def events_at(store: EventStore, stream: str, versions: Iterable[int]) -> dict[int, Recorded]:
    """Single events of a stream, by version, and events between them."""
    return {
        recorded.version: recorded
        for start, end in _runs(sorted(versions))
        for recorded in store.read_stream(stream, start, limit=end - start + 1)
    }


def _runs(versions: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The first and the last version of each run of near versions."""
    start = end = None
    for version in versions:
        if start is None or end is None:
            start = end = version
        elif version - end <= _NEAR:
            end = version
        else:
            yield start, end
            start = end = version
    if start is not None and end is not None:
        yield start, end
