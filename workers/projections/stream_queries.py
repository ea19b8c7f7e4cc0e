"""Queries about streams and events: `streams.list`, `streams.read`, `events.read`. Personal fields stay sealed."""

from __future__ import annotations

from domain.kernel.events import BEGINNING
from domain.kernel.messages import LATER, Reply, Request
from workers.runtime.queries import PATIENCE_S, Queries, Sources, limit_of, text, whole


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
        found = self._store.streams(
            after=text(request, "after"), prefix=text(request, "prefix"), limit=limit_of(request)
        )
        return {"streams": [{"stream": name, "version": version} for name, version in found]}

    def read_stream(self, request: Request) -> Reply:
        events = self._store.read_stream(
            text(request, "stream"),
            whole(request, "from_version", 0),
            backwards=request.body.get("backwards") is True,
            limit=limit_of(request),
        )
        return {"events": [self._sources.shown(recorded) for recorded in events]}

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
            return LATER
        # Events may have been stored since the head was read, so the last one may be after it.
        last = events[-1].position if events else after
        reached = last if len(events) == limit else max(head, last)
        type_ = text(request, "type")
        return {
            "events": [self._sources.shown(event) for event in events if event.type.startswith(type_)],
            "position": reached,
        }
