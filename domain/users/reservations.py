"""Decide who reserves an e-mail address or another unique value: the first step of reserve → append → confirm.

Promise: of several requests for one value at most one is `Reserved`, also within a batch. Refusal: nothing is
read or written here. In one transaction a vault reads the rows that a batch needs, calls this code, and writes
the decisions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from domain.kernel.errors import Damaged
from domain.kernel.ports.vault import (
    AlreadyHeld,
    ClaimAnswer,
    ClaimId,
    ClaimRequest,
    HeldByOther,
    HolderErased,
    Reserved,
)

RESERVATION_LIFE_US = 60_000_000
"""The lifetime of a reservation: much longer than a batch takes, yet a short wait for the next user of the address."""


@dataclass(frozen=True, slots=True)
class Held:
    """The stored claim on a value. `stream` and `rule` are those of its request."""

    subject: int
    command_id: UUID
    reservation_id: UUID
    confirmed: bool
    stream: str = ""
    rule: str = ""

    def is_of(self, subject: int, request: ClaimRequest) -> bool:
        """Whether it is that of the same holder: of the same stream, or of the same user."""
        if request.stream or self.stream:
            return self.stream == request.stream
        return self.subject == subject


@dataclass(slots=True)
class Reservations:
    """The claims and registrations that a batch of requests concerns, and the rows to write.

    `held` has the stored claims by the tag of their address, `registered` the subjects of stored registration
    commands. Both are updated by each request. `closed` has the subjects whose key is destroyed, or whose erasure is
    owed: no tag may be stored for them.
    """

    held: dict[bytes, Held]
    registered: dict[UUID, int]
    closed: set[int] = field(default_factory=set)
    extended: set[ClaimId] = field(default_factory=set)
    """Claims whose lifetime begins again."""
    claimed: dict[bytes, Held] = field(default_factory=dict)
    """New reservations by tag."""
    minted: dict[UUID, int] = field(default_factory=dict)
    """New subjects by their registration command: each needs a data key."""

    def answer(self, tag: bytes, request: ClaimRequest) -> ClaimAnswer:
        known = self.registered.get(request.command_id) if request.registers else None
        subject = request.subject if known is None else known
        if subject in self.closed and (known is not None or not request.registers):
            return HolderErased(subject) if request.stream else AlreadyHeld(subject)
        held = self.held.get(tag)
        is_own = held is not None and held.is_of(subject, request)
        if held and is_own and held.command_id == request.command_id and not held.confirmed:
            # A retry of the command whose first try did not finish: it takes the reservation over.
            if tag not in self.claimed:
                self.extended.add(ClaimId(held.subject, held.reservation_id))
            return Reserved(held.subject, held.reservation_id, repeated=True)
        if known is not None:
            return AlreadyHeld(known)
        if held:
            # An unfinished command of the same stream holds the value for itself alone.
            is_held = is_own and (held.confirmed or not request.stream)
            return AlreadyHeld(subject) if is_held else HeldByOther(held.subject, held.confirmed, held.stream)
        if subject in self.closed:
            raise key_minted_twice()
        claim = Held(subject, request.command_id, request.reservation_id, False, request.stream, request.rule)
        self.held[tag] = self.claimed[tag] = claim
        if request.registers:
            self.registered[request.command_id] = self.minted[request.command_id] = subject
        return Reserved(subject, request.reservation_id, repeated=False)


def key_minted_twice() -> Damaged:
    """The error if a new subject already has a data key or a tombstone, or is to be erased: two users would share an id."""
    return Damaged(
        "vault",
        "a new user id has had a data key before",
        "An id was issued twice. Stop the workers and run `es ids verify`.",
    )
