"""Requests and replies, as every transport carries them between callers and services."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from domain.kernel.errors import EsError
from domain.kernel.ids import time_text

if TYPE_CHECKING:  # a short-lived command shows events, but need not import their classes
    from domain.kernel.events import Metadata, Recorded

Body = dict[str, Any]
"""A JSON object. Ids in it are decimal strings."""

to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Encode a JSON value as text, in the one form that this program writes."""


@dataclass(slots=True, eq=False)
class Request:
    """One request as a service receives it.

    `memo` holds notes of the service. It starts empty, survives a reply of `LATER`, and no transport carries it.
    """

    kind: str
    body: Body
    memo: Body = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Later:
    """Not a reply yet: the worker hands the request over with a later batch, until its caller has timed out."""


LATER = Later()


def event_body(recorded: Recorded, metadata: Metadata | None, data: Body) -> Body:
    """An event as queries and published messages show it. `metadata` is None for an event of another program."""
    return {
        "position": recorded.position,
        "stream": recorded.stream,
        "version": recorded.version,
        "type": recorded.type,
        "time": time_text(recorded.recorded_at_us),
        "event_id": str(recorded.event_id),
        "command": metadata and metadata.command,
        "command_id": metadata and str(metadata.command_id),
        "correlation_id": metadata and str(metadata.correlation_id),
        "causation_id": metadata and str(metadata.causation_id),
        "actor": metadata and metadata.actor,
        "data": data,
    }


Question = tuple[str, Mapping[str, Any]] | EsError
"""The kind and body of a request. An error stands for a request that was refused before it was sent: it is its own
reply, and keeps its place in a pipeline."""

Reply = Body | EsError | Later
