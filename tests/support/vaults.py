"""Claims and keys for tests of vaults."""

from __future__ import annotations

from uuid import UUID, uuid4

from domain.kernel.history import History, Mark
from domain.kernel.ports.vault import (
    ClaimAnswer,
    ClaimId,
    ClaimRequest,
    ClaimState,
    Decided,
    DestroyedKey,
    Destruction,
    LivingKey,
    OwedTag,
    Reason,
    Reserved,
    Vault,
)
from domain.users.reservations import RESERVATION_LIFE_US

NOW_US = 1_760_000_000_000_000
LATER_US = NOW_US + RESERVATION_LIFE_US
"""When a reservation made at `NOW_US` expires."""
KEK = bytes(range(32))
PROCESS = "erasures"
ADA, GRACE = "ada@example.com", "grace@example.com"


def registration(email: str = ADA, *, subject: int = 1, command: UUID | None = None) -> ClaimRequest:
    return ClaimRequest(email, subject, command or uuid4(), uuid4(), registers=True)


def change(email: str, *, subject: int = 1, command: UUID | None = None) -> ClaimRequest:
    return ClaimRequest(email, subject, command or uuid4(), uuid4(), registers=False)


def wanted(
    text: str, *, stream: str = "wallet-5", subject: int = 1, command: UUID | None = None
) -> ClaimRequest:
    """A request for a value of another aggregate. `subject` is the person, or the negative id of the instance."""
    return ClaimRequest(text, subject, command or uuid4(), uuid4(), False, stream, "label")


def reserve(vault: Vault, request: ClaimRequest, *, now_us: int = NOW_US) -> ClaimAnswer:
    (answer,) = vault.reserve([request], now_us=now_us)
    return answer


def reserved(vault: Vault, request: ClaimRequest) -> ClaimId:
    """Reserve an address; returns the claim."""
    answer = reserve(vault, request)
    assert isinstance(answer, Reserved)
    return answer.id


def register(vault: Vault, *subjects: int) -> list[ClaimAnswer]:
    """Reserve `user<subject>@example.com` for each subject, in one batch."""
    requests = [registration(f"user{subject}@example.com", subject=subject) for subject in subjects]
    return vault.reserve(requests, now_us=NOW_US)


def registered(vault: Vault, subject: int, email: str, *, command: UUID | None = None) -> ClaimId:
    """Register a user with a key and a confirmed claim; returns the claim."""
    reservation = reserved(vault, registration(email, subject=subject, command=command))
    vault.settle_claims(confirmed=[reservation], now_us=NOW_US)
    return reservation


def destroy(vault: Vault, *subjects: int, reason: Reason = Reason.ERASURE) -> None:
    """Destroy the keys of subjects, without an event that decided it."""
    vault.destroy([Destruction(subject, reason) for subject in subjects], now_us=NOW_US)


def abandon(vault: Vault, subject: int) -> None:
    destroy(vault, subject, reason=Reason.ABANDONED)


def decided(subject: int, *, position: int = 9) -> Decided:
    """An erasure of the event number `position`."""
    return Decided(subject, UUID(int=position), position)


def owe(vault: Vault, *subjects: int) -> None:
    vault.owe([decided(subject) for subject in subjects], now_us=NOW_US)


def secret_of(vault: Vault, subject: int) -> bytes:
    key = vault.data_keys([subject])[subject]
    assert isinstance(key, LivingKey)
    return key.secret


def holder(vault: Vault, email: str) -> int | None:
    """The subject that has an address, reserved or confirmed."""
    return vault.holders([email]).get(email)


def states(vault: Vault, subject: int) -> list[ClaimState]:
    return [claim.state for claim in vault.claims_of([subject], now_us=NOW_US)]


def shuffled(count: int, *, batch: int = 50) -> list[list[int]]:
    """Batches of the subjects 1 to `count` out of order, so that pages are split and rows move."""
    return [
        [(number * 7919) % count + 1 for number in range(start, start + batch)]
        for start in range(0, count, batch)
    ]


def are_destroyed(vault: Vault, *subjects: int) -> bool:
    """Whether every subject has a tombstone, for any reason."""
    keys = vault.data_keys(subjects)
    return all(isinstance(keys[subject], DestroyedKey) for subject in subjects)


def history(*positions: int) -> History:
    """The history of a follower that read events at these positions."""
    reached = History()
    for position in positions:
        reached = reached.reach(Mark(position, UUID(int=position)))
    return reached


def moved(vault: Vault, *subjects: int) -> None:
    """Change the addresses of registered users, so that the tags of `user<subject>@example.com` are freed."""
    former = [claim.id for claim in vault.claims_of(subjects, now_us=NOW_US)]
    changes = [change(f"moved{subject}@example.com", subject=subject) for subject in subjects]
    answers = vault.reserve(changes, now_us=NOW_US)
    vault.settle_claims(
        confirmed=[answer.id for answer in answers if isinstance(answer, Reserved)], now_us=NOW_US
    )
    vault.settle_claims(released=former, now_us=NOW_US)


def label_of(subject: int) -> str:
    return f'wallet\0label\0["label of {subject}"]'


def labelled(vault: Vault, *subjects: int) -> list[ClaimId]:
    """Confirm a claim of these people on the label of a wallet."""
    requests = [wanted(label_of(s), subject=s, stream=f"wallet-{s}") for s in subjects]
    answers = vault.reserve(requests, now_us=NOW_US)
    claims = [answer.id for answer in answers if isinstance(answer, Reserved)]
    assert len(claims) == len(subjects)
    vault.settle_claims(confirmed=claims, now_us=NOW_US)
    return claims


def freed_tags(vault: Vault) -> list[bytes]:
    """Free tags in every way that there is among registered users 1 to 600; returns them, with keyed tags of names.

    Some change their address, some are deleted, one reservation expires, and some are erased, with labels of wallets. All that is left to do is
    to remove the residue.
    """
    changed, deleted, erased = range(1, 200, 3), range(2, 200, 3), [*range(3, 200, 3), 599, 600]
    moved(vault, *changed)
    released = labelled(vault, *changed)  # a label is freed before or with the erasure
    vault.settle_claims(released=released, now_us=NOW_US)
    labelled(vault, *erased)
    vault.settle_claims(
        released=[claim.id for claim in vault.claims_of(deleted, now_us=NOW_US)], now_us=NOW_US
    )
    abandoned = registration("late@example.com", subject=700)
    reserve(vault, abandoned)
    abandon(vault, 700)
    owe(vault, *erased)
    names = [f"name of {subject}" for subject in erased]
    tags = vault.tags(names)
    vault.destroy(
        [Destruction(s, Reason.ERASURE, tags=[OwedTag(tag, 3)]) for s, tag in zip(erased, tags, strict=True)],
        now_us=NOW_US,
    )
    vault.forget_tags(dict.fromkeys(erased, 0))
    gone = [f"user{subject}@example.com" for subject in (*changed, *deleted, *erased)]
    labels = [label_of(subject) for subject in (*changed, *erased)]
    return vault.tags([*gone, "late@example.com", *labels, *names])
