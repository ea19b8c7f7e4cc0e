"""Clean up after destroyed keys: dead letters, kept tags, and the bytes in the files of the vault. Then complete.

Promise: an erasure is completed only after its cleaning, in batches, and is tried again until then. Refusal: it
destroys no key, so that no slow or blocked part delays one.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from uuid import UUID, uuid5

from adapters.log import Log
from domain.kernel.command_handler import CommandHandler
from domain.kernel.errors import Damaged, EsError, Kind
from domain.kernel.events import Metadata
from domain.kernel.messages import Body
from domain.kernel.orders import Done, Order
from domain.kernel.ports.codec import Codec
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.vault import Decided, Owed, OwedState, Vault
from domain.kernel.streams import remaining
from domain.users.account import USER, User
from domain.users.commands import CompleteErasure, UserCommand
from domain.users.traces import PersonFields, is_about, letter_of
from workers.erasures.late_letters import DeadLetters, LateLetters
from workers.erasures.people import PeopleFinder
from workers.erasures.process import RETRY_INTERVAL_S

ACTOR = "process:erasures"
BATCH_LIMIT = 256
"""Erasures in one pass through the dead letters, at most. A pass reads all of them."""
_POLL_S = 0.2
_LOOK_INTERVAL_S = 1.0


class Cleaning:
    def __init__(
        self,
        *,
        store: EventStore,
        codec: Codec,
        vault: Vault,
        people: PeopleFinder,
        handler: CommandHandler[User, UserCommand],
        dead_letters: DeadLetters | None,
        log: Log,
        fields: PersonFields = MappingProxyType({}),
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`dead_letters` is None for a transport without dead letters. `fields` tell users in requests of other services."""
        self._fields = fields
        self._store = store
        self._codec = codec
        self._vault = vault
        self._people = people
        self._handler = handler
        self._dead_letters = dead_letters
        self._log = log
        self._monotonic_s = monotonic_s
        self._late = (
            LateLetters(dead_letters, store=store, codec=codec, vault=vault, log=log, fields=fields)
            if dead_letters
            else None
        )
        self._waking = threading.Event()
        self._retried_at_s = float("-inf")

    def wake(self) -> None:
        """Look at once: a key was destroyed."""
        self._waking.set()

    def resume(self) -> None:
        """Try everything at once, also what failed."""
        self._retried_at_s = float("-inf")
        self.wake()

    def run(self, stopped: Callable[[], bool]) -> None:
        """Clean until `stopped()`. Raises if the vault fails as a whole; a later run goes on."""
        looked_at_s = float("-inf")
        while not stopped():
            now_s = self._monotonic_s()
            if self._waking.is_set() or now_s - looked_at_s >= _LOOK_INTERVAL_S:
                self._waking.clear()
                looked_at_s = now_s
                self.clean()
            self._waking.wait(_POLL_S)

    def clean(self) -> None:
        """Clean up after everyone whose key is destroyed; after those who failed only once in an interval."""
        now_s = self._monotonic_s()
        everything = now_s - self._retried_at_s > RETRY_INTERVAL_S
        if everything:
            self._retried_at_s = now_s
        after = 0
        while page := self._vault.owed(after=after, limit=BATCH_LIMIT, state=OwedState.KEY_DESTROYED):
            after = page[-1].decided.subject
            due = [owed for owed in page if everything or not owed.last_error]
            if due:
                self._attempt(due)
        if everything and self._late is not None:
            self._late.look(now_s)

    def _attempt(self, due: Sequence[Owed]) -> None:
        """Clean up after these people; after each alone if one of them is damaged."""
        try:
            self._clean(due)
        except EsError as error:
            if error.kind is Kind.DAMAGED and len(due) > 1:
                for owed in due:
                    self._attempt([owed])
            else:
                self._failed([owed.decided for owed in due], error)

    def _failed(self, people: Sequence[Decided], error: EsError) -> None:
        for decided in people:
            self._log.error("cleaning-failed", error, position=decided.position)
        # A vault that is unavailable as a whole raises here.
        self._vault.erasure_failed([decided.subject for decided in people], str(error))

    def _clean(self, due: Sequence[Owed]) -> None:
        subjects = [owed.decided.subject for owed in due]
        try:
            letters = self._purge(subjects)
        except EsError:
            # The bytes of the keys do not wait for the broker. Once: it would cost the same at each retry.
            if any(not owed.last_error for owed in due):
                with suppress(EsError):  # tried again after the letters
                    self._vault.remove_residue(subjects)
            raise
        # The tags only now: they recognise the letters. Their bytes go with those of the keys.
        self._vault.forget_tags({subject: letters.get(subject, 0) for subject in subjects})
        self._vault.remove_residue(subjects)
        completed = [owed.decided for owed in due if self._complete(owed, letters)]
        self._vault.settle_erasures([decided.subject for decided in completed])
        for decided in completed:
            self._log.info("erased", position=decided.position)

    def _purge(self, subjects: Sequence[int]) -> Mapping[int, int]:
        """Remove the requests of these people, and what else contains their data, from the dead letters."""
        if self._dead_letters is None:
            return {}
        people = self._people.people(subjects)
        unknown: Counter[str] = Counter()

        def about(item: Body) -> set[int]:
            letter = letter_of(item, self._fields)
            found = is_about(people, letter, tags=self._vault.tags, holders=self._vault.holders)
            if "unreadable" in item and not found:
                unknown[str(item["unreadable"])] += 1
            return found

        removed = self._dead_letters.purge(about)
        if removed:
            self._log.info("dead-letters-purged", count=sum(removed.values()))
        if unknown:
            self._log.warning("dead-letters-not-attributed", count=len(unknown))
        return removed

    def _complete(self, owed: Owed, letters: Mapping[int, int]) -> bool:
        """Store that an erasure is completed. It fails for this person alone."""
        decided = owed.decided
        if decided.event_id is None:
            return True  # the stream of the person was deleted: there is nothing to complete in it
        command = CompleteErasure(decided.subject, owed.letters + letters.get(decided.subject, 0))
        stream = USER.stream_of(decided.subject)
        order: Order[UserCommand] = Order(
            command, stream, decided.subject, self._metadata(stream, decided.event_id)
        )
        (outcome,) = self._handler.handle([order])
        if isinstance(outcome, Done):
            return True
        self._failed([decided], outcome)
        return False

    def _metadata(self, stream: str, erased: UUID) -> Metadata:
        correlation_id = erased
        for recorded in remaining(self._store, [stream])[stream][0]:
            if recorded.event_id == erased:
                with suppress(Damaged):
                    correlation_id = self._codec.metadata(recorded).correlation_id
        command_id = uuid5(erased, CompleteErasure.wire)
        return Metadata(command_id, CompleteErasure.wire, correlation_id, erased, ACTOR)
