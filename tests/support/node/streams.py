"""The Streams service of a test node: Read (with subscriptions), Append, BatchAppend, Delete, Tombstone."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import UUID, uuid4

import grpc
from esdbclient.protos.Grpc import shared_pb2, status_pb2, streams_pb2, streams_pb2_grpc
from google.protobuf import empty_pb2

from tests.support.node import log as logs
from tests.support.node.faults import Fault, Point
from tests.support.node.log import Proposed, Record, StreamDeleted, StreamNotFound, Written, WrongVersion

if TYPE_CHECKING:
    from tests.support.node.server import Node

_WAKE_S = 0.1
_NOWHERE = (1 << 64) - 1

Read = streams_pb2.ReadReq.Options
ReadResp = streams_pb2.ReadResp
BatchReq = streams_pb2.BatchAppendReq
BatchResp = streams_pb2.BatchAppendResp


class Streams(streams_pb2_grpc.StreamsServicer):
    def __init__(self, node: Node) -> None:
        self._node = node
        self._log = node.log

    # --- Read --------------------------------------------------------------------------------

    def Read(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        self._node.admit("Read", context)
        options = request.options
        if not options.HasField("uuid_option"):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "uuid_option is missing")
        if options.WhichOneof("filter_option") is None:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "filter_option is missing")
        if options.WhichOneof("count_option") == "subscription":
            yield from self._subscribe(options, context)
            return
        if self._fault(Point.READ, _name(options.stream), context):
            return
        if options.WhichOneof("stream_option") == "stream":
            yield from self._read_stream(options, context)
            return
        wanted = filter(_filter(options), self._read_all(options))
        for record in itertools.islice(wanted, options.count):
            if self._fault(Point.FOUND, record.stream, context):
                return
            yield _event(record, options)

    def _read_stream(self, options: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        try:
            records = self._log.stream(_name(options.stream))
        except StreamNotFound:
            missing = ReadResp.StreamNotFound(stream_identifier=options.stream.stream_identifier)
            yield ReadResp(stream_not_found=missing)
            return
        except StreamDeleted:
            self._abort_deleted(_name(options.stream), context)
        start = options.stream.revision
        match options.stream.WhichOneof("revision_option"), options.read_direction:
            case "revision", Read.Forwards:
                records = [record for record in records if record.revision >= start]
            case "revision", Read.Backwards:
                records = [record for record in reversed(records) if record.revision <= start]
            case "end", Read.Backwards:
                records = records[::-1]
            case "end", Read.Forwards:
                records = []
            case "start", Read.Backwards:
                records = records[:1]
        for record in records[: options.count]:
            yield _event(record, options)

    def _read_all(self, options: Any) -> Iterator[Record]:
        """Forwards a position is included, backwards it is not."""
        start = options.all.position.commit_position
        match options.all.WhichOneof("all_option"), options.read_direction:
            case "position", Read.Forwards:
                return self._log.from_position(start)
            case "position", Read.Backwards:
                return self._log.before_position(start)
            case "end", Read.Backwards:
                return self._log.before_position(None)
            case "start", Read.Forwards:
                return self._log.from_position(0)
        return iter(())

    # --- subscriptions -----------------------------------------------------------------------

    def _subscribe(self, options: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        if self._fault(Point.SUBSCRIBE, _name(options.stream), context):
            return
        context.add_callback(self._wake)
        confirmation = ReadResp.SubscriptionConfirmation(subscription_id=str(uuid4()))
        messages = self._to_all if options.WhichOneof("stream_option") == "all" else self._to_stream
        first = iter([ReadResp(confirmation=confirmation)])
        for message in itertools.chain(first, messages(options, context)):
            if self._fault(Point.SUBSCRIBED, "", context):
                return
            yield message

    def _to_all(self, options: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        """Catching up, then live; with a filter, a checkpoint after every so many records that were looked at."""
        wanted, filtered = _filter(options), options.WhichOneof("filter_option") == "filter"
        interval = max(1, options.filter.max) * max(1, options.filter.checkpointIntervalMultiplier)
        position = -1
        if options.all.WhichOneof("all_option") == "position":
            position = options.all.position.commit_position
        elif options.all.WhichOneof("all_option") == "end":
            position = self._log.end()
        looked_at, matched, live = 0, False, False
        while context.is_active():
            for record in self._log.after_position(position):
                position = record.position
                looked_at += 1
                if wanted(record):
                    matched = True
                    yield _event(record, options)
                if filtered and looked_at % interval == 0:
                    yield _checkpoint(position)
            if not live:
                live = True
                if filtered:
                    nowhere = self._node.forgets_its_place and not matched
                    yield _checkpoint(_NOWHERE if nowhere else position)
                yield ReadResp(caught_up=ReadResp.CaughtUp())
            with self._log.changed:
                if self._log.end() == position:
                    self._log.changed.wait(_WAKE_S)

    def _to_stream(self, options: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        name = _name(options.stream)
        match options.stream.WhichOneof("revision_option"):
            case "revision":
                revision = options.stream.revision
            case "end":
                revision = self._log.last_revision(name)
            case _:
                revision = -1
        live = False
        while context.is_active():
            try:
                records = self._log.stream(name)
            except StreamNotFound:
                records = []
            except StreamDeleted:
                self._abort_deleted(name, context)
            for record in records:
                if record.revision > revision:
                    revision = record.revision
                    yield _event(record, options)
            if not live:
                live = True
                yield ReadResp(caught_up=ReadResp.CaughtUp())
            with self._log.changed:
                self._log.changed.wait(_WAKE_S)

    def _wake(self) -> None:
        with self._log.changed:
            self._log.changed.notify_all()

    # --- BatchAppend -------------------------------------------------------------------------

    def BatchAppend(self, requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        self._node.admit("BatchAppend", context)
        options: dict[UUID, Any] = {}
        events: dict[UUID, list[Proposed]] = {}
        unanswered = False
        for request in requests:
            id_ = _uuid(request.correlation_id)
            if request.HasField("options"):
                options[id_], events[id_] = request.options, []
            if id_ not in options:
                continue
            events[id_] += [_proposed(message) for message in request.proposed_messages]
            if request.is_final:
                response = self._batch(options.pop(id_), events.pop(id_), context)
                if response is None:
                    unanswered = True
                    continue
                response.correlation_id.CopyFrom(request.correlation_id)
                if response.WhichOneof("result") == "error" and response.error.details.Is(
                    shared_pb2.Timeout.DESCRIPTOR
                ):
                    response.correlation_id.CopyFrom(_structured(id_))  # as the server does
                yield response
        if unanswered:
            self._until_the_caller_gives_up(context)

    def _batch(self, options: Any, events: list[Proposed], context: grpc.ServicerContext) -> Any:
        """The answer to one item, or None when it gets none."""
        stream = _name(options)
        deadline = options.deadline.seconds + options.deadline.nanos / 1e9
        self._node.deadlines_s.append(deadline)
        if options.WhichOneof("deadline_option") == "deadline" and deadline <= 0:
            return _error("Timeout", shared_pb2.Timeout())
        sizes = [len(e.data) + len(e.metadata) + 2 * len(e.type) for e in events]
        if self._node.max_event_size is not None and max(sizes) > self._node.max_event_size:
            return _error_of_24_10_4("MaximumAppendEventSizeExceeded")
        if sum(sizes) > self._node.max_append_size:
            return _error(
                "Maximum Append Size Exceeded",
                shared_pb2.MaximumAppendSizeExceeded(maxAppendSize=self._node.max_append_size),
            )
        expected = _expected(options, "expected_stream_position", "stream_position")

        def write() -> Any:
            try:
                return _batch_response(self._log.append(stream, expected, events))
            except StreamDeleted:
                return _error("Stream Deleted", shared_pb2.StreamDeleted())

        response = self._with_faults(stream, write, context)
        if response is not None:
            response.stream_identifier.CopyFrom(options.stream_identifier)
        return response

    def _with_faults(self, stream: str, write: Callable[[], Any], context: grpc.ServicerContext) -> Any:
        fault = self._node.plan(Point.BEFORE_COMMIT, stream)
        if fault is Fault.LATE:
            timer = threading.Timer(self._node.late_s, write)
            timer.start()  # before anybody sees it, and may join it
            self._node.late.append(timer)
            return None
        if fault is None:
            response = write()
            fault = self._node.plan(Point.AFTER_COMMIT, stream)
            if fault is None:
                return response
        match fault:
            case Fault.TIMED_OUT:
                return _error("Timeout", shared_pb2.Timeout())
            case Fault.NOT_READY:
                return _error("Server Is Not Ready", empty_pb2.Empty())
            case Fault.BLACK_HOLE:
                return None
        return self._end(fault, context)

    # --- Append, Delete, Tombstone -----------------------------------------------------------

    def Append(self, requests: Any, context: grpc.ServicerContext) -> Any:
        self._node.admit("Append", context)
        options = next(requests).options
        events = [_proposed(request.proposed_message) for request in requests]
        if sum(len(event.data) for event in events) > self._node.max_append_size:
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"Maximum Append Size of {self._node.max_append_size} Exceeded.",
            )
        expected = _expected(options, "expected_stream_revision", "revision")

        def write() -> Any:
            try:
                return _append_response(self._log.append(_name(options), expected, events), options)
            except StreamDeleted:
                self._abort_deleted(_name(options), context)

        response = self._with_faults(_name(options), write, context)
        if response is None:
            self._until_the_caller_gives_up(context)
        elif isinstance(response, BatchResp):
            context.abort(grpc.StatusCode.ABORTED, "Operation timed out")
        return response

    def Delete(self, request: Any, context: grpc.ServicerContext) -> Any:
        position = self._remove(self._log.delete, request.options, context)
        return streams_pb2.DeleteResp(position=streams_pb2.DeleteResp.Position(**_position(position)))

    def Tombstone(self, request: Any, context: grpc.ServicerContext) -> Any:
        position = self._remove(self._log.tombstone, request.options, context)
        return streams_pb2.TombstoneResp(position=streams_pb2.TombstoneResp.Position(**_position(position)))

    def _remove(
        self, remove: Callable[[str, int], int | WrongVersion], options: Any, context: grpc.ServicerContext
    ) -> int:
        self._node.admit("Delete", context)
        stream = _name(options)
        expected = _expected(options, "expected_stream_revision", "revision")
        try:
            removed = remove(stream, expected)
        except StreamDeleted:
            self._abort_deleted(stream, context)
        if isinstance(removed, WrongVersion):
            context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"Delete failed due to WrongExpectedVersion. Stream: {stream}, "
                f"Expected version: {expected}, Actual version: {removed.current}",
            )
        return removed

    # --- faults ------------------------------------------------------------------------------

    def _fault(self, point: Point, stream: str, context: grpc.ServicerContext) -> bool:
        """Whether the call is to end without another word."""
        fault = self._node.plan(point, stream)
        if fault is Fault.BLACK_HOLE:
            self._until_the_caller_gives_up(context)
        elif fault not in (None, Fault.ENDS):
            self._end(fault, context)
        return fault is not None

    def _end(self, fault: Fault, context: grpc.ServicerContext) -> NoReturn:
        if fault is Fault.BROKEN:
            context.abort(grpc.StatusCode.UNKNOWN, "Exception was thrown by handler.")
        context.abort(grpc.StatusCode.UNAVAILABLE, "Connection reset by peer")

    def _abort_deleted(self, stream: str, context: grpc.ServicerContext) -> NoReturn:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"Event stream '{stream}' is deleted.")

    def _until_the_caller_gives_up(self, context: grpc.ServicerContext) -> None:
        gone = threading.Event()
        if context.add_callback(gone.set):
            while not gone.wait(_WAKE_S) and self._node.is_running:
                pass


# --- messages --------------------------------------------------------------------------------


def _name(options: Any) -> str:
    return bytes(options.stream_identifier.stream_name).decode()


def _uuid(message: Any) -> UUID:
    if message.WhichOneof("value") == "string":
        return UUID(message.string)
    halves = message.structured.most_significant_bits, message.structured.least_significant_bits
    return UUID(bytes=b"".join(half.to_bytes(8, "big", signed=True) for half in halves))


def _structured(id_: UUID) -> Any:
    most, least = (int.from_bytes(half, "big", signed=True) for half in (id_.bytes[:8], id_.bytes[8:]))
    structured = shared_pb2.UUID.Structured(most_significant_bits=most, least_significant_bits=least)
    return shared_pb2.UUID(structured=structured)


def _expected(options: Any, oneof: str, number: str) -> int:
    kind = options.WhichOneof(oneof)
    special = {"no_stream": logs.NO_STREAM, "any": logs.ANY, "stream_exists": logs.STREAM_EXISTS}
    return special[kind] if kind in special else int(getattr(options, number))


def _proposed(message: Any) -> Proposed:
    metadata = message.metadata
    return Proposed(
        _uuid(message.id),
        metadata["type"],
        metadata["content-type"],
        bytes(message.data),
        bytes(message.custom_metadata),
    )


def _position(position: int) -> dict[str, int]:
    return {"commit_position": position, "prepare_position": position}


def _checkpoint(position: int) -> Any:
    return ReadResp(checkpoint=ReadResp.Checkpoint(**_position(position)))


def _event(record: Record, options: Any) -> Any:
    event = record.event
    as_text = options.uuid_option.WhichOneof("content") == "string"
    recorded = ReadResp.ReadEvent.RecordedEvent(
        id=shared_pb2.UUID(string=str(event.id)) if as_text else _structured(event.id),
        stream_identifier=shared_pb2.StreamIdentifier(stream_name=record.stream.encode()),
        stream_revision=record.revision,
        metadata={
            "type": event.type,
            "content-type": event.content_type,
            "created": str(record.created_ticks),
        },
        custom_metadata=event.metadata,
        data=event.data,
        **_position(record.position),
    )
    return ReadResp(event=ReadResp.ReadEvent(event=recorded, commit_position=record.position))


def _filter(options: Any) -> Callable[[Record], bool]:
    by = options.filter.WhichOneof("filter")
    if options.WhichOneof("filter_option") != "filter" or by is None:
        return lambda record: True
    expression = getattr(options.filter, by)

    def text(record: Record) -> str:
        return record.stream if by == "stream_identifier" else record.event.type

    if expression.regex:
        pattern = re.compile(expression.regex)
        return lambda record: pattern.search(text(record)) is not None
    return lambda record: text(record).startswith(tuple(expression.prefix))


def _error(message: str, details: Any) -> Any:
    error = status_pb2.Status(code=2, message=message)
    error.details.Pack(details)
    return BatchResp(error=error)


def _error_of_24_10_4(name: str) -> Any:
    """Details that esdbclient has no message for; only their type tells what they are."""
    error = status_pb2.Status(code=3, message=name)
    error.details.type_url = f"type.googleapis.com/event_store.client.{name}"
    return BatchResp(error=error)


def _batch_response(result: Written | WrongVersion) -> Any:
    if isinstance(result, Written):
        success = BatchResp.Success(current_revision=result.revision)
        if result.position is None:
            success.no_position.CopyFrom(empty_pb2.Empty())
        else:
            success.position.CopyFrom(shared_pb2.AllStreamPosition(**_position(result.position)))
        return BatchResp(success=success)
    wrong = shared_pb2.WrongExpectedVersion()
    if result.current < 0:
        wrong.current_no_stream.CopyFrom(empty_pb2.Empty())
    else:
        wrong.current_stream_revision = result.current
    return _error("WrongExpectedVersion", wrong)


def _append_response(result: Written | WrongVersion, options: Any) -> Any:
    Response = streams_pb2.AppendResp
    if isinstance(result, Written):
        success = Response.Success(current_revision=result.revision)
        if result.position is None:
            success.no_position.CopyFrom(shared_pb2.Empty())
        else:
            success.position.CopyFrom(Response.Position(**_position(result.position)))
        return Response(success=success)
    wrong = Response.WrongExpectedVersion()
    if result.current < 0:
        wrong.current_no_stream.CopyFrom(shared_pb2.Empty())
    else:
        wrong.current_revision = result.current
    return Response(wrong_expected_version=wrong)
