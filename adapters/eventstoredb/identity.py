"""The system id of a store in EventStoreDB: the last event of the stream `system`.

Promise: of several programs that claim the store at once, one succeeds. Refusal: an event of that stream that is not a
claim is damage, and never taken for a store without an id.
"""

from __future__ import annotations

import json
from uuid import UUID, uuid4

from adapters.eventstoredb.errors import PART
from domain.kernel.errors import Damaged, VersionConflict
from domain.kernel.events import NO_STREAM, EventData
from domain.kernel.messages import to_json
from domain.kernel.ports.event_store import Append, Appended, EventStore
from domain.kernel.system import SYSTEM_STREAM, SystemClaimed

_COMMAND = "claim-system"
_ACTOR = "process:store"


class Identity:
    def __init__(self, store: EventStore) -> None:
        self._store = store

    def system_id(self) -> UUID | None:
        return self._last()[1]

    def claim(self, system_id: UUID, instead_of: UUID | None) -> UUID:
        while True:
            version, present = self._last()
            if present is not None and present != instead_of:
                return present
            (result,) = self._store.append([Append(SYSTEM_STREAM, version, [_claim(system_id)])])
            if isinstance(result, Appended):
                return system_id
            if not isinstance(result, VersionConflict):
                raise result
            # Another program claimed it first: its id counts.

    def _last(self) -> tuple[int, UUID | None]:
        """The version of the stream, and the id in its last event."""
        for event in self._store.read_stream(SYSTEM_STREAM, backwards=True, limit=1):
            try:
                return event.version, UUID(json.loads(event.data)["system_id"])
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise Damaged(PART, f"the last event of {SYSTEM_STREAM} holds no system id") from error
        return NO_STREAM, None


def _claim(system_id: UUID) -> EventData:
    event_id = uuid4()
    caused = dict.fromkeys(("command_id", "correlation_id", "causation_id"), str(event_id))
    metadata = {**caused, "command": _COMMAND, "actor": _ACTOR}
    data = to_json({"system_id": str(system_id)}).encode()
    return EventData(event_id, SystemClaimed.type, data, to_json(metadata).encode())
