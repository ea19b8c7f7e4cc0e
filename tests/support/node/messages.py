"""The protobuf messages of the Streams service: requests to the test node's terms, and results to responses."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

from tests.support.node import log as logs
from tests.support.node.log import Proposed, Record, Wanted, Written, WrongVersion
from tests.support.node.protos import code_pb2, shared_pb2, status_pb2, streams_pb2

ReadResp = streams_pb2.ReadResp
BatchResp = streams_pb2.BatchAppendResp

PAGE = 32
"""How many events the server reads at once, `ReadBatchSize`."""


def name_of(options: Any) -> str:
    return bytes(options.stream_identifier.stream_name).decode()


def uuid_of(message: Any) -> UUID:
    if message.WhichOneof("value") == "string":
        return UUID(message.string)
    halves = message.structured.most_significant_bits, message.structured.least_significant_bits
    return UUID(bytes=b"".join(half.to_bytes(8, "big", signed=True) for half in halves))


def structured(id_: UUID) -> Any:
    most, least = (int.from_bytes(half, "big", signed=True) for half in (id_.bytes[:8], id_.bytes[8:]))
    halves = shared_pb2.UUID.Structured(most_significant_bits=most, least_significant_bits=least)
    return shared_pb2.UUID(structured=halves)


def expected_of(options: Any, oneof: str, number: str) -> int:
    kind = options.WhichOneof(oneof)
    special = {"no_stream": logs.NO_STREAM, "any": logs.ANY, "stream_exists": logs.STREAM_EXISTS}
    return special[kind] if kind in special else int(getattr(options, number))


def proposed(message: Any) -> Proposed:
    type_, content_type = message.metadata["type"], message.metadata["content-type"]
    custom = bytes(message.custom_metadata)
    return Proposed(uuid_of(message.id), type_, content_type, bytes(message.data), custom)


def filter_of(options: Any) -> Wanted | None:
    """Whether a read or subscription wants a record. None if it wants all."""
    by = options.filter.WhichOneof("filter")
    if options.WhichOneof("filter_option") != "filter" or by is None:
        return None
    expression = getattr(options.filter, by)
    if expression.regex:
        search = re.compile(expression.regex).search
        if by == "stream_identifier":
            return lambda record: search(record.stream) is not None
        return lambda record: search(record.event.type) is not None
    prefixes = tuple(expression.prefix)
    if by == "stream_identifier":
        return lambda record: record.stream.startswith(prefixes)
    return lambda record: record.event.type.startswith(prefixes)


def window_of(options: Any) -> int:
    """How many records one step of a filtered read examines at most."""
    return int(options.filter.max) if options.filter.WhichOneof("window") == "max" else PAGE


def both_positions(position: int) -> dict[str, int]:
    return {"commit_position": position, "prepare_position": position}


def checkpoint(position: int) -> Any:
    return ReadResp(checkpoint=ReadResp.Checkpoint(**both_positions(position)))


def event(record: Record, options: Any) -> bytes:
    """The serialised message of a record. It is made once, because each subscription sends the same bytes."""
    if options.uuid_option.WhichOneof("content") == "string":
        return _event(record, shared_pb2.UUID(string=str(record.event.id)))
    if not record.message:
        record.message = _event(record, structured(record.event.id))
    return record.message


def _event(record: Record, id_: Any) -> bytes:
    stored = record.event
    recorded = ReadResp.ReadEvent.RecordedEvent(
        id=id_,
        stream_identifier=shared_pb2.StreamIdentifier(stream_name=record.stream.encode()),
        stream_revision=record.revision,
        metadata={
            "type": stored.type,
            "content-type": stored.content_type,
            "created": str(record.created_ticks),
        },
        custom_metadata=stored.metadata,
        data=stored.data,
        **both_positions(record.position),
    )
    read = ReadResp(event=ReadResp.ReadEvent(event=recorded, commit_position=record.position))
    return bytes(read.SerializeToString())


def serialised(message: Any) -> bytes:
    return message if isinstance(message, bytes) else bytes(message.SerializeToString())


# --- results of appends ----------------------------------------------------------------------


def batch_response(result: Written | WrongVersion) -> Any:
    if isinstance(result, Written):
        response = BatchResp()
        _describe(result, response.success)
        return response
    wrong = shared_pb2.WrongExpectedVersion()
    if result.current < 0:
        wrong.current_no_stream.SetInParent()
    else:
        wrong.current_stream_revision = result.current
    return batch_error("WrongExpectedVersion", wrong)


def append_response(result: Written | WrongVersion) -> Any:
    response = streams_pb2.AppendResp()
    if isinstance(result, Written):
        _describe(result, response.success)
    elif result.current < 0:
        response.wrong_expected_version.current_no_stream.SetInParent()
    else:
        response.wrong_expected_version.current_revision = result.current
    return response


def _describe(written: Written, success: Any) -> None:
    success.current_revision = written.revision
    if written.position is None:
        success.no_position.SetInParent()
    else:
        success.position.commit_position = success.position.prepare_position = written.position


def batch_error(message: str, details: Any) -> Any:
    error = status_pb2.Status(code=code_pb2.UNKNOWN, message=message)
    error.details.Pack(details)
    return BatchResp(error=error)


def event_too_large() -> Any:
    """An error of 24.10.4 and later. The client libraries have no message for its details: only their type is known."""
    name = "MaximumAppendEventSizeExceeded"
    error = status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message=name)
    error.details.type_url = f"type.googleapis.com/event_store.client.{name}"
    return BatchResp(error=error)
