"""Every error this system can answer with: a name, its fields, and what to do next.

An error is a value first (`decide` *returns* a refusal) and an exception where a call can't go on.
Messages never contain personal data: they travel into logs and dead letters.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar, dataclass_transform


class Kind(StrEnum):
    """What an error means to whoever asked; each kind has one exit code."""

    REFUSED = "refused"  # a rule says no; repeating changes nothing
    INVALID = "invalid"  # the request itself is wrong
    NOT_FOUND = "not-found"  # no such thing
    UNAVAILABLE = "unavailable"  # a part is down or the outcome is unknown; repeat with the same command id
    DAMAGED = "damaged"  # stored data is not what was written


EXIT_CODES = {Kind.REFUSED: 1, Kind.INVALID: 2, Kind.NOT_FOUND: 3, Kind.UNAVAILABLE: 4, Kind.DAMAGED: 5}
"""What a process ends with that ends by an error."""


@dataclass_transform()
class EsError(Exception):
    """Base of all designed errors. The annotated fields of a subclass tell what happened.

    Fields work as in a dataclass. They are not made by `dataclasses`, whose generated code costs a third
    of a millisecond per class, and every short-lived command loads all of these.
    """

    code = "internal"
    kind = Kind.UNAVAILABLE
    hint = "Look at `es logs`; it is safe to repeat the command with the same command id."

    command_id: str | None = None
    """The command that met the error, where a caller can repeat it; no field, so it takes no part in equality."""

    _fields: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        own = tuple(inspect.get_annotations(cls))
        cls._fields = (*cls._fields, *(name for name in own if name not in cls._fields))

    def __init__(self, *values: Any, **named: Any) -> None:
        given = dict(zip(self._fields, values, strict=False)) | named
        # A field that the class has a value for, such as `hint`, may be left out.
        missing = [name for name in self._fields if name not in given and not hasattr(type(self), name)]
        if missing or len(values) > len(self._fields) or set(named) - set(self._fields):
            raise TypeError(f"{type(self).__name__} takes the fields {self._fields}")
        super().__init__(*values)
        self.__dict__.update(given)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._values() == self._values()

    def __hash__(self) -> int:
        return hash((type(self), *self._values()))

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self._fields)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._fields)
        return f"{type(self).__name__}({shown})"

    def __str__(self) -> str:
        return "something went wrong inside a worker"

    def to_wire(self) -> dict[str, str]:
        """The error as it crosses a transport: `{"code", "kind", "message", "hint"}`."""
        return {"code": self.code, "kind": self.kind.value, "message": str(self), "hint": self.hint}


class AnsweredError(EsError):
    """An error that a worker answered with, as it came over a transport."""

    code: str
    kind: Kind
    message: str
    hint: str

    @classmethod
    def from_wire(cls, wire: Mapping[str, str]) -> AnsweredError:
        """The inverse of `to_wire`. Raises KeyError or ValueError on anything else."""
        return cls(wire["code"], Kind(wire["kind"]), wire["message"], wire["hint"])

    def __str__(self) -> str:
        return self.message


class Refusal(EsError):
    """A rule of the domain said no."""

    kind = Kind.REFUSED


class InvalidInput(EsError):
    """A field of a request is not what it has to be. `reason` never repeats the value."""

    field: str
    reason: str
    hint: str = "Correct the input and send it again."
    code = "invalid-input"
    kind = Kind.INVALID

    def __str__(self) -> str:
        return f"{self.field} {self.reason}"


class InvalidSetting(InvalidInput):
    """A setting is not what it has to be; `field` names it, `reason` never repeats a URL."""

    code = "invalid-setting"
    hint: str = "Correct the setting: it is a flag, an ES_… variable, or a line of es.toml in the home."


class UnknownRequest(EsError):
    """A worker was asked for something it doesn't do."""

    request: str
    code = "unknown-request"
    kind = Kind.INVALID
    hint = "The command line and the workers may be of different versions: `es down`, then `es up`."

    def __str__(self) -> str:
        return f"no worker knows the request {self.request!r}"


class MessageTooLarge(EsError):
    """`what` (the request, or its answer) is larger than transports carry."""

    what: str
    limit_bytes: int
    code = "request-too-large"
    kind = Kind.INVALID
    hint = "Ask for less at once, or send less in one request."

    def __str__(self) -> str:
        return f"{self.what} is larger than {self.limit_bytes} bytes"


class CommandIdReused(Refusal):
    """Rule: a command id names one command, for ever."""

    command_id: str
    code = "command-id-reused"
    hint = "Use a new command id for a new command; leave --command-id out to have one made."

    def __str__(self) -> str:
        return f"command id {self.command_id} was already used for another command"


class VersionConflict(EsError):
    """The stream is not at the version that the append expected. `actual` is -1 for no stream."""

    stream: str
    expected: int
    actual: int
    code = "version-conflict"
    hint = "Somebody else changed it at the same time; repeat the command with the same command id."

    def __str__(self) -> str:
        return f"{self.stream} is at version {self.actual}, not {self.expected}"


class DuplicateEventId(EsError):
    """An event id of the append is already in the store, on another stream or at another version."""

    stream: str
    code = "duplicate-event-id"
    kind = Kind.REFUSED
    hint = "Use a new command id for a new command."

    def __str__(self) -> str:
        return f"an event id of the append to {self.stream} is already in use elsewhere"


class PartUnavailable(EsError):
    """A part (store, vault, read model, transport, a role's workers) can't be reached or used."""

    part: str
    reason: str
    hint: str = "Start the part or mend its URL; workers reconnect by themselves. Repeating is safe."
    code = "unavailable"

    def __str__(self) -> str:
        verb = "are" if self.part == "read models" else "is"
        return f"{self.part} {verb} unavailable: {self.reason}"


def residue_left() -> PartUnavailable:
    """A key is destroyed, and its old bytes are still in a file because somebody is reading."""
    return PartUnavailable(
        "vault",
        "a reader keeps the remains of a destroyed key from being removed",
        "It is tried again by itself; end long-running readers of the vault.",
    )


class Damaged(EsError):
    """Stored data is not what this system wrote, or not whole."""

    part: str
    reason: str
    hint: str = "Do not go on writing. Restore the part from a backup and look for the cause."
    code = "damaged"
    kind = Kind.DAMAGED

    def __str__(self) -> str:
        return f"{self.part} is damaged: {self.reason}"


class StoreBehind(EsError):
    """The event store ends before a position that was read from it: an older copy of it was restored."""

    head: int
    seen: int
    code = "store-behind"
    kind = Kind.DAMAGED
    hint = (
        "Lift the ids first (`es ids fence`), then build the read models anew (`es projections rebuild NAME`); "
        'see "Restoring" in docs/operations.md.'
    )

    def __str__(self) -> str:
        return f"the event store ends at position {self.head}, but {self.seen} was seen: it went back in time"


class UnknownEventType(EsError):
    """The store holds an event that this version of the program does not know."""

    event_type: str
    code = "unknown-event-type"
    kind = Kind.DAMAGED
    hint = "A newer version wrote it: upgrade every worker, then repeat."

    def __str__(self) -> str:
        return f"unknown event type {self.event_type!r}"


class KeyUnavailable(EsError):
    """A personal value can't be opened *now*. Never the same as erased: nothing may be blanked by it."""

    reason: str
    hint: str = "Bring the vault and its key-encryption key back; nothing was changed."
    code = "key-unavailable"

    def __str__(self) -> str:
        return f"personal data cannot be opened: {self.reason}"


def vault_emptied() -> KeyUnavailable:
    """A vault holds nothing, and there are people whose keys and claims it held."""
    return KeyUnavailable("the vault is empty, but the event store knows people")


class Tampered(EsError):
    """A sealed value was altered, or it sits in another event, field or person than it was sealed for."""

    subject: int
    field: str
    code = "tampered"
    kind = Kind.DAMAGED
    hint = "Compare the event store with a backup; the value was not shown."

    def __str__(self) -> str:
        return f"the sealed {self.field} of user {self.subject} was altered or moved"
