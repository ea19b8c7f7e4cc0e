"""Settle claims: after a value was changed or its instance closed, and those of expired reservations.

Promise: every change and deletion is followed, and a damaged stream delays no other. Refusal: it has no part in
erasures, which destroy claims together with the key.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from adapters.log import Log
from domain.kernel.errors import EsError, InvalidInput, Kind
from domain.kernel.events import Recorded
from domain.kernel.history import History
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.vault import Vault
from domain.users.account import USER, UserDeleted, UserEmailChanged
from workers.runtime.claims import UniqueClaims
from workers.runtime.followers import CheckpointedFollowing
from workers.runtime.shared_tail import SharedTail
from workers.users.claims import SETTLED, Claims

JANITOR_INTERVAL_S = 5.0
_COLLECT_S = 0.2
_BATCH_LIMIT = 1024
_FOLLOWED = (UserDeleted.type, UserEmailChanged.type)


def followed_types(unique: UniqueClaims) -> list[str]:
    """The types of the events that it follows."""
    return [*_FOLLOWED, *unique.followed]


class ClaimsProcess:
    def __init__(
        self,
        *,
        store: EventStore,
        vault: Vault,
        claims: Claims,
        unique: UniqueClaims,
        log: Log,
        monotonic_s: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
        tail: SharedTail | None = None,
    ) -> None:
        """`claims` settles those on addresses, `unique` those of other aggregates."""
        self._claims = claims
        self._unique = unique
        self._pause = pause
        self._log = log
        self._monotonic_s = monotonic_s
        self._swept_at_s = float("-inf")
        self._following = CheckpointedFollowing(
            SETTLED,
            store=store,
            checkpoints=vault,
            log=log,
            monotonic_s=monotonic_s,
            prefixes=[USER.prefix, *unique.prefixes],
            types=followed_types(unique),
            batch_limit=_BATCH_LIMIT,
            tail=tail,
        )

    def run(self, stopped: Callable[[], bool]) -> None:
        """Follow until `stopped()`. Raises if a part fails; the next run resumes from the checkpoint."""
        self._swept_at_s = float("-inf")
        self._following.run(self._react, stopped, after_each=self._after_each)

    def _react(self, events: Sequence[Recorded], _: History) -> None:
        # Here, not per event: what is stored meanwhile is settled in one go. An address that is wanted sooner is settled
        # by the command that wants it.
        self._pause(_COLLECT_S)
        changed: set[int] = set()
        closed: set[int] = set()
        streams: list[str] = []
        for recorded in events:
            if recorded.stream.startswith(self._unique.prefixes):
                # The first event of a stream took the value, and nothing was to be released.
                streams += [recorded.stream] if recorded.version > 0 else []
            elif recorded.type in _FOLLOWED:
                with suppress(InvalidInput):  # of another program; `workers/users/owed.py` reports it
                    known = closed if recorded.type == UserDeleted.type else changed
                    known.add(USER.id_of(recorded.stream))
        changed -= closed
        settle = partial(self._claims.settle, sorted(changed | closed), closed=closed, changed=changed)
        self._unless_damaged(settle)
        self._unless_damaged(partial(self._unique.settle, streams))

    def _after_each(self) -> None:
        now_s = self._monotonic_s()
        if now_s - self._swept_at_s > JANITOR_INTERVAL_S:
            self._swept_at_s = now_s
            self._unless_damaged(partial(self._sweep, self._claims.settle_expired))
            self._unless_damaged(partial(self._sweep, self._unique.settle_expired))

    def _sweep(self, settle_expired: Callable[[], int]) -> None:
        if count := settle_expired():
            self._log.info("claims-settled", count=count)

    def _unless_damaged(self, step: Callable[[], object]) -> None:
        """Run a step. Log damage: the claims of that stream stay, and those of others are settled."""
        try:
            step()
        except EsError as error:
            if error.kind is not Kind.DAMAGED:
                raise
            self._log.error("claims-not-settled", error)
