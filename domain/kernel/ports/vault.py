"""The vault: data keys, claims on unique values, owed erasures and the checkpoints of processes.

Each docstring is a contract, and `tests/contract` tests every sentence over every adapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol
from uuid import UUID

from domain.kernel.events import BEGINNING, Position
from domain.kernel.history import History
from domain.kernel.ports.identity import Identified


class ClaimState(StrEnum):
    RESERVED = "reserved"
    CONFIRMED = "confirmed"


class ClaimId(NamedTuple):
    """What identifies a claim."""

    subject: int
    reservation_id: UUID


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """A command's request for a unique value: for an e-mail address, or for a value of another aggregate.

    `text` is the address, or the text that `domain/kernel/unique.py` makes of the values. `subject` is the person with whose
    erasure the claim goes. For a registration (`registers`) it is a new id, and its data key is created in the
    same transaction. `reservation_id` is new for every request.

    `stream` decides the claim, by `rule`. Both are empty for an address: the stream of the user `subject` decides it. An
    instance without a person claims under its negative id: no data key is created for it, and no erasure touches it.
    """

    text: str = field(repr=False)
    subject: int
    command_id: UUID
    reservation_id: UUID
    registers: bool
    stream: str = ""
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Reserved:
    """The value is reserved for this command until the reservation expires.

    For a repeated command, `subject` and `reservation_id` are those of its *first* request.
    """

    subject: int
    reservation_id: UUID
    repeated: bool

    @property
    def id(self) -> ClaimId:
        return ClaimId(self.subject, self.reservation_id)


@dataclass(frozen=True, slots=True)
class AlreadyHeld:
    """Nothing was reserved. Either the subject, or the stream of the request, already has a confirmed claim on the value, or
    this registration command ran before. The stream shows the outcome.
    """

    subject: int


@dataclass(frozen=True, slots=True)
class HeldByOther:
    """Another subject, stream or command has the value, confirmed or reserved. Nothing was reserved or created."""

    subject: int
    confirmed: bool
    stream: str = ""
    """The stream that decides its claim; empty for an address."""


@dataclass(frozen=True, slots=True)
class HolderErased:
    """Nothing was reserved: the person of the request is erased, or is to be. For values of other aggregates than users."""

    subject: int


ClaimAnswer = Reserved | AlreadyHeld | HeldByOther | HolderErased


@dataclass(frozen=True, slots=True)
class Claim:
    """A stored claim without its value, which the vault cannot show. `stream` and `rule` are those of its request."""

    subject: int
    command_id: UUID
    reservation_id: UUID
    state: ClaimState
    expired: bool
    stream: str = ""
    rule: str = ""

    @property
    def id(self) -> ClaimId:
        return ClaimId(self.subject, self.reservation_id)


@dataclass(frozen=True, slots=True)
class LivingKey:
    """The 256-bit data key of a subject, unwrapped, in memory only."""

    secret: bytes

    def __repr__(self) -> str:
        return "LivingKey(…)"


class Reason(StrEnum):
    """Why a key was destroyed."""

    ERASURE = "erasure"
    ABANDONED = "abandoned"  # a registration that reserved an address and was never stored
    UNKNOWN = "unknown"  # an earlier version destroyed it, and did not say


@dataclass(frozen=True, slots=True)
class DestroyedKey:
    """A tombstone: the key was destroyed on purpose, or its erasure is owed, so that it opens nothing any more.

    `event_id` is that of the event that decided it.
    """

    reason: Reason = Reason.UNKNOWN
    event_id: UUID | None = None
    destroyed_at_us: int | None = None
    """None while the erasure is owed."""


@dataclass(frozen=True, slots=True)
class DamagedKey:
    """A row whose key cannot be unwrapped, although the key-encryption key fits the vault."""


DataKey = LivingKey | DestroyedKey | DamagedKey


# --- owed erasures ---------------------------------------------------------------------------


class OwedState(StrEnum):
    DECIDED = "decided"  # the key may still exist; it opens nothing any more
    KEY_DESTROYED = "key-destroyed"  # residue or dead letters may hold personal data


@dataclass(frozen=True, slots=True)
class Decided:
    """An erasure to be carried out. `event_id` and `position` are those of the event that decided it.

    `event_id` is None without such an event: the stream of the person was deleted.
    """

    subject: int
    event_id: UUID | None
    position: Position


@dataclass(frozen=True, slots=True)
class Owed:
    """An erasure that is decided and not completed in this vault."""

    decided: Decided
    state: OwedState
    listed_at_us: int
    attempts: int
    last_error: str
    """Why the last attempt failed; empty if none failed since the last progress."""
    letters: int
    """The dead letters, or requests in them, that were removed until now."""


@dataclass(frozen=True, slots=True)
class OwedTag:
    """A keyed tag by which a former address or name of an erased person is recognised: see `domain/users/traces.py`.

    `words` is the number of words of a name; 0 for an address.
    """

    tag: bytes = field(repr=False)
    words: int


@dataclass(frozen=True, slots=True)
class Destruction:
    """A key to destroy. `tags` are kept with the owed erasure until `forget_tags`, besides those of its claims."""

    subject: int
    reason: Reason
    event_id: UUID | None = None
    tags: Sequence[OwedTag] = ()


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An event of another program, in a stream of no person, that reads like the start of an erasure."""

    position: Position
    stream: str
    type: str
    error: str


@dataclass(frozen=True, slots=True)
class Divergence:
    """A process found another history in the store: it had read up to `seen`, and went on from `back_to`."""

    process: str
    seen: Position
    back_to: Position
    at_us: int


class Vault(Identified, Protocol):
    """Data keys, claims and owed erasures. Personal data can be opened with its keys only.

    Any method raises `PartUnavailable` if the vault cannot be reached, and `KeyUnavailable` if its
    key-encryption key is missing or wrong.
    """

    def reserve(
        self, requests: Sequence[ClaimRequest], *, confirmed: Sequence[ClaimId] = (), now_us: int
    ) -> list[ClaimAnswer]:
        """Confirm claims as by `settle_claims`, then reserve values in order: in one durable transaction.

        Of several requests for one value at most one is `Reserved`. A key is created only with the
        reservation of a registration, and never twice for one subject. A repeated registration command always
        yields its first subject, also with another address. A subject whose key is destroyed, or whose erasure is
        owed, gets `AlreadyHeld`, or `HolderErased` if the request names a stream: no tag is stored for it any more.
        """
        ...

    def settle_claims(
        self,
        *,
        confirmed: Sequence[ClaimId] = (),
        released: Sequence[ClaimId] = (),
        abandoned: Sequence[int] = (),
        now_us: int,
    ) -> None:
        """Confirm and release claims, and abandon registrations: in one durable transaction.

        A confirmed claim is permanent, a released one is removed, confirmed or not. Unknown claims are ignored. The
        subjects of abandoned registrations are destroyed as by `destroy` with `Reason.ABANDONED`.
        """
        ...

    def claims_of(self, subjects: Sequence[int], *, now_us: int) -> list[Claim]:
        """All claims of these subjects."""
        ...

    def claims_on(self, streams: Sequence[str], *, now_us: int) -> list[Claim]:
        """All claims whose requests named one of these streams. Those on addresses are not among them."""
        ...

    def expired_claims(self, *, now_us: int, limit: int) -> list[Claim]:
        """Expired reservations that were neither confirmed nor released, oldest first: of addresses and of other values."""
        ...

    def holders(self, emails: Sequence[str]) -> Mapping[str, int]:
        """The subjects that have these addresses, reserved or confirmed. A free address is missing."""
        ...

    def registered_by(self, command_ids: Sequence[UUID]) -> Mapping[UUID, int]:
        """The subjects of registration commands, also of erased ones. Unknown and forgotten commands are missing."""
        ...

    def data_keys(self, subjects: Sequence[int], *, even_owed: bool = False) -> Mapping[int, DataKey]:
        """The keys of these subjects. An unknown subject is missing.

        A subject whose erasure is owed has a `DestroyedKey`, also while its key exists. `even_owed` returns that key:
        for the process that is about to destroy it.
        """
        ...

    def subjects(self, *, after: int, limit: int) -> list[int]:
        """At most `limit` subjects after `after` with a key, a tombstone or a claim, in order, each once, negative ones first."""
        ...

    def tags(self, texts: Sequence[str]) -> list[bytes]:
        """The keyed tags of texts, 32 bytes each. That of an e-mail address is the tag of its claim."""
        ...

    def destroy(self, destructions: Sequence[Destruction], *, now_us: int) -> None:
        """Destroy keys and remove all claims of their subjects, leave tombstones: in one durable transaction.

        For an unknown subject it leaves a tombstone. A first tombstone stays as it is, unless an earlier version left it
        without a reason: then it gets this one. With `Reason.ERASURE` the
        subject's owed erasure becomes `KEY_DESTROYED`, and keeps `tags` and the tags of the removed claims. With
        `Reason.ABANDONED` the registration command is forgotten: it may run again.

        When it returns, no method returns such a key again. Its bytes stay in the files until `remove_residue`.
        """
        ...

    def remove_residue(self, subjects: Sequence[int]) -> None:
        """Remove what was destroyed and deleted of these subjects from the files of the vault.

        Afterwards no file of the vault holds a byte that opens their data keys, or that tells a tag of their claims, also
        of those that they freed before, or one of `owed_tags` that was forgotten. It costs as much in a small vault
        as in a large one. Raises `PartUnavailable` if a reader prevents it: retry.
        """
        ...

    # --- owed erasures: what is decided stays listed until it is completed -------------------------

    def owe(
        self,
        erasures: Sequence[Decided],
        *,
        now_us: int,
        process: str | None = None,
        reached: History | None = None,
        since: Position = BEGINNING,
        quarantined: Sequence[Quarantined] = (),
    ) -> None:
        """List erasures, and move the checkpoint of a process to `reached`: in one durable transaction.

        An erasure that is listed already stays as it is. The checkpoint moves as by `save_checkpoint`. If that raises,
        nothing is listed.
        """
        ...

    def owed(self, *, after: int = 0, limit: int, state: OwedState | None = None) -> list[Owed]:
        """At most `limit` owed erasures of subjects after `after`, in order of subject, of one state or of all."""
        ...

    def owed_of(self, subject: int) -> Owed | None:
        """The owed erasure of a subject."""
        ...

    def owed_count(self) -> Mapping[OwedState, int]:
        """The number of owed erasures of each state; a state without any is missing."""
        ...

    def owed_tags(self, subjects: Sequence[int]) -> Mapping[int, Sequence[OwedTag]]:
        """The tags kept with the owed erasures of these subjects. A subject without tags is missing."""
        ...

    def erasure_failed(self, subjects: Sequence[int], error: str) -> None:
        """Count one more attempt of these owed erasures, and keep why it failed. An empty error is progress."""
        ...

    def forget_tags(self, letters: Mapping[int, int]) -> None:
        """Delete the tags of owed erasures, and add the number of removed letters of each: in one transaction.

        Their bytes stay in the files until `remove_residue`.
        """
        ...

    def settle_erasures(self, subjects: Sequence[int]) -> None:
        """Remove owed erasures whose key is destroyed from the list. Those in state `DECIDED` stay."""
        ...

    def quarantined(self, *, limit: int = 100) -> list[Quarantined]:
        """Quarantined events, oldest first."""
        ...

    # --- checkpoints -------------------------------------------------------------------------------

    def checkpoint(self, process: str) -> History:
        """The checkpoint of a process; without one the beginning."""
        ...

    def save_checkpoint(self, process: str, reached: History, *, since: Position = BEGINNING) -> None:
        """Move a process's checkpoint, never backwards. `since` is one that the process saved or found before.

        Raises `PartUnavailable`, and saves nothing, if the stored one lies before it: the vault was restored from an older
        copy, and the events after that checkpoint have no effect in it yet.
        """
        ...

    def rewind_checkpoint(self, process: str, reached: History, *, now_us: int) -> None:
        """Move a process's checkpoint back, never forwards, because the store has another history; keep a `Divergence`."""
        ...

    def divergences(self) -> list[Divergence]:
        """The last divergence of each process since `forget_findings`, oldest first."""
        ...

    def forget_findings(self) -> None:
        """Forget divergences and quarantined events: an operator has seen them."""
        ...

    def close(self) -> None:
        """Release all resources. A second call does nothing."""
        ...
