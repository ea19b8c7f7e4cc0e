"""Queries of the streams of aggregates, for a feature without queries of its own.

`<feature>.history` with `id` returns the events of an instance, and `<feature>.state` its folded state: now, or with `at_us`
or `version` at a time or at a version. `of` names the aggregate; without it, it is the first one of the feature.
Promise: they read the event store, so they include every event that is stored. Refusal: what cannot be opened is shown as
unreadable with the reason, never as erased.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from domain.kernel.aggregate import Aggregate
from domain.kernel.errors import Damaged, EsError, InvalidInput, Kind, UnknownEventType
from domain.kernel.events import Event, Recorded, personal_fields
from domain.kernel.ids import parse_id, time_text
from domain.kernel.messages import Body, Reply, Request
from domain.kernel.personal import Erased, Personal, Sealed, Unreadable, readable
from workers.runtime.opening import Showing
from workers.runtime.pages import fit
from workers.runtime.queries import MAX_WHOLE, Queries, Sources, limit_of, whole

_EXACT = 1 << 53
"""JSON numbers are exact up to here for every reader; a larger one is sent as text."""


class NoSuchInstance(EsError):
    aggregate: str
    code = "not-found"
    kind = Kind.NOT_FOUND
    hint = "Check the id, or list the streams with `es streams list`."

    def __str__(self) -> str:
        return f"there is no {self.aggregate} with this id"


class NotYetThen(EsError):
    """The state is requested for a time before the first event, or for a version after the last one."""

    aggregate: str
    last_version: int
    code = "not-yet-then"
    kind = Kind.NOT_FOUND
    hint = "The `history` command of the same group lists the versions with their times."

    def __str__(self) -> str:
        return f"the {self.aggregate} did not exist at that time or version: its versions are 0 to {self.last_version}"


def instance_queries(feature: str, aggregates: Sequence[Aggregate[Any, Any]], sources: Sources) -> Queries:
    if not aggregates:
        return {}
    found = InstanceQueries(aggregates, sources)
    return {f"{feature}.history": found.history, f"{feature}.state": found.state}


class InstanceQueries:
    def __init__(self, aggregates: Sequence[Aggregate[Any, Any]], sources: Sources) -> None:
        self._aggregates = {aggregate.name: aggregate for aggregate in aggregates}
        self._main = aggregates[0]
        self._sources = sources

    def history(self, request: Request) -> Reply:
        aggregate, id_ = self._instance(request)
        start, limit = whole(request, "from_version", 0), limit_of(request)
        found = list(self._sources.store.read_stream(aggregate.stream_of(id_), start, limit=limit + 1))
        if not found and not self._exists(aggregate, id_):
            raise NoSuchInstance(aggregate.name)
        opener = self._opener(aggregate)
        subject = _subject(aggregate, id_)
        events = (self._sources.shown(recorded, subject=subject, opener=opener) for recorded in found[:limit])
        shown, has_more = fit(request, events, len(found))
        return {"events": shown, "next": {"from_version": shown[-1]["version"] + 1} if has_more else None}

    def state(self, request: Request) -> Reply:
        aggregate, id_ = self._instance(request)
        self._sources.target(request)  # refuses a position after the head; what is stored is included anyway
        until_us, version = whole(request, "at_us", MAX_WHOLE), whole(request, "version", MAX_WHOLE)
        limit = None if version == MAX_WHOLE else version + 1
        opener = self._opener(aggregate)
        state, times = aggregate.initial, list[int]()
        for recorded in self._sources.store.read_stream(aggregate.stream_of(id_), limit=limit):
            if recorded.recorded_at_us > until_us:
                break
            state = self._folded(aggregate, state, recorded, id_, opener)
            times.append(recorded.recorded_at_us)
        if not times or (limit is not None and len(times) < limit and until_us == MAX_WHOLE):
            raise self._missing(aggregate, id_)
        return {
            aggregate.id_field: str(id_),
            **_shown(state),
            "version": len(times) - 1,
            "created_at": time_text(times[0]),
            "updated_at": time_text(times[-1]),
        }

    def _instance(self, request: Request) -> tuple[Aggregate[Any, Any], int]:
        of = request.body.get("of")
        aggregate = self._main if of is None else self._aggregates.get(of) if isinstance(of, str) else None
        if aggregate is None:
            raise InvalidInput("of", f"must be one of {', '.join(self._aggregates)}")
        return aggregate, parse_id(request.body.get("id"), field="id")

    def _opener(self, aggregate: Aggregate[Any, Any]) -> Showing:
        """The opener of its personal values. It reads the key of each person whom it meets; without any, none."""
        is_personal = any(personal_fields(event) for event in aggregate.events)
        return Showing(self._sources.keyring([]) if is_personal else self._sources.erased_keyring)

    def _folded(
        self, aggregate: Aggregate[Any, Any], state: Any, recorded: Recorded, id_: int, opener: Showing
    ) -> Any:
        codec = self._sources.codec
        try:
            event = codec.decode(recorded, subject=_subject(aggregate, id_), opener=opener)
        except (Damaged, UnknownEventType):
            # Its type tells which fields of the state are unreadable.
            event = codec.outline(recorded) or Event()
        try:
            return aggregate.evolve(state, event)
        except Exception as error:  # code of another package; or it needs a value that is unreadable
            reason = (
                f"event {recorded.version} of {recorded.stream} cannot be folded ({type(error).__name__})"
            )
            raise Damaged("event store", reason) from error

    def _exists(self, aggregate: Aggregate[Any, Any], id_: int) -> bool:
        return (
            next(iter(self._sources.store.read_stream(aggregate.stream_of(id_), limit=1)), None) is not None
        )

    def _missing(self, aggregate: Aggregate[Any, Any], id_: int) -> EsError:
        stream = aggregate.stream_of(id_)
        last = next(iter(self._sources.store.read_stream(stream, backwards=True, limit=1)), None)
        return NoSuchInstance(aggregate.name) if last is None else NotYetThen(aggregate.name, last.version)


def _subject(aggregate: Aggregate[Any, Any], id_: int) -> int | None:
    """The person whose stream it is."""
    return id_ if aggregate.is_person else None


# --- a state as JSON ---------------------------------------------------------------------------


def _shown(state: object) -> Body:
    """The fields of a state. Personal values are opened; `unreadable` names those that cannot be read."""
    if not is_dataclass(state) or isinstance(state, type):
        return {"state": _json(state)}
    values = {field.name: getattr(state, field.name) for field in fields(state)}
    reasons = {name: value.reason for name, value in values.items() if isinstance(value, Unreadable)}
    shown = {
        name: str(value) if name.endswith("_id") and isinstance(value, int) else _json(value)
        for name, value in values.items()
    }
    return {**shown, "unreadable": reasons} if reasons else shown


def _json(value: object) -> Any:
    if isinstance(value, Sealed):
        return None
    if isinstance(value, Personal | Erased | Unreadable):
        return readable(value)
    if isinstance(value, Enum):
        return _json(value.value)
    if value is None or isinstance(value, str | bool | float):
        return value
    if isinstance(value, int):
        return value if -_EXACT < value < _EXACT else str(value)
    if isinstance(value, Mapping):
        return {str(_json(key)): _json(inner) for key, inner in value.items()}
    if isinstance(value, Set):
        return sorted(map(_json, value), key=str)
    if isinstance(value, Iterable):
        return [_json(inner) for inner in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _json(getattr(value, field.name)) for field in fields(value)}
    return str(value)
