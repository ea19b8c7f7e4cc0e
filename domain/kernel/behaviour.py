"""The behaviour of a projection: a hash of the rows that it makes of a golden history.

The history is the same for ever: events of the aggregates whose streams the projection reads, with sample values, each
stream in another order. So a change of the code that changes no row changes no hash, and needs no rebuild.
Promise: the hash depends on the rows after each event, on the columns and on `Projection.version`, and on nothing else.
Refusal: what no sample value reaches it does not see, and no upcaster. Raise `Projection.version` for such a change.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from hashlib import sha256
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from domain.kernel.aggregate import Aggregate
from domain.kernel.events import Event, Recorded
from domain.kernel.messages import to_json
from domain.kernel.personal import PersonalText, Sealed
from domain.kernel.process import PREFIX
from domain.kernel.process_events import EVENTS as PROCESS_EVENTS
from domain.kernel.projection import Key, Projection, Row, applied

_ORDERS = 8
"""The number of streams of each kind: each plays the events in another order, which begins with the same event."""
_START_US = 1_750_000_000_000_000
_DIGITS = 12


@dataclass(frozen=True)
class _Undecoded(Event):
    """For projections that look at no event's data: their history must not change with the features that are installed."""

    number: int
    type: ClassVar[str] = "golden-event.v1"


def behaviour_of(projection: Projection, aggregates: Iterable[Aggregate[Any, Any]]) -> str:
    """`<version>-<hash>`. Equal texts mean code that makes the same rows."""
    made = [
        [projection.name, projection.key, projection.key_type, sorted(projection.columns.items())],
        list(_rows(projection, aggregates)),
    ]
    text = json.dumps(made, sort_keys=True, default=repr)
    return f"{projection.version}-{sha256(text.encode()).hexdigest()[:_DIGITS]}"


def _rows(projection: Projection, aggregates: Iterable[Aggregate[Any, Any]]) -> Iterator[list[Any]]:
    """After each event of the history the rows that it changed, or the error for which it would be parked."""
    rows: dict[Key, Row | None] = {}
    for recorded, event in golden_history(projection, aggregates):
        try:
            changed = _changed(projection, rows, recorded, event)
        except Exception as error:  # code of another package: it says so when it meets such an event
            yield [recorded.position, type(error).__name__]
            continue
        rows.update(changed)
        yield [
            recorded.position,
            sorted(((str(key), changed[key]) for key in changed), key=lambda row: row[0]),
        ]


def _changed(
    projection: Projection, rows: dict[Key, Row | None], recorded: Recorded, event: Event
) -> dict[Key, Row | None]:
    given = event if projection.decodes else Event()
    row = None
    if projection.sees_rows and (key := projection.key_of(recorded, given)) is not None:
        row = rows.get(key)
    changed: dict[Key, Row | None] = {}
    for operation in projection.apply(recorded, given, row):
        before = changed[operation.key] if operation.key in changed else rows.get(operation.key)
        after = applied(before, operation)
        changed[operation.key] = None if after is None else dict(after)
    return changed


def golden_history(
    projection: Projection, aggregates: Iterable[Aggregate[Any, Any]]
) -> Iterator[tuple[Recorded, Event]]:
    """The events of the history that a projection reads."""
    position = 0
    prefixes = projection.prefixes
    undecoded: Sequence[type[Event]] = (_Undecoded, _Undecoded, _Undecoded)
    blind = [(prefix, undecoded) for prefix in prefixes or ("golden-",)]
    for prefix, classes in _streams(prefixes, aggregates) if projection.decodes else blind:
        for number in range(min(len(classes), _ORDERS)):
            turned = [*classes[number:], *classes[:number]]
            for version, event_class in enumerate([classes[0], *turned, classes[0]]):
                position += 1
                event = _sample(event_class, position)
                yield _recorded(f"{prefix}{number + 1}", version, position, event), event


def _streams(
    prefixes: Sequence[str] | None, aggregates: Iterable[Aggregate[Any, Any]]
) -> Iterator[tuple[str, Sequence[type[Event]]]]:
    """The prefix of each kind of stream, and its event classes."""
    for aggregate in aggregates:
        own = aggregate.prefix
        if aggregate.events and (prefixes is None or own.startswith(tuple(prefixes))):
            yield own, aggregate.events
    for prefix in prefixes or ():
        if prefix.startswith(PREFIX):
            yield prefix, PROCESS_EVENTS


def _recorded(stream: str, version: int, position: int, event: Event) -> Recorded:
    values = {field.name: getattr(event, field.name) for field in fields(event)}
    data = {name: value.text if isinstance(value, Sealed) else value for name, value in values.items()}
    at_us = _START_US + 1_000_000 * position
    return Recorded(
        stream,
        version,
        position,
        at_us,
        position.to_bytes(16),
        event.type,
        to_json(data).encode(),
        b"{}",
    )


def _sample(event_class: type[Event], number: int) -> Event:
    hints = get_type_hints(event_class)
    return event_class(**{each.name: _value(hints[each.name], number) for each in fields(event_class)})


def _value(hint: Any, number: int) -> Any:
    """A value of a type, another one for each number."""
    if hint == PersonalText:
        return Sealed(f"sealed {number}")
    simple = {str: f"text {number}", int: number, float: number / 2, bool: number % 2 == 0, NoneType: None}
    if hint in simple:
        return simple[hint]
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return inner[number % len(inner)]
    if origin in (Union, UnionType):
        return _value(inner[number % len(inner)], number)
    if hint is dict or origin is dict:
        return {f"key {number}": _value(inner[1], number) if inner else number}
    if hint in (list, tuple) or origin in (list, tuple):
        return [_value(inner[0], number)] if inner else [number]
    return f"text {number}"
