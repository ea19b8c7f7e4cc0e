"""Queries about streams and events: `streams.list`, `streams.read`, `events.read`. Personal fields stay sealed."""

from __future__ import annotations

from domain.kernel.events import BEGINNING
from domain.kernel.messages import IDLE, Body, Reply, Request
from workers.runtime.pages import fit
from workers.runtime.queries import MAX_WHOLE, PATIENCE_S, Queries, Sources, limit_of, text, whole


def queries(sources: Sources) -> Queries:
    found = StreamQueries(sources)
    return {
        "streams.list": found.list_streams,
        "streams.read": found.read_stream,
        "events.read": found.read_events,
    }


class StreamQueries:
    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._store = sources.store

    def list_streams(self, request: Request) -> Reply:
        limit = limit_of(request)
        found = self._store.streams(
            after=text(request, "after"), prefix=text(request, "prefix"), limit=limit + 1
        )
        rows: list[Body] = [{"stream": name, "version": version} for name, version in found]
        shown, has_more = fit(request, rows[:limit], len(rows))
        return {"streams": shown, "next": {"after": shown[-1]["stream"]} if has_more else None}

    def read_stream(self, request: Request) -> Reply:
        """The events of a stream from `from_version` on; `backwards` down to it, below `before_version` if given."""
        limit, stream = limit_of(request), text(request, "stream")
        first, before = whole(request, "from_version", 0), whole(request, "before_version", MAX_WHOLE)
        if request.body.get("backwards") is not True:
            events = list(self._store.read_stream(stream, first, limit=limit + 1))
            shown, has_more = fit(request, map(self._sources.shown, events[:limit]), len(events))
            return {"events": shown, "next": {"from_version": shown[-1]["version"] + 1} if has_more else None}
        last = next(self._store.read_stream(stream, backwards=True, limit=1), None)
        skipped = 0 if last is None else max(last.version + 1 - before, 0)
        events = list(self._store.read_stream(stream, first, backwards=True, limit=limit + 1 + skipped))
        wanted = [event for event in events if event.version < before]
        shown, has_more = fit(request, map(self._sources.shown, wanted[:limit]), len(wanted))
        return {"events": shown, "next": {"before_version": shown[-1]["version"]} if has_more else None}

    def read_events(self, request: Request) -> Reply:
        """Events after a position. With `wait` the reply comes with the first event, or empty after 2 s."""
        after = whole(request, "after_position", BEGINNING)
        if request.body.get("from_end") is True:
            return {"events": [], "position": self._store.head()}
        prefix, limit = text(request, "prefix"), limit_of(request)
        head = self._store.head()
        prefixes = [prefix] if prefix else None
        events = list(self._store.read_all(after, limit, prefixes=prefixes)) if head > after else []
        since_s = request.memo.setdefault("since_s", self._sources.monotonic_s())
        waited_s = self._sources.monotonic_s() - since_s
        if not events and request.body.get("wait") is True and waited_s < PATIENCE_S / 3:
            return IDLE
        # Events may have been stored since the head was read, so the last one may be after it.
        last = events[-1].position if events else after
        reached = last if len(events) == limit else max(head, last)
        type_ = text(request, "type")
        wanted = [event for event in events if event.type.startswith(type_)]
        shown, has_more = fit(request, map(self._sources.shown, wanted), len(wanted))
        return {"events": shown, "position": shown[-1]["position"] if has_more else reached}
