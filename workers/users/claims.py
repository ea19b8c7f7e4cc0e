"""Settle e-mail claims by what the person's stream says.

A claim is reserved, then an event is appended, then the claim is confirmed. Whatever crashes in between,
the stream decides: the claim of the command that gave the account its present address is confirmed, any
other is released. Before an unused, expired reservation is released, a fence is appended to the stream at
its exact version, so that the late append of a paused worker conflicts instead of using a freed address.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from domain.kernel.command_handler import until_no_conflict
from domain.kernel.errors import EsError, Kind, VersionConflict
from domain.kernel.events import NO_STREAM, Event, Metadata, event_id
from domain.kernel.ports.codec import Codec
from domain.kernel.ports.event_store import Append, EventStore
from domain.kernel.ports.vault import Claim, ClaimState, Vault
from domain.users.account import INITIAL, USER, Status, User, decide, email_command, evolve
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
        # When the conflicts do not end, the claim stays as it is until the janitor's next round.
        self._until_no_conflict = until_no_conflict(pause)

    def settle(self, subject: int) -> None:
        """Confirm or release every claim of a person that isn't in use by a command under way."""
        self._until_no_conflict(self._settle_once, subject)

    def settle_expired(self, limit: int = 200) -> int:
        """The janitor's round: settle the owners of expired reservations; how many reservations there were.

        A damaged stream keeps only its own claims; its error is raised when the others are done.
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
        # The claims before the stream: a claim seen as confirmed then has its event in the history.
        claims = self._vault.claims_of(subject, now_us=self._now_us())
        history: list[tuple[Event, UUID]] = []
        user, version = INITIAL, NO_STREAM
        for recorded in self._store.read_stream(USER.stream_of(subject)):
            event = self._codec.decode(recorded)
            history.append((event, self._codec.metadata(recorded).command_id))
            user, version = evolve(user, event), recorded.version
        kept = email_command(history)
        used = {command_id for _, command_id in history}
        # A repeat of the command with another address may have left a second claim in its name.
        is_held = any(c.command_id == kept and c.state is ClaimState.CONFIRMED for c in claims)
        for claim in claims:
            if claim.command_id == kept and (claim.state is ClaimState.CONFIRMED or not is_held):
                self._vault.confirm([claim.reservation_id])
            elif claim.state is ClaimState.CONFIRMED or claim.command_id in used:
                self._vault.release([claim.reservation_id])
            elif claim.expired or str(claim.reservation_id) in user.abandoned:
                fenced = self._fence(claim, user, version)
                if isinstance(fenced, VersionConflict):
                    return fenced
                version = fenced
                self._free(claim, user)
        return None

    def _fence(self, claim: Claim, user: User, version: int) -> int | VersionConflict:
        """Append the fence if one is needed; the version of the stream after it."""
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

    def _free(self, claim: Claim, user: User) -> None:
        if user.status is Status.UNKNOWN:
            self._vault.abandon_registration(claim.subject, claim.reservation_id)
        else:
            self._vault.release([claim.reservation_id])
