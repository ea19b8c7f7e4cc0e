"""Decide who reserves an e-mail address: the first step of reserve → append → confirm.

Promise: of several requests for one address at most one is `Reserved`, also within a batch. Refusal: nothing is
read or written here. In one transaction a vault reads the rows that a batch needs, calls this code, and writes
the decisions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from domain.kernel.errors import Damaged
from domain.kernel.ports.vault import AlreadyHeld, ClaimAnswer, ClaimRequest, HeldByOther, Reserved

RESERVATION_LIFE_US = 60_000_000
"""The lifetime of a reservation: much longer than a batch takes, yet a short wait for the next user of the address."""


@dataclass(frozen=True, slots=True)
class Held:
    """The stored claim on an address."""

    subject: int
    command_id: UUID
    reservation_id: UUID
    confirmed: bool


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
    extended: set[UUID] = field(default_factory=set)
    """Reservations whose lifetime begins again."""
    claimed: dict[bytes, Held] = field(default_factory=dict)
    """New reservations by tag."""
    minted: dict[UUID, int] = field(default_factory=dict)
    """New subjects by their registration command: each needs a data key."""

    def answer(self, tag: bytes, request: ClaimRequest) -> ClaimAnswer:
        known = self.registered.get(request.command_id) if request.registers else None
        subject = request.subject if known is None else known
        if subject in self.closed and (known is not None or not request.registers):
            return AlreadyHeld(subject)
        held = self.held.get(tag)
        if held and (held.subject, held.command_id, held.confirmed) == (subject, request.command_id, False):
            # A retry of the command whose first try did not finish: it takes the reservation over.
            if tag not in self.claimed:
                self.extended.add(held.reservation_id)
            return Reserved(subject, held.reservation_id, repeated=True)
        if known is not None:
            return AlreadyHeld(known)
        if held:
            return (
                AlreadyHeld(subject) if held.subject == subject else HeldByOther(held.subject, held.confirmed)
            )
        if subject in self.closed:
            raise key_minted_twice()
        claim = Held(subject, request.command_id, request.reservation_id, confirmed=False)
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
