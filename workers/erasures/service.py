"""Queries of the `erasures` role: the state of one erasure as the vault has it now, and what is owed.

Promise: `completed` means that this vault was asked, and holds no key, no claim and no owed erasure of the person.
Refusal: the stream alone completes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from domain.kernel.errors import EsError, UnknownRequest
from domain.kernel.events import BEGINNING
from domain.kernel.messages import Body, Reply, Request
from domain.kernel.ports.codec import Codec
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.vault import Decided, DestroyedKey, Owed, Reason, Vault
from domain.kernel.streams import remaining
from domain.users.account import INITIAL, USER, Status, evolve
from domain.users.commands import parse_user_id
from domain.users.errors import UserNotFound
from workers.erasures.cleaning import Cleaning
from workers.erasures.process import ErasureProcess
from workers.runtime.followers import progress
from workers.runtime.queries import limit_of, whole
from workers.users.owed import Listing

_PAGE = 1000
COMPLETED = "completed"


class ErasuresService:
    def __init__(
        self,
        *,
        store: EventStore,
        codec: Codec,
        vault: Vault,
        listing: Listing,
        process: ErasureProcess,
        cleaning: Cleaning,
        now_us: Callable[[], int],
    ) -> None:
        self._store = store
        self._codec = codec
        self._vault = vault
        self._listing = listing
        self._process = process
        self._cleaning = cleaning
        self._now_us = now_us

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
                return self._progress()
            case "erasures.status":
                return self._status(parse_user_id(request.body.get("user_id")))
            case "erasures.owed":
                return self._owed_page(request)
            case "erasures.resume":
                return self._resume(request)
        return UnknownRequest(request.kind)

    # --- one person ----------------------------------------------------------------------------

    def _status(self, user_id: int) -> Reply:
        """`{"user_id", "erasure", "reason"}`. `erasure` is none, decided, key-destroyed or completed."""
        owed = self._vault.owed_of(user_id)
        if owed is None:
            decided = self._listing.decided_in(user_id)
            if decided is None:
                return self._state(user_id, self._without_event(user_id))
            if self._listing.is_gone(user_id):
                return self._state(user_id, COMPLETED)
            # The stream says erased, and this vault may hold the key: for example an older copy was restored.
            self._owe(decided)
            owed = self._vault.owed_of(user_id)
        if owed is None:
            return self._state(user_id, COMPLETED)
        return self._state(user_id, owed.state, owed)

    def _state(self, user_id: int, state: str, owed: Owed | None = None) -> Body:
        reason = owed.last_error if owed else ""
        return {"user_id": str(user_id), "erasure": str(state), "reason": reason or None}

    def _without_event(self, user_id: int) -> str:
        """The state of a person whose stream decides no erasure. Raises UserNotFound."""
        user = INITIAL
        stream = USER.stream_of(user_id)
        for recorded in remaining(self._store, [stream])[stream][0]:
            event = self._codec.outline(recorded)
            user = evolve(user, event) if event else user
        if user.status is not Status.UNKNOWN:
            return "none"
        key = self._vault.data_keys([user_id]).get(user_id)
        if isinstance(key, DestroyedKey) and key.reason is Reason.ERASURE:
            return COMPLETED  # the stream was deleted
        raise UserNotFound(user_id)

    def _owe(self, decided: Decided) -> None:
        self._vault.owe([decided], now_us=self._now_us())
        self._process.resume()

    # --- all ---------------------------------------------------------------------------------

    def _resume(self, request: Request) -> Reply:
        """Try everything that is owed at once. With a `user_id` also list that erasure again, if it was decided."""
        if request.body.get("user_id") is not None:
            user_id = parse_user_id(request.body["user_id"])
            decided = self._listing.decided_in(user_id)
            if decided is None and self._without_event(user_id) == COMPLETED:
                decided = Decided(user_id, None, BEGINNING)
            if decided is None:
                raise UserNotFound(user_id)
            self._vault.owe([decided], now_us=self._now_us())
        self._process.resume()
        self._cleaning.resume()
        return self._owed_state()

    def _owed_page(self, request: Request) -> Body:
        """`{"owed", "quarantined", "next"}`: a page of owed erasures in order of user id, and quarantined events."""
        after, limit = whole(request, "after", 0), limit_of(request)
        page = self._vault.owed(after=after, limit=limit + 1)
        shown = page[:limit]
        quarantined = [] if after else self._vault.quarantined()
        return {
            "owed": [self._shown(owed) for owed in shown],
            "quarantined": [
                {"position": each.position, "stream": each.stream, "type": each.type, "error": each.error}
                for each in quarantined
            ],
            "next": {"after": str(shown[-1].decided.subject)} if len(page) > limit else None,
        }

    def _shown(self, owed: Owed) -> Body:
        return {
            "user_id": str(owed.decided.subject),
            "erasure": owed.state.value,
            "position": owed.decided.position,
            "age_s": round(self._age_s(owed), 1),
            "attempts": owed.attempts,
            "letters": owed.letters,
            "reason": owed.last_error or None,
        }

    def _age_s(self, owed: Owed) -> float:
        return max(self._now_us() - owed.listed_at_us, 0) / 1e6

    def _progress(self) -> Body:
        """`{"position", "head", "lag"}`, and of the vault, unless it is unavailable: see `_owed_state`."""
        found = progress(self._store, self._process.reached)
        with suppress(EsError):  # its own outage is reported by the followers
            found |= self._owed_state()
        return found

    def _owed_state(self) -> Body:
        """`{"owed": {state: n}, "failing", "oldest_s", "reason", "quarantined", "divergences"}`.

        `failing`, `oldest_s` and `reason` are those of the first 1,000 people.
        """
        # Counted by the vault; the rest is of the first page: a mass erasure must not make each status read all of it.
        first = self._vault.owed(limit=_PAGE)
        failing = [owed for owed in first if owed.last_error]
        return {
            "owed": {state.value: count for state, count in self._vault.owed_count().items()},
            "failing": len(failing),
            "oldest_s": round(max(map(self._age_s, first), default=0.0), 1),
            "reason": failing[0].last_error if failing else None,
            "quarantined": len(self._vault.quarantined()),
            "divergences": [
                {"process": each.process, "seen": each.seen, "back_to": each.back_to, "at_us": each.at_us}
                for each in self._vault.divergences()
            ],
        }
