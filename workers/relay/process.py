"""The relay: publishes stored events to RabbitMQ, at least once and in commit order. It never decides anything.

Promise: the checkpoint moves after the broker's confirmation. The message id is the event id, by which a consumer
recognises a duplicate. Refusal: personal fields stay sealed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from adapters.log import Log
from adapters.rabbitmq.publisher import Outgoing
from domain.kernel.errors import Damaged
from domain.kernel.events import Position, Recorded
from domain.kernel.history import History
from domain.kernel.messages import to_json
from domain.kernel.ports.codec import Codec
from domain.kernel.ports.event_store import EventStore
from workers.runtime.event_bodies import event_body
from workers.runtime.followers import CheckpointedFollowing, Checkpoints

PROCESS = "relay"
"""The name of its checkpoint."""
BATCH_LIMIT = 256


class Publisher(Protocol):
    def wait_until_active(self, stopped: Callable[[], bool]) -> None:
        """Return when no other publisher is active, or when `stopped()`. Raises `PartUnavailable` without a broker."""
        ...

    def publish(self, batch: Sequence[Outgoing]) -> None:
        """Publish in order and wait for every confirmation. Raises `PartUnavailable` if one is missing."""
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
        self._codec = codec
        self._checkpoints = checkpoints
        self._publisher = publisher
        self._log = log
        self._following = CheckpointedFollowing(
            PROCESS,
            store=store,
            checkpoints=checkpoints,
            log=log,
            monotonic_s=monotonic_s,
            batch_limit=BATCH_LIMIT,
        )

    @property
    def reached(self) -> Position:
        """The position up to which every event is published and confirmed, by this relay or by the active one."""
        return max(self._following.reached, self._checkpoints.checkpoint(PROCESS).position)

    def run(self, stopped: Callable[[], bool]) -> None:
        """Follow until `stopped()`, once no other relay is active.

        Raises if a part fails; the next run resumes from the checkpoint.
        """
        self._publisher.wait_until_active(stopped)
        self._following.run(self._publish, stopped)

    def _publish(self, batch: Sequence[Recorded], reached: History) -> None:
        if messages := [message for each in batch if (message := self._message(each))]:
            self._publisher.publish(messages)

    def _message(self, recorded: Recorded) -> Outgoing | None:
        """The message of an event; None if it is damaged or of another program, so that it does not block later events."""
        try:
            metadata = self._codec.metadata(recorded)
            type_, stored = self._codec.stored(recorded)
        except Damaged as error:
            self._log.error("event-passed-over", error, position=recorded.position)
            return None
        body = to_json(event_body(recorded, metadata, type_, stored)).encode("utf-8", "surrogatepass")
        return Outgoing(type_, str(recorded.event_id), body)
