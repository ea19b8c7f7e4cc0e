"""Run the commands of an aggregate with unique values: reserve, append, confirm.

For a batch: reserve the values (one vault transaction), append (one store transaction), confirm (one vault transaction).
`workers/runtime/claims.py` finishes what a crash leaves between the steps.

Promise: a command that takes a value takes effect only while it has the value. Refusal: it confirms nothing before the append,
and no two attempts share a reservation: a repeated command fences that of its first attempt.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

from adapters.clock import now_us
from domain.kernel.aggregate import Aggregate
from domain.kernel.command_handler import CommandHandler
from domain.kernel.errors import ClaimLost, EsError, Kind, PersonErased
from domain.kernel.orders import Done, Order, Outcome
from domain.kernel.ports.vault import (
    AlreadyHeld,
    ClaimAnswer,
    ClaimId,
    ClaimRequest,
    HeldByOther,
    HolderErased,
    Reserved,
    Vault,
)
from domain.kernel.unique import Unique, UniqueReserved, UniqueTaken
from domain.kernel.uuid7 import Uuid7s
from workers.runtime.claims import UniqueClaims

if TYPE_CHECKING:
    from workers.runtime.worker import Worker

_ATTEMPTS = 4
"""The maximum number of reservations for one command: one may be lost, or the holder of the value may release it."""

_RESERVED_WAIT_S = 0.02
"""The wait before another attempt to reserve a value whose reservation is in use: its command may finish."""

_NO_EFFECT = (Kind.REFUSED, Kind.INVALID, Kind.NOT_FOUND)
"""Kinds of error after which a command certainly had no effect."""

_AT_NO_VERSION = -2


@dataclass(slots=True, eq=False)
class _Ticket:
    """A command of a batch, until it has its outcome."""

    index: int
    order: Order[Any]
    rules: Sequence[Unique]
    reserved: list[ClaimId] = field(default_factory=list)
    """Its reservations, which are confirmed after the append and released after a refusal."""
    error: EsError | None = None
    """The reason for another attempt."""


@dataclass(slots=True)
class _Attempt:
    """One attempt for the commands that have no outcome yet."""

    ready: list[_Ticket] = field(default_factory=list)
    again: list[_Ticket] = field(default_factory=list)
    confirmed: list[ClaimId] = field(default_factory=list)
    released: list[ClaimId] = field(default_factory=list)
    unsettled: list[str] = field(default_factory=list)
    """Streams whose claims may have changed hands."""
    unused: set[UUID] = field(default_factory=set)
    """Reservations of earlier attempts of commands that are here again."""


def unique_handler(
    worker: Worker, aggregate: Aggregate[Any, Any], plain: CommandHandler[Any, Any]
) -> UniqueHandler:
    """The handler of an aggregate with unique values, over the parts of a worker."""
    store, vault = worker.store(), worker.vault()
    claims = UniqueClaims(
        [aggregate], store=store, codec=worker.codec, vault=vault, now_us=now_us, pause=time.sleep
    )
    new_id = Uuid7s(now_us, os.urandom)
    return UniqueHandler(
        aggregate, plain, vault=vault, claims=claims, now_us=now_us, new_id=new_id, pause=time.sleep
    )


class UniqueHandler:
    """Handles the orders of one aggregate as its `CommandHandler` does, with its unique values."""

    def __init__(
        self,
        aggregate: Aggregate[Any, Any],
        handler: CommandHandler[Any, Any],
        *,
        vault: Vault,
        claims: UniqueClaims,
        now_us: Callable[[], int],
        new_id: Callable[[], UUID],
        pause: Callable[[float], None],
    ) -> None:
        """Raises TypeError if a command takes a value and lacks the field of its person."""
        self._aggregate = aggregate
        self._handler = handler
        self._vault = vault
        self._claims = claims
        self._now_us = now_us
        self._new_id = new_id
        self._pause = pause
        self._rules = {
            command: [rule for rule in aggregate.unique if rule.is_taken_with(command)]
            for command in aggregate.commands
        }

    def handle(self, orders: Sequence[Order[Any]]) -> list[Outcome]:
        """Return one outcome for each order, in order. Raises `PartUnavailable`; a retry is safe then."""
        outcomes: dict[int, Outcome] = {}
        pending = [
            _Ticket(
                index, order, () if order.verdict is not None else self._rules.get(type(order.command), ())
            )
            for index, order in enumerate(orders)
        ]
        versions: dict[str, int] = {}
        for number in range(_ATTEMPTS):
            if number and any(isinstance(ticket.error, UniqueReserved) for ticket in pending):
                self._pause(_RESERVED_WAIT_S)
            attempt = self._reserve(pending, versions, outcomes)
            self._decide(attempt, outcomes)
            if attempt.confirmed or attempt.released:
                self._vault.settle_claims(
                    confirmed=attempt.confirmed, released=attempt.released, now_us=self._now_us()
                )
            # Settle after the batch: a command in it may have released a value by then.
            versions = self._settle(attempt)
            pending = attempt.again
            if not pending:
                break
        self._refuse({ticket: ticket.error or ClaimLost() for ticket in pending}, outcomes)
        return [outcomes[index] for index in range(len(orders))]

    def _settle(self, attempt: _Attempt) -> dict[str, int]:
        try:
            return self._claims.settle(attempt.unsettled, unused=attempt.unused)
        except EsError as error:
            # The claims of a damaged stream stay as they are; the other commands continue.
            if error.kind is not Kind.DAMAGED:
                raise
            return {}

    def _decide(self, attempt: _Attempt, outcomes: dict[int, Outcome]) -> None:
        """Decide and append once, and note what becomes of the reservations."""
        ready = sorted(attempt.ready, key=lambda ticket: ticket.index)
        for ticket, outcome in zip(
            ready, self._handler.handle([ticket.order for ticket in ready]), strict=True
        ):
            if isinstance(outcome, ClaimLost):
                ticket.error = outcome
                attempt.again.append(ticket)
                attempt.released += ticket.reserved
                attempt.unsettled.append(ticket.order.stream)
                continue
            outcomes[ticket.index] = outcome
            if not ticket.reserved:
                continue
            if isinstance(outcome, Done) and outcome.is_repeat:
                # The command took effect before, and the instance may have another value since: its stream tells.
                attempt.unsettled.append(ticket.order.stream)
            elif isinstance(outcome, Done) and not outcome.is_unchanged:
                attempt.confirmed += ticket.reserved
            elif isinstance(outcome, Done) or outcome.kind in _NO_EFFECT:
                attempt.released += ticket.reserved
            # Otherwise the outcome is unknown, and the janitor settles the reservations.

    def _refuse(self, refused: dict[_Ticket, EsError], outcomes: dict[int, Outcome]) -> None:
        """Refuse commands, unless they took effect before: then their streams have the first result."""
        orders = [
            replace(ticket.order, verdict=error, held_at=None, reservations=())
            for ticket, error in refused.items()
        ]
        for ticket, outcome in zip(refused, self._handler.handle(orders) if orders else (), strict=True):
            outcomes[ticket.index] = outcome

    # --- reservations --------------------------------------------------------------------------

    def _reserve(
        self, tickets: Iterable[_Ticket], versions: dict[str, int], outcomes: dict[int, Outcome]
    ) -> _Attempt:
        """Reserve the values of these commands, and divide them into those to decide and those to try again."""
        attempt = _Attempt()
        refused: dict[_Ticket, EsError] = {}
        asked = [(ticket, self._requests(ticket)) for ticket in tickets]
        requests = [request for _, some in asked for request in some]
        answers = iter(self._vault.reserve(requests, now_us=self._now_us()) if requests else ())
        for ticket, some in asked:
            found = [(rule, next(answers)) for rule, _ in zip(ticket.rules, some, strict=True)]
            error = self._obstacle(ticket, found, attempt)
            fresh = [each.id for _, each in found if isinstance(each, Reserved) and not each.repeated]
            if error is not None:
                attempt.released += fresh
                is_final = isinstance(error, PersonErased) or (
                    isinstance(error, UniqueTaken) and isinstance(ticket.error, UniqueTaken | UniqueReserved)
                )
                ticket.error = error
                if is_final:
                    refused[ticket] = error
                else:
                    attempt.again.append(ticket)
                continue
            self._take(ticket, found, versions)
            attempt.ready.append(ticket)
        self._refuse(refused, outcomes)
        return attempt

    def _requests(self, ticket: _Ticket) -> list[ClaimRequest]:
        order = ticket.order
        instance = self._aggregate.id_of(order.stream) if ticket.rules else 0
        return [
            ClaimRequest(
                text=rule.text(self._aggregate.name, order.command),
                subject=rule.subject(order.command, instance),
                command_id=order.metadata.command_id,
                reservation_id=self._new_id(),
                registers=False,
                stream=order.stream,
                rule=rule.name,
            )
            for rule in ticket.rules
        ]

    def _obstacle(
        self, ticket: _Ticket, found: Sequence[tuple[Unique, ClaimAnswer]], attempt: _Attempt
    ) -> EsError | None:
        """Why a command cannot be decided now; note whose claims are to be settled before the next attempt."""
        error: EsError | None = None
        for rule, answer in found:
            if isinstance(answer, HolderErased):
                return PersonErased(answer.subject)
            if isinstance(answer, HeldByOther):
                # The holder may be closed, or its reservation may be in use or expired.
                attempt.unsettled.append(answer.stream)
                refusal = rule.taken if answer.confirmed else UniqueReserved
                error = refusal(self._aggregate.name, " and ".join(rule.fields))
            elif isinstance(answer, Reserved) and answer.repeated:
                # An earlier attempt may still append under it: fence it, and reserve anew. That of the same command in
                # this batch is confirmed or released by then.
                attempt.unsettled.append(ticket.order.stream)
                attempt.unused.add(answer.reservation_id)
                error = error or ClaimLost()
        return error

    def _take(
        self, ticket: _Ticket, found: Sequence[tuple[Unique, ClaimAnswer]], versions: dict[str, int]
    ) -> None:
        """Order the command with its reservations. What its instance has already, it has at one version for certain."""
        ticket.reserved = [answer.id for _, answer in found if isinstance(answer, Reserved)]
        is_held = any(isinstance(answer, AlreadyHeld) for _, answer in found)
        ticket.order = replace(
            ticket.order,
            reservations=tuple(claim.reservation_id for claim in ticket.reserved),
            held_at=versions.get(ticket.order.stream, _AT_NO_VERSION) if is_held else None,
        )
