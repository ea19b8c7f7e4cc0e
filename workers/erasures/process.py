"""The process of erasures: lists what is decided, and destroys the keys. `cleaning.py` does the rest.

It follows the streams of users. `workers/users/owed.py` lists each erasure in the transaction that moves the
checkpoint. Then the keys of all listed people are destroyed in one transaction.

Promise: what is listed stays listed until it is completed, so nothing is passed over, and the failure of one person delays
no other. Refusal: no key waits for the cleaning of another person.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from adapters.log import Log
from domain.kernel.errors import EsError
from domain.kernel.events import Position, Recorded
from domain.kernel.history import History
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.vault import Destruction, Owed, OwedState, Reason, Vault
from domain.users.account import USER
from workers.erasures.people import PeopleFinder
from workers.runtime.followers import CheckpointedFollowing
from workers.runtime.shared_tail import SharedTail
from workers.users.owed import BATCH_LIMIT, ERASING, LISTED, Listing

RETRY_INTERVAL_S = 5.0
"""The interval in which failed erasures are tried again, unless `es gdpr resume` asks for it."""
_LOOK_INTERVAL_S = 1.0
"""The interval in which the list is read without a reason: another worker may have listed something."""


class ErasureProcess:
    def __init__(
        self,
        *,
        store: EventStore,
        vault: Vault,
        listing: Listing,
        people: PeopleFinder,
        now_us: Callable[[], int],
        log: Log,
        on_destroyed: Callable[[], None] = lambda: None,
        monotonic_s: Callable[[], float] = time.monotonic,
        tail: SharedTail | None = None,
    ) -> None:
        """`on_destroyed` is called after keys were destroyed, so that the cleaning starts at once."""
        self._vault = vault
        self._listing = listing
        self._people = people
        self._now_us = now_us
        self._log = log
        self._on_destroyed = on_destroyed
        self._monotonic_s = monotonic_s
        self._following = CheckpointedFollowing(
            LISTED,
            store=store,
            checkpoints=vault,
            log=log,
            monotonic_s=monotonic_s,
            now_us=now_us,
            prefixes=[USER.prefix],
            types=ERASING,
            batch_limit=BATCH_LIMIT,
            tail=tail,
        )
        self._is_asked = False
        self._looked_at_s = self._retried_at_s = float("-inf")

    @property
    def reached(self) -> Position:
        """The position up to which every erasure is listed."""
        return self._following.reached

    def run(self, stopped: Callable[[], bool]) -> None:
        """Follow until `stopped()`. Raises if the vault or the store fails; the next run resumes from the checkpoint."""
        self._looked_at_s = float("-inf")
        self._following.run(self._react, stopped, after_each=self._after_each)

    def resume(self) -> None:
        """Try everything that is listed at once, also what failed."""
        self._is_asked = True
        self._retried_at_s = float("-inf")

    def _react(self, events: Sequence[Recorded], reached: History) -> None:
        before = self._following.saved
        self._following.saved = self._listing.list_erasures(events, reached, before)
        self._is_asked |= self._following.saved != before  # nothing was listed otherwise, as for a deletion

    def _after_each(self) -> None:
        now_s = self._monotonic_s()
        if not self._is_asked and now_s - self._looked_at_s < _LOOK_INTERVAL_S:
            return
        self._is_asked, self._looked_at_s = False, now_s
        everything = now_s - self._retried_at_s > RETRY_INTERVAL_S
        if everything:
            self._retried_at_s = now_s
        self.destroy(everything=everything)

    def destroy(self, *, everything: bool) -> None:
        """Destroy the keys of all listed people; without `everything` not of those who failed before."""
        after = 0
        while page := self._vault.owed(after=after, limit=BATCH_LIMIT, state=OwedState.DECIDED):
            after = page[-1].decided.subject
            due = [owed for owed in page if everything or not owed.last_error]
            if due:
                self._destroy_keys(due)
                self._on_destroyed()

    def _destroy_keys(self, due: Sequence[Owed]) -> None:
        """In one transaction for everyone. If that fails, each alone: one damaged page must protect no other key."""
        try:
            self._vault.destroy([self._destruction(owed) for owed in due], now_us=self._now_us())
        except EsError:
            for owed in due:
                self._destroy_key(owed)

    def _destroy_key(self, owed: Owed) -> None:
        decided = owed.decided
        try:
            self._vault.destroy([self._destruction(owed)], now_us=self._now_us())
        except EsError as error:
            self._log.error("erasure-failed", error, position=decided.position, state=owed.state.value)
            # A vault that is unavailable as a whole raises here.
            self._vault.erasure_failed([decided.subject], str(error))

    def _destruction(self, owed: Owed) -> Destruction:
        # Collect the tags while the key opens: nothing can do so later.
        decided = owed.decided
        tags = self._people.tags_of(decided.subject)
        return Destruction(decided.subject, Reason.ERASURE, decided.event_id, tags)
