"""Queries about streams and events: `streams.list`, `streams.count`, `streams.read`, `events.read`. Personal fields stay sealed."""

from __future__ import annotations

from domain.kernel.errors import InvalidInput
from domain.kernel.events import BEGINNING
from domain.kernel.messages import IDLE, Later, Reply, Request
from domain.kernel.projection import Value
from domain.kernel.system import ASSIGNMENTS
from domain.streams.projection import STREAMS
from workers.projections.person_queries import PersonQueries
from workers.runtime.pages import fit
from workers.runtime.queries import MAX_WHOLE, PATIENCE_S, Queries, Sources, limit_of, text, whole


def queries(sources: Sources) -> Queries:
    found = StreamQueries(sources)
    return {
        "gdpr.reach": found.people.reach,
        "streams.list": found.list_streams,
        "streams.count": found.count_streams,
        "streams.read": found.read_stream,
        "events.read": found.read_events,
    }


COUNT_LIMIT = 1_000_000
_AFTER_ASSIGNMENTS = f"{ASSIGNMENTS}\U0010ffff"
"""After every stream of an assignment, and before all later ones."""


class StreamQueries:
    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._store = sources.store
        self.people = PersonQueries(sources)

    def list_streams(self, request: Request) -> Reply:
        """Streams in order of name: all that are stored when the request comes, or an error.

        With `person` they are those with data of a user. Streams that only hold which id a command was given are left
        out, unless `all` or the prefix asks for them.
        """
        limit = limit_of(request)
        after, prefix = _storable(request, "after"), _storable(request, "prefix")
        if request.body.get("person") is not None:
            return self.people.streams(request, after=after, prefix=prefix)
        if later := self._wait_for_head(request):
            return later
        rows = self._rows(after, prefix, limit + 1, shows_all=_shows_all(request, prefix))
        shown, has_more = fit(request, rows[:limit], len(rows))
        return {"streams": shown, "next": {"after": shown[-1]["stream"]} if has_more else None}

    def _rows(self, after: str, prefix: str, count: int, *, shows_all: bool) -> list[dict[str, Value]]:
        rows = self._sources.read_model.rows(STREAMS, after=after, prefix=prefix, limit=count)
        shown = [row for row in rows if shows_all or not str(row["stream"]).startswith(ASSIGNMENTS)]
        if len(shown) == len(rows):
            return rows
        # They are together in order of name: go on after the last of them.
        beyond = max(after, _AFTER_ASSIGNMENTS)
        before = [row for row in shown if str(row["stream"]) < ASSIGNMENTS]
        more = self._sources.read_model.rows(STREAMS, after=beyond, prefix=prefix, limit=count - len(before))
        return [*before, *more]

    def count_streams(self, request: Request) -> Reply:
        """The number of streams with a prefix, as `list_streams` lists them.

        From 1,000,000 on it is cut: counting them reads each row.
        """
        prefix = _storable(request, "prefix")
        if later := self._wait_for_head(request):
            return later
        count, hidden = self._sources.read_model.count, 0
        if not _shows_all(request, prefix) and ASSIGNMENTS.startswith(prefix):
            hidden = count(STREAMS, prefix=ASSIGNMENTS, limit=COUNT_LIMIT + 1)
        found = count(STREAMS, prefix=prefix, limit=COUNT_LIMIT + 1 + hidden) - hidden
        return {"streams": min(found, COUNT_LIMIT), "more": found > COUNT_LIMIT}

    def _wait_for_head(self, request: Request) -> Later | None:
        """`LATER` until every stream that is stored now has its row. An incomplete list would be a wrong answer."""
        if "position" not in request.memo:
            request.memo["position"] = self._store.head()
        return self._sources.wait_for(STREAMS, request, request.memo["position"])

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


def _shows_all(request: Request, prefix: str) -> bool:
    return request.body.get("all") is True or prefix.startswith(ASSIGNMENTS)


def _storable(request: Request, field: str) -> str:
    """A text field that a read model can compare with names. Raises InvalidInput."""
    value = text(request, field)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidInput(field, "must be Unicode text") from None
    return value
