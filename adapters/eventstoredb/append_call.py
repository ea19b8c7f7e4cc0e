"""One BatchAppend call that stays open: the requests of all threads go out over it, each with a deadline of its own.

Promise: the client's side stays open until the last answer, because the server ends the call after one more answer when
that side ends. Refusal: no answer is guessed. What has none when its time is up, or when the call ends, is unknown.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from uuid import uuid4

from adapters.eventstoredb.driver import failures, grpc, handle_rpc_error
from adapters.eventstoredb.duplex import DuplexCall
from adapters.eventstoredb.messages import AppendRequest, AppendResponse, correlation_of


class AppendCall:
    """Thread-safe. One thread receives the responses."""

    def __init__(self, call: DuplexCall) -> None:
        """`call` is a BatchAppend that has just begun."""
        self._lock = threading.Lock()
        self._unanswered: dict[str, Batch] = {}
        self._prefix, self._count = str(uuid4())[:24], 0
        self._is_open = True
        self._call = call
        threading.Thread(target=self._receive, name="eventstoredb-appends", daemon=True).start()

    def start(self, requests: Mapping[int, AppendRequest]) -> Batch | None:
        """Send requests; their keys come back with the responses. None if the call is no longer open."""
        with self._lock:
            if not self._is_open:
                return None
            batch = Batch(self)
            for key, request in requests.items():
                self._count += 1
                id_ = request.correlation_id.string = f"{self._prefix}{self._count:012x}"
                batch.keys[id_] = key
                self._unanswered[id_] = batch
            self._call.send(requests.values())
            return batch

    def forget(self, ids: Sequence[str]) -> None:
        """Give up requests without an answer: send nothing more, and end the call once no batch waits for one."""
        with self._lock:
            self._is_open = False
            for id_ in ids:
                self._unanswered.pop(id_, None)
            is_idle = not self._unanswered
        if is_idle:
            self._call.cancel()

    def _receive(self) -> None:
        error: Exception = failures.EventStoreDBClientException("the call ended before the last response")
        try:
            for response in self._call:
                self._receive_one(response)
        except grpc.RpcError as ended:
            error = handle_rpc_error(ended)
            error.__cause__ = ended
        with self._lock:
            self._is_open = False
            left, self._unanswered = self._unanswered, {}
        for batch in left.values():
            batch.fail(error)

    def _receive_one(self, response: AppendResponse) -> None:
        id_ = correlation_of(response)
        with self._lock:
            batch = self._unanswered.pop(id_, None)
            is_over = not self._is_open and not self._unanswered
        if batch is not None:
            batch.answer(id_, response)
        if is_over:
            self._call.cancel()


class Batch:
    """Requests that were sent together, and their responses."""

    def __init__(self, call: AppendCall) -> None:
        self.keys: dict[str, int] = {}
        """The keys of the requests without a response, by correlation id."""
        self._call = call
        self._responses: list[tuple[int, AppendResponse]] = []
        self._error: Exception | None = None
        self._over = threading.Event()

    def answer(self, id_: str, response: AppendResponse) -> None:
        self._responses.append((self.keys.pop(id_), response))
        if not self.keys:
            self._over.set()

    def fail(self, error: Exception) -> None:
        self._error = error
        self._over.set()

    def responses(self, timeout_s: float) -> Iterator[tuple[int, AppendResponse]]:
        """Each response with the key of its request.

        Then raises the failure that ended the call, or GrpcDeadlineExceeded, if a response is missing.
        """
        is_over = self._over.wait(timeout_s)
        if not is_over:
            # The next items go over a new call: this one may be stuck. Other batches may still get their answers.
            self._call.forget(tuple(self.keys))
        yield from self._responses
        if self._error is not None:
            raise self._error
        if self.keys:
            raise failures.GrpcDeadlineExceeded("no answer in time")
