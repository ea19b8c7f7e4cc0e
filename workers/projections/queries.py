"""Queries of the `projections` worker: read models, streams, and the state of projections.

Promise: whoever asks for what a position says gets at least that, or an error, never less. Personal
values are opened here, at the edge, and nowhere before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from domain.features import PROJECTIONS
from domain.kernel.errors import Damaged, EsError, InvalidInput, Kind, PartUnavailable, UnknownRequest
from domain.kernel.events import BEGINNING, Metadata, Position, Recorded, shown_fields
from domain.kernel.ids import time_text
from domain.kernel.messages import LATER, Body, Later, Reply, Request
from domain.kernel.personal import Sealed, readable
from domain.kernel.ports.codec import Codec, Keyring
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.read_model import GenerationState, ReadModel
from domain.kernel.ports.vault import Vault
from domain.kernel.projection import Projection, Value
from domain.users.account import INITIAL, STREAM_PREFIX, Status, UserErased, evolve, stream_of, user_id_of
from domain.users.commands import parse_email, parse_user_id
from domain.users.errors import NotYetThen, NoUserWithEmail, UserNotFound
from domain.users.projection import Users
from workers.projections.projector import Projector
from workers.projections.rebuild import Rebuilds

PATIENCE_S = 6.0
"""How long a query waits for the projection before it answers that it is behind."""
LIST_LIMIT = 1000
_BEHIND = "the users projection"
"""What is unavailable to one request only."""
_FOREVER = (1 << 63) - 1
_USERS = Users()


class NoSuchProjection(EsError):
    code = "projection-not-found"
    kind = Kind.NOT_FOUND
    hint = "`es projections list` names them."

    def __str__(self) -> str:
        return "there is no such projection"


class QueriesService:
    role = "projections"

    def __init__(
        self,
        *,
        store: EventStore,
        codec: Codec,
        vault: Vault,
        keyring: Callable[[Sequence[int]], Keyring],
        erased_keyring: Keyring,
        read_model: ReadModel,
        projectors: Mapping[str, Projector],
        rebuilds: Rebuilds,
        now_us: Callable[[], int],
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`keyring` fetches people's keys; `erased_keyring` opens everything to `ERASED`."""
        self._store = store
        self._codec = codec
        self._vault = vault
        self._keyring = keyring
        self._erased_keyring = erased_keyring
        self._read_model = read_model
        self._projectors = projectors
        self._rebuilds = rebuilds
        self._now_us = now_us
        self._monotonic_s = monotonic_s
        self._queries: dict[str, Callable[[Request], Reply]] = {
            "users.get": self._get,
            "users.list": self._list,
            "users.find": self._find,
            "users.history": self._history,
            "streams.list": self._streams,
            "streams.read": self._stream,
            "events.read": self._events,
            "projections.status": self._status,
            "projections.rebuild": self._rebuild,
        }

    def handle(self, batch: Sequence[Request]) -> list[Reply]:
        replies: list[Reply] = []
        away: PartUnavailable | None = None
        for request in batch:
            # To find out that a part is away takes seconds; for all of a batch together it would take too long.
            reply = away or self._answer(request)
            if isinstance(reply, PartUnavailable) and reply.part != _BEHIND:
                away = reply
            replies.append(reply)
        return replies

    def close(self) -> None:
        """Nothing is held between batches."""

    def _answer(self, request: Request) -> Reply:
        query = self._queries.get(request.kind)
        if query is None:
            return UnknownRequest(request.kind)
        try:
            return query(request)
        except EsError as error:
            return error

    # --- waiting -------------------------------------------------------------------------------

    def _wait_for(self, request: Request, position: Position) -> Later | None:
        """`LATER` until the users projection has reached a position; raises when that takes too long."""
        reached = self._projectors[_USERS.name].reached
        if reached >= position:
            return None
        since_s = request.memo.setdefault("since_s", self._monotonic_s())
        if self._monotonic_s() - since_s > PATIENCE_S:
            raise PartUnavailable(
                _BEHIND,
                f"it is at position {reached}, not yet at {position}",
                "Look at `es projections status` and `es logs projections`, then repeat.",
            )
        return LATER

    def _target(self, request: Request) -> Position:
        """The position that the answer has to include."""
        if "position" not in request.memo:
            after = _whole(request, "after_position", BEGINNING)
            if after > BEGINNING and after > self._store.head():
                raise InvalidInput("after", "is beyond the end of the store")
            fresh = request.body.get("fresh") is True
            request.memo["position"] = max(after, self._store.head() if fresh else BEGINNING)
        return int(request.memo["position"])

    # --- users ---------------------------------------------------------------------------------

    def _get(self, request: Request) -> Reply:
        user_id = parse_user_id(request.body.get("user_id"))
        if request.body.get("at_us") is not None or request.body.get("version") is not None:
            return self._get_as_of(request, user_id)
        if later := self._wait_for(request, self._target(request)):
            return later
        rows = self._read_model.rows(_USERS, keys=[user_id])
        if rows:
            return self._shown(rows)[0]
        # Not there, or not there yet: it is missing only if it is missing in all that is stored by now.
        if not request.memo.get("missed"):
            request.memo.update(missed=True, position=self._store.head())
            return self._get(request)
        raise UserNotFound(user_id)

    def _get_as_of(self, request: Request, user_id: int) -> Reply:
        """The account as its stream had it at a time or a version: folded from the stream itself."""
        until_us = _whole(request, "at_us", _FOREVER)
        version = _whole(request, "version", _FOREVER)
        events, keyring = self._stream_of(user_id)
        user, row = INITIAL, dict[str, Any]()
        for recorded in events:
            if recorded.version > version or recorded.recorded_at_us > until_us:
                break
            user = evolve(user, self._codec.decode(recorded, subject=user_id, opener=keyring))
            row.setdefault("registered_at_us", recorded.recorded_at_us)
            row.update(version=recorded.version, updated_at_us=recorded.recorded_at_us)
        if not events:
            raise UserNotFound(user_id)
        asked_ahead = version != _FOREVER and version > events[-1].version
        if user.status is Status.UNKNOWN or asked_ahead:
            raise NotYetThen(user_id, events[-1].version)
        row.update(user_id=user_id, status=user.status.value)
        return _user(row, email=readable(user.email), name=readable(user.name))

    def _list(self, request: Request) -> Reply:
        after = request.body.get("after")
        status = request.body.get("status")
        shown = [state.value for state in Status if state is not Status.UNKNOWN]
        if status is not None and status not in shown:
            raise InvalidInput("status", f"must be one of {', '.join(shown)}")
        if later := self._wait_for(request, self._target(request)):
            return later
        rows = self._read_model.rows(
            _USERS,
            after=0 if after is None else parse_user_id(after),
            where=None if status is None else {"status": status},
            limit=min(_whole(request, "limit", 100), LIST_LIMIT),
        )
        return {"users": self._shown(rows)}

    def _find(self, request: Request) -> Reply:
        email = parse_email(request.body.get("email")).value
        if "user_id" not in request.memo:
            request.memo["user_id"] = self._vault.holder(email)
            # A claim is confirmed after its event: the row must include all that is stored by now.
            request.memo["position"] = self._store.head()
        user_id = request.memo["user_id"]
        if user_id is None:
            raise NoUserWithEmail()
        if later := self._wait_for(request, self._target(request)):
            return later
        # A claim may be reserved for a command that is still to come, or wait for its release: only who
        # has the address now is found by it.
        shown = self._shown(self._read_model.rows(_USERS, keys=[user_id]))
        found = [user for user in shown if user["status"] == Status.ACTIVE.value and user["email"] == email]
        if not found:
            raise NoUserWithEmail()
        return found[0]

    def _shown(self, rows: Sequence[Mapping[str, Value]]) -> list[Body]:
        keyring = self._keyring([int(row["user_id"] or 0) for row in rows])

        def opened(row: Mapping[str, Value], field: str) -> str | None:
            text = row[field]
            if text is None:
                return None
            subject = int(row["user_id"] or 0)
            return readable(keyring.open(Sealed(str(text)), subject=subject, field=field, event_id=None))

        return [_user(row, email=opened(row, "email"), name=opened(row, "name")) for row in rows]

    def _history(self, request: Request) -> Reply:
        user_id = parse_user_id(request.body.get("user_id"))
        start = _whole(request, "from_version", 0)
        events, keyring = self._stream_of(user_id)
        if not events:
            raise UserNotFound(user_id)
        page = events[start : start + _limit(request)]
        return {"events": [self._event(recorded, keyring) for recorded in page]}

    def _stream_of(self, user_id: int) -> tuple[list[Recorded], Keyring]:
        """A person's events and what opens them.

        After the erasure event nothing is opened, whatever the vault holds: an old copy of it may have been
        restored, and its keys not been destroyed again yet.
        """
        events = list(self._store.read_stream(stream_of(user_id)))
        erased = any(recorded.type == UserErased.type for recorded in events)
        return events, self._erased_keyring if erased else self._keyring([user_id])

    # --- streams -------------------------------------------------------------------------------

    def _streams(self, request: Request) -> Reply:
        found = self._store.streams(
            after=_text(request, "after"), prefix=_text(request, "prefix"), limit=_limit(request)
        )
        return {"streams": [{"stream": name, "version": version} for name, version in found]}

    def _stream(self, request: Request) -> Reply:
        events = self._store.read_stream(
            _text(request, "stream"),
            _whole(request, "from_version", 0),
            backwards=request.body.get("backwards") is True,
            limit=_limit(request),
        )
        return {"events": [self._event(recorded, None) for recorded in events]}

    def _events(self, request: Request) -> Reply:
        """Events after a position, personal fields sealed. With `wait`, not before there is one or time is up."""
        after = _whole(request, "after_position", BEGINNING)
        if request.body.get("from_end") is True:
            return {"events": [], "position": self._store.head()}
        prefix = _text(request, "prefix")
        head = self._store.head()
        events = list(
            self._store.read_all(after, _limit(request), prefixes=[prefix] if prefix else None)
            if head > after
            else []
        )
        since_s = request.memo.setdefault("since_s", self._monotonic_s())
        if not events and request.body.get("wait") is True and self._monotonic_s() - since_s < PATIENCE_S / 3:
            return LATER
        # Events may have been stored since the end was looked up, so the last one may lie behind it.
        last = events[-1].position if events else after
        reached = last if len(events) == _limit(request) else max(head, last)
        type_ = _text(request, "type")
        return {
            "events": [self._event(event, None) for event in events if event.type.startswith(type_)],
            "position": reached,
        }

    def _event(self, recorded: Recorded, keyring: Keyring | None) -> Body:
        """A stored event for showing: its fields opened with a keyring, otherwise as they are stored."""
        try:
            metadata: Metadata | None = self._codec.metadata(recorded)
        except Damaged:
            metadata = None  # another program's event; it hides nothing of the others
        data: Any
        if keyring is None:
            data = self._codec.stored(recorded)
        else:
            subject = user_id_of(recorded.stream) if recorded.stream.startswith(STREAM_PREFIX) else None
            data = shown_fields(self._codec.decode(recorded, subject=subject, opener=keyring))
        return {
            "position": recorded.position,
            "stream": recorded.stream,
            "version": recorded.version,
            "type": recorded.type,
            "time": time_text(recorded.recorded_at_us),
            "event_id": str(recorded.event_id),
            "command": metadata and metadata.command,
            "command_id": metadata and str(metadata.command_id),
            "correlation_id": metadata and str(metadata.correlation_id),
            "causation_id": metadata and str(metadata.causation_id),
            "actor": metadata and metadata.actor,
            "data": data,
        }

    # --- projections ---------------------------------------------------------------------------

    def _status(self, request: Request) -> Reply:
        wanted = request.body.get("name")
        chosen = PROJECTIONS if wanted is None else (_projection(wanted),)
        return {"projections": [state for p in chosen for state in self._states(p)]}

    def _states(self, projection: Projection) -> list[Body]:
        head = self._store.head()
        states: list[Body] = []
        for generation in self._read_model.generations(projection):
            current = generation.state is GenerationState.CURRENT
            reached = generation.checkpoint
            if current:
                reached = max(reached, self._projectors[projection.name].reached)
            states.append(
                {
                    "projection": projection.name,
                    "generation": generation.number,
                    "state": generation.state.value,
                    "position": reached,
                    "head": head,
                    "lag": 0 if generation.state is GenerationState.RETIRED else max(head - reached, 0),
                    "events": generation.events,
                    "parked": len(self._read_model.parked(projection, generation)),
                    "started_at": time_text(generation.started_at_us),
                    "finished_at": generation.finished_at_us and time_text(generation.finished_at_us),
                }
            )
        return states

    def _rebuild(self, request: Request) -> Reply:
        projection = _projection(request.body.get("name"))
        generation = self._read_model.begin_rebuild(projection, now_us=self._now_us())
        self._rebuilds.ensure(projection)
        return {"projection": projection.name, "generation": generation.number, "head": self._store.head()}


def _projection(name: object) -> Projection:
    for projection in PROJECTIONS:
        if projection.name == name:
            return projection
    raise NoSuchProjection()


def _user(row: Mapping[str, Any], *, email: str | None, name: str | None) -> Body:
    return {
        "user_id": str(row["user_id"]),
        "email": email,
        "name": name,
        "status": row["status"],
        "version": row["version"],
        "registered_at": time_text(row["registered_at_us"]),
        "updated_at": time_text(row["updated_at_us"]),
    }


def _whole(request: Request, field: str, default: int) -> int:
    value = request.body.get(field)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise InvalidInput(field, "must be a whole number from 0 to 9223372036854775807")
    return value


def _limit(request: Request) -> int:
    return max(1, min(_whole(request, "limit", 100), LIST_LIMIT))


def _text(request: Request, field: str) -> str:
    value = request.body.get(field, "")
    if not isinstance(value, str):
        raise InvalidInput(field, "must be text")
    return value
