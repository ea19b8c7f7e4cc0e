"""The `users` worker: carries account commands out.

For a batch: reserve addresses (one vault transaction), append (one store transaction), confirm (one vault
transaction). Reserve → append → confirm is this system's two-phase commit; `workers/users/claims.py` finishes
what a crash leaves between the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from domain.kernel.aggregate import Aggregate
from domain.kernel.command_handler import CommandHandler, Done, Order
from domain.kernel.errors import EsError, InvalidInput, KeyUnavailable, Kind, UnknownRequest
from domain.kernel.events import Metadata
from domain.kernel.messages import Reply, Request
from domain.kernel.ports.codec import Codec, Keyring
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.vault import AlreadyHeld, ClaimRequest, HeldByOther, Reserved, Vault
from domain.users.account import INITIAL, User, decide, evolve, stream_of
from domain.users.commands import (
    ChangeEmail,
    Command,
    DeleteUser,
    EraseUser,
    RegisterUser,
    RenameUser,
    parse_basis,
    parse_email,
    parse_name,
    parse_user_id,
)
from domain.users.errors import EmailReserved, EmailTaken, ReservationLost
from workers.users.claims import Claims

_TRIES = 4
"""How often an address is reserved anew for one command after its reservation was lost or seemed taken."""

_UNDER_WAY_S = 0.02
"""How long a command that has reserved the address is given to finish, before the next try."""

USER: Aggregate[User, Command] = Aggregate(INITIAL, evolve, decide)

_DEFINITE = (Kind.REFUSED, Kind.INVALID, Kind.NOT_FOUND)
"""Errors after which a command certainly had no effect."""

_NEW_USER = 0  # stands for the id until one is drawn

# The fields of each request's input, and the command they make.
_COMMANDS: dict[str, tuple[frozenset[str], Callable[[dict[str, Any]], Command]]] = {
    "users.create": (
        frozenset({"email", "name"}),
        lambda f: RegisterUser(_NEW_USER, parse_email(f["email"]), parse_name(f["name"])),
    ),
    "users.rename": (
        frozenset({"user_id", "name"}),
        lambda f: RenameUser(parse_user_id(f["user_id"]), parse_name(f["name"])),
    ),
    "users.change-email": (
        frozenset({"user_id", "email"}),
        lambda f: ChangeEmail(parse_user_id(f["user_id"]), parse_email(f["email"])),
    ),
    "users.delete": (frozenset({"user_id"}), lambda f: DeleteUser(parse_user_id(f["user_id"]))),
    "users.erase": (
        frozenset({"user_id", "basis"}),
        lambda f: EraseUser(parse_user_id(f["user_id"]), parse_basis(f["basis"])),
    ),
}


@dataclass(slots=True)
class _Ticket:
    """A command on its way through the batch."""

    index: int
    command: Command
    command_id: UUID
    actor: str
    reservation_id: UUID | None = None  # held by this command, to be confirmed or released
    other_holder: int | None = None  # who seemed to have the address
    is_new: bool = False
    error: EsError | None = None  # why it has to be tried again


class UsersService:
    role = "users"

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
                tickets.append(_parse(index, request))
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
        outcomes = self._handler.handle([_order(ticket) for ticket in ready])
        confirmed: list[UUID] = []
        unsettled: set[int] = set()
        for ticket, outcome in zip(ready, outcomes, strict=True):
            match outcome:
                case Done(version=version, position=position, is_repeat=is_repeat):
                    replies[ticket.index] = {
                        "command_id": str(ticket.command_id),
                        "user_id": str(ticket.command.user_id),
                        "version": version,
                        "position": position,
                    }
                    if ticket.reservation_id is not None and is_repeat:
                        # Carried out before, by this worker or another that may be at it right now, and the
                        # address may have been left again since: the stream says whose claim holds.
                        unsettled.add(ticket.command.user_id)
                    elif ticket.reservation_id is not None:
                        confirmed.append(ticket.reservation_id)
                case ReservationLost():
                    ticket.error = outcome
                    again.append(ticket)
                case KeyUnavailable() if isinstance(ticket.command, RegisterUser) and ticket.reservation_id:
                    # Its worker paused, and the janitor gave the reservation up and destroyed its key.
                    ticket.error = outcome
                    again.append(ticket)
                case _:
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
            if error.kind is not Kind.DAMAGED:
                raise
            # That person's claims stay as they are; whoever waits for one is refused, the others go on.

    def _reserve(
        self, tickets: list[_Ticket], replies: dict[int, Reply]
    ) -> tuple[list[_Ticket], list[_Ticket]]:
        """Split into tickets ready to be decided and tickets whose address somebody seems to have."""
        ready = [ticket for ticket in tickets if not isinstance(ticket.command, RegisterUser | ChangeEmail)]
        claiming = self._with_ids([ticket for ticket in tickets if ticket not in ready], replies)
        again: list[_Ticket] = []
        answers = (
            self._vault.reserve([self._claim(ticket) for ticket in claiming], now_us=self._now_us())
            if claiming
            else []
        )
        for ticket, answer in zip(claiming, answers, strict=True):
            command = ticket.command
            assert isinstance(command, RegisterUser | ChangeEmail)
            match answer:
                case Reserved(subject=subject, reservation_id=reservation, repeated=repeated):
                    ticket.command = replace(command, user_id=subject, reservation_id=reservation)
                    ticket.reservation_id, ticket.other_holder = reservation, None
                    ticket.is_new = isinstance(command, RegisterUser) and not repeated
                    ready.append(ticket)
                case AlreadyHeld(subject=subject):
                    ticket.command = replace(command, user_id=subject, reservation_id=None)
                    ticket.reservation_id, ticket.other_holder, ticket.is_new = None, None, False
                    ready.append(ticket)
                case HeldByOther(subject=other, confirmed=confirmed):
                    if confirmed and isinstance(ticket.error, EmailTaken | EmailReserved):
                        replies[ticket.index] = EmailTaken()
                        continue
                    # Perhaps somebody just deleted, or a reservation under way or expired: settle, ask again.
                    ticket.error = EmailTaken() if confirmed else EmailReserved()
                    ticket.other_holder = other
                    again.append(ticket)
        ready.sort(key=lambda ticket: ticket.index)
        return ready, again

    def _with_ids(self, tickets: list[_Ticket], replies: dict[int, Reply]) -> list[_Ticket]:
        """Give every registration a fresh user id; without ids only the registrations fail."""
        new = [ticket for ticket in tickets if isinstance(ticket.command, RegisterUser)]
        try:
            ids = self._take_ids(len(new)) if new else []
        except EsError as error:
            replies.update({ticket.index: error for ticket in new})
            return [ticket for ticket in tickets if ticket not in new]
        for ticket, user_id in zip(new, ids, strict=True):
            ticket.command = replace(ticket.command, user_id=user_id)
        return tickets

    def _claim(self, ticket: _Ticket) -> ClaimRequest:
        command = ticket.command
        assert isinstance(command, RegisterUser | ChangeEmail)
        return ClaimRequest(
            email=command.email.value,
            subject=command.user_id,
            command_id=ticket.command_id,
            reservation_id=self._new_id(),
            registers=isinstance(command, RegisterUser),
        )

    def _give_back(self, ticket: _Ticket, outcome: EsError) -> None:
        """Free what a definitely refused command had reserved. An unknown outcome keeps it for the janitor."""
        if ticket.reservation_id is None or outcome.kind not in _DEFINITE:
            return
        if isinstance(ticket.command, RegisterUser):
            self._vault.abandon_registration(ticket.command.user_id, ticket.reservation_id)
        else:
            self._vault.release([ticket.reservation_id])


def _order(ticket: _Ticket) -> Order[Command]:
    metadata = Metadata(
        command_id=ticket.command_id,
        command=ticket.command.wire,
        correlation_id=ticket.command_id,
        causation_id=ticket.command_id,
        actor=ticket.actor,
    )
    subject = ticket.command.user_id
    return Order(ticket.command, stream_of(subject), subject, metadata, ticket.is_new)


def _parse(index: int, request: Request) -> _Ticket:
    if request.kind not in _COMMANDS:
        raise UnknownRequest(request.kind)
    names, build = _COMMANDS[request.kind]
    given = request.body.get("input")
    if not isinstance(given, dict):
        raise InvalidInput("input", "must be a JSON object")
    for name in sorted(names - set(given)):
        raise InvalidInput(name, "is missing")
    if set(given) - names:
        raise InvalidInput("input", f"has a field that is not known; known are {', '.join(sorted(names))}")
    command_id = parse_command_id(request.body.get("command_id"))
    actor = request.body.get("actor")
    return _Ticket(index, build(given), command_id, actor if isinstance(actor, str) else "unknown")


def parse_command_id(value: object) -> UUID:
    try:
        return UUID(value)  # type: ignore[arg-type]
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidInput("command_id", "is not a UUID") from error
