"""Encode domain events as JSON and decode them.

An event does not repeat what it says anyway: a sealed field leaves out its subject and event, and the metadata leave out a
correlation or cause that is the command itself. Decoded, both are whole.

Promise: what a released version wrote is decoded, under its wire name (`tests/golden`). Refusal: it writes no personal field
unsealed, and raises `UnknownEventType` for an event that this version does not know.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from types import MemberDescriptorType
from typing import Any
from uuid import UUID

import msgspec

from adapters.crypto.texts import SHORT, head, short, whole
from domain.kernel.aggregate import Upcaster
from domain.kernel.errors import Damaged, UnknownEventType
from domain.kernel.events import Event, EventData, Metadata, Recorded, personal_fields
from domain.kernel.messages import to_json
from domain.kernel.personal import Personal, Sealed, Unreadable, subject_fields
from domain.kernel.ports.codec import Opener, Sealer

_parsed_flat = msgspec.json.Decoder(dict[str, str | int | float | bool | None]).decode
"""Reads most events, at four times the speed of `json`. It is stricter: what it refuses is left to `json`."""
_parsed_nested = msgspec.json.Decoder().decode

_ID_BYTES = 16
_SHORT_LENGTH = len(SHORT)
_NESTING_LIMIT = 100
"""Levels of JSON in an event. Python parses and encodes about 1,000 levels, less those of its callers."""


@dataclass(frozen=True, slots=True)
class _Shape:
    """The field names of an event class, read from its annotations once."""

    event_class: type[Event]
    personal: tuple[str, ...]
    plain: tuple[str, ...]
    subjects: Mapping[str, str]
    """The field with the subject of each personal field that has an `Of`."""


def _shape(event_class: type[Event]) -> _Shape:
    personal = personal_fields(event_class)
    names = [field.name for field in fields(event_class)]
    plain = tuple(name for name in names if name not in personal)
    return _Shape(event_class, personal, plain, subject_fields(event_class))


class JsonCodec:
    """A codec for a fixed set of event classes. Plain fields hold JSON values: text, whole numbers, booleans."""

    def __init__(
        self, event_classes: Sequence[type[Event]], upcasters: Mapping[str, Upcaster] | None = None
    ) -> None:
        self._shapes = {event_class.type: _shape(event_class) for event_class in event_classes}
        self._upcasters = upcasters or {}
        self._makers = {
            wire_name: make
            for wire_name, shape in self._shapes.items()
            if wire_name not in self._upcasters and (make := _maker(shape))
        }
        self._personal_names = sorted({name for shape in self._shapes.values() for name in shape.personal})
        # The type that an older version becomes is known only with its data.
        self._may_name = {*self._upcasters, *(name for name, shape in self._shapes.items() if shape.subjects)}
        self._by_name = {_unversioned(wire_name): shape for wire_name, shape in self._shapes.items()}

    @property
    def personal_names(self) -> Collection[str]:
        return self._personal_names

    def encode(
        self, event: Event, *, event_id: UUID, subject: int | None, metadata: Metadata, sealer: Sealer | None
    ) -> EventData:
        shape = self._shapes[event.type]
        # Field by field, because the encoder would look for escapes in sealed text: there are none.
        parts = [f'"{name}":{to_json(getattr(event, name))}' for name in shape.plain]
        begins_of: dict[int, str] = {}
        for name in shape.personal:
            value, of = getattr(event, name), shape.subjects.get(name)
            person = subject if of is None else getattr(event, of)
            if not isinstance(value, Personal) or sealer is None or type(person) is not int:
                raise TypeError(
                    f"{event.type}.{name} cannot be sealed"
                )  # otherwise it would be stored readable
            begins = begins_of.get(person)
            if begins is None:
                begins = begins_of[person] = head(person, event_id.bytes)
            sealed = sealer.seal(value, subject=person, field=name, event_id=event_id)
            parts.append(f'"{name}":"{short(sealed.text, begins)}"')
        data = f"{{{','.join(parts)}}}".encode()
        return EventData(event_id, event.type, data, _metadata_bytes(metadata))

    def decode(
        self, recorded: Recorded, *, subject: int | None = None, opener: Opener | None = None
    ) -> Event:
        make = self._makers.get(recorded.type)
        if make is not None and opener is None:
            event = make(recorded)
            if event is not None:
                return event
        return self._decode(recorded, subject, opener)

    def _decode(self, recorded: Recorded, subject: int | None, opener: Opener | None) -> Event:
        wire_name, data = self.stored(recorded)
        shape = self._shapes.get(wire_name)
        if shape is None:
            raise UnknownEventType(wire_name)
        event_id = recorded.event_id if opener is not None and shape.personal else None
        for name in shape.personal:
            text = data.get(name)
            if not isinstance(text, str):
                raise _damaged(recorded)
            data[name] = sealed = Sealed(text)
            if opener is None:
                continue
            of = shape.subjects.get(name)
            person = subject if of is None else _person(recorded, data, of)
            if person is not None:
                data[name] = opener.open(sealed, subject=person, field=name, event_id=event_id)
        try:
            return shape.event_class(**data)
        except TypeError as error:
            raise _damaged(recorded) from error

    def subjects(self, recorded: Recorded) -> Collection[int]:
        if recorded.type not in self._may_name:
            return ()
        try:
            wire_name, data = self.stored(recorded)
        except Damaged:
            return ()
        shape = self._shapes.get(wire_name)
        found = {data.get(field) for field in shape.subjects.values()} if shape else ()
        return {person for person in found if type(person) is int}

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
        if (shape := self._shapes.get(wire_name)) is not None:
            for name in shape.personal:
                if isinstance(text := data.get(name), str) and text.startswith(SHORT):
                    data[name] = whole(text, _head(recorded, data, shape.subjects.get(name)))
        return wire_name, data

    def metadata(self, recorded: Recorded) -> Metadata:
        raw = _object(recorded, recorded.metadata)
        try:
            own = raw["command_id"]
            command_id = UUID(own)
            # Left out where they are the command itself; earlier versions repeated it.
            correlation_id, causation_id = (
                command_id if (text := raw.get(name, own)) == own else UUID(text)
                for name in ("correlation_id", "causation_id")
            )
            digest = raw.get("digest", "")  # earlier versions stored none
            return Metadata(command_id, raw["command"], correlation_id, causation_id, raw["actor"], digest)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise _damaged(recorded) from error


def _person(recorded: Recorded, data: Mapping[str, Any], of: str) -> int:
    """The person that an `Of` names."""
    person = data.get(of)
    if type(person) is not int:
        raise _damaged(recorded)
    return person


def _head(recorded: Recorded, data: Mapping[str, Any], of: str | None) -> str:
    """What the whole text of a sealed field begins with. Without an `Of` the field is of the person of the stream."""
    id_bytes = recorded.id_bytes
    if len(id_bytes) != _ID_BYTES:
        raise _damaged(recorded)
    if of is not None:
        return head(_person(recorded, data, of), id_bytes)
    number = recorded.stream.rpartition("-")[2]
    if not number.isdecimal():
        raise _damaged(recorded)
    return head(number, id_bytes)


def _maker(shape: _Shape) -> Callable[[Recorded], Event | None] | None:
    """A function from a stored event to the sealed event, or to None where `JsonCodec._decode` has to tell.

    It sets the fields one by one, as the `__init__` of a frozen dataclass does, in half the time: a rebuild decodes
    millions. None for a class with a `__post_init__` or without slots.
    """
    event_class, new = shape.event_class, object.__new__
    seal = vars(Sealed)["text"].__set__
    names = [*shape.personal, *shape.plain]
    slots = [getattr(event_class, name, None) for name in names]
    if hasattr(event_class, "__post_init__") or not all(isinstance(s, MemberDescriptorType) for s in slots):
        return None
    setters = [
        (name, slot.__set__, name in shape.personal) for name, slot in zip(names, slots, strict=True) if slot
    ]
    subjects = shape.subjects

    def make(recorded: Recorded) -> Event | None:
        try:
            data = _parsed_flat(recorded.data)
            if len(data) != len(setters):
                return None
            event = new(event_class)
            begins = ""
            for name, put, is_personal in setters:
                value: Any = data[name]
                if is_personal:
                    if not isinstance(value, str):
                        return None
                    if value.startswith(SHORT):
                        if subjects:
                            begins = _head(recorded, data, subjects.get(name))
                        elif not begins:  # all of them are of the stream's person
                            begins = _head(recorded, data, None)
                        value = begins + value[_SHORT_LENGTH:]  # as `whole`, without the call
                    sealed = new(Sealed)
                    seal(sealed, value)
                    value = sealed
                put(event, value)
        except (msgspec.DecodeError, KeyError):
            return None
        return event

    return make


def _metadata_bytes(metadata: Metadata) -> bytes:
    # Not by the encoder, which costs as much as sealing a value: the ids need no escapes, and the names repeat.
    command_id, causes = metadata.command_id, ""
    if metadata.correlation_id is not command_id and metadata.correlation_id != command_id:
        causes = f',"correlation_id":"{metadata.correlation_id}"'
    if metadata.causation_id is not command_id and metadata.causation_id != command_id:
        causes += f',"causation_id":"{metadata.causation_id}"'
    command, actor = _text(metadata.command), _text(metadata.actor)
    digest = f',"digest":"{metadata.digest}"' if metadata.digest else ""
    return f'{{"command_id":"{command_id}","command":{command}{causes},"actor":{actor}{digest}}}'.encode()


@lru_cache(maxsize=1000)
def _text(text: str) -> str:
    """The JSON of a text that many events repeat."""
    return to_json(text)


def _unversioned(wire_name: str) -> str:
    """`user-registered` of `user-registered.v1`."""
    return wire_name.rpartition(".v")[0] or wire_name


def _object(recorded: Recorded, raw: bytes) -> dict[str, Any]:
    try:
        value = parsed(raw)
    except (ValueError, RecursionError) as error:
        raise _damaged(recorded) from error
    if not isinstance(value, dict):
        raise _damaged(recorded)
    return value


def parsed(raw: bytes) -> Any:
    """The JSON value that an event stores. Raises ValueError or RecursionError."""
    try:
        return _parsed_flat(raw)
    except msgspec.DecodeError:
        pass
    if raw.count(b"[") + raw.count(b"{") <= _NESTING_LIMIT:
        try:
            return _parsed_nested(raw)
        except msgspec.DecodeError:
            pass
    return parsed_plainly(raw)


def parsed_plainly(raw: bytes) -> Any:
    """As `parsed`, by `json` alone. It also reads lone surrogates, NaN and infinite numbers, which `json` writes."""
    value = json.loads(str(raw, "utf-8", "surrogatepass"))
    if raw.count(b"[") + raw.count(b"{") > _NESTING_LIMIT and _is_deep(value):
        raise ValueError("nested too deeply")
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
