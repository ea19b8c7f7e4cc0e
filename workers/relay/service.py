"""The query of the `relay` role: `relay.progress`."""

from __future__ import annotations

from collections.abc import Sequence

from domain.kernel.errors import UnknownRequest
from domain.kernel.messages import Reply, Request
from domain.kernel.ports.event_store import EventStore
from workers.relay.process import RelayProcess
from workers.runtime.followers import progress


class RelayService:
    def __init__(self, *, store: EventStore, process: RelayProcess) -> None:
        self._store = store
        self._process = process

    def handle(self, batch: Sequence[Request]) -> list[Reply]:
        return [self._answer(request) for request in batch]

    def _answer(self, request: Request) -> Reply:
        if request.kind != "relay.progress":
            return UnknownRequest(request.kind)
        return progress(self._store, self._process.reached)

    def close(self) -> None:
        """Nothing is held between batches."""
