"""The connection of a store: opened at the first call, replaced after a failure.

Promise: a call is retried with back-off until its outcome is known or its time is up. Refusal: no call after
`close` or in a forked child, and none right after a call that found the server unreachable.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from tenacity import Retrying, retry_if_exception_type, stop_before_delay, wait_random_exponential

from adapters.eventstoredb.client import Client
from adapters.eventstoredb.deadline import Deadline
from adapters.eventstoredb.driver import Url
from adapters.eventstoredb.errors import FAILURES, PART, UNREACHABLE, fault_of
from adapters.eventstoredb.url import check_files
from domain.kernel.errors import PartUnavailable

_UNREACHABLE_S = 0.25
"""For this long after a call that found the server unreachable, other calls fail at once."""

T = TypeVar("T")


class _UnknownOutcome(Exception):
    """An attempt ended without a known outcome. `error` is for the caller if no retry succeeds."""

    def __init__(self, error: PartUnavailable) -> None:
        super().__init__(str(error))
        self.error = error


class Connection:
    """Thread-safe. `settle_s` is the time of a call with all its retries, `call_timeout_s` of one attempt."""

    def __init__(self, url: Url, *, call_timeout_s: float, settle_s: float) -> None:
        self.settle_s = settle_s
        self._call_timeout_s = call_timeout_s
        self._url = url
        self._hosts = ", ".join(url.targets)
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._connected_in: int | None = None  # the id of the process
        self._unreachable: tuple[float, PartUnavailable] | None = None

    def call(self, call: Callable[[Client, Deadline], T], *, within_s: float | None = None) -> T:
        """Retry a call until its outcome is known. Raises PartUnavailable when the time is up.

        With `within_s` this is the time for all attempts, and a single one may use it up. A worker that reads
        many streams one by one does not wait that long for each: see `_UNREACHABLE_S`.
        """
        if self._unreachable is not None and time.monotonic() - self._unreachable[0] < _UNREACHABLE_S:
            raise PartUnavailable(PART, self._unreachable[1].reason, self._unreachable[1].hint)
        limit_s = within_s or self.settle_s
        deadline = Deadline.after(limit_s, call_timeout_s=within_s or self._call_timeout_s)
        retrying = Retrying(
            retry=retry_if_exception_type(_UnknownOutcome),
            wait=wait_random_exponential(multiplier=0.02, max=1.0),
            stop=stop_before_delay(limit_s),
            sleep=self.pause,
            reraise=True,
        )
        try:
            result: T = retrying(self._attempt, call, deadline)
            self._unreachable = None
            return result
        except _UnknownOutcome as unknown:
            # Not after a failure of one item: the server may answer other calls.
            if isinstance(unknown.__cause__, UNREACHABLE):
                self._unreachable = time.monotonic(), unknown.error
            raise unknown.error from unknown.__cause__

    def _attempt(self, call: Callable[[Client, Deadline], T], deadline: Deadline) -> T:
        client: Client | None = None
        try:
            client = self._connected(deadline)
            result = call(client, deadline)
        except FAILURES as error:
            fault = fault_of(error, is_cluster=client is not None and client.is_cluster)
            if fault.reconnect:
                self._drop(client)
            if not isinstance(fault.error, PartUnavailable):
                raise fault.error from error
            named = PartUnavailable(PART, f"{self._hosts}: {fault.error.reason}", fault.error.hint)
            raise (_UnknownOutcome(named) if fault.retry else named) from error
        return result

    def pause(self, pause_s: float) -> None:
        """Wait before a retry. `close` ends the wait."""
        self._closed.wait(pause_s)

    def mark_reachable(self) -> None:
        """Do not refuse the next call: the server answered a part of the one that failed."""
        self._unreachable = None

    def own_client(self) -> Client:
        """A new client of the caller's own, for a subscription. The caller closes it."""
        return self._new_client(Deadline.after(self.settle_s, call_timeout_s=self.settle_s))

    def check_usable(self) -> None:
        """Raise PartUnavailable if the store was closed or inherited through a fork."""
        if self._closed.is_set():
            raise PartUnavailable(PART, "it was closed")
        # After a fork gRPC hangs and ignores every deadline.
        if self._connected_in not in (None, os.getpid()):
            reason = "its connection was inherited through a fork"
            raise PartUnavailable(PART, reason, "Open the store after forking.")

    def close(self) -> None:
        self._closed.set()
        with self._lock:
            client, self._client = self._client, None
        if client is not None and self._connected_in == os.getpid():
            client.close()

    def _connected(self, deadline: Deadline) -> Client:
        with self._lock:  # other threads wait for the new client, each within its own deadline
            self.check_usable()
            if self._client is None:
                self._client = self._new_client(deadline)
            return self._client

    def _new_client(self, deadline: Deadline) -> Client:
        self.check_usable()
        check_files(self._url.options)
        self._connected_in = os.getpid()
        return Client(self._url, deadline)

    def _drop(self, client: Client | None) -> None:
        """Let the next call connect. The client is not closed: that would fail the calls of other threads. It closes
        when the last of them has released it.
        """
        with self._lock:
            if self._client is client:
                self._client = None
