"""The `users` projection: a row for each account. Personal fields stay sealed."""

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

_ACTIVE = Status.ACTIVE.value


class Users(Projection):
    """A row for each account, as `es users get` and `es users list` show it."""

    name: ClassVar[str] = "users"
    prefixes: ClassVar[Sequence[str] | None] = (USER.prefix,)
    key: ClassVar[str] = "user_id"
    columns: ClassVar[Mapping[str, str]] = {
        "email": "TEXT",
        "name": "TEXT",
        "status": "TEXT",
        "version": "INTEGER",
        "registered_at_us": "INTEGER",
        "updated_at_us": "INTEGER",
    }
    usual: ClassVar[Mapping[str, str]] = {"status": _ACTIVE}

    def apply(self, recorded: Recorded, event: Event, row: Row | None) -> Sequence[Operation]:
        user_id = USER.id_of(recorded.stream)
        at_us = recorded.recorded_at_us
        if isinstance(event, UserRegistered):  # first: most events of a store are these
            row_put: Row = {
                "email": _sealed_text(event.email),
                "name": _sealed_text(event.name),
                "status": _ACTIVE,
                "version": recorded.version,
                "registered_at_us": at_us,
                "updated_at_us": at_us,
            }
            return [Put(user_id, row_put)]
        always: dict[str, Value] = {"version": recorded.version, "updated_at_us": at_us}
        match event:
            case UserRenamed(name=name):
                return [Change(user_id, {"name": _sealed_text(name), **always})]
            case UserEmailChanged(email=email):
                return [Change(user_id, {"email": _sealed_text(email), **always})]
            case UserDeleted():
                return [Change(user_id, {"status": Status.DELETED.value, **always})]
            case UserErased():
                changed: Row = {"status": Status.ERASED.value, "email": None, "name": None}
                return [Change(user_id, {**changed, **always})]
        return [Change(user_id, always)]


USERS = Users()


def _sealed_text(value: PersonalText) -> str:
    if not isinstance(value, Sealed):
        raise TypeError("a projection takes sealed values only")  # otherwise it would store readable data
    text = value.text
    if not text.isascii():
        text.encode()  # raises ValueError for a lone surrogate, which no database stores
    return text
