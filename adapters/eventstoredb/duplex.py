"""A bidirectional call whose messages one thread sends and receives, as gRPC's own reads of many answers do on request.

gRPC for Python sends the messages of such a call in a thread of its own and learns of their departure in a second one:
half of the CPU time of an append. It has a call for one thread, but offers it for reads only. This is that call. It uses
names of gRPC that are not public; tests/adapters/eventstoredb/test_duplex.py holds them. docs/adr/0024 says why.

Promise: messages go out in order, each once; the iteration returns every message of the server, then raises
its status, unless that is OK.
Refusal: nothing is sent after the call is over. An operation object belongs to one message: gRPC frees its memory.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from adapters.eventstoredb.driver import STATUS_CODES, cygrpc, failed_call

_NO_FLAGS = 0
_CANCELLED = "Locally cancelled by application!"
"""gRPC's own words, by which esdbclient knows its own cancellation."""


class DuplexCall:
    """`send` and `cancel` are for any thread, the iteration for one. It must be iterated to its end."""

    def __init__(self, rpc: Any, *, metadata: Any, credentials: Any) -> None:
        """Start the RPC, a member of a generated stub. It has no deadline."""
        self._to_bytes, self._from_bytes = rpc._request_serializer, rpc._response_deserializer
        self._lock = threading.Lock()
        self._unsent: deque[bytes] = deque()
        self._is_sending = False
        first = (
            [cygrpc.SendInitialMetadataOperation(metadata, _NO_FLAGS)],
            [cygrpc.ReceiveStatusOnClientOperation(_NO_FLAGS)],
            [cygrpc.ReceiveInitialMetadataOperation(_NO_FLAGS)],
            [cygrpc.ReceiveMessageOperation(_NO_FLAGS)],
        )
        self._due = len(first)
        """The operations that have not ended. The memory of the call is gone with the last one."""
        self._call = rpc._channel.segregated_call(
            cygrpc.PropagationConstants.GRPC_PROPAGATE_DEFAULTS,
            rpc._method,
            None,
            None,
            metadata,
            credentials and credentials._credentials,
            [(operations, None) for operations in first],
            rpc._context,
            rpc._registered_call_handle,
        )

    def send(self, messages: Iterable[Any]) -> None:
        """Send messages after all earlier ones. Nothing is sent once the call is over; the iteration tells why."""
        serialized = [self._to_bytes(message) for message in messages]
        with self._lock:
            self._unsent += serialized
            if not self._is_sending:
                self._send_next()

    def cancel(self) -> None:
        with self._lock:
            if self._due:
                self._call.cancel(cygrpc.StatusCode.cancelled, _CANCELLED)

    def __iter__(self) -> Iterator[Any]:
        status: Any = None
        while self._due:
            # Without the lock: it waits for an operation to end.
            (operation,) = self._call.next_event().batch_operations
            kind = operation.type()
            message = operation.message() if kind == cygrpc.OperationType.receive_message else None
            with self._lock:
                self._due -= 1
                if kind == cygrpc.OperationType.receive_status_on_client:
                    status = operation
                    self._unsent.clear()
                elif kind == cygrpc.OperationType.send_message:
                    self._send_next()
                elif message is not None:
                    self._begin(cygrpc.ReceiveMessageOperation(_NO_FLAGS))
            if message is not None:
                yield self._from_bytes(message)
        if status.code() != cygrpc.StatusCode.ok:
            raise failed_call(STATUS_CODES.get(status.code()), status.details(), status.trailing_metadata())

    def _send_next(self) -> None:
        """Send the next message, if there is one. gRPC sends one at a time. The caller holds the lock."""
        self._is_sending = bool(self._unsent) and self._begin(
            cygrpc.SendMessageOperation(self._unsent.popleft(), _NO_FLAGS)
        )

    def _begin(self, operation: Any) -> bool:
        begun: bool = self._due > 0 and self._call.operate([operation], None)
        self._due += begun
        return begun
