"""The `relay` worker: publishes stored events to RabbitMQ, at least once. Never decides anything.

It follows the store from a checkpoint, publishes in commit order, waits for the broker's confirmation and
then moves the checkpoint. The message id is the event id, by which whoever listens recognises an event that
comes twice. Personal fields stay sealed: whoever may open them asks a worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from adapters.log import Log
from adapters.rabbitmq.publisher import Outgoing
from domain.kernel.errors import Damaged
from domain.kernel.events import Position, Recorded
from domain.kernel.ids import time_text
from domain.kernel.messages import to_json
from domain.kernel.ports.codec import Codec
from domain.kernel.ports.event_store import CaughtUp, EventStore
from workers.runtime.followers import Checkpoints, start_of

PROCESS = "relay"
"""Name of the checkpoint."""
BATCH_LIMIT = 256
_SAVE_INTERVAL_S = 1.0
"""A crash publishes again what was published since the checkpoint was saved last."""


class Publisher(Protocol):
    def publish(self, batch: Sequence[Outgoing]) -> None:
        """Publish in order; return when all is confirmed, raise `PartUnavailable` when that isn't sure."""
        ...


class RelayProcess:
    def __init__(
        self,
        *,
        store: EventStore,
        codec: Codec,
        checkpoints: Checkpoints,
        publisher: Publisher,
        log: Log,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._codec = codec
        self._checkpoints = checkpoints
        self._publisher = publisher
        self._log = log
        self._monotonic_s = monotonic_s
        self._reached = Position(0)

    @property
    def reached(self) -> Position:
        """Everything up to here was published and confirmed, by this relay or by the one that it stands by for."""
        return max(self._reached, self._checkpoints.checkpoint(PROCESS))

    def run(self, stopped: Callable[[], bool]) -> None:
        """Follow until `stopped()`. Raises when a part fails; running again continues from the checkpoint."""
        self._reached = saved = start_of(
            PROCESS, store=self._store, checkpoints=self._checkpoints, log=self._log
        )
        saved_at_s = self._monotonic_s()
        self._log.info("following", process=PROCESS, position=saved)
        batch: list[Recorded] = []
        for item in self._store.follow(saved, stopped=stopped):
            if not isinstance(item, CaughtUp):
                batch.append(item)
                if len(batch) < BATCH_LIMIT:
                    continue
            self._publish(batch)
            batch = []
            self._reached = max(self._reached, item.position)
            # After the confirmation: a crash in between publishes again, never not at all.
            if self._reached > saved and self._monotonic_s() - saved_at_s > _SAVE_INTERVAL_S:
                self._checkpoints.save_checkpoint(PROCESS, self._reached)
                saved, saved_at_s = self._reached, self._monotonic_s()
        if self._reached > saved:
            self._checkpoints.save_checkpoint(PROCESS, self._reached)

    def _publish(self, batch: Sequence[Recorded]) -> None:
        if messages := [message for each in batch if (message := self._message(each))]:
            self._publisher.publish(messages)
        if batch:
            self._reached = batch[-1].position

    def _message(self, recorded: Recorded) -> Outgoing | None:
        """None for an event that isn't ours or is damaged: it must not hold up all that follow it."""
        try:
            metadata = self._codec.metadata(recorded)
            stored = self._codec.stored(recorded)
        except Damaged as error:
            self._log.error("event-passed-over", error, position=recorded.position)
            return None
        body = {
            "position": recorded.position,
            "stream": recorded.stream,
            "version": recorded.version,
            "type": recorded.type,
            "time": time_text(recorded.recorded_at_us),
            "event_id": str(recorded.event_id),
            "command": metadata.command,
            "command_id": str(metadata.command_id),
            "correlation_id": str(metadata.correlation_id),
            "causation_id": str(metadata.causation_id),
            "actor": metadata.actor,
            "data": stored,
        }
        return Outgoing(recorded.type, str(recorded.event_id), to_json(body).encode("utf-8", "surrogatepass"))
