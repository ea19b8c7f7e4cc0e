"""The Streams service of a test node: Read (with subscriptions), Append, BatchAppend, Delete, Tombstone."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import UUID, uuid4

from esdbclient.protos.Grpc import shared_pb2, streams_pb2, streams_pb2_grpc
from google.protobuf import empty_pb2  # type: ignore[import-untyped]
from grpc import ServicerContext, StatusCode  # type: ignore[import-untyped]

from tests.support.node import log as logs
from tests.support.node import messages
from tests.support.node.faults import Fault, Point
from tests.support.node.log import Log, Proposed, Record, StreamDeleted, StreamNotFound, WrongVersion
from tests.support.node.messages import BatchResp, ReadResp, batch_error, expected_of, filter_of, name_of

if TYPE_CHECKING:
    from tests.support.node.server import Node

_WAKE_S = 0.1
_NO_POSITION = (1 << 64) - 1
_Read = streams_pb2.ReadReq.Options


class Streams(streams_pb2_grpc.StreamsServicer):
    def __init__(self, node: Node) -> None:
        self._node = node

    @property
    def _log(self) -> Log:
        return self._node.log

    # --- Read --------------------------------------------------------------------------------

    def Read(self, request: Any, context: ServicerContext) -> Iterator[Any]:
        self._node.admit("Read", context)
        options = request.options
        if not options.HasField("uuid_option"):
            context.abort(StatusCode.INVALID_ARGUMENT, "uuid_option is missing")
        if options.WhichOneof("filter_option") is None:
            context.abort(StatusCode.INVALID_ARGUMENT, "filter_option is missing")
        if options.WhichOneof("count_option") == "subscription":
            yield from self._subscribe(options, context)
            return
        if self._fault(Point.READ, name_of(options.stream), context):
            return
        if options.WhichOneof("stream_option") == "stream":
            yield from self._read_stream(options, context)
            return
        if not self._begins_at_a_record(options):
            context.abort(StatusCode.UNKNOWN, "Error while reading: the position is not that of a record")
        wanted = filter(filter_of(options), self._read_all(options))
        for record in itertools.islice(wanted, options.count):
            if self._fault(Point.FOUND, record.stream, context):
                return
            yield messages.event(record, options)

    def _read_stream(self, options: Any, context: ServicerContext) -> Iterator[Any]:
        try:
            records = self._log.stream(name_of(options.stream))
        except StreamNotFound:
            missing = ReadResp.StreamNotFound(stream_identifier=options.stream.stream_identifier)
            yield ReadResp(stream_not_found=missing)
            return
        except StreamDeleted:
            self._abort_deleted(name_of(options.stream), context)
        starts = {"revision": options.stream.revision, "start": 0}
        start = starts.get(options.stream.WhichOneof("revision_option"), logs.DELETED)
        if options.read_direction == _Read.Backwards:
            records = [record for record in reversed(records) if record.revision <= start]
        else:
            records = [record for record in records if record.revision >= start]
        for record in records[: options.count]:
            yield messages.event(record, options)

    def _read_all(self, options: Any) -> Iterable[Record]:
        """A forward read includes its position, a backward read excludes it."""
        starts = {"position": options.all.position.commit_position, "start": 0}
        start = int(starts.get(options.all.WhichOneof("all_option"), logs.DELETED))
        backwards = options.read_direction == _Read.Backwards
        return self._log.before_position(start) if backwards else self._log.after_position(start - 1)

    def _begins_at_a_record(self, options: Any) -> bool:
        """Whether the server can read from the position of a read: a position is an address, not a number."""
        if options.WhichOneof("stream_option") != "all" or options.all.WhichOneof("all_option") != "position":
            return True
        return self._log.can_read_from(options.all.position.commit_position)

    # --- subscriptions -----------------------------------------------------------------------

    def _subscribe(self, options: Any, context: ServicerContext) -> Iterator[Any]:
        if self._fault(Point.SUBSCRIBE, name_of(options.stream), context):
            return
        log = self._log
        context.add_callback(log.notify)
        if not self._begins_at_a_record(options):
            self._abort(Fault.BROKEN, context)
        confirmation = ReadResp.SubscriptionConfirmation(subscription_id=str(uuid4()))
        first = iter([ReadResp(confirmation=confirmation)])
        for message in itertools.chain(first, self._subscription(log, options, context)):
            if self._fault(Point.SUBSCRIBED, "", context):
                return
            yield message

    def _subscription(self, log: Log, options: Any, context: ServicerContext) -> Iterator[Any]:
        """Catch-up, then live. With a filter, a checkpoint after each interval of examined records."""
        is_wanted, filtered = filter_of(options), options.WhichOneof("filter_option") == "filter"
        interval = max(1, options.filter.max) * max(1, options.filter.checkpointIntervalMultiplier)
        last, examined, matched, live = self._start_of(options), 0, False, False
        while context.is_active():
            if self._log is not log:
                self._abort(Fault.UNAVAILABLE, context)  # the server was stopped to restore another log
            end = log.end()
            for number, record in self._records_after(last, options, context):
                last = number
                examined += 1
                if is_wanted(record):
                    matched = True
                    yield messages.event(record, options)
                if filtered and examined % interval == 0:
                    yield messages.checkpoint(last)
            if not live:
                live = True
                if filtered:
                    has_bug = self._node.has_checkpoint_bug and not matched
                    yield messages.checkpoint(_NO_POSITION if has_bug else last)
                yield ReadResp(caught_up=ReadResp.CaughtUp())
            with log.changed:
                if log.end() == end:
                    log.changed.wait(_WAKE_S)

    def _start_of(self, options: Any) -> int:
        """The position, or the revision in a stream, after which a subscription begins."""
        if options.WhichOneof("stream_option") == "all":
            starts = {"position": options.all.position.commit_position, "end": self._log.end()}
            return int(starts.get(options.all.WhichOneof("all_option"), -1))
        end = self._log.last_revision(name_of(options.stream))
        starts = {"revision": options.stream.revision, "end": end}
        return int(starts.get(options.stream.WhichOneof("revision_option"), -1))

    def _records_after(
        self, last: int, options: Any, context: ServicerContext
    ) -> Iterable[tuple[int, Record]]:
        if options.WhichOneof("stream_option") == "all":
            return [(record.position, record) for record in self._log.after_position(last)]
        try:
            records = self._log.stream(name_of(options.stream))
        except StreamNotFound:
            records = []
        except StreamDeleted:
            self._abort_deleted(name_of(options.stream), context)
        return [(record.revision, record) for record in records if record.revision > last]

    # --- BatchAppend -------------------------------------------------------------------------

    def BatchAppend(self, requests: Any, context: ServicerContext) -> Iterator[Any]:
        self._node.admit("BatchAppend", context)
        options: dict[UUID, Any] = {}
        events: dict[UUID, list[Proposed]] = {}
        unanswered = False
        for request in requests:
            id_ = messages.uuid_of(request.correlation_id)
            if request.HasField("options"):
                options[id_], events[id_] = request.options, []
            if id_ not in options:
                continue
            events[id_] += map(messages.proposed, request.proposed_messages)
            if request.is_final:
                response = self._batch(options.pop(id_), events.pop(id_), context)
                if response is None:
                    unanswered = True
                    continue
                response.correlation_id.CopyFrom(request.correlation_id)
                if response.error.details.Is(shared_pb2.Timeout.DESCRIPTOR):
                    response.correlation_id.CopyFrom(messages.structured(id_))  # as the server does
                yield response
        if unanswered:
            self._await_the_end_of_the_call(context)

    def _batch(self, options: Any, events: list[Proposed], context: ServicerContext) -> Any:
        """The response to one item, or None if a fault leaves it unanswered."""
        stream = name_of(options)
        deadline_s = options.deadline.seconds + options.deadline.nanos / 1e9
        self._node.deadlines_s.append(deadline_s)
        if options.WhichOneof("deadline_option") == "deadline" and deadline_s <= 0:
            return batch_error("Timeout", shared_pb2.Timeout())
        sizes = [len(e.data) + len(e.metadata) + 2 * len(e.type) for e in events]
        if self._node.max_event_size is not None and max(sizes) > self._node.max_event_size:
            return messages.event_too_large()
        if sum(sizes) > self._node.max_append_size:
            limit = shared_pb2.MaximumAppendSizeExceeded(maxAppendSize=self._node.max_append_size)
            return batch_error("Maximum Append Size Exceeded", limit)
        expected = expected_of(options, "expected_stream_position", "stream_position")

        def write() -> Any:
            try:
                return messages.batch_response(self._log.append(stream, expected, events))
            except StreamDeleted:
                return batch_error("Stream Deleted", shared_pb2.StreamDeleted())

        response = self._with_faults(stream, write, context)
        if response is not None:
            response.stream_identifier.CopyFrom(options.stream_identifier)
        return response

    def _with_faults(self, stream: str, write: Callable[[], Any], context: ServicerContext) -> Any:
        fault = self._node.plan(Point.BEFORE_COMMIT, stream)
        if fault is Fault.LATE:
            timer = threading.Timer(self._node.late_s, write)
            timer.start()  # before it is listed: a test may join it at once
            self._node.late.append(timer)
            return None
        if fault is None:
            response = write()
            fault = self._node.plan(Point.AFTER_COMMIT, stream)
            if fault is None:
                return response
        match fault:
            case Fault.TIMED_OUT:
                return batch_error("Timeout", shared_pb2.Timeout())
            case Fault.NOT_READY:
                return batch_error("Server Is Not Ready", empty_pb2.Empty())
            case Fault.BLACK_HOLE:
                return None
        return self._abort(fault, context)

    # --- Append, Delete, Tombstone -----------------------------------------------------------

    def Append(self, requests: Any, context: ServicerContext) -> Any:
        self._node.admit("Append", context)
        options = next(requests).options
        stream = name_of(options)
        events = [messages.proposed(request.proposed_message) for request in requests]
        limit = self._node.max_append_size
        if sum(len(event.data) for event in events) > limit:
            context.abort(StatusCode.INVALID_ARGUMENT, f"Maximum Append Size of {limit} Exceeded.")
        expected = expected_of(options, "expected_stream_revision", "revision")

        def write() -> Any:
            try:
                return messages.append_response(self._log.append(stream, expected, events))
            except StreamDeleted:
                self._abort_deleted(stream, context)

        response = self._with_faults(stream, write, context)
        if response is None:
            self._await_the_end_of_the_call(context)
        elif isinstance(response, BatchResp):
            context.abort(StatusCode.ABORTED, "Operation timed out")
        return response

    def Delete(self, request: Any, context: ServicerContext) -> Any:
        position = self._remove(self._log.delete, request.options, context)
        return streams_pb2.DeleteResp(position=streams_pb2.DeleteResp.Position(**position))

    def Tombstone(self, request: Any, context: ServicerContext) -> Any:
        position = self._remove(self._log.tombstone, request.options, context)
        return streams_pb2.TombstoneResp(position=streams_pb2.TombstoneResp.Position(**position))

    def _remove(
        self, remove: Callable[[str, int], int | WrongVersion], options: Any, context: ServicerContext
    ) -> dict[str, int]:
        self._node.admit("Delete", context)
        stream = name_of(options)
        expected = expected_of(options, "expected_stream_revision", "revision")
        try:
            removed = remove(stream, expected)
        except StreamDeleted:
            self._abort_deleted(stream, context)
        if isinstance(removed, WrongVersion):
            reason = f"Stream: {stream}, Expected version: {expected}, Actual version: {removed.current}"
            self._abort_precondition(f"Delete failed due to WrongExpectedVersion. {reason}", context)
        return messages.both_positions(removed)

    # --- faults ------------------------------------------------------------------------------

    def _fault(self, point: Point, stream: str, context: ServicerContext) -> bool:
        """Whether the call must end here without another message."""
        fault = self._node.plan(point, stream)
        if fault is Fault.BLACK_HOLE:
            self._await_the_end_of_the_call(context)
        elif fault is not None and fault is not Fault.ENDS:
            self._abort(fault, context)
        return fault is not None

    def _abort(self, fault: Fault, context: ServicerContext) -> NoReturn:
        if fault is Fault.BROKEN:
            context.abort(StatusCode.UNKNOWN, "Exception was thrown by handler.")
        context.abort(StatusCode.UNAVAILABLE, "Connection reset by peer")
        raise AssertionError("abort raises")

    def _abort_deleted(self, stream: str, context: ServicerContext) -> NoReturn:
        self._abort_precondition(f"Event stream '{stream}' is deleted.", context)

    def _abort_precondition(self, reason: str, context: ServicerContext) -> NoReturn:
        context.abort(StatusCode.FAILED_PRECONDITION, reason)
        raise AssertionError("abort raises")

    def _await_the_end_of_the_call(self, context: ServicerContext) -> None:
        ended = threading.Event()
        if context.add_callback(ended.set):
            while not ended.wait(_WAKE_S) and self._node.is_running:
                pass
