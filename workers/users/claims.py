"""Settle e-mail claims: confirm or release them according to the user's stream.

A command reserves a claim, appends its event, then confirms the claim. After a crash in between the stream decides:
the claim of the command that set the account's current address is confirmed, all others are released. A closed account
has no address, so its event types decide alone: damaged events keep no address. Before an
expired reservation without an event is released, a fence is appended to the stream at its exact version: otherwise a
paused worker could append its event after another user has reserved the address.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from uuid import UUID

from domain.kernel.command_handler import until_no_conflict
from domain.kernel.errors import EsError, Kind, VersionConflict
from domain.kernel.events import NO_STREAM, Event, Metadata, Recorded, event_id
from domain.kernel.ports.codec import Codec
from domain.kernel.ports.event_store import Append, EventStore
from domain.kernel.ports.vault import Claim, ClaimState, Destruction, Reason, Vault
from domain.users.account import CLOSING, INITIAL, USER, Status, User, decide, email_command, evolve
from domain.users.commands import AbandonReservation

ACTOR = "process:claims"


class Claims:
    def __init__(
        self,
        *,
        store: EventStore,
        codec: Codec,
        vault: Vault,
        now_us: Callable[[], int],
        new_id: Callable[[], UUID],
        pause: Callable[[float], None],
    ) -> None:
        self._store = store
        self._codec = codec
        self._vault = vault
        self._now_us = now_us
        self._new_id = new_id
        # After the last conflict the claim stays as it is until the janitor's next round.
        self._until_no_conflict = until_no_conflict(pause)

    def settle(self, subject: int) -> None:
        """Confirm or release every claim of a user, except reservations that a command may still use."""
        self._until_no_conflict(self._settle_once, subject)

    def settle_expired(self, limit: int = 200) -> int:
        """Settle the owners of at most `limit` expired reservations, and return the number of reservations.

        The claims of a damaged stream stay as they are. Its error is raised after the others were settled.
        """
        claims = self._vault.expired_claims(now_us=self._now_us(), limit=limit)
        damaged: EsError | None = None
        for subject in dict.fromkeys(claim.subject for claim in claims):
            try:
                self.settle(subject)
            except EsError as error:
                if error.kind is not Kind.DAMAGED:
                    raise
                damaged = damaged or error
        if damaged is not None:
            raise damaged
        return len(claims)

    def _settle_once(self, subject: int) -> VersionConflict | None:
        # Read the claims before the stream: then the event of a confirmed claim is in the history.
        claims = self._vault.claims_of(subject, now_us=self._now_us())
        events = list(self._store.read_stream(USER.stream_of(subject)))
        is_closed = any(recorded.type in CLOSING for recorded in events)
        history = [self._read(recorded, is_closed) for recorded in events]
        user = reduce(evolve, [event for event, _ in history], INITIAL)
        version = events[-1].version if events else NO_STREAM
        kept = email_command(history)
        used = {command_id for _, command_id in history}
        # A retry of the command with another address may have left a second claim with its id.
        is_confirmed = any(c.command_id == kept and c.state is ClaimState.CONFIRMED for c in claims)
        for claim in claims:
            if claim.command_id == kept and (claim.state is ClaimState.CONFIRMED or not is_confirmed):
                self._vault.confirm([claim.reservation_id])
            elif claim.state is ClaimState.CONFIRMED or claim.command_id in used:
                self._vault.release([claim.reservation_id])
            elif claim.expired or str(claim.reservation_id) in user.abandoned:
                fenced = self._fence(claim, user, version)
                if isinstance(fenced, VersionConflict):
                    return fenced
                version = fenced
                self._release(claim, user)
        return None

    def _read(self, recorded: Recorded, is_closed: bool) -> tuple[Event, UUID]:
        """An event and its command id. In the stream of a closed account a damaged event counts by its type."""
        try:
            return self._codec.decode(recorded), self._codec.metadata(recorded).command_id
        except EsError:
            if not is_closed:
                raise
            return self._codec.outline(recorded) or Event(), recorded.event_id

    def _fence(self, claim: Claim, user: User, version: int) -> int | VersionConflict:
        """Append a fence if one is needed, and return the version of the stream after it."""
        command = AbandonReservation(claim.subject, claim.reservation_id)
        decided = decide(user, command)
        assert not isinstance(decided, Exception)
        if not decided:
            return version
        command_id = self._new_id()
        metadata = Metadata(command_id, command.wire, claim.command_id, claim.command_id, ACTOR)
        events = [
            self._codec.encode(
                event, event_id=event_id(command_id, i), subject=claim.subject, metadata=metadata, sealer=None
            )
            for i, event in enumerate(decided)
        ]
        (result,) = self._store.append([Append(USER.stream_of(claim.subject), version, events)])
        if isinstance(result, VersionConflict):
            return result
        if isinstance(result, Exception):
            raise result
        return result.version

    def _release(self, claim: Claim, user: User) -> None:
        if user.status is Status.UNKNOWN:
            abandoned = Destruction(claim.subject, Reason.ABANDONED)
            self._vault.destroy([abandoned], now_us=self._now_us())
        else:
            self._vault.release([claim.reservation_id])
