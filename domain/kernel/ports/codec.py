"""The codec and the keyring: domain events to stored bytes and back, personal fields sealed and opened.

Each docstring is a contract, and every sentence has a test.
"""

from __future__ import annotations

from collections.abc import Collection
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


class Keyed(Protocol):
    """Makes digests that no reader can relate to a person once the data key is destroyed."""

    def keyed(self, content: bytes, *, subject: int) -> bytes:
        """32 bytes that depend on the content and on the subject's data key; empty without a living key."""
        ...


class Codec(Protocol):
    """Encodes domain events and decodes stored ones."""

    @property
    def personal_names(self) -> Collection[str]:
        """The names of all personal fields: a copy of a sealed value elsewhere is of one of them."""
        ...

    def encode(
        self,
        event: DomainEvent,
        *,
        event_id: UUID,
        subject: int | None,
        metadata: Metadata,
        sealer: Sealer | None,
    ) -> EventData:
        """The event as JSON with sealed personal fields. Without any, `sealer` may be None.

        A field is sealed for the person that its `Of` names, and without one for `subject`, which is None in a stream
        that is not a person's.
        """
        ...

    def decode(
        self, recorded: Recorded, *, subject: int | None = None, opener: Opener | None = None
    ) -> DomainEvent:
        """The event, upcast to its latest version. Without an opener personal fields stay `Sealed`.

        A field is opened for the person that its `Of` names, and without one for `subject`; without both it stays sealed.
        """
        ...

    def subjects(self, recorded: Recorded) -> Collection[int]:
        """The persons that the event names by an `Of`. Empty for an event that cannot be read."""
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


class Keyring(Opener, Sealer, Keyed, Protocol):
    """Opens, seals and makes digests. It fetches the key of a subject that it was not made for, once."""

    def load(self, subjects: Collection[int]) -> None:
        """Fetch the keys of all of these subjects that were not fetched before, in one query. Raises `PartUnavailable`."""
        ...

    def subject_in(self, text: object) -> int | None:
        """The subject of a sealed text, also of one in the form of a newer version; None for any other value."""
        ...

    def need(self, subject: int) -> None:
        """Raise `PersonErased`, `PersonNotFound` or `KeyDamaged` unless the subject has a living key."""
        ...
