"""Projections: from events to rows, purely. Personal fields pass through sealed; nothing is opened here.

`apply(recorded, event)` says what changes; who stores rows, checkpoints and generations is somebody
else's business, so rebuilding is the same code as living.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from domain.kernel.events import Event, Recorded
from domain.kernel.personal import PersonalText, Sealed
from domain.kernel.projection import Change, Operation, Projection, Put, Row, Value
from domain.users.account import (
    USER,
    Status,
    UserDeleted,
    UserEmailChanged,
    UserErased,
    UserRegistered,
    UserRenamed,
)


class Users(Projection):
    """One row per account, as `es users get` and `list` show it."""

    name: ClassVar[str] = "users"
    prefixes: ClassVar[Sequence[str]] = (USER.prefix,)
    key: ClassVar[str] = "user_id"
    columns: ClassVar[Mapping[str, str]] = {
        "email": "TEXT",
        "name": "TEXT",
        "status": "TEXT",
        "version": "INTEGER",
        "registered_at_us": "INTEGER",
        "updated_at_us": "INTEGER",
    }

    def apply(self, recorded: Recorded, event: Event, row: Row | None) -> Sequence[Operation]:
        user_id = USER.id_of(recorded.stream)
        touched: dict[str, Value] = {"version": recorded.version, "updated_at_us": recorded.recorded_at_us}
        match event:
            case UserRegistered(email=email, name=name):
                return [
                    Put(
                        user_id,
                        {
                            "email": sealed_text(email),
                            "name": sealed_text(name),
                            "status": Status.ACTIVE.value,
                            "registered_at_us": recorded.recorded_at_us,
                            **touched,
                        },
                    )
                ]
            case UserRenamed(name=name):
                return [Change(user_id, {"name": sealed_text(name), **touched})]
            case UserEmailChanged(email=email):
                return [Change(user_id, {"email": sealed_text(email), **touched})]
            case UserDeleted():
                return [Change(user_id, {"status": Status.DELETED.value, **touched})]
            case UserErased():
                return [
                    Change(user_id, {"status": Status.ERASED.value, "email": None, "name": None, **touched})
                ]
        return [Change(user_id, touched)]


USERS = Users()


def sealed_text(value: PersonalText) -> str:
    if not isinstance(value, Sealed):
        raise TypeError("a projection takes sealed values only")  # a bug: it would store readable data
    value.text.encode()  # a lone surrogate raises ValueError here: no database takes it
    return value.text
