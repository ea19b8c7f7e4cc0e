"""The streams of the instances of one process: read them, and let them take note of what happens.

Promise: a happening is stored once, at the exact version, with what follows from it. Refusal: no personal value is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from adapters.wiring import erased_keyring
from domain.kernel.command_handler import CommandHandler
from domain.kernel.commands import to_input
from domain.kernel.errors import Damaged, EsError, Kind, shortened
from domain.kernel.events import BEGINNING, NO_STREAM, Metadata, Position, Recorded
from domain.kernel.orders import NO_PERSON, Done, Order
from domain.kernel.ports.codec import Codec
from domain.kernel.ports.event_store import EventStore
from domain.kernel.process import Process
from domain.kernel.process_instance import Instance, InstanceCommand, command_id_of, process_aggregate
from domain.kernel.streams import remaining
from workers.runtime.recent import recent_streams

_ERROR_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Read:
    """An instance as its stream tells. `error` says why it cannot be read; then it has the state before that."""

    instance: Instance
    exists: bool
    position: Position = BEGINNING
    """That of its last event."""
    correlation_id: UUID | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Happening:
    """What an instance takes note of."""

    instance: int
    command: InstanceCommand
    correlation_id: UUID | None


class Instances:
    """The instances of one process. For one thread at a time."""

    def __init__(
        self,
        process: Process[Any],
        *,
        store: EventStore,
        codec: Codec,
        pause: Callable[[float], None],
    ) -> None:
        self._aggregate = process_aggregate(process, decode=codec.decode, to_input=to_input)
        self._store = store
        self._codec = codec
        self._actor = f"process:{process.name}"
        self.newest: Position = BEGINNING
        """The greatest position of an event that is known to hold what was noted here."""
        self._handler = CommandHandler(
            self._aggregate,
            store=store,
            codec=codec,
            keyring=lambda _: erased_keyring(),
            pause=pause,
            recent=recent_streams(store),
        )

    def stream_of(self, instance: int) -> str:
        return self._aggregate.stream_of(instance)

    # --- read ----------------------------------------------------------------------------------

    def read(self, instances: Sequence[int]) -> dict[int, Read]:
        """Instances as their streams tell, in one wait for the store. Raises PartUnavailable."""
        streams = {self.stream_of(instance): instance for instance in instances}
        found = remaining(self._store, [*streams])
        return {streams[stream]: self._folded(*found[stream]) for stream in found}

    def _folded(self, events: Sequence[Recorded], damage: Damaged | None) -> Read:
        state, error = self._aggregate.initial, ""
        try:
            if damage is not None:
                raise damage
            for recorded in events:
                state = self._aggregate.evolve(state, self._codec.decode(recorded))
        except EsError as found:
            error = told(found)
        exists = bool(events) or damage is not None
        position = events[-1].position if events else BEGINNING
        return Read(state, exists, position, self._correlation_of(events), error)

    def _correlation_of(self, events: Sequence[Recorded]) -> UUID | None:
        return correlation_of(self._codec, events[0]) if events else None

    # --- take note -----------------------------------------------------------------------------

    def handle(self, happenings: Sequence[Happening]) -> list[str | None]:
        """Store them, each as one command of its instance, in one append.

        Returns for each an empty text, why it cannot be stored, or None if there is no such instance. Raises PartUnavailable.
        """
        if not happenings:
            return []
        outcomes = self._handler.handle([self._order(happening) for happening in happenings])
        return [self._told(outcome) for outcome in outcomes]

    def _told(self, outcome: Done | EsError) -> str | None:
        if isinstance(outcome, Done):
            self.newest = max(self.newest, outcome.position)
            return None if outcome.version == NO_STREAM else ""
        if outcome.kind is Kind.UNAVAILABLE:
            raise outcome
        return told(outcome)

    def _order(self, happening: Happening) -> Order[InstanceCommand]:
        stream, command = self.stream_of(happening.instance), happening.command
        metadata = Metadata(
            command_id=command_id_of(command, stream),
            command=command.wire,
            correlation_id=happening.correlation_id or command.cause,
            causation_id=command.cause,
            actor=self._actor,
        )
        return Order(command, stream, NO_PERSON, metadata)


def correlation_of(codec: Codec, recorded: Recorded) -> UUID | None:
    """The correlation id of a stored event; None of an event of another program."""
    try:
        return codec.metadata(recorded).correlation_id
    except EsError:
        return None


def told(error: EsError) -> str:
    """The error as the list keeps it: short, and text that every database takes."""
    text = str(error) or error.code
    return shortened(text.encode("utf-8", "replace").decode(), _ERROR_CHARACTERS)
