"""The codec and the keyring: domain events to stored bytes and back, personal fields sealed and opened.

Each docstring is a contract, and every sentence has a test.
"""

from __future__ import annotations

from typing import Any, Protocol
from uuid import UUID

from domain.kernel.events import Event as DomainEvent
from domain.kernel.events import EventData, Metadata, Recorded
from domain.kernel.personal import Erased, Personal, Sealed, Unreadable


class Opener(Protocol):
    """Opens sealed values with the data keys of subjects."""

    def open(
        self, sealed: Sealed, *, subject: int, field: str, event_id: UUID | None
    ) -> Personal | Erased | Unreadable:
        """The value, or `ERASED` if its key has a tombstone.

        Raises `KeyMissing`, `KeyDamaged`, `Tampered`, or `SealedByNewer` for a form of a newer version. `event_id` is that of the event with the sealed text; None for a copy elsewhere, as in a read model.
        """
        ...


class Sealer(Protocol):
    """Seals personal values with the data keys of subjects."""

    def seal(self, value: Personal, *, subject: int, field: str, event_id: UUID) -> Sealed:
        """Encrypt for one subject, field and event. Raises `KeyUnavailable` without a living key."""
        ...


class Codec(Protocol):
    """Encodes domain events and decodes stored ones."""

    def encode(
        self,
        event: DomainEvent,
        *,
        event_id: UUID,
        subject: int | None,
        metadata: Metadata,
        sealer: Sealer | None,
    ) -> EventData:
        """The event as JSON with sealed personal fields. Without any, `subject` and `sealer` may be None."""
        ...

    def decode(
        self, recorded: Recorded, *, subject: int | None = None, opener: Opener | None = None
    ) -> DomainEvent:
        """The event, upcast to its latest version. Without an opener personal fields stay `Sealed`."""
        ...

    def outline(self, recorded: Recorded) -> DomainEvent | None:
        """The event as far as its type alone tells it: every field is `Unreadable`. None for an unknown type."""
        ...

    def stored(self, recorded: Recorded) -> tuple[str, dict[str, Any]]:
        """The wire name and the data of the event: JSON values, with personal fields as sealed text.

        An older version is upcast to its latest: what that leaves out is not shown. An unknown type stays as it is.
        """
        ...

    def metadata(self, recorded: Recorded) -> Metadata:
        """The metadata of a stored event."""
        ...


class Keyring(Opener, Sealer, Protocol):
    """Opens and seals."""
