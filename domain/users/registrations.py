"""The `registrations` projection: how many users registered on each day, by their status now.

Promise: a deletion or an erasure moves its user from one status to another, once, on the day of the registration; so a rebuild
counts the same. Refusal: it looks at no event's data, so no personal value can enter a row, and no damaged one is left out.

The day is that of the user's id, in UTC. An id is drawn when the registration begins, seconds before its event at most while
all parts work, so around midnight it may be the day before. Every later event names the id: no other row has to be read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import ClassVar

from domain.kernel.events import Event, Recorded
from domain.kernel.ids import time_text, time_us_of_id
from domain.kernel.projection import Add, Delete, Key, Operation, Projection, Put, Row
from domain.users.account import ERASING, USER, Status, UserDeleted, UserRegistered

DAYS = "20"
"""What the keys of days begin with, and no other key: ids tell times from 2025 to 2094."""
STATUSES = (Status.ACTIVE.value, Status.DELETED.value, Status.ERASED.value)
_ACTIVE, _DELETED, _ERASED = STATUSES
_NO_USER = Status.UNKNOWN.value
_US_PER_DAY = 86_400_000_000


class Registrations(Projection):
    """A row for each day, `2026-01-31`, with the number of users by status.

    An erasure does not say whether its user was deleted before, so a user who is not active any more has a row too: the
    name of the stream, with the status.
    """

    name: ClassVar[str] = "registrations"
    prefixes: ClassVar[Sequence[str] | None] = (USER.prefix,)
    decodes: ClassVar[bool] = False
    key: ClassVar[str] = "entry"
    key_type: ClassVar[str] = "TEXT"
    columns: ClassVar[Mapping[str, str]] = {"status": "TEXT", **dict.fromkeys(STATUSES, "INTEGER")}
    sees_rows: ClassVar[bool] = True

    def key_of(self, recorded: Recorded, event: Event) -> Key | None:
        if recorded.type == UserRegistered.type:
            return _day_of_stream(recorded.stream)
        return recorded.stream if _closed(recorded) else None

    def apply(self, recorded: Recorded, event: Event, row: Row | None) -> Sequence[Operation]:
        day = _day_of_stream(recorded.stream)
        if recorded.type == UserRegistered.type:
            return _registered(recorded, day, row)
        if recorded.version == 0:
            return [
                _put(recorded.stream, _NO_USER)
            ]  # what follows is about no user: an abandoned registration
        status, before = _closed(recorded), _ACTIVE if row is None else row["status"]
        if status is None or before in (status, _ERASED, _NO_USER):
            return []
        moved = Add(day, {str(before): -1, status: 1})
        return [_put(recorded.stream, status), moved]


REGISTRATIONS = Registrations()


def day_of(user_id: int) -> str:
    """The day on which the id of a user was drawn, in UTC: `2026-01-31`."""
    return _day_text(time_us_of_id(user_id) // _US_PER_DAY)


@lru_cache(maxsize=2_000)  # a batch asks twice for each of its events
def _day_of_stream(stream: str) -> str:
    return day_of(USER.id_of(stream))


@lru_cache(maxsize=100)
def _day_text(day: int) -> str:
    return time_text(day * _US_PER_DAY)[:10]


def _registered(recorded: Recorded, day: str, row: Row | None) -> list[Operation]:
    count: Operation = Add(day, {_ACTIVE: 1})
    if row is None:
        count = Put(day, {"status": None, **dict.fromkeys(STATUSES, 0), _ACTIVE: 1})
    # An answer that was remembered before the registration has made a row, which says that there is no user.
    return [count] if recorded.version == 0 else [Delete(recorded.stream), count]


def _closed(recorded: Recorded) -> str | None:
    """The status of a user after an event that closes the account."""
    if recorded.type == UserDeleted.type:
        return _DELETED
    return _ERASED if recorded.type in ERASING else None


def _put(stream: str, status: str) -> Put:
    return Put(stream, {"status": status, **dict.fromkeys(STATUSES)})
