"""The `erasures` worker: the process manager that carries an erasure through and settles e-mail claims.

It follows the people's streams. For `user-erased` it removes the person's requests from the dead letters,
destroys the key and the claims, with its checkpoint in the same vault transaction, then appends
`erasure-completed`. For a changed address or a deletion it
settles the person's claims. Every step may be repeated, so a crash anywhere is resumed by running again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from uuid import uuid5

from adapters.log import Log
from domain.kernel.command_handler import CommandHandler, Done, Order
from domain.kernel.errors import EsError, InvalidInput, KeyUnavailable, Kind
from domain.kernel.events import Metadata, Position, Recorded
from domain.kernel.messages import Body
from domain.kernel.personal import Personal
from domain.kernel.ports.codec import Codec, Opener
from domain.kernel.ports.event_store import CaughtUp, EventStore
from domain.kernel.ports.vault import Vault
from domain.users.account import (
    STREAM_PREFIX,
    User,
    UserDeleted,
    UserEmailChanged,
    UserErased,
    stream_of,
    user_id_of,
)
from domain.users.commands import Command, CompleteErasure, parse_email
from workers.runtime.followers import start_of
from workers.users.claims import Claims

ACTOR = "process:erasures"
DESTROYING = "erasures"
"""Name of the vault checkpoint that moves with the destruction of a key."""
COMPLETING = "erasures-completed"
"""Name of the vault checkpoint behind which everything is finished; the process starts from it."""
JANITOR_INTERVAL_S = 5.0
_SAVE_INTERVAL_S = 1.0

PurgeDeadLetters = Callable[[int, Callable[[Body], bool]], int]
"""Removes what names a user id, or what the function says is theirs, and tells how much; see `DeadLetters`."""


class ErasureProcess:
    def __init__(
        self,
        *,
        store: EventStore,
        codec: Codec,
        vault: Vault,
        claims: Claims,
        handler: CommandHandler[User, Command],
        keyring: Callable[[Sequence[int]], Opener],
        log: Log,
        purge_dead_letters: PurgeDeadLetters | None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._codec = codec
        self._vault = vault
        self._claims = claims
        self._handler = handler
        self._keyring = keyring
        self._log = log
        self._purge_dead_letters = purge_dead_letters
        self._monotonic_s = monotonic_s
        self.reached = Position(0)
        """Everything up to here was looked at."""
        self.waits_for: EsError | None = None
        """What went wrong last, until something went well again."""

    def run(self, stopped: Callable[[], bool]) -> None:
        """Follow until `stopped()`. Raises when a part fails; running again continues from the checkpoint."""
        try:
            self._follow(stopped)
        except EsError as error:
            self.waits_for = error
            raise

    def _follow(self, stopped: Callable[[], bool]) -> None:
        saved = start_of(COMPLETING, store=self._store, checkpoints=self._vault, log=self._log)
        self._log.info("following", process=DESTROYING, position=saved)
        self.reached, saved_at_s, swept_at_s = saved, self._monotonic_s(), 0.0
        for item in self._store.follow(saved, stopped=stopped, prefixes=[STREAM_PREFIX]):
            if not isinstance(item, CaughtUp):
                self._unless_damaged(partial(self.react, item), position=item.position)
            self.reached, self.waits_for, now_s = item.position, None, self._monotonic_s()
            if self.reached > saved and now_s - saved_at_s > _SAVE_INTERVAL_S:
                self._vault.save_checkpoint(COMPLETING, self.reached)
                saved, saved_at_s = self.reached, now_s
            if now_s - swept_at_s > JANITOR_INTERVAL_S:
                swept_at_s = now_s
                self._unless_damaged(self._sweep)
        if self.reached > saved:
            self._vault.save_checkpoint(COMPLETING, self.reached)

    def _sweep(self) -> None:
        if count := self._claims.settle_expired():
            self._log.info("claims-settled", count=count)

    def _unless_damaged(self, step: Callable[[], None], **fields: object) -> None:
        """A damaged stream is told and passed over: it must not hold up the erasure of anybody else."""
        try:
            step()
        except EsError as error:
            if error.kind is not Kind.DAMAGED:
                raise
            self._log.error("person-passed-over", error, **fields)

    def react(self, recorded: Recorded) -> None:
        """One event. Idempotent."""
        if recorded.type == UserErased.type:
            self._erase(recorded)
        elif recorded.type in (UserDeleted.type, UserEmailChanged.type):
            self._claims.settle(user_id_of(recorded.stream))

    def _erase(self, recorded: Recorded) -> None:
        subject = user_id_of(recorded.stream)
        # In this order. Dead letters while the addresses can be read; nothing new can come, as the fence is in the
        # stream already. The key before the completion: what is called complete is.
        if self._purge_dead_letters is not None:
            self._unless_damaged(partial(self._purge, subject, self._purge_dead_letters))
        self._vault.destroy_key(subject, process=DESTROYING, position=recorded.position)
        cause = self._codec.metadata(recorded)
        metadata = Metadata(
            command_id=uuid5(recorded.event_id, CompleteErasure.wire),
            command=CompleteErasure.wire,
            correlation_id=cause.correlation_id,
            causation_id=recorded.event_id,
            actor=ACTOR,
        )
        order: Order[Command] = Order(CompleteErasure(subject), stream_of(subject), subject, metadata)
        (outcome,) = self._handler.handle([order])
        if not isinstance(outcome, Done):
            raise outcome
        self._log.info("erased", position=recorded.position)

    def _purge(self, subject: int, purge_dead_letters: PurgeDeadLetters) -> None:
        commands, addresses = set(), set()
        keyring = self._keyring([subject])
        for event in self._store.read_stream(stream_of(subject)):
            commands.add(str(self._codec.metadata(event).command_id))
            with suppress(
                KeyUnavailable
            ):  # of somebody whom the vault never knew the addresses can't be told
                email = getattr(self._codec.decode(event, subject=subject, opener=keyring), "email", None)
                addresses.add(email.value if isinstance(email, Personal) else None)

        def is_theirs(request: Body) -> bool:
            # A registration names no id: it is theirs by its command, or by its address.
            body = request.get("body")
            if not isinstance(body, dict):
                return str(subject) in str(request)
            if str(body.get("command_id")) in commands:
                return True
            given = body.get("input")
            try:
                email = parse_email(given.get("email") if isinstance(given, dict) else None)
            except InvalidInput:
                return False
            return email.value in addresses

        if count := purge_dead_letters(subject, is_theirs):
            self._log.info("dead-letters-purged", count=count)
