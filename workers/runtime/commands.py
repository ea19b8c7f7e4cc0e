"""Requests that are commands: parse the input, run the command, reply. The generic service of a role.

Promise: a batch is one durable append per aggregate, and a request that fails does not fail the others.
Refusal: the rules of aggregates are not known here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from adapters.wiring import erased_keyring, keyring_of
from domain.kernel.aggregate import Aggregate
from domain.kernel.command_handler import CommandHandler
from domain.kernel.commands import (
    Command,
    inputs_of,
    parse_actor,
    parse_command,
    parse_command_id,
    personal_inputs,
)
from domain.kernel.errors import CommandCancelled, EsError, InvalidSetting, UnknownRequest
from domain.kernel.events import Metadata, personal_fields
from domain.kernel.messages import Body, Reply, Request
from domain.kernel.orders import NO_PERSON, Done, Order, Outcome, content_of, people_in
from domain.kernel.ports.codec import Codec, Keyring
from domain.kernel.ports.event_store import EventStore
from workers.runtime.assigned_ids import AssignedIds
from workers.runtime.recent import recent_streams
from workers.runtime.unique import unique_handler

if TYPE_CHECKING:
    from workers.runtime.worker import Worker


def requested(aggregate: Aggregate[Any, Any]) -> dict[str, type[Command]]:
    """The commands that callers can send, by kind of request."""
    return {command.request: command for command in aggregate.commands if command.request}


def order_of(
    request: Request, aggregate: Aggregate[Any, Any], command: type[Command], **filled: object
) -> Order[Any]:
    """The order of a request. `filled` are the fields that are not input. Raises InvalidInput, which names the field.

    With `"remember": true` its answer stays, also if it is a refusal. With `"cancel": true` it is no order to act: if the
    command took effect its first answer is given, and otherwise it never will, however late it arrives.
    """
    parsed = parse_command(command, request.body.get("input"), **filled)
    command_id = parse_command_id(request.body.get("command_id"))
    metadata = Metadata(
        command_id=command_id,
        command=command.wire,
        correlation_id=_cause(request, "correlation_id", command_id),
        causation_id=_cause(request, "causation_id", command_id),
        actor=parse_actor(request.body.get("actor")),
    )
    id_ = getattr(parsed, aggregate.id_field)
    is_personal = bool(personal_inputs(command))
    people = people_in(parsed, is_own=aggregate.is_person)
    is_cancelled = request.body.get("cancel") is True
    return Order(
        parsed,
        aggregate.stream_of(id_),
        id_ if aggregate.is_person else NO_PERSON,
        metadata,
        content=content_of(parsed),
        plain_content=content_of(parsed, without=personal_inputs(command)) if people is None else b"",
        is_personal=is_personal,
        people=people,
        remembers=is_cancelled or request.body.get("remember") is True,
        verdict=CommandCancelled() if is_cancelled else None,
    )


def _cause(request: Request, field: str, command_id: UUID) -> UUID:
    """The id that the sender gives as the cause; without one that of the command. Raises InvalidInput."""
    given = request.body.get(field)
    return command_id if given is None else parse_command_id(given, field=field)


def answer(aggregate: Aggregate[Any, Any], order: Order[Any], done: Done) -> Body:
    """`{"command_id", "<aggregate>_id", "version", "position"}`"""
    return {
        "command_id": str(order.metadata.command_id),
        aggregate.id_field: str(getattr(order.command, aggregate.id_field)),
        "version": done.version,
        "position": done.position,
    }


class Handler(Protocol):
    """One outcome for each order, in order. Raises `PartUnavailable`; a retry is safe then."""

    def handle(self, orders: Sequence[Order[Any]]) -> list[Outcome]: ...


def draws_id(aggregate: Aggregate[Any, Any], command: type[Command]) -> bool:
    """Whether the worker draws the id of what the command creates, because no caller gives it."""
    return command.creates and aggregate.id_field not in inputs_of(command)


_NO_ID = 0
"""The id of a new instance until it is drawn."""


class CommandService:
    """Runs the commands of aggregates. The id of a new instance is input, or it is drawn for the command."""

    def __init__(
        self,
        aggregates: Sequence[Aggregate[Any, Any]],
        *,
        store: EventStore,
        codec: Codec,
        keyring: Callable[[Sequence[int]], Keyring],
        pause: Callable[[float], None],
        unique: Callable[[Aggregate[Any, Any], CommandHandler[Any, Any]], Handler] = lambda _, plain: plain,
        take_ids: Callable[[int], Sequence[int]] | None = None,
    ) -> None:
        """`unique` gives an aggregate with unique values a handler that reserves them, around the plain one.

        `take_ids(n)` draws n new ids, or raises `EsError`. It is needed by commands without the id as their input.
        """
        self._aggregates = aggregates
        self._ids = AssignedIds(store=store, codec=codec, take_ids=take_ids) if take_ids else None
        self._commands: dict[str, tuple[Aggregate[Any, Any], type[Command]]] = {}
        self._handlers: dict[str, Handler] = {}
        for aggregate in aggregates:
            plain = CommandHandler(
                aggregate,
                store=store,
                codec=codec,
                keyring=keyring,
                pause=pause,
                recent=recent_streams(store),
            )
            self._handlers[aggregate.name] = unique(aggregate, plain) if aggregate.unique else plain
            for kind, command in requested(aggregate).items():
                draws = draws_id(aggregate, command) and take_ids is not None
                if not draws and aggregate.id_field not in inputs_of(command):
                    raise TypeError(f"{command.__name__} takes no {aggregate.id_field} as its input")
                self._commands[kind] = aggregate, command

    def handle(self, batch: Sequence[Request]) -> list[Reply]:
        replies: dict[int, Reply] = {}
        orders: dict[str, dict[int, Order[Any]]] = {aggregate.name: {} for aggregate in self._aggregates}
        for index, request in enumerate(batch):
            if request.kind not in self._commands:
                replies[index] = UnknownRequest(request.kind)
                continue
            aggregate, command = self._commands[request.kind]
            filled = {aggregate.id_field: _NO_ID} if draws_id(aggregate, command) else {}
            try:
                orders[aggregate.name][index] = order_of(request, aggregate, command, **filled)
            except EsError as error:
                replies[index] = error
        replies |= self._draw(orders)
        for aggregate in self._aggregates:
            given = orders[aggregate.name]
            outcomes = self._handlers[aggregate.name].handle([*given.values()])
            for (index, order), outcome in zip(given.items(), outcomes, strict=True):
                replies[index] = answer(aggregate, order, outcome) if isinstance(outcome, Done) else outcome
        return [replies[index] for index in range(len(batch))]

    def _draw(self, orders: Mapping[str, dict[int, Order[Any]]]) -> dict[int, EsError]:
        """Give each order its drawn id. Without one an order is taken out, and its error is returned."""
        if self._ids is None:
            return {}
        wanted = [
            (aggregate, index, order)
            for aggregate in self._aggregates
            for index, order in orders[aggregate.name].items()
            if draws_id(aggregate, type(order.command))
        ]
        assigned = self._ids.of([(aggregate.name, order.metadata) for aggregate, _, order in wanted])
        errors: dict[int, EsError] = {}
        for (aggregate, index, order), found in zip(wanted, assigned, strict=True):
            if isinstance(found, EsError):
                errors[index] = found
                del orders[aggregate.name][index]
                continue
            orders[aggregate.name][index] = replace(
                order,
                command=replace(order.command, **{aggregate.id_field: found.id}),
                stream=aggregate.stream_of(found.id),
                is_new=found.is_new,
            )
        return errors

    def close(self) -> None:
        """Nothing is open between two batches."""


def open_service(worker: Worker) -> CommandService:
    """The service that runs the commands of the worker's feature.

    Without personal fields and unique values it opens no vault. Raises InvalidSetting if its commands need drawn ids,
    but its role does not need `ids`.
    """
    aggregates = worker.registry.aggregates_of(worker.feature)
    drawing = [c for each in aggregates for c in requested(each).values() if draws_id(each, c)]
    role = worker.registry.role(worker.role) if drawing else None
    if role is not None and "ids" not in role.needs:
        raise InvalidSetting(
            "features",
            f"have the role {role.name!r}, which does not need `ids`, but {drawing[0].__name__} needs drawn ids",
            'Declare it as `Role("…", needs=("ids",))`.',
        )
    is_personal = any(personal_fields(event) for aggregate in aggregates for event in aggregate.events)
    return CommandService(
        aggregates,
        store=worker.store(),
        codec=worker.codec,
        keyring=keyring_of(worker.vault()) if is_personal else lambda _: erased_keyring(),
        pause=time.sleep,
        unique=lambda aggregate, plain: unique_handler(worker, aggregate, plain),
        take_ids=worker.id_source() if drawing else None,
    )
