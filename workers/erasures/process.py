"""The process manager of erasures. It also settles e-mail claims.

It follows the streams of users. After `user-erased` it removes the user's data from the dead letters, destroys
the data key and the claims, with its checkpoint in the same vault transaction, then appends `erasure-completed`.
After a change of the address or a deletion it settles the user's claims.

Promise: every step is idempotent, so a run after a crash completes the erasure. Refusal: it completes no erasure
before the data key is destroyed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from uuid import uuid5

from adapters.log import Log
from domain.kernel.command_handler import CommandHandler, Done, Order
from domain.kernel.errors import Damaged, EsError, InvalidInput, Kind
from domain.kernel.events import Metadata, Position, Recorded
from domain.kernel.messages import Body
from domain.kernel.ports.codec import Codec, Opener
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.vault import Vault
from domain.users.account import ERASING, USER, User, UserDeleted, UserEmailChanged
from domain.users.commands import CompleteErasure, UserCommand
from workers.erasures.people import People
from workers.runtime.followers import CheckpointedFollowing
from workers.users.claims import Claims

ACTOR = "process:erasures"
DESTROYING = "erasures"
"""The name of the vault checkpoint that moves in the transaction that destroys a key."""
COMPLETING = "erasures-completed"
"""The name of the vault checkpoint up to which every reaction is complete. The process starts from it."""
JANITOR_INTERVAL_S = 5.0

BATCH_LIMIT = 256
"""Erasures in one pass through the dead letters, at most. A pass reads all of them."""

_FOLLOWED = (*ERASING, UserDeleted.type, UserEmailChanged.type)

PurgeDeadLetters = Callable[[Callable[[Body], bool]], int]
"""Removes the dead letters that the function selects in one pass, and returns their number."""


class ErasureProcess:
    def __init__(
        self,
        *,
        store: EventStore,
        codec: Codec,
        vault: Vault,
        claims: Claims,
        handler: CommandHandler[User, UserCommand],
        keyring: Callable[[Sequence[int]], Opener],
        log: Log,
        purge_dead_letters: PurgeDeadLetters | None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`purge_dead_letters` is None for a transport without dead letters."""
        self._store = store
        self._codec = codec
        self._vault = vault
        self._claims = claims
        self._handler = handler
        self._keyring = keyring
        self._log = log
        self._purge_dead_letters = purge_dead_letters
        self._monotonic_s = monotonic_s
        self._swept_at_s = 0.0
        self._following = CheckpointedFollowing(
            COMPLETING,
            store=store,
            checkpoints=_UpToOwed(vault, self._complete_up_to),
            log=log,
            monotonic_s=monotonic_s,
            prefixes=[USER.prefix],
            batch_limit=BATCH_LIMIT,
        )
        self.waits_for: EsError | None = None
        """The last error, until a step succeeds."""
        self._owed: dict[Position, tuple[Recorded, EsError]] = {}
        """Erasures that damage prevents, by the position of their event. The janitor's interval retries them."""

    @property
    def reached(self) -> Position:
        """The position up to which every erasure is complete."""
        return self._complete_up_to(self._following.reached)

    def _complete_up_to(self, position: Position) -> Position:
        return min(position, *(owed - 1 for owed in self._owed)) if self._owed else position

    def error_of(self, user_id: int) -> EsError | None:
        """Why the erasure of a user is not complete, as far as it is known."""
        stream = USER.stream_of(user_id)
        owed = (error for recorded, error in [*self._owed.values()] if recorded.stream == stream)
        return next(owed, self.waits_for)

    def run(self, stopped: Callable[[], bool]) -> None:
        """Follow until `stopped()`. Raises if a part fails; the next run resumes from the checkpoint."""
        self._swept_at_s = 0.0
        self._owed.clear()  # their events come again: the checkpoint is before them
        try:
            self._following.run(self.react, stopped, after_each=self._after_each)
        except EsError as error:
            self.waits_for = error
            raise

    def react(self, events: Sequence[Recorded]) -> None:
        """React to events in order. Idempotent."""
        events = [recorded for recorded in events if self._is_of_a_user(recorded)]
        erased = [USER.id_of(recorded.stream) for recorded in events if recorded.type in ERASING]
        # Purge first, while the keys open the addresses; the fences in the streams prevent new requests.
        if erased and self._purge_dead_letters is not None:
            self._purge(erased, self._purge_dead_letters)
        for recorded in events:
            self._react(recorded)

    def _is_of_a_user(self, recorded: Recorded) -> bool:
        """Whether the event can concern a user. Another program may write to a stream such as `user-x`."""
        try:
            USER.id_of(recorded.stream)
        except InvalidInput as error:
            if recorded.type in _FOLLOWED:
                self._log.error("event-passed-over", error, position=recorded.position)
            return False
        return True

    def _after_each(self) -> None:
        self.waits_for = None
        now_s = self._monotonic_s()
        if now_s - self._swept_at_s > JANITOR_INTERVAL_S:
            self._swept_at_s = now_s
            for recorded, _ in [*self._owed.values()]:
                self._react(recorded)
            self._unless_damaged(self._sweep)

    def _sweep(self) -> None:
        if count := self._claims.settle_expired():
            self._log.info("claims-settled", count=count)

    def _unless_damaged(self, step: Callable[[], None], **fields: object) -> EsError | None:
        """Run a step. Log damage and return it: it must not block the erasure of other users."""
        try:
            step()
        except EsError as error:
            if error.kind is not Kind.DAMAGED:
                raise
            self._log.error("person-passed-over", error, **fields)
            return error
        return None

    def _react(self, recorded: Recorded) -> None:
        if recorded.type in ERASING:
            damage = self._unless_damaged(partial(self._erase, recorded), position=recorded.position)
            if damage is None:
                self._owed.pop(recorded.position, None)
            else:
                self._owed[recorded.position] = (recorded, damage)
        elif recorded.type in (UserDeleted.type, UserEmailChanged.type):
            settle = partial(self._claims.settle, USER.id_of(recorded.stream))
            self._unless_damaged(settle, position=recorded.position)

    def _erase(self, recorded: Recorded) -> None:
        subject = USER.id_of(recorded.stream)
        # Destroy the key before the completion: otherwise a crash leaves a completed erasure with a key.
        self._vault.destroy_key(subject, process=DESTROYING, position=recorded.position)
        correlation_id = recorded.event_id
        with suppress(Damaged):
            correlation_id = self._codec.metadata(recorded).correlation_id
        metadata = Metadata(
            command_id=uuid5(recorded.event_id, CompleteErasure.wire),
            command=CompleteErasure.wire,
            correlation_id=correlation_id,
            causation_id=recorded.event_id,
            actor=ACTOR,
        )
        order: Order[UserCommand] = Order(CompleteErasure(subject), recorded.stream, subject, metadata)
        (outcome,) = self._handler.handle([order])
        if not isinstance(outcome, Done):
            raise outcome
        self._log.info("erased", position=recorded.position)

    def _purge(self, subjects: Sequence[int], purge_dead_letters: PurgeDeadLetters) -> None:
        """Remove the requests of these users, and what else contains their data, from the dead letters."""
        people = People(self._store, self._codec, self._keyring(subjects), self._vault.holder, subjects)
        if count := purge_dead_letters(people.are_in):
            self._log.info("dead-letters-purged", count=count)
        if people.unknown:
            self._log.warning("dead-letters-not-attributed", count=people.unknown)


class _UpToOwed:
    """The checkpoints of the vault. None moves past an erasure that is owed: a restart must not forget it."""

    def __init__(self, vault: Vault, complete_up_to: Callable[[Position], Position]) -> None:
        self._complete_up_to = complete_up_to
        self.checkpoint = vault.checkpoint
        self.rewind_checkpoint = vault.rewind_checkpoint
        self._save = vault.save_checkpoint

    def save_checkpoint(self, process: str, position: Position) -> None:
        self._save(process, self._complete_up_to(position))
