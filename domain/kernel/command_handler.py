"""Carry commands out: load, decide, append at the exact version; on conflict load and decide again.

Promise: a command has its effect once, however often it is handed in: its outcome is in the stream, and
a stream that holds the command id answers with the first result. Refusal: nothing is ever appended
without an expected version, and nothing is decided on a state that was not just loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic

from tenacity import Retrying, retry_if_result, stop_after_attempt, wait_random_exponential

from domain.kernel.aggregate import Aggregate, C, S
from domain.kernel.errors import CommandIdReused, DuplicateEventId, EsError, VersionConflict
from domain.kernel.events import BEGINNING, NO_STREAM, Metadata, Position, Recorded, event_id
from domain.kernel.ports.codec import Codec, Keyring
from domain.kernel.ports.event_store import Append, Appended, EventStore

ATTEMPTS = 12
"""How often one command is decided anew after a conflict before its caller is asked to repeat it."""


@dataclass(frozen=True, slots=True)
class Order(Generic[C]):
    """One command on its way. `is_new` says that the stream cannot exist yet, which saves the first load."""

    command: C
    stream: str
    subject: int
    metadata: Metadata
    is_new: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """Version and position of the command's last event, or of the stream's end if nothing had to happen.

    `is_repeat` says that the command was carried out before and this is its first result.
    """

    version: int
    position: Position
    is_repeat: bool = field(default=False, compare=False)  # the answer is the same


Outcome = Done | EsError


@dataclass(slots=True)
class _Pending(Generic[C]):
    index: int
    order: Order[C]
    conflict: VersionConflict | None = None


class CommandHandler(Generic[S, C]):
    """Handles a batch of commands of one aggregate with one durable append per round."""

    def __init__(
        self,
        aggregate: Aggregate[S, C],
        *,
        store: EventStore,
        codec: Codec,
        keyring: Callable[[Sequence[int]], Keyring],
        pause: Callable[[float], None],
    ) -> None:
        """`keyring` fetches the keys of people; `pause` waits that many seconds between conflicts."""
        self._aggregate = aggregate
        self._store = store
        self._codec = codec
        self._keyring = keyring
        # Bounded and jittered: a hot stream must not keep a worker for ever, nor let rivals collide in step.
        self._until_settled = Retrying(
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.002, max=0.1),
            retry=retry_if_result(bool),
            retry_error_callback=lambda _: None,
            sleep=pause,
        )

    def handle(self, orders: Sequence[Order[C]]) -> list[Outcome]:
        """One outcome per order, in order. Raises `PartUnavailable` when a part is down: then repeat."""
        outcomes: dict[int, Outcome] = {}
        for wave in _waves(orders):
            self._settle(wave, outcomes)
        return [outcomes[index] for index in range(len(orders))]

    def _settle(self, wave: list[_Pending[C]], outcomes: dict[int, Outcome]) -> None:
        pending = wave

        def attempt() -> list[_Pending[C]]:
            nonlocal pending
            pending = self._attempt(pending, outcomes)
            return pending

        self._until_settled(attempt)
        for left in pending:
            assert left.conflict is not None
            outcomes[left.index] = left.conflict

    def _attempt(self, pending: Sequence[_Pending[C]], outcomes: dict[int, Outcome]) -> list[_Pending[C]]:
        """Decide and append each once; return those that lost a race."""
        keyring = self._keyring([item.order.subject for item in pending])
        appends: list[tuple[_Pending[C], Append]] = []
        for item in pending:
            planned = self._plan(item, keyring)
            if isinstance(planned, Append):
                appends.append((item, planned))
            else:
                outcomes[item.index] = planned
        lost: list[_Pending[C]] = []
        results = self._store.append([append for _, append in appends]) if appends else []
        for (item, _), result in zip(appends, results, strict=True):
            match result:
                case Appended(version=version, position=position):
                    outcomes[item.index] = Done(version, position)
                case VersionConflict():
                    item.conflict = result
                    lost.append(item)
                case DuplicateEventId():
                    outcomes[item.index] = CommandIdReused(str(item.order.metadata.command_id))
                case _:
                    outcomes[item.index] = result
        return lost

    def _plan(self, item: _Pending[C], keyring: Keyring) -> Append | Outcome:
        order = item.order
        try:
            history: list[Recorded] = []
            if not order.is_new or item.conflict is not None:
                history = list(self._store.read_stream(order.stream))
            first_result = self._first_result(order, history)
            if first_result is not None:
                return first_result
            state = self._aggregate.initial
            for recorded in history:
                event = self._codec.decode(recorded, subject=order.subject, opener=keyring)
                state = self._aggregate.evolve(state, event)
            decided = self._aggregate.decide(state, order.command)
            if isinstance(decided, EsError):
                return decided
            if not decided:
                return (
                    Done(history[-1].version, history[-1].position) if history else Done(NO_STREAM, BEGINNING)
                )
            return Append(
                order.stream,
                history[-1].version if history else NO_STREAM,
                [
                    self._codec.encode(
                        event,
                        event_id=event_id(order.metadata.command_id, index),
                        subject=order.subject,
                        metadata=order.metadata,
                        sealer=keyring,
                    )
                    for index, event in enumerate(decided)
                ],
            )
        except EsError as error:  # of this stream alone: its neighbours go on
            return error

    def _first_result(self, order: Order[C], history: Sequence[Recorded]) -> Outcome | None:
        for recorded in reversed(history):
            metadata = self._codec.metadata(recorded)
            if metadata.command_id == order.metadata.command_id:
                if metadata.command != order.metadata.command:
                    return CommandIdReused(str(metadata.command_id))
                return Done(recorded.version, recorded.position, is_repeat=True)
        return None


def _waves(orders: Sequence[Order[C]]) -> Iterator[list[_Pending[C]]]:
    """The orders in runs that hold a stream at most once, so that later commands see the earlier ones."""
    waiting = [_Pending(index, order) for index, order in enumerate(orders)]
    while waiting:
        wave: dict[str, _Pending[C]] = {}
        later: list[_Pending[C]] = []
        for item in waiting:
            if item.order.stream in wave:
                later.append(item)
            else:
                wave[item.order.stream] = item
        yield list(wave.values())
        waiting = later
