"""What the domain needs from the outside. Each docstring is a contract: every sentence has a test.

Adapters implement these; `tests/contract` runs one suite per port over every adapter.
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
