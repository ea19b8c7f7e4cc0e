"""Read streams, and all events in commit order, page by page.

Promise: a deadline covers one page, so a slow consumer never runs into it. Refusal: a stream that misses events is
damaged, and no event after the gap is returned.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from esdbclient.exceptions import DeadlineExceeded

from adapters.eventstoredb.client import NO_RECORD, Client
from adapters.eventstoredb.connection import Connection
from adapters.eventstoredb.deadline import Deadline
from adapters.eventstoredb.errors import PART
from adapters.eventstoredb.known_ids import KnownIds
from adapters.eventstoredb.positions import NoRecordAt, Positions, record_at
from domain.kernel.errors import Damaged, PartUnavailable
from domain.kernel.events import BEGINNING, Position, Recorded
from domain.kernel.history import Fit, Mark

PAGE = 500


class Reading:
    """The reads of a store. Event ids of streams that are read forwards are remembered for later appends."""

    def __init__(self, connection: Connection, known_ids: KnownIds) -> None:
        self.positions = Positions()
        self._connection = connection
        self._known_ids = known_ids

    # --- one stream --------------------------------------------------------------------------

    def forwards(self, stream: str, version: int, limit: int | None) -> Iterator[Recorded]:
        left = limit
        while left is None or left > 0:
            size = PAGE if left is None else min(left, PAGE)
            page = self._stream_page(stream, version, size=size)
            self._known_ids.learn_events(stream, version, page)
            for event in page:
                if event.version != version:
                    raise Damaged(PART, f"{stream} has no version {version}: it was deleted or truncated")
                version += 1
                yield event
            if len(page) < size:
                return
            left = left and left - size

    def backwards(self, stream: str, from_version: int, limit: int | None) -> Iterator[Recorded]:
        below: int | None = None
        left = limit
        while left is None or left > 0:
            size = PAGE if left is None else min(left, PAGE)
            # One more, because a read that starts at a version may or may not include it.
            page = self._stream_page(stream, below, backwards=True, size=size + (below is not None))
            wanted = [event for event in page if below is None or event.version < below][:size]
            for event in wanted:
                if event.version < from_version:
                    return
                if below is not None and event.version != below - 1:
                    raise Damaged(PART, f"{stream} has no version {below - 1}: it was truncated")
                below = event.version
                yield event
            if len(wanted) < size and below is not None and below > from_version:
                raise Damaged(PART, f"{stream} has no version {below - 1}: it was deleted or truncated")
            if len(wanted) < size or below == 0:
                return
            left = left and left - size

    def _stream_page(
        self, stream: str, start: int | None, *, backwards: bool = False, size: int
    ) -> list[Recorded]:
        def page(client: Client, deadline: Deadline) -> list[Recorded]:
            left_s = deadline.left_s()
            return client.stream_page(stream, start, backwards=backwards, size=size, timeout_s=left_s)

        return self._connection.call(page)

    # --- all streams -------------------------------------------------------------------------

    def all_after(self, after: Position, limit: int, prefixes: Sequence[str] | None) -> Iterator[Recorded]:
        after = max(after, BEGINNING)
        at_end = prefixes is not None and not prefixes
        while limit > 0 and not at_end:
            within_s = self._connection.settle_s
            page, at_end = self._all_page(after, min(limit, PAGE), prefixes, within_s=within_s)
            for event in page:
                after = event.position
                if not event.type.startswith("$"):  # the record of a stream's permanent deletion
                    limit -= 1
                    yield event

    def fit(self, mark: Mark) -> Fit:
        def look(client: Client, deadline: Deadline) -> Fit:
            try:
                record = record_at(client, mark.position, deadline)
            except NoRecordAt:
                return Fit.OTHER
            if record is None:
                return Fit.OTHER
            if record.position > mark.position:
                return Fit.ABSENT
            return Fit.SAME if record.event_id == mark.event_id else Fit.OTHER

        return self._connection.call(look)

    def streams(self, after: str, prefix: str, limit: int, *, within_s: float) -> list[tuple[str, int]]:
        """List streams by reading all events that have the prefix.

        Raises PartUnavailable if there are more than can be read in `within_s`.
        """
        end_s = time.monotonic() + within_s
        found: dict[str, int] = {}
        position, at_end = BEGINNING, False
        while not at_end:
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                reason = f"it holds more events than can be read in {within_s:g} s to list streams"
                raise PartUnavailable(PART, reason, "Give a longer prefix, or the full name of a stream.")
            prefixes = [prefix] if prefix else None
            page_s = min(left_s, self._connection.settle_s)
            page, at_end = self._all_page(position, PAGE, prefixes, within_s=page_s)
            position = page[-1].position if page else position
            found.update({e.stream: e.version for e in page if e.stream > after and e.type[:1] != "$"})
            if len(found) > limit + PAGE:  # keep memory bounded: the dropped names come after `limit` others
                found = {name: found[name] for name in sorted(found)[:limit]}
        return [(name, found[name]) for name in sorted(found)[:limit]]

    def _all_page(
        self, after: Position, size: int, prefixes: Sequence[str] | None, *, within_s: float
    ) -> tuple[list[Recorded], bool]:
        """At most `size` events after a position, and whether they are the last of the store."""

        def page(client: Client, deadline: Deadline) -> tuple[list[Recorded], bool]:
            try:
                return _page_after(client, after, after, prefixes, size, deadline)
            except NO_RECORD:
                start = self.positions.start(client, after, deadline)
                if start == after:  # the server failed, whatever the position
                    raise
            return _page_after(client, start, after, prefixes, size, deadline)

        return self._connection.call(page, within_s=within_s)


def _page_after(
    client: Client,
    start: Position,
    after: Position,
    prefixes: Sequence[str] | None,
    size: int,
    deadline: Deadline,
) -> tuple[list[Recorded], bool]:
    """`start` is the beginning of a record: `after`, or that of the last event before it."""
    new: list[Recorded] = []
    count = 0
    # One more, because this read includes the event at its position.
    events = client.all_events(start, prefixes, size=size + 1, timeout_s=deadline.left_s())
    try:
        for event in events:
            count += 1
            if event.position > after:
                new.append(event)
    except DeadlineExceeded:
        # Keep the events that came, they are in order: finding rare events can take longer than one
        # call, so a retry from the start would never end. The server was busy, not unreachable.
        if not new:
            raise DeadlineExceeded("no event was found in time") from None
        return new[:size], False
    return new[:size], count <= size
