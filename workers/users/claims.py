"""Settle e-mail claims: confirm or release them according to the streams of their users.

A command reserves a claim, appends its event, then confirms the claim. After a crash in between the stream decides:
the claim of the command that set the account's current address is confirmed, all others are released. A closed account
has no address, so its event types decide alone: damaged events keep no address. Before an
expired reservation without an event is released, a fence is appended to the stream at its exact version: otherwise a
paused worker could append its event after another user has reserved the address.

However many users are settled, a pass waits once for each of: their claims, their streams, the fences, the vault's
transaction. A damaged stream affects its user only, and after a conflict only the users who met it are settled again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from uuid import UUID

from domain.kernel.command_handler import until_no_conflict
from domain.kernel.errors import Damaged, EsError
from domain.kernel.events import NO_STREAM, Event, EventData, Metadata, Recorded, event_id
from domain.kernel.ports.codec import Codec
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.vault import Claim, ClaimId, ClaimState, Vault
from domain.users.account import CLOSING, INITIAL, USER, Status, User, decide, email_command, evolve
from domain.users.commands import AbandonReservation
from workers.runtime.fences import append_fences, raise_first

ACTOR = "process:claims"
SETTLED = "erasures-completed"
"""The name of the checkpoint up to which claims are settled, see `workers/erasures/claims.py`. Earlier versions settled
claims under this name, so it goes on where they ended."""


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What the stream of a user decides about the user's claims. Nothing is released before the fences are stored."""

    version: int
    is_registered: bool
    confirmed: list[ClaimId] = field(default_factory=list)
    released: list[ClaimId] = field(default_factory=list)
    expired: list[ClaimId] = field(default_factory=list)
    fences: list[EventData] = field(default_factory=list)


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

    def settle(
        self, subjects: Iterable[int], *, closed: Collection[int] = (), changed: Collection[int] = ()
    ) -> None:
        """Confirm or release every claim of these users, except reservations that a command may still use.

        `closed` are those whose account is known to be closed: it has no address, so confirmed claims are released
        without a look at the stream. `changed` are those of whom no more is known than that they changed their address:
        the present one has a claim, so a single claim that is confirmed is that of the address, and the stream is not read.
        The claims of a damaged stream, or of one whose fence was not stored, stay as they are. The first such error is
        raised after the others were settled, an outage before damage.
        """
        errors: list[EsError] = []
        pending = list(dict.fromkeys(subjects))

        def attempt() -> bool:
            nonlocal pending
            pending = self._settle_once(pending, closed, changed, errors)
            return bool(pending)

        self._until_no_conflict(attempt)
        raise_first(errors)

    def settle_expired(self, limit: int = 200) -> int:
        """Settle the owners of those on addresses among at most `limit` expired reservations, and return their number.

        Raises as `settle`.
        """
        expired = self._vault.expired_claims(now_us=self._now_us(), limit=limit)
        claims = [claim for claim in expired if not claim.stream]
        self.settle(claim.subject for claim in claims)
        return len(claims)

    def _settle_once(
        self,
        subjects: Sequence[int],
        closed: Collection[int],
        changed: Collection[int],
        errors: list[EsError],
    ) -> list[int]:
        """Settle users once, collect their errors, and return those whose fence met a conflict."""
        # Read the claims before the stream: then the event of a confirmed claim is in the history.
        claims: dict[int, list[Claim]] = {}
        for claim in self._vault.claims_of(subjects, now_us=self._now_us()) if subjects else ():
            if not claim.stream:  # others are settled by the streams that they name
                claims.setdefault(claim.subject, []).append(claim)
        verdicts: dict[int, _Verdict] = {}
        for subject in claims.keys() & closed:
            if all(claim.state is ClaimState.CONFIRMED for claim in claims[subject]):
                released = [claim.id for claim in claims.pop(subject)]
                verdicts[subject] = _Verdict(NO_STREAM, is_registered=True, released=released)
        for subject in claims.keys() & changed:
            if [claim.state for claim in claims[subject]] == [ClaimState.CONFIRMED]:
                del claims[subject]
        streams = self._store.read_streams([USER.stream_of(s) for s in claims]) if claims else {}
        for subject, held in claims.items():
            try:
                verdicts[subject] = self._verdict(streams[USER.stream_of(subject)], held)
            except EsError as error:  # of this user only
                errors.append(error)
        conflicts = append_fences(self._store, verdicts, USER.stream_of, errors)
        self._write(verdicts)
        return conflicts

    def _verdict(self, stream: Sequence[Recorded] | Damaged, claims: Sequence[Claim]) -> _Verdict:
        if isinstance(stream, Damaged):
            raise stream
        is_closed = any(recorded.type in CLOSING for recorded in stream)
        history = [self._read(recorded, is_closed) for recorded in stream]
        user = reduce(evolve, [event for event, _ in history], INITIAL)
        version = stream[-1].version if stream else NO_STREAM
        verdict = _Verdict(version, is_registered=user.status is not Status.UNKNOWN)
        kept = email_command(history)
        used = {command_id for _, command_id in history}
        # A retry of the command with another address may have left a second claim with its id.
        is_confirmed = any(c.command_id == kept and c.state is ClaimState.CONFIRMED for c in claims)
        for claim in claims:
            if claim.command_id == kept and (claim.state is ClaimState.CONFIRMED or not is_confirmed):
                if claim.state is not ClaimState.CONFIRMED:
                    verdict.confirmed.append(claim.id)
            elif claim.state is ClaimState.CONFIRMED or claim.command_id in used:
                verdict.released.append(claim.id)
            elif claim.expired or str(claim.reservation_id) in user.abandoned:
                verdict.fences.extend(self._fences(claim, user))
                verdict.expired.append(claim.id)
        return verdict

    def _read(self, recorded: Recorded, is_closed: bool) -> tuple[Event, UUID]:
        """An event and its command id. In the stream of a closed account a damaged event counts by its type."""
        try:
            return self._codec.decode(recorded), self._codec.metadata(recorded).command_id
        except EsError:
            if not is_closed:
                raise
            return self._codec.outline(recorded) or Event(), recorded.event_id

    def _fences(self, claim: Claim, user: User) -> list[EventData]:
        """The fence to append before an expired reservation is released; none if the stream has one."""
        command = AbandonReservation(claim.subject, claim.reservation_id)
        decided = decide(user, command)
        assert not isinstance(decided, Exception)
        command_id = self._new_id()
        metadata = Metadata(command_id, command.wire, claim.command_id, claim.command_id, ACTOR)
        return [
            self._codec.encode(
                event, event_id=event_id(command_id, i), subject=claim.subject, metadata=metadata, sealer=None
            )
            for i, event in enumerate(decided)
        ]

    def _write(self, verdicts: Mapping[int, _Verdict]) -> None:
        confirmed = [id_ for verdict in verdicts.values() for id_ in verdict.confirmed]
        released = [id_ for verdict in verdicts.values() for id_ in verdict.released]
        abandoned: list[int] = []
        for subject, verdict in verdicts.items():
            if verdict.is_registered:
                released += verdict.expired
            elif verdict.expired:
                abandoned.append(subject)
        if confirmed or released or abandoned:
            self._vault.settle_claims(
                confirmed=confirmed, released=released, abandoned=abandoned, now_us=self._now_us()
            )

    def all_settled(self) -> bool:
        """Whether every change of an address and every deletion that is stored now has been settled.

        A claim that is confirmed after this is that of a user who has the address, or whose erasure will release it
        together with the key. False while the process that settles claims has events ahead of it.
        """
        head = self._store.head()
        return self._vault.checkpoint(SETTLED).position == head
