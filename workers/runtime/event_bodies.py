"""Stored events as JSON. It is no part of `domain.kernel.messages`: an `es` command need not import events and ids."""

from __future__ import annotations

from domain.kernel.commands import known_actor
from domain.kernel.events import Metadata, Recorded
from domain.kernel.ids import time_text
from domain.kernel.messages import Body


def event_body(recorded: Recorded, metadata: Metadata | None, type_: str, data: Body) -> Body:
    """A stored event as JSON for queries and published messages. `metadata` is None if another program wrote it.

    `type_` and `data` are those of its latest version.
    """
    return {
        "position": recorded.position,
        "stream": recorded.stream,
        "version": recorded.version,
        "type": type_,
        "time": time_text(recorded.recorded_at_us),
        "event_id": str(recorded.event_id),
        "command": metadata and metadata.command,
        "command_id": metadata and str(metadata.command_id),
        "correlation_id": metadata and str(metadata.correlation_id),
        "causation_id": metadata and str(metadata.causation_id),
        "actor": metadata and known_actor(str(metadata.actor)),
        "data": data,
    }
