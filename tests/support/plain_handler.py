"""The command handler in its shortest form: each command alone, on its whole stream. A model for the real one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from domain.kernel.errors import CommandIdReused, DuplicateEventId, EsError
from domain.kernel.events import BEGINNING, NO_STREAM, event_id
from domain.kernel.orders import Done, Order, Outcome
from domain.kernel.ports.event_store import Append, Appended
from tests.support.bank import ACCOUNT, CODEC, Bank


def handle_one(bank: Bank, order: Order[Any]) -> Outcome:
    """Load, decide and append one command over the bank's store and keys. No other handler may write meanwhile."""
    keyring = bank.keyring([order.subject])
    history = [*bank.memory.read_stream(order.stream)]
    for recorded in reversed(history):
        metadata = CODEC.metadata(recorded)
        if metadata.command_id == order.metadata.command_id:
            if metadata.command != order.metadata.command:
                return CommandIdReused(str(metadata.command_id))
            return Done(recorded.version, recorded.position, is_repeat=True)
    state = ACCOUNT.initial
    for recorded in history:
        state = ACCOUNT.evolve(state, CODEC.decode(recorded, subject=order.subject, opener=keyring))
    decided = ACCOUNT.decide(state, order.command)
    if isinstance(decided, EsError):
        return decided
    if not decided:
        return Done(history[-1].version, history[-1].position) if history else Done(NO_STREAM, BEGINNING)
    id_ = order.metadata.command_id
    events = [
        CODEC.encode(
            event,
            event_id=event_id(id_, index),
            subject=order.subject,
            metadata=order.metadata,
            sealer=keyring,
        )
        for index, event in enumerate(decided)
    ]
    (result,) = bank.memory.append([Append(order.stream, len(history) - 1, events)])
    if isinstance(result, DuplicateEventId):
        return CommandIdReused(str(id_))
    return Done(result.version, result.position) if isinstance(result, Appended) else result


def handle(bank: Bank, orders: Sequence[Order[Any]]) -> list[Outcome]:
    return [handle_one(bank, replace(order, is_new=False)) for order in orders]
