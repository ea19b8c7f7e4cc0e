"""What the domain needs from the outside. Each docstring is a contract: every sentence has a test.

Adapters implement these; `tests/contract` runs one suite per port over every adapter.
"""

from __future__ import annotations

from typing import Any, Protocol
from uuid import UUID

from domain.kernel.events import Event as DomainEvent
from domain.kernel.events import EventData, Metadata, Recorded
from domain.kernel.personal import Erased, Personal, Sealed


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


class Keyring(Opener, Sealer, Protocol):
    """Opens and seals."""
