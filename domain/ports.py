"""What the domain needs from the outside. Each docstring is a contract: every sentence has a test.

Adapters implement these; `tests/contract` runs one suite per port over every adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from domain.errors import DuplicateEventId, EsError, VersionConflict
from domain.events import Event as DomainEvent
from domain.events import EventData, Metadata, Position, Recorded
from domain.personal import Erased, Personal, Sealed
from domain.projections import Operation, Projection, Value

# --- event store -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Append:
    """All of `events`, in order, to `stream`, which must be at `expected_version` (-1: must not exist)."""

    stream: str
    expected_version: int
    events: Sequence[EventData]


@dataclass(frozen=True, slots=True)
class Appended:
    """Version and position of the last event of an `Append`."""

    version: int
    position: Position


AppendResult = Appended | VersionConflict | DuplicateEventId | EsError


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """A follower has seen everything that was committed when it looked; `position` is how far that is."""

    position: Position


class EventStore(Protocol):
    """Append-only streams with one commit order over all of them.

    Any method raises `PartUnavailable` when the store can't be reached or used, and then the outcome
    of an append is unknown: repeat it with the same event ids until the answer is definite.
    """

    def append(self, batch: Sequence[Append]) -> list[AppendResult]:
        """Store a batch, durably, and answer item by item in order.

        An item is stored whole or not at all. An item's failure doesn't touch its neighbours. Items are
        applied in order: a later item of the same stream sees the earlier. Nothing is appended at another
        version than the expected one. Repeating an item with the same event ids at the same expected
        version answers as the first time and stores nothing. When this returns, every `Appended` item
        survives a power cut. An event id that the store holds elsewhere, or that an item holds twice, yields
        `DuplicateEventId`; a store that keeps ids per stream (EventStoreDB) sees this within the stream
        only. An item without events, or with an expected version below -1, raises ValueError.
        """
        ...

    def read_stream(
        self, stream: str, from_version: int = 0, *, backwards: bool = False, limit: int | None = None
    ) -> Iterator[Recorded]:
        """The events of one stream in version order; backwards: from the last down to `from_version`.

        A stream that does not exist yields nothing.
        """
        ...

    def read_all(
        self, after: Position, limit: int, *, prefixes: Sequence[str] | None = None
    ) -> Iterator[Recorded]:
        """At most `limit` events with a position greater than `after`, in commit order.

        Never skips an event that was, or later becomes, committed before one that it yields. With
        `prefixes`, only streams whose name starts with one of them.
        """
        ...

    def follow(
        self, after: Position, *, stopped: Callable[[], bool], prefixes: Sequence[str] | None = None
    ) -> Iterator[Recorded | CaughtUp]:
        """Every event after `after` as by `read_all`, then live, with a `CaughtUp` each time it has drained.

        Ends only when `stopped()` is true (looked at between events and at least every 0.2 s), or by raising.
        While idle it yields `CaughtUp` again at least every 0.2 s, so that its consumer can do timed work.
        Raises `StoreBehind` when the store ends before `after`.
        """
        ...

    def head(self) -> Position:
        """The position of the last committed event; 0 when there is none."""
        ...

    def streams(self, *, after: str = "", prefix: str = "", limit: int = 100) -> list[tuple[str, int]]:
        """Names greater than `after` that start with `prefix`, in order of name, each with its last version."""
        ...

    def close(self) -> None:
        """Release what is held. Safe to call twice."""
        ...


# --- vault -----------------------------------------------------------------------------------


class ClaimState(StrEnum):
    RESERVED = "reserved"
    CONFIRMED = "confirmed"


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """Ask for an e-mail address on behalf of a command.

    `subject` is the user id; for a registration (`registers`) it is a fresh id, and a data key is minted
    for it in the same transaction. `reservation_id` is new for every request.
    """

    email: str = field(repr=False)
    subject: int
    command_id: UUID
    reservation_id: UUID
    registers: bool


@dataclass(frozen=True, slots=True)
class Reserved:
    """The address is reserved for this command until the reservation expires.

    `subject` and `reservation_id` are those of the *first* request of the command when it is repeated.
    """

    subject: int
    reservation_id: UUID
    repeated: bool


@dataclass(frozen=True, slots=True)
class AlreadyHeld:
    """The subject holds the address already (confirmed), or this registration command ran before.

    Nothing was reserved; the stream of `subject` tells what happened.
    """

    subject: int


@dataclass(frozen=True, slots=True)
class HeldByOther:
    """Another subject or command has the address, confirmed or only reserved. Nothing was reserved, no key minted."""

    subject: int
    confirmed: bool


ClaimAnswer = Reserved | AlreadyHeld | HeldByOther


@dataclass(frozen=True, slots=True)
class Claim:
    """A row of the claims, without the address: the vault never says it."""

    subject: int
    command_id: UUID
    reservation_id: UUID
    state: ClaimState
    expired: bool


@dataclass(frozen=True, slots=True)
class LivingKey:
    """A person's 256-bit data key, unwrapped, in memory only."""

    secret: bytes

    def __repr__(self) -> str:
        return "LivingKey(…)"


@dataclass(frozen=True, slots=True)
class DestroyedKey:
    """A tombstone says that the key was destroyed on purpose."""


DataKey = LivingKey | DestroyedKey


class Vault(Protocol):
    """Keys and e-mail claims: the only place from which personal data can be brought back.

    Any method raises `PartUnavailable` when the vault can't be reached and `KeyUnavailable` when its
    key-encryption key is missing or wrong.
    """

    def reserve(self, requests: Sequence[ClaimRequest], *, now_us: int) -> list[ClaimAnswer]:
        """Reserve addresses, all in one durable transaction, in order.

        Of several requests for one address at most one is `Reserved`. A key is minted only together with
        the reservation of a registration, and never twice for one subject. The same registration
        command again yields the first subject, for ever, whatever address it comes with.
        """
        ...

    def confirm(self, reservation_ids: Sequence[UUID]) -> None:
        """Mark reservations as held for good. Unknown or confirmed ones are left alone."""
        ...

    def release(self, reservation_ids: Sequence[UUID]) -> None:
        """Free the addresses of these reservations, confirmed or not. Unknown ones are left alone."""
        ...

    def abandon_registration(self, subject: int, reservation_id: UUID) -> None:
        """Free the address, destroy the subject's key and forget its command, so that the command may run anew."""
        ...

    def claims_of(self, subject: int, *, now_us: int) -> list[Claim]:
        """All claims of a person."""
        ...

    def expired_claims(self, *, now_us: int, limit: int) -> list[Claim]:
        """Reservations that expired and were neither confirmed nor released, oldest first."""
        ...

    def holder(self, email: str) -> int | None:
        """The subject that has this address, reserved or confirmed."""
        ...

    def data_keys(self, subjects: Sequence[int]) -> Mapping[int, DataKey]:
        """The keys of these people. A subject the vault never knew, or whose row is damaged, is missing."""
        ...

    def destroy_key(self, subject: int, *, process: str, position: Position) -> None:
        """Destroy a person's key and claims, leave a tombstone, and move the process's checkpoint: one transaction.

        Destroying twice changes nothing. Destroying an unknown subject's key leaves a tombstone. When it
        returns, the key's bytes are in no file of the vault; when somebody's reading prevents that, it
        raises `PartUnavailable` with the key destroyed: destroy again to try again.
        """
        ...

    def checkpoint(self, process: str) -> Position:
        """How far the process came; 0 at first."""
        ...

    def save_checkpoint(self, process: str, position: Position) -> None:
        """Move a process's checkpoint, never backwards."""
        ...

    def rewind_checkpoint(self, process: str, position: Position) -> None:
        """Move a process's checkpoint back, never forwards, because the event store itself went back."""
        ...

    def close(self) -> None:
        """Release what is held. Safe to call twice."""
        ...


# --- codec -----------------------------------------------------------------------------------


class Opener(Protocol):
    """Opens sealed values with the data keys of people."""

    def open(self, sealed: Sealed, *, subject: int, field: str, event_id: UUID | None) -> Personal | Erased:
        """The value; `ERASED` when a tombstone says so; raises `KeyUnavailable` or `Tampered`.

        `event_id` is the event in which the text sits; None when it was copied out of its event (a read model).
        """
        ...


class Sealer(Protocol):
    """Seals personal values with the data keys of people."""

    def seal(self, value: Personal, *, subject: int, field: str, event_id: UUID) -> Sealed:
        """Encrypt for one subject, field and event. Raises `KeyUnavailable` without a living key."""
        ...


class Codec(Protocol):
    """Domain events to bytes and back."""

    def encode(
        self,
        event: DomainEvent,
        *,
        event_id: UUID,
        subject: int | None,
        metadata: Metadata,
        sealer: Sealer | None,
    ) -> EventData:
        """The event as JSON, personal fields sealed. `subject` and `sealer` may be None if it has none."""
        ...

    def decode(
        self, recorded: Recorded, *, subject: int | None = None, opener: Opener | None = None
    ) -> DomainEvent:
        """The event; older versions are upcast. Without an opener personal fields stay `Sealed`."""
        ...

    def stored(self, recorded: Recorded) -> dict[str, Any]:
        """The event's data just as it is stored: JSON values, personal fields as sealed text."""
        ...

    def metadata(self, recorded: Recorded) -> Metadata:
        """The metadata of a stored event."""
        ...


# --- read models -----------------------------------------------------------------------------


class GenerationState(StrEnum):
    CURRENT = "current"  # what queries read and the projector fills
    BUILDING = "building"  # a rebuild fills it
    RETIRED = "retired"  # was current before the last rebuild


@dataclass(frozen=True, slots=True)
class Generation:
    """One complete set of a projection's rows. `checkpoint` is the last position that went into it."""

    projection: str
    number: int
    state: GenerationState
    checkpoint: Position
    events: int
    started_at_us: int
    finished_at_us: int | None


@dataclass(frozen=True, slots=True)
class Parked:
    """An event that a projection could not apply, and why; later events of its stream are parked behind it."""

    position: Position
    stream: str
    error: str


class ReadModel(Protocol):
    """Rows of projections in generations, each with its checkpoint. Raises `PartUnavailable` when it is down."""

    def prepare(self, projection: Projection, *, now_us: int) -> Generation:
        """The current generation, made empty on first use."""
        ...

    def generations(self, projection: Projection) -> list[Generation]:
        """All generations, oldest first."""
        ...

    def apply(
        self,
        projection: Projection,
        generation: Generation,
        operations: Sequence[Operation],
        *,
        checkpoint: Position,
        events: int,
        parked: Sequence[Parked] = (),
    ) -> Generation | None:
        """Apply operations in order, park, and move the checkpoint: one transaction.

        Answers the generation as it is now; or None, and nothing is applied, when the stored checkpoint or
        state isn't the given one's any more: somebody else was faster, or the generation was replaced.
        """
        ...

    def begin_rebuild(self, projection: Projection, *, now_us: int) -> Generation:
        """The generation under construction: the unfinished one, or a new, empty one. Retired ones are removed."""
        ...

    def promote(self, projection: Projection, generation: Generation, *, now_us: int) -> bool:
        """Make a built generation the current one, and the current one retired, in one transaction.

        False, and nothing changed, while it is behind the current one: readers never see less.
        """
        ...

    def parked(self, projection: Projection, generation: Generation) -> list[Parked]:
        """What is parked in a generation, oldest first."""
        ...

    def rows(
        self,
        projection: Projection,
        *,
        keys: Sequence[int] | None = None,
        after: int = 0,
        where: Mapping[str, Value] | None = None,
        limit: int | None = None,
    ) -> list[dict[str, Value]]:
        """Rows of the current generation in order of key: those of `keys`, or those after a key that match `where`."""
        ...

    def close(self) -> None:
        """Release what is held. Safe to call twice."""
        ...
