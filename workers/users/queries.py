"""Queries about users: `users.get`, `users.list`, `users.count`, `users.registrations`, `users.find` and
`users.history`. They open personal values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any

from domain.kernel.errors import Damaged, EsError, InvalidInput, KeyUnavailable, UnknownEventType
from domain.kernel.events import BEGINNING, Event, Recorded
from domain.kernel.ids import time_text
from domain.kernel.messages import Body, Later, Reply, Request
from domain.kernel.personal import ERASED, Erased, PersonalText, Sealed, Unreadable, readable
from domain.kernel.ports.codec import Opener
from domain.kernel.projection import Value
from domain.users.account import ERASING, INITIAL, USER, Status, evolve
from domain.users.commands import parse_email, parse_user_id
from domain.users.errors import NotYetThen, NoUserWithEmail, UserNotFound
from domain.users.mail_domains import spellings
from domain.users.projection import USERS
from domain.users.registrations import DAYS, REGISTRATIONS, STATUSES
from workers.runtime.opening import Showing
from workers.runtime.pages import fit
from workers.runtime.queries import LIST_LIMIT, MAX_WHOLE, Queries, Sources, Together, limit_of, text, whole

_UNREADABLE = "unreadable"
_SHOWN = [status.value for status in Status if status is not Status.UNKNOWN]
_WHOLE = {"version": "version", "registered_at": "registered_at_us", "updated_at": "updated_at_us"}
"""Fields of a user that come from a whole number, with its column."""


def queries(sources: Sources) -> Queries:
    found = UserQueries(sources)
    return {
        "users.get": Together(found.get),
        "users.list": found.list_users,
        "users.count": found.count,
        "users.registrations": found.registrations,
        "users.find": found.find,
        "users.history": found.history,
    }


class UserQueries:
    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def get(self, requests: Sequence[Request]) -> list[Reply]:
        replies: dict[int, Reply] = {}
        current: list[int] = []
        for index, request in enumerate(requests):
            if request.body.get("at_us") is None and request.body.get("version") is None:
                current.append(index)
                continue
            try:
                replies[index] = self._as_of(request)
            except EsError as error:
                replies[index] = error
        found = self._sources.rows_of(USERS, [requests[index] for index in current], _user_id)
        rows = [row for row in found if isinstance(row, dict)]
        try:
            shown: Iterator[Reply] = iter(self._opened(rows))
        except EsError as error:
            shown = repeat(error)
        for index, row in zip(current, found, strict=True):
            missing = row or UserNotFound(_user_id(requests[index]))
            replies[index] = next(shown) if isinstance(row, dict) else missing
        return [replies[index] for index in range(len(requests))]

    def _as_of(self, request: Request) -> Reply:
        """The user at a time or at a version, folded from the stream without the read model."""
        user_id = _user_id(request)
        until_us = whole(request, "at_us", MAX_WHOLE)
        version = whole(request, "version", MAX_WHOLE)
        events, opener = self._stream_of(user_id)
        user, row = INITIAL, dict[str, Any]()
        for recorded in events:
            if recorded.version > version or recorded.recorded_at_us > until_us:
                break
            user = evolve(user, self._event(recorded, user_id, opener))
            row.setdefault("registered_at_us", recorded.recorded_at_us)
            row.update(version=recorded.version, updated_at_us=recorded.recorded_at_us)
        if not events:
            raise UserNotFound(user_id)
        is_beyond = version != MAX_WHOLE and version > events[-1].version
        if user.status is Status.UNKNOWN or is_beyond:
            raise NotYetThen(user_id, events[-1].version)
        self._need_own_vault(opener)
        row.update(user_id=user_id, status=user.status.value)
        return _user(row, email=user.email, name=user.name)

    def _event(self, recorded: Recorded, user_id: int, opener: Showing) -> Event:
        """The opened event. Of a damaged one its type tells which fields of the user are unreadable."""
        try:
            return self._sources.codec.decode(recorded, subject=user_id, opener=opener)
        except (Damaged, UnknownEventType):
            return self._sources.codec.outline(recorded) or Event()

    def list_users(self, request: Request) -> Reply:
        after = request.body.get("after")
        status = request.body.get("status")
        if status is not None and status not in _SHOWN:
            raise InvalidInput("status", f"must be one of {', '.join(_SHOWN)}")
        if later := self._sources.wait_for(USERS, request, self._sources.target(request)):
            return later
        limit = limit_of(request)
        rows = self._sources.read_model.rows(
            USERS,
            after=None if after is None else parse_user_id(after),
            where=None if status is None else {"status": status},
            limit=limit + 1,
        )
        shown, has_more = fit(request, self._opened(rows[:limit]), len(rows))
        return {"users": shown, "next": {"after": shown[-1]["user_id"]} if has_more else None}

    def count(self, request: Request) -> Reply:
        """The number of users by status. It is never behind the list."""
        if later := self._wait_for_counts(request):
            return later
        rows = self._sources.read_model.rows(REGISTRATIONS, prefix=DAYS)
        counts = {status: sum(int(row[status] or 0) for row in rows) for status in STATUSES}
        return {"users": sum(counts.values()), **counts}

    def registrations(self, request: Request) -> Reply:
        """The number of users by the day on which their ids were drawn, and by status; days without users are left out."""
        after, limit = text(request, "after"), limit_of(request)
        if later := self._wait_for_counts(request):
            return later
        rows = self._sources.read_model.rows(REGISTRATIONS, after=after, prefix=DAYS, limit=limit + 1)
        days = ({"day": row["entry"], **{status: row[status] for status in STATUSES}} for row in rows[:limit])
        shown, has_more = fit(request, days, len(rows))
        return {"days": shown, "next": {"after": shown[-1]["day"]} if has_more else None}

    def _wait_for_counts(self, request: Request) -> Later | None:
        position = max(self._sources.target(request), self._sources.reached(USERS) or BEGINNING)
        request.memo["position"] = position  # of the first look: the list goes on meanwhile
        return self._sources.wait_for(REGISTRATIONS, request, position)

    def find(self, request: Request) -> Reply:
        email = parse_email(request.body.get("email")).value
        if "user_id" not in request.memo:
            holders = self._sources.vault.holders(spellings(email))
            request.memo["user_id"] = next(
                (holders[each] for each in spellings(email) if each in holders), None
            )
            # A claim is confirmed after its event: the row must include all events that are stored now.
            request.memo["position"] = self._sources.store.head()
        user_id = request.memo["user_id"]
        if user_id is None:
            raise NoUserWithEmail()
        if later := self._sources.wait_for(USERS, request, self._sources.target(request)):
            return later
        # The claim may belong to a command without an event yet, or wait for its release. Compare with the row.
        for row in self._sources.read_model.rows(USERS, keys=[user_id]):
            # An address that cannot be opened is an error: "no user" could be wrong.
            _need_sound(row)
            if row["status"] == Status.ACTIVE.value and self._email_of(row) in spellings(email):
                return self._opened([row])[0]
        raise NoUserWithEmail()

    def _email_of(self, row: Mapping[str, Value]) -> str | None:
        subject = int(row["user_id"] or 0)
        return readable(_open(self._sources.keyring([subject]), row, "email"))

    def history(self, request: Request) -> Reply:
        user_id = _user_id(request)
        start = whole(request, "from_version", 0)
        events, opener = self._stream_of(user_id)
        if not events:
            raise UserNotFound(user_id)
        shown = [
            self._sources.shown(recorded, subject=user_id, opener=opener)
            for recorded in events[start : start + limit_of(request)]
        ]
        self._need_own_vault(opener)
        shown, has_more = fit(request, shown, len(events) - start)
        return {"events": shown, "next": {"from_version": shown[-1]["version"] + 1} if has_more else None}

    def _need_own_vault(self, opener: Showing) -> None:
        """Raise KeyUnavailable if a key was missing and the vault has a key of no user: it is the wrong vault."""
        if opener.is_key_missing:
            rows = self._sources.read_model.rows(USERS, limit=LIST_LIMIT)
            if not self._sources.vault.data_keys([int(row["user_id"] or 0) for row in rows]):
                raise KeyUnavailable("the vault has the key of no user")

    def _stream_of(self, user_id: int) -> tuple[list[Recorded], Showing]:
        """The events of a user and the opener of their values.

        After `user-erased` it opens nothing, whether or not the vault has a key: it may be a restored older
        copy, in which `erasures` has not destroyed the key again yet.
        """
        events = list(self._sources.store.read_stream(USER.stream_of(user_id)))
        is_erased = any(recorded.type in ERASING for recorded in events)
        keyring = self._sources.erased_keyring if is_erased else self._sources.keyring([user_id])
        return events, Showing(keyring)

    def _opened(self, rows: Sequence[Mapping[str, Value]]) -> list[Body]:
        opener = Showing(self._sources.keyring([int(row["user_id"] or 0) for row in rows]))
        users: list[Body] = []
        for row in rows:
            email, name = _open(opener, row, "email"), _open(opener, row, "name")
            # The tombstone counts before the row: behind a parked event, the row does not show the erasure.
            is_erased = isinstance(email, Erased) and isinstance(name, Erased)
            users.append(
                _user({**row, "status": Status.ERASED.value} if is_erased else row, email=email, name=name)
            )
        self._need_own_vault(opener)
        return users


def _user_id(request: Request) -> int:
    return parse_user_id(request.body.get("user_id"))


def _open(opener: Opener, row: Mapping[str, Value], field: str) -> PersonalText:
    sealed, subject = row[field], int(row["user_id"] or 0)
    if sealed is None:
        return ERASED if row["status"] == Status.ERASED.value else Unreadable(Damaged.code)
    return opener.open(Sealed(str(sealed)), subject=subject, field=field, event_id=None)


def _user(row: Mapping[str, Any], *, email: PersonalText, name: PersonalText) -> Body:
    """A user for showing. With a value that cannot be opened the status is `unreadable`, and the reasons are named."""
    unreadable: Body = {}
    if isinstance(email, Unreadable):
        unreadable["email"] = email.reason
    if isinstance(name, Unreadable):
        unreadable["name"] = name.reason
    for field in _damaged_columns(row):
        unreadable[field] = Damaged.code
    user: Body = {
        "user_id": str(row["user_id"]),
        "email": readable(email),
        "name": readable(name),
        "status": _UNREADABLE if unreadable else row["status"],
        "version": row["version"],
        "registered_at": _time(row["registered_at_us"]),
        "updated_at": _time(row["updated_at_us"]),
    }
    if unreadable:
        user["unreadable"] = unreadable
    return user


def _damaged_columns(row: Mapping[str, Any]) -> list[str]:
    """The columns that hold what no event makes of them: a row is changed by damage, or by another program."""
    found = [shown for shown, name in _WHOLE.items() if not isinstance(row[name], int)]
    return found if row["status"] in _SHOWN else [*found, "status"]


def _need_sound(row: Mapping[str, Value]) -> None:
    """Raise Damaged for a row from which "no user" could be a wrong answer."""
    is_lost = row["email"] is None and row["status"] != Status.ERASED.value
    if is_lost or row["status"] not in _SHOWN:
        hint = "`es projections rebuild users` makes the rows from the events again."
        raise Damaged("read model", f"the row of user {row['user_id']} is not what its events make", hint)


def _time(at_us: int | None) -> str | None:
    return None if at_us is None else time_text(at_us)
