"""Requests that are commands: parse the input, run the command, reply. The generic service of a role.

Promise: a batch is one durable append per aggregate and round, and a request that fails does not fail the others.
Refusal: the rules of aggregates are not known here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from adapters.wiring import erased_keyring, keyring_of
from domain.kernel.aggregate import Aggregate
from domain.kernel.command_handler import CommandHandler, Done, Order
from domain.kernel.commands import Command, inputs_of, parse_actor, parse_command, parse_command_id
from domain.kernel.errors import EsError, UnknownRequest
from domain.kernel.events import Metadata, personal_fields
from domain.kernel.messages import Body, Reply, Request
from domain.kernel.ports.codec import Codec, Keyring
from domain.kernel.ports.event_store import EventStore

if TYPE_CHECKING:
    from workers.runtime.worker import Worker


def requested(aggregate: Aggregate[Any, Any]) -> dict[str, type[Command]]:
    """The commands that callers can send, by kind of request."""
    return {command.request: command for command in aggregate.commands if command.request}


def order_of(
    request: Request, aggregate: Aggregate[Any, Any], command: type[Command], **filled: object
) -> Order[Any]:
    """The order of a request. `filled` are the fields that are not input. Raises InvalidInput, which names the field."""
    parsed = parse_command(command, request.body.get("input"), **filled)
    command_id = parse_command_id(request.body.get("command_id"))
    metadata = Metadata(
        command_id=command_id,
        command=command.wire,
        correlation_id=command_id,
        causation_id=command_id,
        actor=parse_actor(request.body.get("actor")),
    )
    id_ = getattr(parsed, aggregate.id_field)
    return Order(parsed, aggregate.stream_of(id_), id_, metadata)


def answer(aggregate: Aggregate[Any, Any], order: Order[Any], done: Done) -> Body:
    """`{"command_id", "<aggregate>_id", "version", "position"}`"""
    return {
        "command_id": str(order.metadata.command_id),
        aggregate.id_field: str(getattr(order.command, aggregate.id_field)),
        "version": done.version,
        "position": done.position,
    }


class CommandService:
    """Runs the commands of aggregates. Callers choose the ids of new instances."""

    def __init__(
        self,
        aggregates: Sequence[Aggregate[Any, Any]],
        *,
        store: EventStore,
        codec: Codec,
        keyring: Callable[[Sequence[int]], Keyring],
        pause: Callable[[float], None],
    ) -> None:
        self._aggregates = aggregates
        self._commands: dict[str, tuple[Aggregate[Any, Any], type[Command]]] = {}
        self._handlers: dict[str, CommandHandler[Any, Any]] = {}
        for aggregate in aggregates:
            self._handlers[aggregate.name] = CommandHandler(
                aggregate, store=store, codec=codec, keyring=keyring, pause=pause
            )
            for kind, command in requested(aggregate).items():
                if aggregate.id_field not in inputs_of(command):
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
            try:
                orders[aggregate.name][index] = order_of(request, aggregate, command)
            except EsError as error:
                replies[index] = error
        for aggregate in self._aggregates:
            given = orders[aggregate.name]
            outcomes = self._handlers[aggregate.name].handle([*given.values()])
            for (index, order), outcome in zip(given.items(), outcomes, strict=True):
                replies[index] = answer(aggregate, order, outcome) if isinstance(outcome, Done) else outcome
        return [replies[index] for index in range(len(batch))]

    def close(self) -> None:
        """Nothing is open between two batches."""


def open_service(worker: Worker) -> CommandService:
    """The service that runs the commands of the worker's feature. Without personal fields it opens no vault."""
    aggregates = worker.registry.aggregates_of(worker.feature)
    is_personal = any(personal_fields(event) for aggregate in aggregates for event in aggregate.events)
    return CommandService(
        aggregates,
        store=worker.store(),
        codec=worker.codec,
        keyring=keyring_of(worker.vault()) if is_personal else lambda _: erased_keyring(),
        pause=time.sleep,
    )
