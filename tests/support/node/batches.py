"""One call of BatchAppend, as the server's `BatchAppendWorker` runs it.

Requests are read while answers are sent. Appends that arrive during one write to the disk are committed together.
After the client has ended its side, the server sends one more answer and ends the call: the answers of the other
appends are lost, although these are stored. If no answer is left then, it never ends the call.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import grpc  # type: ignore[import-untyped]
from google.protobuf import empty_pb2  # type: ignore[import-untyped]

from tests.support.node import messages
from tests.support.node.endings import WAKE_S, abort
from tests.support.node.faults import Fault, Point
from tests.support.node.log import Proposed, StreamDeleted
from tests.support.node.messages import batch_error, expected_of, name_of
from tests.support.node.protos import shared_pb2
from tests.support.node.roles import Role

if TYPE_CHECKING:
    from tests.support.node.server import Node

End = Callable[[], Any]
_CLIENT_SIDE_ENDED = object()
_CALL_ENDED = object()


class BatchAppend:
    def __init__(self, node: Node, requests: Any, context: grpc.ServicerContext) -> None:
        self._node = node
        self._requests = requests
        self._context = context
        self._arrived = queue.SimpleQueue[Any]()
        self._options: dict[UUID, Any] = {}
        self._events: dict[UUID, list[Proposed]] = {}
        self._pending = 0
        self._is_closing = False
        self._has_ended = False

    def answers(self) -> Iterator[Any]:
        if not self._context.add_callback(lambda: self._arrived.put(_CALL_ENDED)):
            return
        threading.Thread(target=self._receive, daemon=True).start()
        while not self._has_ended:
            answers, end = self._commit(self._next_group())
            for answer in answers:
                yield answer
                self._pending -= 1
                if self._is_closing and self._pending >= 0:
                    return
            if end is not None:
                end()

    def _receive(self) -> None:
        with contextlib.suppress(Exception):  # the call was cancelled
            for request in self._requests:
                self._arrived.put((request, self._elections()))
        self._arrived.put(_CLIENT_SIDE_ENDED)

    def _elections(self) -> int:
        return self._node.cluster.elections if self._node.cluster else 0

    def _next_group(self) -> list[Any]:
        """What arrived until the write to the disk began, at least one item."""
        try:
            group = [self._arrived.get(timeout=WAKE_S)]
        except queue.Empty:
            self._has_ended = not self._node.is_running
            return []
        if group[0] is not _CALL_ENDED:
            time.sleep(self._node.flush_s)
        with contextlib.suppress(queue.Empty):
            while True:
                group.append(self._arrived.get_nowait())
        return group

    def _commit(self, group: list[Any]) -> tuple[list[Any], End | None]:
        """The answers to a group, and how the call ends after them, if it does."""
        answers: list[Any] = []
        try:
            for request in group:
                if request is _CALL_ENDED:
                    self._has_ended = True
                elif request is _CLIENT_SIDE_ENDED:
                    self._is_closing = True
                else:
                    answer = self._take(*request)
                    if callable(answer):
                        return answers, answer
                    if answer is not None:
                        answers.append(answer)
        finally:
            self._node.log.notify()
        is_dead = self._node.is_dead
        return ([], partial(abort, Fault.UNAVAILABLE, self._context)) if is_dead else (answers, None)

    def _take(self, request: Any, elections: int) -> Any:
        """The answer to a request, None if there is none, or how the call ends instead.

        `elections`: how many there had been when the request arrived.
        """
        id_ = messages.uuid_of(request.correlation_id)
        if request.HasField("options"):
            self._options[id_], self._events[id_] = request.options, []
        if id_ not in self._options:
            return None
        self._events[id_] += map(messages.proposed, request.proposed_messages)
        if not request.is_final:
            return None
        options, events = self._options.pop(id_), self._events.pop(id_)
        answer = self._refusal(options, events)
        if answer is None:
            self._pending += 1
            answer = self._append(options, events, is_in_flight=elections != self._elections())
        if answer is None or callable(answer):
            return answer
        answer.stream_identifier.CopyFrom(options.stream_identifier)
        answer.correlation_id.CopyFrom(request.correlation_id)
        if answer.error.details.Is(shared_pb2.Timeout.DESCRIPTOR):
            answer.correlation_id.CopyFrom(messages.structured(id_))  # as the server does
        return answer

    def _append(self, options: Any, events: list[Proposed], *, is_in_flight: bool) -> Any:
        """`is_in_flight`: the leader was lost after the request arrived."""
        cluster = self._node.cluster
        if is_in_flight and cluster is not None:
            if cluster.is_stored_by_chance():
                self._store(options, events)
            return batch_error("Timeout", shared_pb2.Timeout())
        match self._node.role(self._context):
            case Role.ELECTING:
                return batch_error("Server Is Not Ready", empty_pb2.Empty())
            case Role.FOLLOWER:
                return partial(self._node.redirect, self._context)
        answer = with_faults(self._node, name_of(options), lambda: self._store(options, events))
        return partial(abort, answer, self._context) if isinstance(answer, Fault) else answer

    def _refusal(self, options: Any, events: list[Proposed]) -> Any:
        """Why the server does not even try to store these events, if it does not."""
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
        return None

    def _store(self, options: Any, events: list[Proposed]) -> Any:
        expected = expected_of(options, "expected_stream_position", "stream_position")
        try:
            appended = self._node.log.append(name_of(options), expected, events, announced=False)
            return messages.batch_response(appended)
        except StreamDeleted:
            return batch_error("Stream Deleted", shared_pb2.StreamDeleted())


def with_faults(node: Node, stream: str, write: Callable[[], Any]) -> Any:
    """What `write` returns, None if a planned fault leaves the caller without an answer, or the fault itself."""

    def write_and_notify() -> None:
        write()
        node.log.notify()

    fault = node.plan(Point.BEFORE_COMMIT, stream)
    if fault is Fault.LATE:
        timer = threading.Timer(node.late_s, write_and_notify)
        timer.start()  # before it is listed: a test may join it at once
        node.late.append(timer)
        return None
    if fault is None:
        answer = write()
        fault = node.plan(Point.AFTER_COMMIT, stream)
        if fault is None:
            return answer
    match fault:
        case Fault.TIMED_OUT:
            return batch_error("Timeout", shared_pb2.Timeout())
        case Fault.NOT_READY:
            return batch_error("Server Is Not Ready", empty_pb2.Empty())
        case Fault.BLACK_HOLE:
            return None
    return fault
