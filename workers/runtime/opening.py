"""Open personal values for showing: a value that cannot be opened becomes `Unreadable`, and the others are shown.

Promise: one tampered or newer value, damaged key or missing key fails alone. Refusal: an unavailable vault stays an error, and
nothing unreadable is shown as erased.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any
from uuid import UUID

from domain.kernel.errors import KeyDamaged, KeyMissing, SealedByNewer, Tampered
from domain.kernel.events import Event
from domain.kernel.messages import Body
from domain.kernel.personal import Erased, Personal, Sealed, Unreadable, readable
from domain.kernel.ports.codec import Keyring, Opener


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


def opened_columns(
    row: Mapping[str, Any], keyring: Keyring, names: Collection[str], *, but: str
) -> dict[str, Any]:
    """A row of a read model with its sealed columns opened; erased and unreadable ones are null, with the reasons.

    `names` are the fields that a column may be a copy of: only the right one opens it. The key column `but` stays.
    """
    opener, reasons, shown = Showing(keyring), dict[str, str](), dict(row)
    for column, value in row.items():
        subject = None if column == but else keyring.subject_in(value)
        if subject is None:
            continue
        opened = _opened_copy(opener, Sealed(value), subject, dict.fromkeys((column, *names)))
        shown[column] = readable(opened)
        if isinstance(opened, Unreadable):
            reasons[column] = opened.reason
    return {**shown, "unreadable": reasons} if reasons else shown


def _opened_copy(
    opener: Showing, sealed: Sealed, subject: int, names: Collection[str]
) -> Personal | Erased | Unreadable:
    opened: Personal | Erased | Unreadable = Unreadable(Tampered.code)
    for name in names:
        opened = opener.open(sealed, subject=subject, field=name, event_id=None)
        if opened != Unreadable(Tampered.code):
            break
    return opened


def unreadable_fields(event: Event) -> Body:
    """The reasons by field: `{"name": "tampered"}`."""
    values = {field.name: getattr(event, field.name) for field in fields(event)}
    return {name: value.reason for name, value in values.items() if isinstance(value, Unreadable)}
