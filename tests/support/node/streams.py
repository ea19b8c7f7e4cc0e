"""The Streams service of a test node: Read (with subscriptions), Append, BatchAppend, Delete, Tombstone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import grpc  # type: ignore[import-untyped]
from grpc import ServicerContext, StatusCode

from tests.support.node import messages
from tests.support.node.batches import BatchAppend, with_faults
from tests.support.node.endings import (
    abort,
    abort_deleted,
    abort_precondition,
    await_the_end,
    is_ended_by_fault,
)
from tests.support.node.faults import Fault, Point
from tests.support.node.log import Log, Page, StreamDeleted, StreamNotFound, WrongVersion
from tests.support.node.messages import PAGE, BatchResp, ReadResp, expected_of, filter_of, name_of, window_of
from tests.support.node.protos import streams_pb2
from tests.support.node.subscriptions import Subscription, begins_at_a_record, start_of_read

if TYPE_CHECKING:
    from tests.support.node.server import Node

_Read = streams_pb2.ReadReq.Options
_SERVICE = "event_store.client.streams.Streams"


class Streams:
    def __init__(self, node: Node) -> None:
        self._node = node

    @property
    def _log(self) -> Log:
        return self._node.log

    def handlers(self) -> grpc.GenericRpcHandler:
        """Like the generated `add_StreamsServicer_to_server`, but a read may send serialised messages."""
        pb = streams_pb2
        serialised = messages.serialised
        return grpc.method_handlers_generic_handler(
            _SERVICE,
            {
                "Read": grpc.unary_stream_rpc_method_handler(self.Read, pb.ReadReq.FromString, serialised),
                "Append": grpc.stream_unary_rpc_method_handler(
                    self.Append, pb.AppendReq.FromString, serialised
                ),
                "BatchAppend": grpc.stream_stream_rpc_method_handler(
                    self.BatchAppend, pb.BatchAppendReq.FromString, serialised
                ),
                "Delete": grpc.unary_unary_rpc_method_handler(
                    self.Delete, pb.DeleteReq.FromString, serialised
                ),
                "Tombstone": grpc.unary_unary_rpc_method_handler(
                    self.Tombstone, pb.TombstoneReq.FromString, serialised
                ),
            },
        )

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
        if is_ended_by_fault(self._node, Point.READ, name_of(options.stream), context):
            return
        if options.WhichOneof("stream_option") == "stream":
            yield from self._read_stream(options, context)
        else:
            yield from self._read_all(options, context)

    def _subscribe(self, options: Any, context: ServicerContext) -> Iterator[Any]:
        if is_ended_by_fault(self._node, Point.SUBSCRIBE, name_of(options.stream), context):
            return
        context.add_callback(self._log.notify)
        if not begins_at_a_record(self._log, options):
            abort(Fault.BROKEN, context)
        yield from Subscription(self._node, options, context).responses()

    def _read_stream(self, options: Any, context: ServicerContext) -> Iterator[Any]:
        start, left = start_of_read(options), options.count
        backwards = options.read_direction == _Read.Backwards
        at_end = False
        while left > 0 and not at_end:
            try:
                page = self._log.page_of(name_of(options.stream), start, backwards=backwards, size=PAGE)
            except StreamNotFound:
                missing = ReadResp.StreamNotFound(stream_identifier=options.stream.stream_identifier)
                yield ReadResp(stream_not_found=missing)
                return
            except StreamDeleted:
                abort_deleted(name_of(options.stream), context)
            for record in page.records[:left]:
                yield messages.event(record, options)
            start, left, at_end = page.next, left - len(page.records), page.at_end

    def _read_all(self, options: Any, context: ServicerContext) -> Iterator[Any]:
        """Page by page: a read whose filter wants little examines the whole log, and takes its time."""
        if not begins_at_a_record(self._log, options):
            context.abort(StatusCode.UNKNOWN, "Error while reading: the position is not that of a record")
        log, wanted, window = self._log, filter_of(options), window_of(options)
        step = log.backwards if options.read_direction == _Read.Backwards else log.forwards
        page, left = Page([], start_of_read(options), 0), options.count
        while left > 0 and not page.at_end and context.is_active():
            page = step(page.next, wanted, size=min(PAGE, left), window=window)
            self._node.spend_on(page)
            for record in page.records:
                if is_ended_by_fault(self._node, Point.FOUND, record.stream, context):
                    return
                yield messages.event(record, options)
            left -= len(page.records)

    # --- BatchAppend -------------------------------------------------------------------------

    def BatchAppend(self, requests: Any, context: ServicerContext) -> Iterator[Any]:
        self._node.authenticate("BatchAppend", context)
        yield from BatchAppend(self._node, requests, context).answers()

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
                abort_deleted(stream, context)

        response = with_faults(self._node, stream, write)
        if response is None:
            await_the_end(self._node, context)
        elif isinstance(response, Fault):
            abort(response, context)
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
            abort_deleted(stream, context)
        if isinstance(removed, WrongVersion):
            reason = f"Stream: {stream}, Expected version: {expected}, Actual version: {removed.current}"
            abort_precondition(f"Delete failed due to WrongExpectedVersion. {reason}", context)
        return messages.both_positions(removed)
