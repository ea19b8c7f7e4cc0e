"""The vault: data keys, e-mail claims and the checkpoints of erasures.

Each docstring is a contract, and `tests/contract` tests every sentence over every adapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from domain.kernel.events import Position


class ClaimState(StrEnum):
    RESERVED = "reserved"
    CONFIRMED = "confirmed"


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """A command's request for an e-mail address.

    `subject` is the user id. For a registration (`registers`) it is a new id, and its data key is created in the
    same transaction. `reservation_id` is new for every request.
    """

    email: str = field(repr=False)
    subject: int
    command_id: UUID
    reservation_id: UUID
    registers: bool


@dataclass(frozen=True, slots=True)
class Reserved:
    """The address is reserved for this command until the reservation expires.

    For a repeated command, `subject` and `reservation_id` are those of its *first* request.
    """

    subject: int
    reservation_id: UUID
    repeated: bool


@dataclass(frozen=True, slots=True)
class AlreadyHeld:
    """Nothing was reserved. Either the subject already has a confirmed claim on the address, or this registration
    command ran before. The stream of `subject` shows the outcome.
    """

    subject: int


@dataclass(frozen=True, slots=True)
class HeldByOther:
    """Another subject or command has the address, confirmed or reserved. Nothing was reserved or created."""

    subject: int
    confirmed: bool


ClaimAnswer = Reserved | AlreadyHeld | HeldByOther


@dataclass(frozen=True, slots=True)
class Claim:
    """A stored claim without its address, which the vault cannot show."""

    subject: int
    command_id: UUID
    reservation_id: UUID
    state: ClaimState
    expired: bool


@dataclass(frozen=True, slots=True)
class LivingKey:
    """The 256-bit data key of a subject, unwrapped, in memory only."""

    secret: bytes

    def __repr__(self) -> str:
        return "LivingKey(…)"


@dataclass(frozen=True, slots=True)
class DestroyedKey:
    """A tombstone: the key was destroyed on purpose."""


@dataclass(frozen=True, slots=True)
class DamagedKey:
    """A row whose key cannot be unwrapped, although the key-encryption key fits the vault."""


DataKey = LivingKey | DestroyedKey | DamagedKey


class Vault(Protocol):
    """Data keys and e-mail claims. Personal data can be opened with its keys only.

    Any method raises `PartUnavailable` if the vault cannot be reached, and `KeyUnavailable` if its
    key-encryption key is missing or wrong.
    """

    def reserve(self, requests: Sequence[ClaimRequest], *, now_us: int) -> list[ClaimAnswer]:
        """Reserve addresses in order, in one durable transaction.

        Of several requests for one address at most one is `Reserved`. A key is created only with the
        reservation of a registration, and never twice for one subject. A repeated registration command always
        yields its first subject, also with another address.
        """
        ...

    def confirm(self, reservation_ids: Sequence[UUID]) -> None:
        """Make reservations permanent. Unknown and confirmed ones do not change."""
        ...

    def release(self, reservation_ids: Sequence[UUID]) -> None:
        """Remove the claims of these reservations, confirmed or not. Unknown ones are ignored."""
        ...

    def abandon_registration(self, subject: int, reservation_id: UUID) -> None:
        """Release the address, destroy the subject's key and forget its command, which may then run again."""
        ...

    def claims_of(self, subject: int, *, now_us: int) -> list[Claim]:
        """All claims of a subject."""
        ...

    def expired_claims(self, *, now_us: int, limit: int) -> list[Claim]:
        """Expired reservations that were neither confirmed nor released, oldest first."""
        ...

    def holder(self, email: str) -> int | None:
        """The subject that has this address, reserved or confirmed."""
        ...

    def data_keys(self, subjects: Sequence[int]) -> Mapping[int, DataKey]:
        """The keys of these subjects. An unknown subject is missing."""
        ...

    def subjects(self, *, after: int, limit: int) -> list[int]:
        """At most `limit` subjects after `after` with a key, a tombstone or a claim, in order, each once."""
        ...

    def destroy_key(self, subject: int, *, process: str, position: Position) -> None:
        """Destroy a subject's key and claims, leave a tombstone, and save the checkpoint: in one transaction.

        Destroying a key twice changes nothing. For an unknown subject it leaves a tombstone. When it returns, the
        bytes of the key are in no file of the vault. If a reader prevents that, it raises `PartUnavailable`, and
        the key is destroyed all the same: retry to remove its bytes.
        """
        ...

    def checkpoint(self, process: str) -> Position:
        """The checkpoint of a process; 0 at first."""
        ...

    def save_checkpoint(self, process: str, position: Position) -> None:
        """Move a process's checkpoint, never backwards."""
        ...

    def rewind_checkpoint(self, process: str, position: Position) -> None:
        """Move a process's checkpoint back, never forwards, after the event store went back."""
        ...

    def close(self) -> None:
        """Release all resources. A second call does nothing."""
        ...
