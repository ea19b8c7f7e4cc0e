"""The event ids of recently used streams, so that most appends need no read.

Promise: the ids of a stream are complete from version 0 on, without a gap. Refusal: the memory is bounded, and the
least recently extended stream is forgotten as a whole.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from uuid import UUID

from domain.kernel.events import Recorded


class KnownIds:
    """Thread-safe. `limit` is the number of ids of all streams together; one stream may exceed it alone."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._streams: OrderedDict[str, dict[UUID, int]] = OrderedDict()
        self._reach: dict[str, int] = {}
        self._count = 0

    def look(self, stream: str, ids: Sequence[UUID], *, up_to: int) -> tuple[int, bool]:
        """The first version whose id is not known, and whether one of `ids` is known at a version of at most `up_to`."""
        with self._lock:
            known = self._streams.get(stream)
            if known is None:
                return 0, False
            return self._reach[stream], any(known.get(id_, up_to + 1) <= up_to for id_ in ids)

    def learn_events(self, stream: str, first: int, events: Sequence[Recorded]) -> bool:
        """Add the ids of events that were read from version `first` on, up to the first gap."""
        versions = range(first, first + len(events))
        found = zip(versions, events, strict=True)
        return self.learn(
            stream, first, [event.event_id for version, event in found if event.version == version]
        )

    def learn(self, stream: str, first: int, ids: Sequence[UUID]) -> bool:
        """Add the ids of consecutive versions from `first` on, and return whether one was new.

        Nothing is added if versions below `first` are missing.
        """
        with self._lock:
            reach = self._reach.get(stream, 0)
            new = ids[reach - first :] if first <= reach else ()
            if not new:
                return False
            known = self._streams.setdefault(stream, {})
            for version, id_ in enumerate(new, start=reach):
                known.setdefault(id_, version)
            self._streams.move_to_end(stream)
            self._reach[stream] = reach + len(new)
            self._count += len(new)
            while self._count > self._limit and len(self._streams) > 1:
                self._count -= self._reach.pop(self._streams.popitem(last=False)[0])
            return True
