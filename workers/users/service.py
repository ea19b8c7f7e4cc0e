"""The `users` worker: handles account commands.

For a batch: reserve the e-mail addresses (one vault transaction), append (one store transaction), confirm (one vault
transaction). Reserve → append → confirm is a two-phase commit; `workers/users/claims.py` finishes what a crash leaves
between the steps. With the confirmation goes the release of the former address of a user who changed it. The number of commands
in a batch does not change the number of waits for other machines.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar
from uuid import UUID

from domain.kernel.command_handler import CommandHandler
from domain.kernel.errors import Damaged, EsError, InvalidInput, KeyUnavailable, Kind, UnknownRequest
from domain.kernel.events import NO_STREAM
from domain.kernel.messages import Reply, Request
from domain.kernel.orders import Done, Order, Outcome
from domain.kernel.personal import Personal
from domain.kernel.ports.codec import Codec, Keyring
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.vault import (
    AlreadyHeld,
    ClaimAnswer,
    ClaimId,
    ClaimRequest,
    ClaimState,
    Decided,
    DestroyedKey,
    HeldByOther,
    HolderErased,
    Reason,
    Reserved,
    Vault,
)
from domain.users.account import USER
from domain.users.commands import ChangeEmail, EraseUser, RegisterUser, UserCommand
from domain.users.errors import EmailReserved, EmailTaken, ReservationLost, UserNotFound
from domain.users.mail_domains import spellings
from workers.runtime.commands import answer, order_of, requested
from workers.runtime.recent import recent_streams
from workers.users.claims import Claims

T = TypeVar("T")

_ATTEMPTS = 4
"""The maximum number of reservations for one command: one may be lost, or the holder of the address may release it."""

_RESERVED_WAIT_S = 0.02
"""The wait before another attempt to reserve an address whose reservation is in use: its command may finish."""

_NO_EFFECT = (Kind.REFUSED, Kind.INVALID, Kind.NOT_FOUND)
"""Kinds of error after which a command certainly had no effect."""

_NO_ID = 0
"""The user id of a registration until it has reserved its address."""

_COMMANDS = requested(USER)
_NOT_REMEMBERED = "A process cannot send it. Start the process with the event that follows from it."


@dataclass(slots=True, eq=False)
class _Ticket:
    """A command of a batch, from its request to its reply."""

    index: int
    order: Order[UserCommand]
    registers: bool
    new_id: int | None = None
    """The id that was drawn for a registration, until the vault has used it."""
    reservation_id: UUID | None = None
    """Its reservation, which is confirmed after the append and released after a refusal."""
    former: Sequence[ClaimId] = ()
    """The user's claims that were confirmed before it was reserved: those of earlier events, so of former addresses once
    its own event is stored."""
    error: EsError | None = None
    """The reason for another attempt."""


@dataclass(slots=True)
class _Batch:
    """The commands of a batch that have no reply yet: those to decide, and those whose address a user holds."""

    replies: dict[int, Reply] = field(default_factory=dict)
    ready: list[_Ticket] = field(default_factory=list)
    held: list[tuple[_Ticket, int]] = field(default_factory=list)
    """With the holder of the address."""
    remembering: list[_Ticket] = field(default_factory=list)
    """Those whose refusal the stream has to keep."""


@dataclass(slots=True)
class _Settlement:
    """What a batch changes about claims, in one transaction of the vault."""

    confirmed: list[ClaimId] = field(default_factory=list)
    released: list[ClaimId] = field(default_factory=list)
    abandoned: list[int] = field(default_factory=list)

    def give_back(self, claim: ClaimId, *, registers: bool) -> None:
        """Free the address of a command that had no effect."""
        if registers:
            self.abandoned.append(claim.subject)
        else:
            self.released.append(claim)

    @property
    def is_urgent(self) -> bool:
        """Whether an address becomes free."""
        return bool(self.released or self.abandoned)

    def write(self, vault: Vault, now_us: int) -> None:
        if self.confirmed or self.released or self.abandoned:
            vault.settle_claims(
                confirmed=self.confirmed, released=self.released, abandoned=self.abandoned, now_us=now_us
            )


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
        self._handler = CommandHandler(
            USER, store=store, codec=codec, keyring=keyring, pause=pause, recent=recent_streams(store)
        )
        self._lock = threading.Lock()  # the stages of two batches may run at once
        self._unconfirmed: list[ClaimId] = []
        """The claims of registrations whose events are stored, and which the vault still has as reserved."""
        self._claims = Claims(
            store=store, codec=codec, vault=vault, now_us=now_us, new_id=new_id, pause=pause
        )

    def handle(self, batch: Sequence[Request]) -> list[Reply]:
        replies = self.complete(self.begin(batch))
        self.settle()
        return replies

    def begin(self, requests: Sequence[Request]) -> _Batch:
        """Parse a batch and reserve its addresses."""
        batch = _Batch()
        tickets: list[_Ticket] = []
        for index, request in enumerate(requests):
            try:
                order = _order(request)
                tickets.append(_Ticket(index, order, registers=isinstance(order.command, RegisterUser)))
            except EsError as error:
                batch.replies[index] = error
        self._reserve(batch, tickets)
        return batch

    def complete(self, batch: _Batch) -> list[Reply]:
        """Append and settle, and try again for the commands whose address may be free by then.

        What registrations reserved is confirmed with the reservations of the next batch, or by `settle`: their events
        are stored, so the claims can be settled by them at any time.
        """
        batch.remembering = [t for t in (*batch.ready, *(t for t, _ in batch.held)) if t.order.remembers]
        again = self._decide(batch)
        for _ in range(_ATTEMPTS - 1):
            if not again:
                break
            if any(isinstance(ticket.error, EmailReserved) for ticket in again):
                self._pause(_RESERVED_WAIT_S)
            self._reserve(batch, again)
            again = self._decide(batch)
        for ticket in again:
            batch.replies[ticket.index] = ticket.error or ReservationLost()
        self._remember(batch)
        return [reply for _, reply in sorted(batch.replies.items())]

    def settle(self) -> None:
        """Confirm what earlier batches left."""
        self._confirming(lambda confirmed: _Settlement(confirmed).write(self._vault, self._now_us()))

    def close(self) -> None:
        """Nothing is held but claims that `settle` confirms."""

    def _confirming(self, write: Callable[[list[ClaimId]], T]) -> T:
        """Have the claims confirmed that earlier batches left. If that fails they are left again."""
        with self._lock:
            confirmed, self._unconfirmed = self._unconfirmed, []
        try:
            return write(confirmed)
        except EsError:
            with self._lock:
                self._unconfirmed += confirmed
            raise

    def _decide(self, batch: _Batch) -> list[_Ticket]:
        """Decide, append and settle once. Return the tickets whose address must be reserved again."""
        orders = [ticket.order for ticket in batch.ready]
        # Before the append: from then on `erasures` may leave a tombstone at any time.
        keyless = self._without_key(orders)
        outcomes = self._erased_despite_loss(orders, self._handler.handle(orders))
        again = [ticket for ticket, _ in batch.held]
        unsettled = self._doubtful(batch.held)
        settlement = _Settlement()
        for ticket, outcome in zip(batch.ready, outcomes, strict=True):
            if isinstance(outcome, Done):
                is_lost = isinstance(ticket.order.command, EraseUser) and ticket.order.subject in keyless
                remark = {"key": "missing"} if is_lost else {}
                batch.replies[ticket.index] = {**answer(USER, ticket.order, outcome), **remark}
                if ticket.reservation_id is None:
                    continue
                if outcome.is_repeat:
                    # The command took effect before. The user may have changed the address since, so settle the
                    # claims according to the stream instead of confirming this one.
                    unsettled.add(ticket.order.subject)
                else:
                    settlement.confirmed.append(ClaimId(ticket.order.subject, ticket.reservation_id))
                    settlement.released += () if outcome.is_unchanged else ticket.former
            elif _lost_reservation(ticket, outcome):
                ticket.error = outcome
                again.append(ticket)
                unsettled.add(ticket.order.subject)
            else:
                batch.replies[ticket.index] = outcome
                # If the outcome is unknown, the janitor settles the reservation.
                if ticket.reservation_id is not None and outcome.kind in _NO_EFFECT:
                    claim = ClaimId(ticket.order.subject, ticket.reservation_id)
                    settlement.give_back(claim, registers=ticket.registers)
        if settlement.is_urgent or unsettled:
            settlement.write(self._vault, self._now_us())
        else:
            with self._lock:
                self._unconfirmed += settlement.confirmed
        # Settle after the batch: a deletion in it has released its address by then.
        self._settle(unsettled)
        return again

    def _confirmed_claims(self, subjects: Sequence[int]) -> list[ClaimId]:
        """The confirmed claims on addresses of these users. A reservation may belong to a command that is under way."""
        claims = self._vault.claims_of(subjects, now_us=self._now_us()) if subjects else ()
        return [each.id for each in claims if each.state is ClaimState.CONFIRMED and not each.stream]

    def _doubtful(self, held: Sequence[tuple[_Ticket, int]]) -> set[int]:
        """The holders who may have to give their address up: after a deletion, a change, or an expired reservation.

        Reading the streams of all holders would cost most of a refusal. It is not needed while every event is settled:
        then an address that is still held, which the next attempt to reserve it tells, is taken.
        """
        confirmed = {holder for ticket, holder in held if isinstance(ticket.error, EmailTaken)}
        reserved = {holder for _, holder in held} - confirmed
        return reserved if confirmed and self._claims.all_settled() else reserved | confirmed

    def _settle(self, subjects: set[int]) -> None:
        try:
            self._claims.settle(subjects)
        except EsError as error:
            # The claims of a user with a damaged stream stay as they are; the other commands continue.
            if error.kind is not Kind.DAMAGED:
                raise

    def _remember(self, batch: _Batch) -> None:
        """Keep in their streams that addresses were taken: what is decided there is kept already."""
        refused = {
            ticket.index: replace(ticket.order, verdict=reply)
            for ticket in batch.remembering
            if isinstance(reply := batch.replies[ticket.index], EmailTaken)
        }
        batch.replies.update(self._replies(refused))

    def _replies(self, orders: Mapping[int, Order[UserCommand]]) -> dict[int, Reply]:
        outcomes = self._handler.handle([*orders.values()])
        return {
            index: answer(USER, order, outcome) if isinstance(outcome, Done) else outcome
            for (index, order), outcome in zip(orders.items(), outcomes, strict=True)
        }

    # --- lost people ---------------------------------------------------------------------------

    def _erased_despite_loss(
        self, orders: Sequence[Order[UserCommand]], outcomes: list[Outcome]
    ) -> list[Outcome]:
        """The outcomes. An erasure is also decided if the events of a person whom the vault knows are gone or damaged.

        If the store cannot even keep the decision, because the stream was deleted for good, the vault lists it.
        """
        lost = {
            index: order
            for index, (order, outcome) in enumerate(zip(orders, outcomes, strict=True))
            if isinstance(order.command, EraseUser) and isinstance(outcome, UserNotFound | Damaged)
        }
        if not lost:
            return outcomes
        found = dict(enumerate(outcomes))
        try:
            known = self._known([order.subject for order in lost.values()])
            lost = {index: order for index, order in lost.items() if order.subject in known}
            despite = [_despite_loss(order) for order in lost.values()]
            found.update(zip(lost, self._handler.handle(despite), strict=True))
            unkept = {i: order.subject for i, order in lost.items() if isinstance(found[i], Damaged)}
            if unkept:
                position = self._store.head()
                owed = [Decided(subject, None, position) for subject in unkept.values()]
                self._vault.owe(owed, now_us=self._now_us())
                found.update(dict.fromkeys(unkept, Done(NO_STREAM, position)))
        except EsError as error:
            if len(lost) > 1:  # each alone: a damaged row of one person delays no other
                return [
                    self._erased_despite_loss([order], [outcome])[0]
                    for order, outcome in zip(orders, outcomes, strict=True)
                ]
            found.update(dict.fromkeys(lost, error))
        return [found[index] for index in range(len(outcomes))]

    def _without_key(self, orders: Sequence[Order[UserCommand]]) -> set[int]:
        """The people to be erased of whom the vault has no key: another copy of it may still open them."""
        subjects = [order.subject for order in orders if isinstance(order.command, EraseUser)]
        return {*subjects} - self._vault.data_keys(subjects).keys() if subjects else set()

    def _known(self, subjects: Sequence[int]) -> set[int]:
        """The people of whom the vault has a row. A registration that is under way, or was abandoned, made nobody."""
        keys = self._vault.data_keys(subjects)
        claims = self._vault.claims_of(subjects, now_us=self._now_us())
        claiming = {claim.subject for claim in claims}
        known = {claim.subject for claim in claims if claim.state is ClaimState.CONFIRMED}
        for subject, key in keys.items():
            if isinstance(key, DestroyedKey):
                known.discard(subject)
                if key.reason is not Reason.ABANDONED:
                    known.add(subject)
            elif subject not in claiming:
                known.add(subject)
        return known

    # --- addresses -----------------------------------------------------------------------------

    def _reserve(self, batch: _Batch, tickets: Sequence[_Ticket]) -> None:
        """Reserve addresses, and divide the tickets into those to decide and those whose address a user holds."""
        batch.ready, batch.held = [], []
        claiming = self._claiming(batch, tickets)
        requests = [request for _, request in claiming]
        changing = [request.subject for request in requests if not request.registers]
        if changing or not requests:
            self.settle()  # what changes may be an address that the batch before left unconfirmed
        # Before the reservations: the event of one that is confirmed by now is stored before theirs.
        former: dict[int, list[ClaimId]] = {}
        for claim in self._confirmed_claims(changing):
            former.setdefault(claim.subject, []).append(claim)
        answers = (
            self._confirming(
                lambda confirmed: self._vault.reserve(requests, confirmed=confirmed, now_us=self._now_us())
            )
            if requests
            else []
        )
        checked = self._unless_held(requests, answers)
        for (ticket, _), answered, found in zip(claiming, answers, checked, strict=True):
            if not isinstance(answered, HeldByOther):
                ticket.new_id = None
            if not isinstance(found, HeldByOther):
                _take(ticket, found)
                ticket.former = former.get(found.subject, ())
                batch.ready.append(ticket)
            elif found.confirmed and isinstance(ticket.error, EmailTaken | EmailReserved):
                batch.replies[ticket.index] = EmailTaken()
            else:
                # The holder may be deleted, or its reservation may be in use or expired: settle its claims first.
                ticket.error = EmailTaken() if found.confirmed else EmailReserved()
                batch.held.append((ticket, found.subject))
        batch.ready.sort(key=lambda ticket: ticket.index)

    def _unless_held(
        self, requests: Sequence[ClaimRequest], answers: Sequence[ClaimAnswer]
    ) -> list[ClaimAnswer]:
        """The answers, or HeldByOther if another user claimed another spelling of the address under an earlier version."""
        others: dict[int, tuple[str, ...]] = {}
        for index, (request, found) in enumerate(zip(requests, answers, strict=True)):
            if isinstance(found, Reserved) and not found.repeated and not request.text.isascii():
                others[index] = spellings(request.text)[1:]
        holders = self._vault.holders([email for some in others.values() for email in some]) if others else {}
        checked, settlement = list(answers), _Settlement()
        for index, emails in others.items():
            request = requests[index]
            by_others = {holders[email] for email in emails if email in holders} - {request.subject}
            if by_others:
                claim = ClaimId(request.subject, request.reservation_id)
                settlement.give_back(claim, registers=request.registers)
                checked[index] = HeldByOther(min(by_others), confirmed=True)
        settlement.write(self._vault, self._now_us())
        return checked

    def _claiming(self, batch: _Batch, tickets: Sequence[_Ticket]) -> list[tuple[_Ticket, ClaimRequest]]:
        """The tickets that need an address, with their requests. The others are ready. Only registrations need ids."""
        self._draw_ids(batch, [ticket for ticket in tickets if ticket.registers and ticket.new_id is None])
        claiming: list[tuple[_Ticket, ClaimRequest]] = []
        for ticket in tickets:
            match ticket.order.command:
                case RegisterUser(email=email) if ticket.new_id is not None:
                    claiming.append((ticket, self._claim_request(ticket, email, ticket.new_id)))
                case RegisterUser():
                    pass  # without an id; it has its reply
                case ChangeEmail(email=email, user_id=user_id) if ticket.order.verdict is None:
                    claiming.append((ticket, self._claim_request(ticket, email, user_id)))
                case _:
                    batch.ready.append(ticket)
        return claiming

    def _draw_ids(self, batch: _Batch, tickets: Sequence[_Ticket]) -> None:
        try:
            ids = self._take_ids(len(tickets)) if tickets else ()
        except EsError as error:
            batch.replies.update({ticket.index: error for ticket in tickets})
            return
        for ticket, new_id in zip(tickets, ids, strict=True):
            ticket.new_id = new_id

    def _claim_request(self, ticket: _Ticket, email: Personal, subject: int) -> ClaimRequest:
        return ClaimRequest(
            text=email.value,
            subject=subject,
            command_id=ticket.order.metadata.command_id,
            reservation_id=self._new_id(),
            registers=ticket.registers,
        )


def _order(request: Request) -> Order[UserCommand]:
    command = _COMMANDS.get(request.kind)
    if command is None:
        raise UnknownRequest(request.kind)
    if command is not RegisterUser:
        return order_of(request, USER, command)
    order = order_of(request, USER, command, user_id=_NO_ID)
    if order.remembers:
        raise InvalidInput("users.create", "has no stream that could keep a refusal", _NOT_REMEMBERED)
    return order


def _despite_loss(order: Order[UserCommand]) -> Order[UserCommand]:
    assert isinstance(order.command, EraseUser)
    return replace(order, command=replace(order.command, is_known=True))


def _take(ticket: _Ticket, found: Reserved | AlreadyHeld | HolderErased) -> None:
    """Order the command with its reservation, or without one if the vault says that it needs none."""
    command = ticket.order.command
    assert isinstance(command, RegisterUser | ChangeEmail)
    assert not isinstance(found, HolderErased), "only a request with a stream gets that"
    ticket.reservation_id = found.reservation_id if isinstance(found, Reserved) else None
    order = ticket.order  # it is this ticket's alone
    if isinstance(command, RegisterUser):
        order.command = RegisterUser(found.subject, command.email, command.name, ticket.reservation_id)
    else:
        order.command = ChangeEmail(found.subject, command.email, ticket.reservation_id)
    order.stream, order.subject = USER.stream_of(found.subject), found.subject
    order.is_new = ticket.registers and isinstance(found, Reserved) and not found.repeated


def _lost_reservation(ticket: _Ticket, outcome: EsError) -> bool:
    """Whether the janitor released the reservation. For a registration it also destroyed the new data key."""
    if isinstance(outcome, KeyUnavailable):
        return ticket.registers and ticket.reservation_id is not None
    return isinstance(outcome, ReservationLost)
