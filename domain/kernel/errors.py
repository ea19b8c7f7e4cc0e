"""The errors of this system: what happened, in fields, and a hint that says what to do next.

Promise: an error is a value (`decide` returns a refusal) and can be raised; its code and kind never change.
Refusal: no text of an error contains personal data, because logs and dead letters keep it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar, dataclass_transform


class Kind(StrEnum):
    """What an error means to the caller. Each kind has one exit code."""

    REFUSED = "refused"  # a rule does not allow the command; a retry changes nothing
    INVALID = "invalid"  # the request is wrong
    NOT_FOUND = "not-found"  # the requested user, row or projection does not exist
    UNAVAILABLE = "unavailable"  # a part is unavailable or the outcome is unknown; a retry is safe
    DAMAGED = "damaged"  # stored data is not what this program wrote


EXIT_CODES = {Kind.REFUSED: 1, Kind.INVALID: 2, Kind.NOT_FOUND: 3, Kind.UNAVAILABLE: 4, Kind.DAMAGED: 5}
"""The exit code of a process that fails with an error of each kind."""

_ECHO_LIMIT = 100  # characters of a request that its error repeats
_WIRE_LIMIT = 2000  # characters of a text in a reply: a reply with an error always fits


def shortened(text: str, limit: int) -> str:
    """The text, cut after `limit` characters."""
    return text if len(text) <= limit else f"{text[:limit]}…"


@dataclass_transform()
class EsError(Exception):
    """Base of all errors of this program. The annotated fields of a subclass say what happened.

    Fields work as in a dataclass. `dataclasses` would take 0.3 ms to generate each class, and every `es` command
    loads all of them.
    """

    code = "internal"
    kind = Kind.UNAVAILABLE
    hint = "See `es logs`. A retry is safe."

    command_id: str | None = None
    """The id of the failed command, if a caller may retry it. It is not a field: equality ignores it."""

    _fields: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        own = tuple(inspect.get_annotations(cls))
        cls._fields = (*cls._fields, *(name for name in own if name not in cls._fields))

    def __init__(self, *values: Any, **named: Any) -> None:
        given = dict(zip(self._fields, values, strict=False)) | named
        # A field with a value in the class, such as `hint`, is optional.
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
        return "a worker failed unexpectedly"

    def to_wire(self) -> dict[str, str]:
        """The error as JSON for a transport: `{"code", "kind", "message", "hint"}`, with texts of 2,000 characters at most."""
        message, hint = shortened(str(self), _WIRE_LIMIT), shortened(self.hint, _WIRE_LIMIT)
        return {"code": self.code, "kind": self.kind.value, "message": message, "hint": hint}


class AnsweredError(EsError):
    """An error that a worker replied with, as the caller received it."""

    code: str
    kind: Kind
    message: str
    hint: str

    @classmethod
    def from_wire(cls, wire: Mapping[str, str]) -> AnsweredError:
        """The inverse of `to_wire`. Raises KeyError for a missing entry and ValueError for an unknown kind."""
        return cls(wire["code"], Kind(wire["kind"]), wire["message"], wire["hint"])

    def __str__(self) -> str:
        return self.message


class Refusal(EsError):
    """A rule of the domain does not allow a command."""

    kind = Kind.REFUSED


class InvalidInput(EsError):
    """A field of a request is wrong. `reason` completes a sentence that begins with the field, without the value."""

    field: str
    reason: str
    hint: str = "Correct the input and send the request again."
    code = "invalid-input"
    kind = Kind.INVALID

    def __str__(self) -> str:
        return f"{self.field} {self.reason}"


class InvalidSetting(InvalidInput):
    """A setting is wrong. `field` names it; `reason` never contains a URL, which may hold a password."""

    code = "invalid-setting"
    hint: str = "Correct the setting in its flag, its ES_… variable or es.toml (`es config show`)."


class UnknownRequest(EsError):
    """A worker received a kind of request that it does not handle."""

    request: str
    code = "unknown-request"
    kind = Kind.INVALID
    hint = (
        "The `es` command and the workers may have different versions, or other features in ES_FEATURES:"
        " run `es down`, then `es up`."
    )

    def __str__(self) -> str:
        return f"no worker knows the request {shortened(self.request, _ECHO_LIMIT)!r}"


class MessageTooLarge(EsError):
    """A message is larger than transports carry. `what` is the request or its reply."""

    what: str
    limit_bytes: int
    code = "request-too-large"
    kind = Kind.INVALID
    hint = "Ask for fewer items with `--limit`, or send less in one request."

    def __str__(self) -> str:
        return f"{self.what} is larger than {self.limit_bytes} bytes"


class CommandIdReused(Refusal):
    """Rule: a command id belongs to one command, for ever."""

    command_id: str
    code = "command-id-reused"
    hint = "Omit `--command-id` to get a new one, or give another one."

    def __str__(self) -> str:
        return f"command id {self.command_id} was already used for another command, or for other input"


class CommandCancelled(Refusal):
    """Rule: a command that was cancelled before it took effect never takes effect."""

    code = "command-cancelled"
    hint = "Send it with a new command id if it is still wanted."

    def __str__(self) -> str:
        return "the command was cancelled before it took effect"


class ClaimLost(EsError):
    """The claim of a command on a unique value was released before its event was stored: reserve and decide again.

    The worker does so itself. A caller gets this error only after several attempts.
    """

    code = "claim-lost"
    hint = "Retry with the same `--command-id`."

    def __str__(self) -> str:
        return "the reservation of a unique value expired before it was used"


class VersionConflict(EsError):
    """The stream is not at the expected version. `actual` is -1 if it does not exist."""

    stream: str
    expected: int
    actual: int
    code = "version-conflict"
    hint = "Another command changed the stream at the same time. Retry with the same `--command-id`."

    def __str__(self) -> str:
        return f"{self.stream} is at version {self.actual}, not {self.expected}"


class DuplicateEventId(EsError):
    """The store holds an event id of the append already, in another stream or at another version."""

    stream: str
    code = "duplicate-event-id"
    kind = Kind.REFUSED
    hint = "Use a new command id for a new command."

    def __str__(self) -> str:
        return f"another event has an event id of the append to {self.stream} already"


_SETTING_OF = {
    "RabbitMQ": "`ES_BROKER`",
    "EventStoreDB": "`ES_STORE`",
    "event store": "`ES_STORE`",
    "vault": "`ES_VAULT`",
    "read models": "`ES_DATABASE`",
    "PostgreSQL": "`ES_VAULT` or `ES_DATABASE`",
}
"""The setting that names a part."""


class PartUnavailable(EsError):
    """A part cannot be reached or used: event store, vault, read models, broker, or the workers of a role.

    Without a hint of its own it names the setting of the part.
    """

    part: str
    reason: str
    hint: str = "Start it, or correct its URL (`es config show`). Workers reconnect, and retrying is safe."
    code = "unavailable"

    def __init__(self, *values: Any, **named: Any) -> None:
        super().__init__(*values, **named)
        if "hint" not in self.__dict__ and self.part in _SETTING_OF:
            self.hint = self.hint.replace("its URL", _SETTING_OF[self.part])

    def __str__(self) -> str:
        return f"{self.part} {_verb(self.part)} unavailable: {self.reason}"


def _verb(part: str) -> str:
    return "are" if part == "read models" else "is"


class Damaged(EsError):
    """Stored data is not what this program wrote, or is incomplete."""

    part: str
    reason: str
    hint: str = "Stop the workers (`es down`), find the cause, and restore the part from a backup."
    code = "damaged"
    kind = Kind.DAMAGED

    def __str__(self) -> str:
        return f"{self.part} {_verb(self.part)} damaged: {self.reason}"


class OtherSystem(EsError):
    """Parts that do not belong together. Nothing is read from them or written to them."""

    kind = Kind.DAMAGED


class ForeignPart(OtherSystem):
    """A part carries the id of another system than the event store. `found` is empty for one without an id."""

    part: str
    found: str
    expected: str
    hint: str = "Correct its setting or `ES_STORE` (`es config show`). If they belong together, `es adopt` makes them one system."
    code = "foreign-part"

    def __init__(self, *values: Any, **named: Any) -> None:
        super().__init__(*values, **named)
        if "hint" not in self.__dict__ and self.part in _SETTING_OF:
            self.hint = self.hint.replace("its setting", _SETTING_OF[self.part])

    def __str__(self) -> str:
        if not self.found:
            return (
                f"{self.part} holds data of another system: it has no id, and the event store "
                f"of system {self.expected} has no events of that data"
            )
        verb = "belong" if self.part == "read models" else "belongs"
        return f"{self.part} {verb} to system {self.found}, and the event store to system {self.expected}"


class CopiedStore(OtherSystem):
    """The event store was copied or moved, and parts outside its home may still belong to the original."""

    original: str
    outside: str
    code = "copied-store"
    hint = "`es adopt` makes the copy a system of its own. If the original is gone, `es adopt --moved` keeps its id."

    def __str__(self) -> str:
        return (
            f"this event store is a copy of {self.original}, or was moved from there; outside the home lie "
            f"{self.outside}, which may still belong to the original"
        )


class StoreBehind(EsError):
    """The event store ends before a position that was read from it, because an older copy was restored."""

    head: int
    seen: int
    code = "store-behind"
    kind = Kind.DAMAGED
    hint = 'Run `es ids fence` before the first caller; see "Restoring" in docs/operations.md.'

    def __str__(self) -> str:
        return (
            f"the event store ends at position {self.head}, but position {self.seen} was read from it before"
        )


class OtherHistory(EsError):
    """The event store holds another event at a position than the one that was read there before."""

    position: int
    code = "other-history"
    hint = (
        "The store was restored from an older copy, or is another one. Workers go back to the last event that they "
        "share with it and go on from there."
    )

    def __str__(self) -> str:
        return (
            f"the event store has another history: position {self.position} holds another event than before"
        )


class UnknownEventType(EsError):
    """The store holds an event that this version of the program does not know."""

    event_type: str
    code = "unknown-event-type"
    kind = Kind.DAMAGED
    hint = "A newer version of the program wrote it: upgrade every worker, then retry."

    def __str__(self) -> str:
        return f"unknown event type {self.event_type!r}"


class KeyUnavailable(EsError):
    """A personal value cannot be opened now. This is an outage, never an erasure: no value may be blanked."""

    reason: str
    hint: str = "Restore the vault and its key-encryption key (`es config show` names both), then retry."
    code = "key-unavailable"

    def __str__(self) -> str:
        return f"personal data cannot be opened: {self.reason}"


class KeyMissing(KeyUnavailable):
    """The vault has no row of one user. If it has none of any user, it is the wrong vault."""

    hint: str = "Restore the vault from a newer backup. `es gdpr erase` works without the key."
    code = "key-missing"


class KeyDamaged(EsError):
    """The vault's row of one user is damaged: its key-encryption key fits, but does not unwrap this data key."""

    subject: int
    code = "key-damaged"
    kind = Kind.DAMAGED
    hint = "Restore the vault from a backup. `es gdpr erase` works without the key."

    def __str__(self) -> str:
        return f"the data key of user {self.subject} is damaged"


class SealedByNewer(EsError):
    """A sealed value has a form that this version of the program does not know. It may be sound: nothing is blanked."""

    subject: int
    field: str
    code = "sealed-by-newer"
    kind = Kind.DAMAGED
    hint = "A newer version of the program sealed it: upgrade every worker, then retry."

    def __str__(self) -> str:
        return f"the {self.field} of user {self.subject} is sealed in the form of a newer version"


class PersonErased(Refusal):
    """Rule: nothing more is stored about a person whose erasure is decided."""

    subject: int
    code = "person-erased"
    hint = "Nothing can be stored about this person any more."

    def __str__(self) -> str:
        return f"person {self.subject} is erased"


class PersonNotFound(EsError):
    """The vault has no key of the person whose data an event holds: there is no such user."""

    subject: int
    code = "person-not-found"
    kind = Kind.NOT_FOUND
    hint = "Check the id, or list the users with `es users list`."

    def __str__(self) -> str:
        return f"there is no person {self.subject}"


class Tampered(EsError):
    """A sealed value was altered, or moved to another subject, field or event."""

    subject: int
    field: str
    code = "tampered"
    kind = Kind.DAMAGED
    hint = "Compare the event store and the read models with a backup. The value was not shown."

    def __str__(self) -> str:
        return f"the sealed {self.field} of user {self.subject} was altered or moved"
