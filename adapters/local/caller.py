"""The caller over Unix sockets, one socket per role.

Promise: a lost connection is opened again, for as long as a request may take. Refusal: a connection that may
still bring a late reply is never used for another request.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from adapters.local.address import refuse_shared, socket_path
from adapters.local.frames import CHUNK_BYTES, frame, take_frames
from adapters.local.pipeline import LocalPipeline
from adapters.pipeline import Arrived, only_reply
from domain.kernel.errors import AnsweredError, EsError, PartUnavailable
from domain.kernel.messages import Body, Question

_RECONNECT_S = 0.02
_T = TypeVar("_T")


def ask_once(run: Path, role: str, kind: str, body: Mapping[str, Any], *, timeout_s: float) -> Body:
    """Ask over a connection of its own and never retry. Raises OSError if no reply arrives in time."""
    path = socket_path(run, role)
    refuse_shared(path.parent)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        connection.connect(str(path))
        connection.sendall(frame({"id": 0, "kind": kind, "body": body}))
        received = bytearray()
        while chunk := connection.recv(CHUNK_BYTES):
            received += chunk
            for message, _ in take_frames(received):
                if "error" in message:
                    raise AnsweredError.from_wire(message["error"])
                reply: Body = message["ok"]
                return reply
    raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))


class LocalCaller:
    """A `Caller` over one connection per role, opened for the first request and kept."""

    def __init__(self, run: Path, *, on_absent: Callable[[], bool] | None = None) -> None:
        """`on_absent` is called once if no worker listens. It returns true if it started one."""
        self._run = run
        self._on_absent = on_absent
        self._connections: dict[str, socket.socket] = {}
        self._expected: set[str] = set()
        """Roles with a worker that was seen here before or is being started."""

    def ask(self, role: str, kind: str, body: Mapping[str, Any], *, timeout_s: float = 10.0) -> Body:
        return only_reply(self.pipeline(role, [(kind, body)], timeout_s=timeout_s))

    def pipeline(
        self,
        role: str,
        requests: Iterable[Question],
        *,
        timeout_s: float = 10.0,
        before_wait: Callable[[], None] = lambda: None,
    ) -> Iterator[Body | EsError]:
        return self._through(role, timeout_s, lambda pipeline: pipeline.replies(requests, before_wait))

    def exchange(
        self, role: str, requests: Iterable[Question], *, timeout_s: float = 10.0
    ) -> Iterator[Arrived]:
        return self._through(role, timeout_s, lambda pipeline: pipeline.exchange(requests))

    def _through(
        self, role: str, timeout_s: float, run: Callable[[LocalPipeline], Iterator[_T]]
    ) -> Iterator[_T]:
        """Yield what a pipeline yields, over the kept connection of the role. Keep the one that it leaves."""
        pipeline = LocalPipeline(
            lambda deadline: self._connect(role, deadline), self._connections.pop(role, None), role, timeout_s
        )
        try:
            yield from run(pipeline)
        finally:
            if pipeline.connection is not None:
                self._connections[role] = pipeline.connection

    def _connect(self, role: str, deadline: float) -> socket.socket:
        while True:
            path = socket_path(self._run, role)  # each time: a supervisor may listen elsewhere by now
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                refuse_shared(path.parent)
                connection.connect(str(path))
                self._expected.add(role)
                return connection
            except (FileNotFoundError, ConnectionRefusedError) as error:
                connection.close()
                self._wait_for_worker(role, deadline, error)
            except OSError as error:
                connection.close()
                if isinstance(error, TimeoutError | BlockingIOError) and time.monotonic() < deadline:
                    time.sleep(_RECONNECT_S)  # the backlog is full
                    continue
                raise PartUnavailable(
                    f"the {role} worker", f"{path}: {error.strerror or 'no reply'}"
                ) from error

    def _wait_for_worker(self, role: str, deadline: float, error: OSError) -> None:
        """Wait a moment if a worker is expected. Raises PartUnavailable if there is none."""
        if self._on_absent is not None:
            # At most once per caller: do not restart workers that an operator has just stopped.
            start, self._on_absent = self._on_absent, None
            if start():
                self._expected.add(role)
        if role not in self._expected or time.monotonic() >= deadline:
            self._expected.discard(role)  # waited long enough: the next request fails at once
            raise PartUnavailable(
                f"the {role} worker", "it is not running", "Start the workers with `es up`; a retry is safe."
            ) from error
        time.sleep(_RECONNECT_S)

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()
