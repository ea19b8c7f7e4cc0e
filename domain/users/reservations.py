"""Who gets an e-mail address: the first step of reserve → append → confirm, as a pure decision.

Promise: of several requests for one address at most one is reserved, whatever came before in the batch.
Refusal: nothing here reads or writes. A vault loads what a batch meets, asks, and stores what was decided,
all in one transaction.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from domain.kernel.errors import Damaged
from domain.kernel.ports.vault import AlreadyHeld, ClaimAnswer, ClaimRequest, HeldByOther, Reserved

RESERVATION_LIFE_US = 60_000_000
"""How long a reservation waits for its event: far longer than a batch takes, short for whoever wants the address."""


@dataclass(frozen=True, slots=True)
class Held:
    """A claim that somebody has on an address."""

    subject: int
    command_id: UUID
    reservation_id: UUID
    confirmed: bool


@dataclass(slots=True)
class Reservations:
    """What a batch of requests meets, as it is after each of them, and what is to be stored.

    `held` are the claims by the address's tag, `registered` the subjects that registration commands were
    given: those that the vault has of what the batch names.
    """

    held: dict[bytes, Held]
    registered: dict[UUID, int]
    extended: set[UUID] = field(default_factory=set)
    """Reservations that wait for a full life again."""
    claimed: dict[bytes, Held] = field(default_factory=dict)
    """New reservations by tag."""
    minted: dict[UUID, int] = field(default_factory=dict)
    """New subjects by their registration command: each needs a data key."""

    def answer(self, tag: bytes, request: ClaimRequest) -> ClaimAnswer:
        known = self.registered.get(request.command_id) if request.registers else None
        subject = request.subject if known is None else known
        held = self.held.get(tag)
        if held and (held.subject, held.command_id, held.confirmed) == (subject, request.command_id, False):
            # The same command again, its first try not finished: take the reservation over.
            if tag not in self.claimed:
                self.extended.add(held.reservation_id)
            return Reserved(subject, held.reservation_id, repeated=True)
        if known is not None:
            return AlreadyHeld(known)
        if held:
            return (
                AlreadyHeld(subject) if held.subject == subject else HeldByOther(held.subject, held.confirmed)
            )
        claim = Held(subject, request.command_id, request.reservation_id, confirmed=False)
        self.held[tag] = self.claimed[tag] = claim
        if request.registers:
            self.registered[request.command_id] = self.minted[request.command_id] = subject
        return Reserved(subject, request.reservation_id, repeated=False)


def key_minted_twice() -> Damaged:
    """A vault was to mint a key for somebody who has had one: two people would share an id."""
    return Damaged(
        "vault",
        "a new user id has had a data key before",
        "Ids were drawn twice: stop the workers and run `es ids verify`.",
    )
