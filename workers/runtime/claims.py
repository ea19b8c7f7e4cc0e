"""Settle claims on unique values: confirm or release them according to the streams of their instances.

The mirror of `workers/users/claims.py`, which settles those on e-mail addresses. Promise: before an unused reservation is released, a fence
is in its stream, at the exact version, so that a late append conflicts and is then refused. Refusal: the claims of a
damaged stream stay as they are, and delay no other stream.

However many streams are settled, a pass waits once for each of: their claims, their events, the fences, the vault's
transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from domain.kernel.aggregate import Aggregate
from domain.kernel.command_handler import until_no_conflict
from domain.kernel.errors import Damaged, EsError
from domain.kernel.events import NO_STREAM, Event, EventData, Metadata, Recorded, event_id
from domain.kernel.ports.codec import Codec
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.vault import Claim, ClaimId, ClaimState, Vault
from domain.kernel.system import ReservationAbandoned
from domain.kernel.unique import Unique, takers
from workers.runtime.fences import append_fences, raise_first

ACTOR = "process:claims"
_COMMAND = "abandon-reservation"


@dataclass(slots=True)
class _Verdict:
    """What a stream decides about its claims. Nothing is released before the fences are stored."""

    version: int
    confirmed: list[ClaimId] = field(default_factory=list)
    released: list[ClaimId] = field(default_factory=list)
    fences: list[EventData] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _History:
    """A stream: its version, each event by its type alone with its command, and all commands, fenced reservations included."""

    version: int
    events: Sequence[tuple[Event | None, UUID]]
    commands: frozenset[UUID]


class UniqueClaims:
    def __init__(
        self,
        aggregates: Iterable[Aggregate[Any, Any]],
        *,
        store: EventStore,
        codec: Codec,
        vault: Vault,
        now_us: Callable[[], int],
        pause: Callable[[float], None],
    ) -> None:
        having = [aggregate for aggregate in aggregates if aggregate.unique]
        self._rules = {(aggregate.name, rule.name): rule for aggregate in having for rule in aggregate.unique}
        self.prefixes = tuple(aggregate.prefix for aggregate in having)
        """The prefixes of the streams that decide claims."""
        self.followed = tuple(type_ for rule in self._rules.values() for type_ in rule.followed())
        """The beginnings of the types of events after which their streams are to be settled."""
        self._store = store
        self._codec = codec
        self._vault = vault
        self._now_us = now_us
        # After the last conflict the claim stays as it is until the janitor's next round.
        self._until_no_conflict = until_no_conflict(pause)

    def settle(self, streams: Iterable[str], *, unused: Collection[UUID] = ()) -> dict[str, int]:
        """Confirm or release every claim of these streams, except reservations that a command may still use.

        `unused` are reservations that count as expired. Returns the version of each stream at which it was settled: at that
        version an instance has what its confirmed claims are on. Raises the first error after the others were settled, an
        outage before damage.
        """
        errors: list[EsError] = []
        versions: dict[str, int] = {}
        pending = list(dict.fromkeys(streams))

        def attempt() -> bool:
            nonlocal pending
            pending = self._settle_once(pending, unused, versions, errors)
            return bool(pending)

        self._until_no_conflict(attempt)
        raise_first(errors)
        return versions

    def settle_expired(self, limit: int = 200) -> int:
        """Settle the streams of at most `limit` expired reservations, and return the number of reservations.

        Those on addresses count towards the limit. Raises as `settle`.
        """
        expired = self._vault.expired_claims(now_us=self._now_us(), limit=limit)
        claims = [claim for claim in expired if claim.stream]
        self.settle(claim.stream for claim in claims)
        return len(claims)

    def _settle_once(
        self,
        streams: Sequence[str],
        unused: Collection[UUID],
        versions: dict[str, int],
        errors: list[EsError],
    ) -> list[str]:
        """Settle streams once, collect their errors, and return those whose fence met a conflict."""
        # Read the claims before the streams: then the event of a confirmed claim is in the history.
        claims = self._claims_on(streams)
        histories: dict[str, _History] = {}
        for stream, recorded in self._store.read_streams([*claims]).items() if claims else ():
            try:
                histories[stream] = self._history(recorded)
            except EsError as error:  # of this stream only
                errors.append(error)
        self._add_later(claims, histories)
        verdicts = {
            stream: self._verdict(claims[stream], history, unused) for stream, history in histories.items()
        }
        conflicts = append_fences(self._store, verdicts, lambda stream: stream, errors)
        versions.update({s: verdict.version + len(verdict.fences) for s, verdict in verdicts.items()})
        confirmed = [id_ for verdict in verdicts.values() for id_ in verdict.confirmed]
        released = [id_ for verdict in verdicts.values() for id_ in verdict.released]
        if confirmed or released:
            self._vault.settle_claims(confirmed=confirmed, released=released, now_us=self._now_us())
        return conflicts

    def _claims_on(self, streams: Sequence[str]) -> dict[str, list[Claim]]:
        found: dict[str, list[Claim]] = {}
        for claim in self._vault.claims_on(streams, now_us=self._now_us()) if streams else ():
            found.setdefault(claim.stream, []).append(claim)
        return found

    def _add_later(self, claims: dict[str, list[Claim]], histories: dict[str, _History]) -> None:
        """Add claims that commands in the histories reserved after the claims were read. Of others too little is known."""
        early = [stream for stream, history in histories.items() if self._is_early(claims[stream], history)]
        for stream, found in self._claims_on(early).items():
            known = {claim.id for claim in claims[stream]}
            claims[stream] += [
                claim
                for claim in found
                if claim.id not in known and claim.command_id in histories[stream].commands
            ]

    def _history(self, stream: Sequence[Recorded] | Damaged) -> _History:
        if isinstance(stream, Damaged):
            raise stream
        events = [
            (self._codec.outline(recorded), self._codec.metadata(recorded).command_id) for recorded in stream
        ]
        version = stream[-1].version if stream else NO_STREAM
        return _History(version, events, frozenset(command for _, command in events))

    # --- decisions -----------------------------------------------------------------------------

    def _rule(self, claim: Claim) -> Unique | None:
        """The rule of a claim; None if no feature of this program has it."""
        return self._rules.get((claim.stream.rpartition("-")[0], claim.rule))

    def _is_early(self, claims: Sequence[Claim], history: _History) -> bool:
        """Whether the last command that took a value may have reserved it after the claims were read."""
        rules = {rule for claim in claims if (rule := self._rule(claim)) is not None}
        commands = {claim.command_id for claim in claims}
        return any(found and found[0] not in commands for found in (takers(r, history.events) for r in rules))

    def _verdict(self, claims: Sequence[Claim], history: _History, unused: Collection[UUID]) -> _Verdict:
        verdict = _Verdict(history.version)
        for rule in dict.fromkeys(claim.rule for claim in claims):
            self._judge([claim for claim in claims if claim.rule == rule], history, unused, verdict)
        return verdict

    def _judge(
        self, claims: Sequence[Claim], history: _History, unused: Collection[UUID], verdict: _Verdict
    ) -> None:
        """Decide the claims of one rule."""
        kept = self._kept(claims, history)
        # A retry of the command with another value may have left a second claim with its id.
        is_confirmed = any(claim.command_id in kept and _is_confirmed(claim) for claim in claims)
        for claim in claims:
            if claim.command_id in kept and (_is_confirmed(claim) or not is_confirmed):
                if not _is_confirmed(claim):
                    verdict.confirmed.append(claim.id)
            elif _is_confirmed(claim) or not history.commands.isdisjoint(
                (claim.command_id, claim.reservation_id)
            ):
                verdict.released.append(claim.id)
            elif claim.expired or claim.reservation_id in unused:
                verdict.fences.extend(self._fence(claim, history))
                verdict.released.append(claim.id)

    def _kept(self, claims: Sequence[Claim], history: _History) -> set[UUID]:
        """The commands whose claims of one rule the stream confirms: at most one, unless the rule is unknown here."""
        commands = {claim.command_id for claim in claims}
        rule = self._rule(claims[0])
        if rule is None:
            return {*commands & history.commands}
        return {*[command for command in takers(rule, history.events) if command in commands][:1]}

    def _fence(self, claim: Claim, history: _History) -> list[EventData]:
        """The fence to append before a reservation is released; none if the stream has one."""
        if claim.reservation_id in history.commands:
            return []
        metadata = Metadata(claim.reservation_id, _COMMAND, claim.command_id, claim.command_id, ACTOR)
        return [
            self._codec.encode(
                ReservationAbandoned(str(claim.reservation_id)),
                event_id=event_id(claim.reservation_id, 0),
                subject=None,
                metadata=metadata,
                sealer=None,
            )
        ]


def _is_confirmed(claim: Claim) -> bool:
    return claim.state is ClaimState.CONFIRMED
