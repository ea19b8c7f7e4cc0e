"""The events of streams that were read or extended a short time ago, for a store that is another machine.

Promise: what is remembered of a stream is its beginning, complete up to some version, because stored events never
change. An append at that version proves that nothing followed, so a handler may decide on it without a read. Refusal:
an outcome that appends nothing proves nothing, so the handler reads the stream for it. The memory is bounded, in size
and in time: an administrator may delete a stream, or restore the store. Personal data stay sealed in it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from domain.kernel.events import EventData, Recorded
from domain.kernel.ports.event_store import Appended

FRESH_S = 30.0
SIZE_LIMIT_BYTES = 8_000_000
"""Of the events of all streams together, as stored. In memory they take about 600 bytes more each."""
_NOT_KNOWN_US = 0


class _Recent(NamedTuple):
    events: Sequence[Recorded]
    size_bytes: int
    until_s: float


class RecentStreams:
    """The most recent streams of one aggregate. For one thread at a time."""

    def __init__(
        self,
        monotonic_s: Callable[[], float],
        *,
        fresh_s: float = FRESH_S,
        limit_bytes: int = SIZE_LIMIT_BYTES,
    ) -> None:
        self._monotonic_s = monotonic_s
        self._fresh_s = fresh_s
        self._limit_bytes = limit_bytes
        self._streams: OrderedDict[str, _Recent] = OrderedDict()
        self._size_bytes = 0

    def events(self, stream: str) -> Sequence[Recorded] | None:
        """The events of a stream from version 0 up to some version; None if it is not remembered."""
        recent = self._streams.get(stream)
        if recent is None:
            return None
        if recent.until_s < self._monotonic_s():
            self.forget(stream)
            return None
        return recent.events

    def remember(self, stream: str, events: Sequence[Recorded]) -> None:
        """Remember a stream whose events are these, from version 0 on, instead of what was remembered of it."""
        self.forget(stream)
        size_bytes = sum(len(event.data) + len(event.metadata) for event in events)
        self._streams[stream] = _Recent(events, size_bytes, self._monotonic_s() + self._fresh_s)
        self._size_bytes += size_bytes
        while self._size_bytes > self._limit_bytes:
            self.forget(next(iter(self._streams)))

    def forget(self, stream: str) -> None:
        recent = self._streams.pop(stream, None)
        if recent is not None:
            self._size_bytes -= recent.size_bytes

    def forget_all(self) -> None:
        self._streams.clear()
        self._size_bytes = 0


def stored(stream: str, last: Appended, event: EventData) -> Recorded:
    """An event as a later read returns it, but for the time at which it was recorded: no decision depends on that."""
    return Recorded(
        stream,
        last.version,
        last.position,
        _NOT_KNOWN_US,
        event.event_id.bytes,
        event.type,
        event.data,
        event.metadata,
    )
