"""The `users` worker: carries out account commands.

For a batch: reserve addresses (one vault transaction), append (one store transaction), confirm (one vault
transaction). Reserve → append → confirm is this system's two-phase commit; `workers/users/claims.py` finishes what a
crash leaves between the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from domain.kernel.command_handler import CommandHandler, Done, Order, Outcome
from domain.kernel.errors import EsError, KeyUnavailable, Kind, UnknownRequest
from domain.kernel.messages import Reply, Request
from domain.kernel.ports.codec import Codec, Keyring
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.vault import AlreadyHeld, ClaimAnswer, ClaimRequest, HeldByOther, Reserved, Vault
from domain.users.account import USER
from domain.users.commands import ChangeEmail, RegisterUser, UserCommand
from domain.users.errors import EmailReserved, EmailTaken, ReservationLost
from workers.runtime.commands import answer, order_of, requested
from workers.users.claims import Claims

_TRIES = 4
"""How often one command reserves an address: its reservation may get lost, or its holder may be about to leave it."""

_UNDER_WAY_S = 0.02
"""How long a command that has reserved the address is given to finish, before the next try."""

_DEFINITE = (Kind.REFUSED, Kind.INVALID, Kind.NOT_FOUND)
"""Errors after which a command certainly had no effect."""

_COMMANDS = requested(USER)


@dataclass(slots=True)
class _Ticket:
    """An order on its way through the batch, and the address that it holds meanwhile."""

    index: int
    order: Order[UserCommand]
    reservation_id: UUID | None = None  # to be confirmed or released
    other_holder: int | None = None  # the user that seemed to have the address
    error: EsError | None = None  # why it has to be tried again

    @property
    def command(self) -> UserCommand:
        return self.order.command

    @property
    def registers(self) -> bool:
        return isinstance(self.order.command, RegisterUser)


class UsersService:
    def __init__(
        self,
        *,
        store: EventStore,
        codec: Codec,
        vault: Vault,
        keyring: Callable[[Sequence[int]], Keyring],
        take_ids: Callable[[int], Sequence[int]],
        now_us: Callable[[], int],
        new_id: Callable[[], UUID],
        pause: Callable[[float], None],
    ) -> None:
        """`take_ids(n)` draws n fresh user ids, or raises `PartUnavailable`."""
        self._vault = vault
        self._take_ids = take_ids
        self._now_us = now_us
        self._new_id = new_id
        self._pause = pause
        self._handler = CommandHandler(USER, store=store, codec=codec, keyring=keyring, pause=pause)
        self._claims = Claims(
            store=store, codec=codec, vault=vault, now_us=now_us, new_id=new_id, pause=pause
        )

    def handle(self, batch: Sequence[Request]) -> list[Reply]:
        replies: dict[int, Reply] = {}
        tickets: list[_Ticket] = []
        for index, request in enumerate(batch):
            try:
                tickets.append(_Ticket(index, _order(request)))
            except EsError as error:
                replies[index] = error
        for _ in range(_TRIES):
            if not tickets:
                break
            if any(isinstance(ticket.error, EmailReserved) for ticket in tickets):
                self._pause(_UNDER_WAY_S)
            tickets = self._attempt(tickets, replies)
        for ticket in tickets:
            replies[ticket.index] = ticket.error or ReservationLost()
        return [replies[index] for index in range(len(batch))]

    def close(self) -> None:
        """Nothing is held between batches."""

    def _attempt(self, tickets: list[_Ticket], replies: dict[int, Reply]) -> list[_Ticket]:
        """Reserve, append, confirm once; return the tickets whose address has to be reserved anew."""
        ready, again = self._reserve(tickets, replies)
        outcomes = self._handler.handle([ticket.order for ticket in ready])
        confirmed: list[UUID] = []
        unsettled: set[int] = set()
        for ticket, outcome in zip(ready, outcomes, strict=True):
            if _lost_its_reservation(ticket, outcome):
                assert isinstance(outcome, EsError)
                ticket.error = outcome
                again.append(ticket)
            elif isinstance(outcome, Done):
                replies[ticket.index] = answer(USER, ticket.order, outcome)
                if ticket.reservation_id is not None and outcome.is_repeat:
                    # The command was carried out before, perhaps by another worker that is still confirming, and the
                    # user may have left the address since: the stream decides whose claim holds.
                    unsettled.add(ticket.command.user_id)
                elif ticket.reservation_id is not None:
                    confirmed.append(ticket.reservation_id)
            else:
                replies[ticket.index] = outcome
                self._give_back(ticket, outcome)
        if confirmed:
            self._vault.confirm(confirmed)
        # After the batch, so that a deletion in it has freed its address.
        unsettled |= {ticket.other_holder or ticket.command.user_id for ticket in again}
        for subject in unsettled:
            self._settle(subject)
        return again

    def _settle(self, subject: int) -> None:
        try:
            self._claims.settle(subject)
        except EsError as error:
            # A damaged stream says nothing about its address: it stays taken, and the others' commands go on.
            if error.kind is not Kind.DAMAGED:
                raise

    def _reserve(
        self, tickets: list[_Ticket], replies: dict[int, Reply]
    ) -> tuple[list[_Ticket], list[_Ticket]]:
        """Split into tickets ready to be decided and tickets whose address another user seems to have."""
        ready = [ticket for ticket in tickets if not isinstance(ticket.command, RegisterUser | ChangeEmail)]
        claiming = self._with_ids([ticket for ticket in tickets if ticket not in ready], replies)
        again: list[_Ticket] = []
        requests = [self._claim(ticket) for ticket in claiming]
        answers = self._vault.reserve(requests, now_us=self._now_us()) if requests else []
        for ticket, found in zip(claiming, answers, strict=True):
            if not isinstance(found, HeldByOther):
                _take(ticket, found)
                ready.append(ticket)
            elif found.confirmed and isinstance(ticket.error, EmailTaken | EmailReserved):
                replies[ticket.index] = EmailTaken()
            else:
                # The holder may just have been deleted, or its reservation may be under way or expired:
                # settle its claims, then ask once more.
                ticket.error = EmailTaken() if found.confirmed else EmailReserved()
                ticket.other_holder = found.subject
                again.append(ticket)
        ready.sort(key=lambda ticket: ticket.index)
        return ready, again

    def _with_ids(self, tickets: list[_Ticket], replies: dict[int, Reply]) -> list[_Ticket]:
        """Give every registration a fresh user id; without ids only the registrations fail."""
        new = [ticket for ticket in tickets if ticket.registers]
        try:
            ids = self._take_ids(len(new)) if new else []
        except EsError as error:
            replies.update({ticket.index: error for ticket in new})
            return [ticket for ticket in tickets if not ticket.registers]
        for ticket, user_id in zip(new, ids, strict=True):
            ticket.order = _of_user(ticket.order, user_id)
        return tickets

    def _claim(self, ticket: _Ticket) -> ClaimRequest:
        command = ticket.command
        assert isinstance(command, RegisterUser | ChangeEmail)
        return ClaimRequest(
            email=command.email.value,
            subject=command.user_id,
            command_id=ticket.order.metadata.command_id,
            reservation_id=self._new_id(),
            registers=ticket.registers,
        )

    def _give_back(self, ticket: _Ticket, outcome: EsError) -> None:
        """Free what a definitely refused command had reserved. After an unknown outcome the janitor decides."""
        if ticket.reservation_id is None or outcome.kind not in _DEFINITE:
            return
        if ticket.registers:
            self._vault.abandon_registration(ticket.command.user_id, ticket.reservation_id)
        else:
            self._vault.release([ticket.reservation_id])


def _order(request: Request) -> Order[UserCommand]:
    command = _COMMANDS.get(request.kind)
    if command is None:
        raise UnknownRequest(request.kind)
    filled = {"user_id": 0} if command is RegisterUser else {}  # until an id is drawn
    return order_of(request, USER, command, **filled)


def _of_user(order: Order[UserCommand], user_id: int, **changed: Any) -> Order[UserCommand]:
    """The order for another user, with other fields of its command."""
    command = replace(order.command, user_id=user_id, **changed)
    return replace(order, command=command, stream=USER.stream_of(user_id), subject=user_id)


def _take(ticket: _Ticket, found: ClaimAnswer) -> None:
    """Go on with the reservation, or without one when the vault knows that the command needs none."""
    assert isinstance(found, Reserved | AlreadyHeld)
    is_new = isinstance(found, Reserved) and ticket.registers and not found.repeated
    ticket.reservation_id = found.reservation_id if isinstance(found, Reserved) else None
    ticket.other_holder = None
    order = _of_user(ticket.order, found.subject, reservation_id=ticket.reservation_id)
    ticket.order = replace(order, is_new=is_new)


def _lost_its_reservation(ticket: _Ticket, outcome: Outcome) -> bool:
    """Whether the janitor took the reservation meanwhile: of a registration it also destroyed the new key."""
    if isinstance(outcome, KeyUnavailable):
        return ticket.registers and ticket.reservation_id is not None
    return isinstance(outcome, ReservationLost)
