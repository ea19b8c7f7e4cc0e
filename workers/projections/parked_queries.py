"""Requests about parked events: `projections.parked.list`, `.show`, `.retry` and `.drop`.

Promise: what is shown of an event holds no readable personal value, whatever program wrote it. Refusal: rows of another
history than the event store's are left to their rebuild.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from domain.kernel.errors import Damaged, EsError, InvalidInput, Kind, UnknownEventType
from domain.kernel.events import Position, Recorded, personal_fields
from domain.kernel.ids import time_text
from domain.kernel.messages import Body, Reply, Request
from domain.kernel.ports.read_model import Parked
from domain.kernel.projection import Projection
from workers.projections.errors import NoSuchProjection
from workers.projections.parked_events import ParkedEvents, Retried
from workers.runtime.pages import fit
from workers.runtime.queries import OtherHistoryShown, Queries, Sources, limit_of, text, whole

_BUDGET_S = 1.0
"""How long one request retries streams: other queries wait meanwhile. The reply says where the next one goes on."""
_NOT_SEALED = "not-sealed"


class NotParked(EsError):
    projection: str
    code = "not-parked"
    kind = Kind.NOT_FOUND
    hint = "`es projections parked list NAME` shows what is parked. Retried and rebuilt events are not."

    def __str__(self) -> str:
        return f"{self.projection} has no such parked event"


def queries(sources: Sources) -> Queries:
    found = ParkedQueries(sources)
    return {
        "projections.parked.list": found.list_parked,
        "projections.parked.show": found.show,
        "projections.parked.retry": found.retry,
        "projections.parked.drop": found.drop,
    }


class ParkedQueries:
    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def list_parked(self, request: Request) -> Reply:
        """The first parked event of each stream, in order of position, with the number of later ones behind it."""
        parked, after, limit = self._parked(request), whole(request, "after", 0), limit_of(request)
        firsts = [events for events in parked.streams.values() if events[0].position > after]
        page = (self._first(parked, events) for events in firsts[:limit])
        shown, has_more = fit(request, page, len(firsts))
        return {"parked": shown, "next": {"after": shown[-1]["position"]} if has_more else None}

    def show(self, request: Request) -> Reply:
        """One parked event as it is stored: sealed values stay sealed."""
        parked = self._parked(request)
        found = self._at(parked, request)
        events = parked.streams[found.stream]
        recorded = parked.event(found)
        shown: Body = {"position": found.position, "stream": found.stream} if recorded is None else {}
        return {
            "projection": parked.projection.name,
            **(shown if recorded is None else self._event(recorded)),
            "error": found.error,
            "first": events[0].position,
            "behind": len(events) - 1 - events.index(found),
        }

    def retry(self, request: Request) -> Reply:
        """Retry the streams that are chosen by `position`, `stream` or `all`: `{"retried", "next"}`."""
        parked = self._parked(request)
        if request.body.get("all") is True:
            return self._retry_all(parked, text(request, "after"))
        stream = text(request, "stream") or self._at(parked, request).stream
        retried = parked.retry(stream)
        if retried is None:
            raise NotParked(parked.projection.name)
        return {"retried": [self._noted(parked, retried)], "next": None}

    def _retry_all(self, parked: ParkedEvents, after: str) -> Reply:
        """Streams in order of name, until the time is used up."""
        end_s = self._sources.monotonic_s() + _BUDGET_S
        retried: list[Body] = []
        left = sorted(stream for stream in parked.streams if stream > after)
        for stream in left:
            if retried and self._sources.monotonic_s() > end_s:
                return {"retried": retried, "next": {"after": retried[-1]["stream"]}}
            if found := parked.retry(stream):
                retried.append(self._noted(parked, found))
        return {"retried": retried, "next": None}

    def drop(self, request: Request) -> Reply:
        """Give an event up. `left` is the number of parked events that its stream still has."""
        parked = self._parked(request)
        dropped = parked.drop(_position(request))
        if dropped is None:
            raise NotParked(parked.projection.name)
        left = len(parked.streams.get(dropped.stream, ()))
        if self._sources.log:
            self._sources.log.warning(
                "parked-dropped", projection=parked.projection.name, position=dropped.position, left=left
            )
        return {
            "projection": parked.projection.name,
            "position": dropped.position,
            "stream": dropped.stream,
            "left": left,
        }

    def _noted(self, parked: ParkedEvents, retried: Retried) -> Body:
        """What became of a stream, for the reply; in the log without the name of the stream."""
        result = {"applied": retried.applied, "left": retried.left, "error": retried.error}
        if self._sources.log:
            self._sources.log.info("parked-retried", projection=parked.projection.name, **result)
        return {"stream": retried.stream, **result}

    # --- what is shown ---------------------------------------------------------------------------

    def _first(self, parked: ParkedEvents, events: Sequence[Parked]) -> Body:
        first = events[0]
        recorded = parked.event(first)
        return {
            "position": first.position,
            "stream": first.stream,
            "type": recorded and recorded.type,
            "error": first.error,
            "behind": len(events) - 1,
            "since": recorded and time_text(recorded.recorded_at_us),
        }

    def _event(self, recorded: Recorded) -> Body:
        """The event without values that are neither sealed nor known to be no personal data."""
        shown = self._sources.shown(recorded)
        reasons = {
            name: _NOT_SEALED
            for name, value in shown["data"].items()
            if not self._is_showable(recorded, name, value)
        }
        if not reasons:
            return shown
        data = {name: None if name in reasons else value for name, value in shown["data"].items()}
        return {**shown, "data": data, "unreadable": {**reasons, **shown.get("unreadable", {})}}

    def _is_showable(self, recorded: Recorded, name: str, value: Any) -> bool:
        if value is None or isinstance(value, bool):
            return True
        if isinstance(value, str) and self._sources.erased_keyring.subject_in(value) is not None:
            return True
        try:
            event = self._sources.codec.decode(recorded)
        except (Damaged, UnknownEventType):
            return False
        return name not in personal_fields(type(event))

    # --- fields ----------------------------------------------------------------------------------

    def _parked(self, request: Request) -> ParkedEvents:
        projection = self._named(request.body.get("name"))
        if self._sources.has_other_history(projection):
            raise OtherHistoryShown(projection.name)
        sources = self._sources
        return ParkedEvents(
            projection,
            store=sources.store,
            codec=sources.codec,
            read_model=sources.read_model,
            now_us=sources.now_us,
            monotonic_s=sources.monotonic_s,
            code=sources.code_of(projection),
        )

    def _named(self, name: object) -> Projection:
        for projection in self._sources.projections:
            if projection.name == name:
                return projection
        raise NoSuchProjection()

    def _at(self, parked: ParkedEvents, request: Request) -> Parked:
        found = parked.at(_position(request))
        if found is None:
            raise NotParked(parked.projection.name)
        return found


def _position(request: Request) -> Position:
    if request.body.get("position") is None:
        raise InvalidInput("position", "is missing")
    return whole(request, "position", 0)
