"""Read streams, and all events in commit order, page by page.

Promise: a deadline covers one page, so a slow consumer never runs into it. Refusal: a stream that misses events is
damaged, and no event after the gap is returned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from adapters.eventstoredb.client import Client, StreamPage
from adapters.eventstoredb.connection import Connection
from adapters.eventstoredb.deadline import Deadline
from adapters.eventstoredb.driver import NO_RECORD, DeadlineExceeded, failures
from adapters.eventstoredb.errors import PART, deleted
from adapters.eventstoredb.known_ids import KnownIds
from adapters.eventstoredb.messages import Selection
from adapters.eventstoredb.positions import NoRecordAt, Positions, record_at
from domain.kernel.errors import Damaged
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
            yield from _without_gap(stream, version, page)
            version += len(page)
            if len(page) < size:
                return
            left = left and left - size

    def many(
        self, streams: Sequence[str], first: Mapping[str, int]
    ) -> Mapping[str, Sequence[Recorded] | Damaged]:
        """Read streams at once, from version 0 or `first` on. A retry reads only those that are missing."""
        found: dict[str, list[Recorded] | Damaged] = {}

        def read(client: Client, deadline: Deadline) -> None:
            missing = [stream for stream in dict.fromkeys(streams) if stream not in found]
            pages = [StreamPage(stream, first.get(stream, 0), PAGE) for stream in missing]
            for page, events in client.stream_pages(pages, deadline):
                if isinstance(events, failures.StreamIsDeleted):
                    found[page.stream] = deleted()
                    continue
                self._known_ids.learn_events(page.stream, first.get(page.stream, 0), events)
                found[page.stream] = events

        self._connection.call(read)
        return {stream: self._rest(stream, first.get(stream, 0), found[stream]) for stream in streams}

    def _rest(self, stream: str, start: int, page: list[Recorded] | Damaged) -> list[Recorded] | Damaged:
        """A stream from `start` on, of which the first page was read, or its damage."""
        try:
            if isinstance(page, Damaged):
                return page
            events = list(_without_gap(stream, start, page))
            return events if len(page) < PAGE else [*events, *self.forwards(stream, start + PAGE, None)]
        except Damaged as damage:
            return damage

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

    def all_after(self, after: Position, limit: int, selection: Selection) -> Iterator[Recorded]:
        after = max(after, BEGINNING)
        at_end = selection.is_empty
        while limit > 0 and not at_end:
            within_s = self._connection.settle_s
            page, at_end = self._all_page(after, min(limit, PAGE), selection, within_s=within_s)
            for event in page:
                after = event.position
                if selection.includes(event):
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

    def _all_page(
        self, after: Position, size: int, selection: Selection, *, within_s: float
    ) -> tuple[list[Recorded], bool]:
        """At most `size` events after a position, and whether they are the last of the store."""

        def page(client: Client, deadline: Deadline) -> tuple[list[Recorded], bool]:
            return page_after(client, after, self.positions, selection, size, deadline)

        return self._connection.call(page, within_s=within_s)


def _without_gap(stream: str, version: int, page: Sequence[Recorded]) -> Iterator[Recorded]:
    """The events of a page. Raises `Damaged` where one is missing from `version` on."""
    for expected, event in enumerate(page, start=version):
        if event.version != expected:
            raise Damaged(PART, f"{stream} has no version {expected}: it was deleted or truncated")
        yield event


def page_after(
    client: Client,
    after: Position,
    positions: Positions,
    selection: Selection,
    size: int,
    deadline: Deadline,
) -> tuple[list[Recorded], bool]:
    """Events after any number that the server's filter lets pass, and whether they are the last of the store."""
    try:
        return _page_from(client, after, after, selection, size, deadline)
    except NO_RECORD:
        start = positions.start(client, after, deadline)
        if start == after:  # the server failed, whatever the position
            raise
    return _page_from(client, start, after, selection, size, deadline)


def _page_from(
    client: Client,
    start: Position,
    after: Position,
    selection: Selection,
    size: int,
    deadline: Deadline,
) -> tuple[list[Recorded], bool]:
    """`start` is the beginning of a record: `after`, or that of the last event before it."""
    new: list[Recorded] = []
    count = 0
    # One more, because this read includes the event at its position.
    events = client.all_events(start, selection, size=size + 1, timeout_s=deadline.left_s())
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
