"""Queries of the `erasures` role: `erasures.progress`, and `erasures.status` about the erasure of one user."""

from __future__ import annotations

from collections.abc import Sequence

from domain.kernel.errors import EsError, UnknownRequest
from domain.kernel.events import Position
from domain.kernel.messages import Reply, Request
from domain.kernel.ports.codec import Codec
from domain.kernel.ports.event_store import EventStore
from domain.users.account import INITIAL, USER, Status, evolve
from domain.users.commands import parse_user_id
from domain.users.errors import UserNotFound
from workers.erasures.process import ErasureProcess
from workers.runtime.followers import progress


class ErasuresService:
    def __init__(self, *, store: EventStore, codec: Codec, process: ErasureProcess) -> None:
        self._store = store
        self._codec = codec
        self._process = process

    def handle(self, batch: Sequence[Request]) -> list[Reply]:
        replies: list[Reply] = []
        for request in batch:
            try:
                replies.append(self._answer(request))
            except EsError as error:
                replies.append(error)
        return replies

    def close(self) -> None:
        """Nothing is held between batches."""

    def _answer(self, request: Request) -> Reply:
        match request.kind:
            case "erasures.progress":
                return progress(self._store, self._process.reached)
            case "erasures.status":
                return self._status(parse_user_id(request.body.get("user_id")))
        return UnknownRequest(request.kind)

    def _status(self, user_id: int) -> Reply:
        user, position = INITIAL, Position(0)
        for recorded in self._store.read_stream(USER.stream_of(user_id)):
            # The types tell the state: a damaged event hides no erasure.
            event, position = self._codec.outline(recorded), recorded.position
            user = evolve(user, event) if event else user
        if user.status is Status.UNKNOWN:
            return UserNotFound(user_id)
        state, waits_for = "none", None
        if user.status is Status.ERASED:
            state = "completed" if user.erasure_completed else "under-way"
            waits_for = None if user.erasure_completed else self._process.waits_for
        return {
            "user_id": str(user_id),
            "erasure": state,
            "position": position,
            "waits_for": waits_for and waits_for.to_wire(),
        }
