"""Encode domain events as JSON and decode them.

Promise: the wire name and the JSON of a released event never change (`tests/golden`). Refusal: it writes no personal
field unsealed, and raises `UnknownEventType` for an event that this version does not know.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any
from uuid import UUID

from domain.kernel.aggregate import Upcaster
from domain.kernel.errors import Damaged, UnknownEventType
from domain.kernel.events import Event, EventData, Metadata, Recorded, personal_fields
from domain.kernel.messages import to_json
from domain.kernel.personal import Personal, Sealed, Unreadable
from domain.kernel.ports.codec import Opener, Sealer

_NESTING_LIMIT = 100
"""Levels of JSON in an event. Python parses and encodes about 1,000 levels, less those of its callers."""


@dataclass(frozen=True, slots=True)
class _Shape:
    """The field names of an event class, read from its annotations once."""

    event_class: type[Event]
    personal: tuple[str, ...]
    plain: tuple[str, ...]


def _shape(event_class: type[Event]) -> _Shape:
    personal = personal_fields(event_class)
    names = [field.name for field in fields(event_class)]
    return _Shape(event_class, personal, tuple(name for name in names if name not in personal))


class JsonCodec:
    """A codec for a fixed set of event classes. Plain fields hold JSON values: text, whole numbers, booleans."""

    def __init__(
        self, event_classes: Sequence[type[Event]], upcasters: Mapping[str, Upcaster] | None = None
    ) -> None:
        self._shapes = {event_class.type: _shape(event_class) for event_class in event_classes}
        self._upcasters = upcasters or {}
        self._by_name = {_unversioned(wire_name): shape for wire_name, shape in self._shapes.items()}

    def encode(
        self, event: Event, *, event_id: UUID, subject: int | None, metadata: Metadata, sealer: Sealer | None
    ) -> EventData:
        shape = self._shapes[event.type]
        data = {name: getattr(event, name) for name in shape.plain}
        for name in shape.personal:
            value = getattr(event, name)
            if not isinstance(value, Personal) or sealer is None or subject is None:
                raise TypeError(
                    f"{event.type}.{name} cannot be sealed"
                )  # otherwise it would be stored readable
            data[name] = sealer.seal(value, subject=subject, field=name, event_id=event_id).text
        return EventData(event_id, event.type, to_json(data).encode(), _metadata_bytes(metadata))

    def decode(
        self, recorded: Recorded, *, subject: int | None = None, opener: Opener | None = None
    ) -> Event:
        wire_name, data = self.stored(recorded)
        shape = self._shapes.get(wire_name)
        if shape is None:
            raise UnknownEventType(wire_name)
        for name in shape.personal:
            if not isinstance(data.get(name), str):
                raise _damaged(recorded)
            sealed = Sealed(data[name])
            data[name] = sealed
            if opener is not None and subject is not None:
                data[name] = opener.open(sealed, subject=subject, field=name, event_id=recorded.event_id)
        try:
            return shape.event_class(**data)
        except TypeError as error:
            raise _damaged(recorded) from error

    def outline(self, recorded: Recorded) -> Event | None:
        # An older version of an event stands for its latest: an upcaster would need the data.
        shape = self._by_name.get(_unversioned(recorded.type))
        if shape is None:
            return None
        unreadable: dict[str, Any] = dict.fromkeys((*shape.personal, *shape.plain), Unreadable(Damaged.code))
        return shape.event_class(**unreadable)

    def stored(self, recorded: Recorded) -> tuple[str, dict[str, Any]]:
        wire_name, data = recorded.type, _object(recorded, recorded.data)
        while wire_name in self._upcasters:
            try:
                wire_name, data = self._upcasters[wire_name](data)
            except (LookupError, TypeError, ValueError) as error:
                raise _damaged(recorded) from error
        return wire_name, data

    def metadata(self, recorded: Recorded) -> Metadata:
        raw = _object(recorded, recorded.metadata)
        try:
            return Metadata(
                command_id=UUID(raw["command_id"]),
                command=raw["command"],
                correlation_id=UUID(raw["correlation_id"]),
                causation_id=UUID(raw["causation_id"]),
                actor=raw["actor"],
            )
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise _damaged(recorded) from error


def _metadata_bytes(metadata: Metadata) -> bytes:
    return to_json(
        {
            "command_id": str(metadata.command_id),
            "command": metadata.command,
            "correlation_id": str(metadata.correlation_id),
            "causation_id": str(metadata.causation_id),
            "actor": metadata.actor,
        }
    ).encode()


def _unversioned(wire_name: str) -> str:
    """`user-registered` of `user-registered.v1`."""
    return wire_name.rpartition(".v")[0] or wire_name


def _object(recorded: Recorded, raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
        if raw.count(b"[") + raw.count(b"{") > _NESTING_LIMIT and _is_deep(value):
            raise ValueError("nested too deeply")
    except (ValueError, RecursionError) as error:
        raise _damaged(recorded) from error
    if not isinstance(value, dict):
        raise _damaged(recorded)
    return value


def _is_deep(value: object) -> bool:
    """Whether the value is nested too deeply to be encoded in a reply."""
    level: list[object] = [value]
    for _ in range(_NESTING_LIMIT):
        inner: list[object] = []
        for item in level:
            inner += item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        level = inner
    return bool(level)


def _damaged(recorded: Recorded) -> Damaged:
    return Damaged("event store", f"event {recorded.version} of {recorded.stream} cannot be decoded")
