"""Requests that are commands: read the input, carry it out, answer. The service of a role that does nothing besides.

Promise: a bad request fails alone, and a batch is one durable append per round. Refusal: no rule of any aggregate is
known here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from adapters.wiring import erased_keyring, keyring_of
from domain.kernel.aggregate import Aggregate
from domain.kernel.command_handler import CommandHandler, Done, Order
from domain.kernel.commands import Command, inputs_of, parse_command, parse_command_id
from domain.kernel.errors import EsError, UnknownRequest
from domain.kernel.events import Metadata, personal_fields
from domain.kernel.messages import Body, Reply, Request
from domain.kernel.ports.codec import Codec, Keyring
from domain.kernel.ports.event_store import EventStore

if TYPE_CHECKING:
    from workers.runtime.worker import Worker


def requested(aggregate: Aggregate[Any, Any]) -> dict[str, type[Command]]:
    """The commands that a caller may ask for, by kind of request."""
    return {command.request: command for command in aggregate.commands if command.request}


def order_of(
    request: Request, aggregate: Aggregate[Any, Any], command: type[Command], **filled: object
) -> Order[Any]:
    """The order that a request gives; `filled` are fields that are no input. Raises InvalidInput naming the field."""
    parsed = parse_command(command, request.body.get("input"), **filled)
    command_id = parse_command_id(request.body.get("command_id"))
    actor = request.body.get("actor")
    metadata = Metadata(
        command_id=command_id,
        command=command.wire,
        correlation_id=command_id,
        causation_id=command_id,
        actor=actor if isinstance(actor, str) else "unknown",
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
    """Carries out the commands of aggregates whose ids come with the command."""

    def __init__(
        self,
        aggregates: Sequence[Aggregate[Any, Any]],
        *,
        store: EventStore,
        codec: Codec,
        keyring: Callable[[Sequence[int]], Keyring],
        pause: Callable[[float], None],
    ) -> None:
        self._commands: dict[str, tuple[int, type[Command]]] = {}
        self._aggregates = aggregates
        self._handlers = [
            CommandHandler(aggregate, store=store, codec=codec, keyring=keyring, pause=pause)
            for aggregate in aggregates
        ]
        for number, aggregate in enumerate(aggregates):
            for kind, command in requested(aggregate).items():
                if aggregate.id_field not in inputs_of(command):
                    raise TypeError(f"{command.__name__} takes no {aggregate.id_field} as its input")
                self._commands[kind] = number, command

    def handle(self, batch: Sequence[Request]) -> list[Reply]:
        replies: dict[int, Reply] = {}
        orders: list[dict[int, Order[Any]]] = [{} for _ in self._aggregates]
        for index, request in enumerate(batch):
            try:
                number, command = self._commands.get(request.kind) or _unknown(request)
                orders[number][index] = order_of(request, self._aggregates[number], command)
            except EsError as error:
                replies[index] = error
        for aggregate, handler, mine in zip(self._aggregates, self._handlers, orders, strict=True):
            for (index, order), outcome in zip(
                mine.items(), handler.handle([*mine.values()]) if mine else [], strict=True
            ):
                replies[index] = answer(aggregate, order, outcome) if isinstance(outcome, Done) else outcome
        return [replies[index] for index in range(len(batch))]

    def close(self) -> None:
        """Nothing is held between batches."""


def _unknown(request: Request) -> tuple[int, type[Command]]:
    raise UnknownRequest(request.kind)


def open_service(worker: Worker) -> CommandService:
    """The service of a role that carries out the commands of its feature. Without personal fields it needs no vault."""
    aggregates = worker.registry.aggregates_of(worker.feature)
    is_personal = any(personal_fields(event) for aggregate in aggregates for event in aggregate.events)
    return CommandService(
        aggregates,
        store=worker.store(),
        codec=worker.codec,
        keyring=keyring_of(worker.vault()) if is_personal else lambda _: erased_keyring(),
        pause=time.sleep,
    )
