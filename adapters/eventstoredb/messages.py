"""The protobuf messages of the Streams service: requests from the domain's terms, and events and outcomes to them.

Promise: an event is built from its message alone, without the classes of esdbclient in between: that is four fifths of
the time of a read. Refusal: no event without a position.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Any
from uuid import UUID

from adapters.eventstoredb.driver import StreamsService, failures, shared_pb2, streams_pb2
from adapters.eventstoredb.errors import PART
from domain.kernel.errors import PartUnavailable, VersionConflict
from domain.kernel.events import NO_STREAM, Position, Recorded
from domain.kernel.ports.event_store import Append

AppendRequest = streams_pb2.BatchAppendReq
AppendResponse = streams_pb2.BatchAppendResp
ReadRequest = streams_pb2.ReadReq
ReadResponse = streams_pb2.ReadResp

_CHECKPOINT_WINDOW = 100  # events that the server examines between two checkpoints of a subscription
_CHECKPOINT_WINDOWS = 5  # windows between two checkpoints
_Options = streams_pb2.ReadReq.Options
_EMPTY = shared_pb2.Empty()
_HALVES = Struct(">qq")
_CONTENT_TYPE = "application/json"


@dataclass(frozen=True, slots=True)
class Selection:
    """The events that a reader wants: those of its prefixes and types. None stands for all, the server's own excluded."""

    prefixes: Sequence[str] | None = None
    types: Sequence[str] | None = None

    @property
    def is_empty(self) -> bool:
        return any(names is not None and not names for names in (self.prefixes, self.types))

    def includes(self, event: Recorded) -> bool:
        """Whether an event is wanted. The server's filter lets more pass, because it has one condition only."""
        if event.type.startswith("$") or event.stream.startswith(
            "$"
        ):  # also the record of a permanent deletion
            return False
        if self.types is not None and not event.type.startswith(tuple(self.types)):
            return False
        return self.prefixes is None or event.stream.startswith(tuple(self.prefixes))

    def filter(self) -> Any:
        """The filter for the server: by types, if there are some, else by prefixes.

        It has one pattern with one group: `^a|b` would match too much.
        """
        by, names, pattern = "stream_identifier", self.prefixes, r"^(?!\$)"
        if self.types is not None:
            by, names, pattern = "event_type", self.types, "^"
        if names is not None:
            pattern += f"(?:{'|'.join(map(re.escape, names)) if names else '(?!)'})"
        expression = _Options.FilterOptions.Expression(regex=pattern)
        return _Options.FilterOptions(
            max=_CHECKPOINT_WINDOW,
            checkpointIntervalMultiplier=_CHECKPOINT_WINDOWS,
            **{by: expression},
        )


# --- requests --------------------------------------------------------------------------------


def stream_request(stream: str, start: int | None, *, backwards: bool = False, size: int) -> ReadRequest:
    """Read at most `size` events of a stream from version `start` on. None is the first, or backwards the last."""
    where = _Options.StreamOptions(stream_identifier=_identifier(stream))
    if start is not None:
        where.revision = start
    elif backwards:
        where.end.SetInParent()
    else:
        where.start.SetInParent()
    return _read_request(backwards, stream=where, count=size, no_filter=_EMPTY)


def all_request(
    start: Position | None, selection: Selection | None, *, backwards: bool = False, size: int
) -> ReadRequest:
    """Read at most `size` selected events in commit order from `start` on. Without a selection every record."""
    which = {"no_filter": _EMPTY} if selection is None else {"filter": selection.filter()}
    return _read_request(backwards, all=_place(start, backwards=backwards), count=size, **which)


def subscribe_request(after: Position, selection: Selection) -> ReadRequest:
    subscription = _Options.SubscriptionOptions()
    return _read_request(
        False, all=_place(after, backwards=False), subscription=subscription, filter=selection.filter()
    )


def append_request(item: Append, *, timeout_s: float) -> AppendRequest:
    """The message for one item. `timeout_s` is for the server: it answers within that time."""
    options = AppendRequest.Options(stream_identifier=_identifier(item.stream))
    options.deadline.seconds = int(timeout_s)
    options.deadline.nanos = int(timeout_s % 1 * 1e9)
    if item.expected_version == NO_STREAM:
        options.no_stream.SetInParent()
    else:
        options.stream_position = item.expected_version
    request = AppendRequest(options=options, is_final=True)
    for event in item.events:
        proposed = request.proposed_messages.add(custom_metadata=event.metadata, data=event.data)
        proposed.id.string = str(event.event_id)
        proposed.metadata["type"] = event.type
        proposed.metadata["content-type"] = _CONTENT_TYPE
    return request


def _read_request(backwards: bool, **options: Any) -> ReadRequest:
    direction = _Options.Backwards if backwards else _Options.Forwards
    id_format = _Options.UUIDOption(structured=_EMPTY)
    return ReadRequest(options=_Options(read_direction=direction, uuid_option=id_format, **options))


def _place(position: Position | None, *, backwards: bool) -> Any:
    if position:
        at = _Options.Position(commit_position=position, prepare_position=position)
        return _Options.AllOptions(position=at)
    return _Options.AllOptions(end=_EMPTY) if backwards else _Options.AllOptions(start=_EMPTY)


def _identifier(stream: str) -> Any:
    return shared_pb2.StreamIdentifier(stream_name=stream.encode())


# --- events and outcomes ---------------------------------------------------------------------


def recorded(message: Any) -> Recorded:
    """An event in the domain's terms. Raises PartUnavailable if the server is too old to send positions."""
    if message.WhichOneof("position") != "commit_position":
        raise PartUnavailable(PART, "the server sends no positions", "Upgrade it to 22.10 or newer.")
    event = message.event
    described = event.metadata
    return Recorded(
        event.stream_identifier.stream_name.decode(),
        event.stream_revision,
        event.commit_position,
        int(described["created"]) // 10,  # from 100 ns
        _id_bytes(event.id),
        described["type"],
        event.data,
        event.custom_metadata,
    )


def _id_bytes(message: Any) -> bytes:
    if message.WhichOneof("value") == "structured":
        halves = message.structured
        return _HALVES.pack(halves.most_significant_bits, halves.least_significant_bits)
    return UUID(message.string).bytes


def correlation_of(response: AppendResponse) -> str:
    """The correlation id of the request that a response answers. Servers give some back in the other of two forms."""
    id_ = response.correlation_id
    return str(id_.string) if id_.WhichOneof("value") == "string" else str(UUID(bytes=_id_bytes(id_)))


@dataclass(frozen=True, slots=True)
class Stored:
    """The version of an item's last event. `position` is None if the server no longer knows it."""

    version: int
    position: Position | None


def append_outcome(item: Append, response: AppendResponse) -> Stored | VersionConflict:
    """The outcome of one item. Raises esdbclient's exception if the server reports another failure."""
    if response.WhichOneof("result") == "success":
        success = response.success
        has_position = success.WhichOneof("position_option") == "position"
        position = int(success.position.commit_position) if has_position else None
        return Stored(int(success.current_revision), position)
    conflict = shared_pb2.WrongExpectedVersion()
    if response.error.details.Unpack(conflict):
        exists = conflict.WhichOneof("current_stream_revision_option") == "current_stream_revision"
        actual = int(conflict.current_stream_revision) if exists else NO_STREAM
        return VersionConflict(item.stream, item.expected_version, actual)
    if response.error.details.type_url.endswith("MaximumAppendEventSizeExceeded"):
        raise failures.MaximumAppendSizeExceededError  # of 24.10.4 and later; esdbclient does not know it
    StreamsService._convert_batch_append_resp(response, item.stream, item.expected_version)
    raise AssertionError("esdbclient raises for every other error")
