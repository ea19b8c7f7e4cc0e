"""Settle e-mail claims: after a change of the address or a deletion, and those of expired reservations.

Promise: every change and deletion is followed, and a damaged stream delays no other user. Refusal: it has no part in
erasures, which destroy claims together with the key.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from adapters.log import Log
from domain.kernel.errors import EsError, InvalidInput, Kind
from domain.kernel.events import Recorded
from domain.kernel.history import History
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.vault import Vault
from domain.users.account import USER, UserDeleted, UserEmailChanged
from workers.runtime.followers import CheckpointedFollowing
from workers.users.claims import Claims

SETTLED = "erasures-completed"
"""The name of its checkpoint. Earlier versions settled claims under this name, so it goes on where they ended."""
JANITOR_INTERVAL_S = 5.0
_BATCH_LIMIT = 256
_FOLLOWED = (UserDeleted.type, UserEmailChanged.type)


class ClaimsProcess:
    def __init__(
        self,
        *,
        store: EventStore,
        vault: Vault,
        claims: Claims,
        log: Log,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._claims = claims
        self._log = log
        self._monotonic_s = monotonic_s
        self._swept_at_s = float("-inf")
        self._following = CheckpointedFollowing(
            SETTLED,
            store=store,
            checkpoints=vault,
            log=log,
            monotonic_s=monotonic_s,
            prefixes=[USER.prefix],
            batch_limit=_BATCH_LIMIT,
        )

    def run(self, stopped: Callable[[], bool]) -> None:
        """Follow until `stopped()`. Raises if a part fails; the next run resumes from the checkpoint."""
        self._swept_at_s = float("-inf")
        self._following.run(self._react, stopped, after_each=self._after_each)

    def _react(self, events: Sequence[Recorded], _: History) -> None:
        for recorded in events:
            if recorded.type in _FOLLOWED:
                self._unless_damaged(partial(self._settle, recorded.stream), position=recorded.position)

    def _settle(self, stream: str) -> None:
        try:
            subject = USER.id_of(stream)
        except InvalidInput:
            return  # of another program; `workers/users/owed.py` reports it
        self._claims.settle(subject)

    def _after_each(self) -> None:
        now_s = self._monotonic_s()
        if now_s - self._swept_at_s > JANITOR_INTERVAL_S:
            self._swept_at_s = now_s
            self._unless_damaged(self._sweep)

    def _sweep(self) -> None:
        if count := self._claims.settle_expired():
            self._log.info("claims-settled", count=count)

    def _unless_damaged(self, step: Callable[[], None], **fields: object) -> None:
        """Run a step. Log damage: the claims of that user stay, and those of others are settled."""
        try:
            step()
        except EsError as error:
            if error.kind is not Kind.DAMAGED:
                raise
            self._log.error("claims-not-settled", error, **fields)
