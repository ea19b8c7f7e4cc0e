"""List decided erasures in the vault: the table of owed erasures drives everything that carries them out.

Promise: the type of an event and the name of its stream suffice, so no damage hides an erasure, and the checkpoint moves
in the transaction that lists. Refusal: it destroys nothing and reads no personal data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from adapters.log import Log
from domain.kernel.errors import EsError, InvalidInput, Kind
from domain.kernel.events import Position, Recorded
from domain.kernel.history import History, Mark
from domain.kernel.ports.codec import Codec
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.vault import Decided, DestroyedKey, Quarantined, Vault
from domain.kernel.streams import remaining
from domain.users.account import USER, ErasureCompleted, UserDeleted, UserErased
from workers.runtime.followers import resume

LISTED = "erasures-listed"
"""The name of the vault checkpoint up to which every decided erasure is listed or completed."""

BATCH_LIMIT = 256
"""Events that are listed in one transaction, at most."""

ERASING = tuple(event.type.rpartition(".v")[0] for event in (UserErased, UserDeleted))
"""The beginnings of the types that can be listed, in any version."""

_FOREIGN = "the name of the stream has no user id"


class Listing:
    """Lists erasures from events of users' streams. Idempotent, so several workers may list at the same time."""

    def __init__(
        self, *, store: EventStore, codec: Codec, vault: Vault, now_us: Callable[[], int], log: Log
    ) -> None:
        self._store = store
        self._codec = codec
        self._vault = vault
        self._now_us = now_us
        self._log = log

    def up_to_head(self, stopped: Callable[[], bool]) -> Position:
        """List everything up to the present head of the store, from the checkpoint on, until `stopped()`.

        Returns the position up to which everything is listed: the head, unless it was stopped; a next call goes on
        from there. From then on no key of a person whose erasure was decided opens anything, also in a restored vault.
        """
        saved = reached = resume(LISTED, self._store, self._vault, self._log, self._now_us())
        head = self._store.head()
        while reached.position < head and not stopped():
            events = list(self._store.read_all(reached.position, BATCH_LIMIT, prefixes=[USER.prefix]))
            if not events:
                self._vault.save_checkpoint(LISTED, reached, since=saved.position)
                return head
            reached = reached.reach(Mark(events[-1].position, events[-1].event_id))
            saved = self.list_erasures(events, reached, saved)
        self._vault.save_checkpoint(LISTED, reached, since=saved.position)
        return reached.position

    def list_erasures(self, events: Sequence[Recorded], reached: History, saved: History) -> History:
        """List the erasures that these events decide, together with the checkpoint `reached`; the checkpoint then.

        Without an erasure nothing is written, and it stays `saved`. Raises `PartUnavailable`.
        """
        decided, foreign = self._found(events)
        decided = [each for each in decided if not self._is_completed(each)]
        if not decided and not foreign:
            return saved
        self._vault.owe(
            decided,
            now_us=self._now_us(),
            process=LISTED,
            reached=reached,
            since=saved.position,
            quarantined=foreign,
        )
        for each in decided:
            self._log.info("erasure-listed", position=each.position)
        for event in foreign:
            self._log.warning("event-quarantined", position=event.position, type=event.type)
        return reached

    def decided_in(self, subject: int) -> Decided | None:
        """The erasure that a person's stream decides."""
        stream = USER.stream_of(subject)
        decided, _ = self._found(remaining(self._store, [stream])[stream][0])
        return next(iter(decided), None)

    def _found(
        self, events: Sequence[Recorded] | Iterator[Recorded]
    ) -> tuple[list[Decided], list[Quarantined]]:
        decided: list[Decided] = []
        foreign: list[Quarantined] = []
        for recorded in events:
            # The outline: an event of any version counts by its type, also if its data is damaged.
            outline = self._codec.outline(recorded)
            if not isinstance(outline, UserErased | UserDeleted):
                continue
            try:
                subject = USER.id_of(recorded.stream)
            except InvalidInput:
                foreign.append(Quarantined(recorded.position, recorded.stream, recorded.type, _FOREIGN))
                continue
            if isinstance(outline, UserErased):
                decided.append(Decided(subject, recorded.event_id, recorded.position))
        return decided, foreign

    def _is_completed(self, decided: Decided) -> bool:
        """Whether the stream tells that the erasure was completed, and this vault holds nothing of the person."""
        try:
            if not self.is_gone(decided.subject):
                return False
        except EsError as error:
            if error.kind is not Kind.DAMAGED:
                raise
            return False  # of this person only: it is listed, and fails there until the damage is repaired
        stream = USER.stream_of(decided.subject)
        events, _ = remaining(self._store, [stream])[stream]
        return any(isinstance(self._codec.outline(recorded), ErasureCompleted) for recorded in events)

    def is_gone(self, subject: int) -> bool:
        """Whether the vault holds a tombstone, no claim and no owed erasure of a person."""
        vault = self._vault
        return (
            isinstance(vault.data_keys([subject], even_owed=True).get(subject), DestroyedKey)
            and not vault.claims_of([subject], now_us=self._now_us())
            and vault.owed_of(subject) is None
        )
