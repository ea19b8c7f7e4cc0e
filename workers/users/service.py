"""The `users` worker: handles account commands.

For a batch: reserve the e-mail addresses (one vault transaction), append (one store transaction), confirm (one vault
transaction). Reserve → append → confirm is a two-phase commit; `workers/users/claims.py` finishes what a crash leaves
between the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from domain.kernel.command_handler import CommandHandler, Done, Order, Outcome
from domain.kernel.errors import Damaged, EsError, KeyUnavailable, Kind, UnknownRequest
from domain.kernel.events import NO_STREAM
from domain.kernel.messages import Reply, Request
from domain.kernel.personal import Personal
from domain.kernel.ports.codec import Codec, Keyring
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.vault import (
    AlreadyHeld,
    ClaimAnswer,
    ClaimRequest,
    ClaimState,
    Decided,
    DestroyedKey,
    Destruction,
    HeldByOther,
    Reason,
    Reserved,
    Vault,
)
from domain.users.account import USER
from domain.users.commands import ChangeEmail, EraseUser, RegisterUser, UserCommand
from domain.users.errors import EmailReserved, EmailTaken, ReservationLost, UserNotFound
from domain.users.mail_domains import spellings
from workers.runtime.commands import answer, order_of, requested
from workers.users.claims import Claims

_ATTEMPTS = 4
"""The maximum number of reservations for one command: one may be lost, or the holder of the address may release it."""

_RESERVED_WAIT_S = 0.02
"""The wait before another attempt to reserve an address whose reservation is in use: its command may finish."""

_NO_EFFECT = (Kind.REFUSED, Kind.INVALID, Kind.NOT_FOUND)
"""Kinds of error after which a command certainly had no effect."""

_NO_ID = 0
"""The user id of a registration until it has reserved its address."""

_COMMANDS = requested(USER)


@dataclass(slots=True)
class _Ticket:
    """A command of a batch, from its request to its reply."""

    index: int
    order: Order[UserCommand]
    registers: bool
    reservation_id: UUID | None = None
    """Its reservation, which is confirmed after the append and released after a refusal."""
    error: EsError | None = None
    """The reason for another attempt."""


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
        """`take_ids(n)` draws n new user ids, or raises `PartUnavailable`."""
        self._store = store
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
                order = _order(request)
                tickets.append(_Ticket(index, order, registers=isinstance(order.command, RegisterUser)))
            except EsError as error:
                replies[index] = error
        for _ in range(_ATTEMPTS):
            if not tickets:
                break
            if any(isinstance(ticket.error, EmailReserved) for ticket in tickets):
                self._pause(_RESERVED_WAIT_S)
            tickets = self._attempt(tickets, replies)
        for ticket in tickets:
            replies[ticket.index] = ticket.error or ReservationLost()
        return [replies[index] for index in range(len(batch))]

    def close(self) -> None:
        """Nothing is held between batches."""

    def _attempt(self, tickets: list[_Ticket], replies: dict[int, Reply]) -> list[_Ticket]:
        """Reserve, append and confirm once. Return the tickets whose address must be reserved again."""
        ready, held = self._reserve(tickets, replies)
        orders = [ticket.order for ticket in ready]
        # Before the append: from then on `erasures` may leave a tombstone at any time.
        keyless = self._without_key(orders)
        outcomes = self._handler.handle(orders)
        again = [ticket for ticket, _ in held]
        unsettled = {holder for _, holder in held}
        confirmed: list[UUID] = []
        for ticket, decided in zip(ready, outcomes, strict=True):
            outcome = self._erased_despite_loss(ticket.order, decided)
            if isinstance(outcome, Done):
                is_lost = isinstance(ticket.order.command, EraseUser) and ticket.order.subject in keyless
                remark = {"key": "missing"} if is_lost else {}
                replies[ticket.index] = {**answer(USER, ticket.order, outcome), **remark}
                if ticket.reservation_id is None:
                    continue
                if outcome.is_repeat:
                    # The command took effect before. The user may have changed the address since, so settle the
                    # claims according to the stream instead of confirming this one.
                    unsettled.add(ticket.order.subject)
                else:
                    confirmed.append(ticket.reservation_id)
            elif _lost_reservation(ticket, outcome):
                ticket.error = outcome
                again.append(ticket)
                unsettled.add(ticket.order.subject)
            else:
                replies[ticket.index] = outcome
                self._release(ticket, outcome)
        if confirmed:
            self._vault.confirm(confirmed)
        # Settle after the batch: a deletion in it has released its address by then.
        for subject in unsettled:
            self._settle(subject)
        return again

    def _erased_despite_loss(self, order: Order[UserCommand], outcome: Outcome) -> Outcome:
        """The outcome. An erasure is also decided if the events of a person whom the vault knows are gone or damaged.

        If the store cannot even keep the decision, because the stream was deleted for good, the vault lists it.
        """
        command = order.command
        if not isinstance(command, EraseUser) or not isinstance(outcome, UserNotFound | Damaged):
            return outcome
        try:
            if not self._is_known(order.subject):
                return outcome
            (outcome,) = self._handler.handle([replace(order, command=replace(command, is_known=True))])
            if not isinstance(outcome, Damaged):
                return outcome
            position = self._store.head()
            self._vault.owe([Decided(order.subject, None, position)], now_us=self._now_us())
            return Done(NO_STREAM, position)
        except EsError as error:  # of this person only
            return error

    def _without_key(self, orders: Sequence[Order[UserCommand]]) -> set[int]:
        """The people to be erased of whom the vault has no key: another copy of it may still open them."""
        subjects = [order.subject for order in orders if isinstance(order.command, EraseUser)]
        return {*subjects} - self._vault.data_keys(subjects).keys() if subjects else set()

    def _is_known(self, subject: int) -> bool:
        """Whether the vault has a row of a person. A registration that is under way, or was abandoned, made nobody."""
        key = self._vault.data_keys([subject]).get(subject)
        if isinstance(key, DestroyedKey):
            return key.reason is not Reason.ABANDONED
        claims = self._vault.claims_of(subject, now_us=self._now_us())
        return any(claim.state is ClaimState.CONFIRMED for claim in claims) or bool(key and not claims)

    def _settle(self, subject: int) -> None:
        try:
            self._claims.settle(subject)
        except EsError as error:
            # The claims of a user with a damaged stream stay as they are; the other commands continue.
            if error.kind is not Kind.DAMAGED:
                raise

    def _reserve(
        self, tickets: list[_Ticket], replies: dict[int, Reply]
    ) -> tuple[list[_Ticket], list[tuple[_Ticket, int]]]:
        """Reserve addresses. Return the tickets to decide, and those whose address a user holds, with that user."""
        ready, claiming = self._divided(tickets, replies)
        requests = [request for _, request in claiming]
        answers = self._vault.reserve(requests, now_us=self._now_us()) if requests else []
        held: list[tuple[_Ticket, int]] = []
        for (ticket, request), answered in zip(claiming, answers, strict=True):
            found = self._unless_held(request, answered)
            if not isinstance(found, HeldByOther):
                _take(ticket, found)
                ready.append(ticket)
            elif found.confirmed and isinstance(ticket.error, EmailTaken | EmailReserved):
                replies[ticket.index] = EmailTaken()
            else:
                # The holder may be deleted, or its reservation may be in use or expired: settle its claims first.
                ticket.error = EmailTaken() if found.confirmed else EmailReserved()
                held.append((ticket, found.subject))
        ready.sort(key=lambda ticket: ticket.index)
        return ready, held

    def _unless_held(self, request: ClaimRequest, found: ClaimAnswer) -> ClaimAnswer:
        """The answer, or HeldByOther if another user claimed another spelling of the address under an earlier version."""
        if not isinstance(found, Reserved) or found.repeated:
            return found
        for spelling in spellings(request.email)[1:]:
            holder = self._vault.holder(spelling)
            if holder is not None and holder != request.subject:
                self._give_back(found.subject, found.reservation_id, registers=request.registers)
                return HeldByOther(holder, confirmed=True)
        return found

    def _divided(
        self, tickets: list[_Ticket], replies: dict[int, Reply]
    ) -> tuple[list[_Ticket], list[tuple[_Ticket, ClaimRequest]]]:
        """Divide tickets into those that need no address and those that request one. Only registrations need ids."""
        new = sum(ticket.registers for ticket in tickets)
        outage: EsError | None = None
        ids: Iterator[int] = iter(())
        try:
            ids = iter(self._take_ids(new) if new else ())
        except EsError as error:
            outage = error
        ready: list[_Ticket] = []
        claiming: list[tuple[_Ticket, ClaimRequest]] = []
        for ticket in tickets:
            match ticket.order.command:
                case RegisterUser() if outage:
                    replies[ticket.index] = outage
                case RegisterUser(email=email):
                    claiming.append((ticket, self._claim_request(ticket, email, next(ids))))
                case ChangeEmail(email=email, user_id=user_id):
                    claiming.append((ticket, self._claim_request(ticket, email, user_id)))
                case _:
                    ready.append(ticket)
        return ready, claiming

    def _claim_request(self, ticket: _Ticket, email: Personal, subject: int) -> ClaimRequest:
        return ClaimRequest(
            email=email.value,
            subject=subject,
            command_id=ticket.order.metadata.command_id,
            reservation_id=self._new_id(),
            registers=ticket.registers,
        )

    def _release(self, ticket: _Ticket, outcome: EsError) -> None:
        """Release the reservation of a command without effect. If the outcome is unknown, the janitor settles it."""
        if ticket.reservation_id is not None and outcome.kind in _NO_EFFECT:
            self._give_back(ticket.order.subject, ticket.reservation_id, registers=ticket.registers)

    def _give_back(self, subject: int, reservation_id: UUID, *, registers: bool) -> None:
        if registers:
            self._vault.destroy([Destruction(subject, Reason.ABANDONED)], now_us=self._now_us())
        else:
            self._vault.release([reservation_id])


def _order(request: Request) -> Order[UserCommand]:
    command = _COMMANDS.get(request.kind)
    if command is None:
        raise UnknownRequest(request.kind)
    filled = {"user_id": _NO_ID} if command is RegisterUser else {}
    return order_of(request, USER, command, **filled)


def _take(ticket: _Ticket, found: Reserved | AlreadyHeld) -> None:
    """Order the command with its reservation, or without one if the vault says that it needs none."""
    command = ticket.order.command
    assert isinstance(command, RegisterUser | ChangeEmail)
    ticket.reservation_id = found.reservation_id if isinstance(found, Reserved) else None
    ticket.order = Order(
        replace(command, user_id=found.subject, reservation_id=ticket.reservation_id),
        USER.stream_of(found.subject),
        found.subject,
        ticket.order.metadata,
        is_new=ticket.registers and isinstance(found, Reserved) and not found.repeated,
    )


def _lost_reservation(ticket: _Ticket, outcome: EsError) -> bool:
    """Whether the janitor released the reservation. For a registration it also destroyed the new data key."""
    if isinstance(outcome, KeyUnavailable):
        return ticket.registers and ticket.reservation_id is not None
    return isinstance(outcome, ReservationLost)
