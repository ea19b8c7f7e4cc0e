"""Open personal values for showing: a value that cannot be opened becomes `Unreadable`, and the others are shown.

Promise: one tampered or newer value, damaged key or missing key fails alone. Refusal: an unavailable vault stays an error, and
nothing unreadable is shown as erased.
"""

from __future__ import annotations

from dataclasses import fields
from uuid import UUID

from domain.kernel.errors import KeyDamaged, KeyMissing, SealedByNewer, Tampered
from domain.kernel.events import Event
from domain.kernel.messages import Body
from domain.kernel.personal import Erased, Personal, Sealed, Unreadable
from domain.kernel.ports.codec import Opener


class Showing:
    """An opener that never raises because of one subject. `is_key_missing` says that the vault may be the wrong one."""

    def __init__(self, keyring: Opener) -> None:
        self._keyring = keyring
        self.is_key_missing = False

    def open(
        self, sealed: Sealed, *, subject: int, field: str, event_id: UUID | None
    ) -> Personal | Erased | Unreadable:
        try:
            return self._keyring.open(sealed, subject=subject, field=field, event_id=event_id)
        except (Tampered, SealedByNewer, KeyDamaged, KeyMissing) as error:
            self.is_key_missing |= isinstance(error, KeyMissing)
            return Unreadable(error.code)


def unreadable_fields(event: Event) -> Body:
    """The reasons by field: `{"name": "tampered"}`."""
    values = {field.name: getattr(event, field.name) for field in fields(event)}
    return {name: value.reason for name, value in values.items() if isinstance(value, Unreadable)}
