"""The requests of one `pipeline` or `exchange` call over one local connection, which is replaced when it breaks.

The caller's thread does all sending and receiving and blocks in neither: if both ends only sent, each would
wait for the other to receive. Nothing is sent or received while the reader of the replies is busy, so the
time of requests does not run meanwhile.

Promise: a reply is taken from the connection that its request was sent on; after a lost connection the
unanswered requests are sent again. Refusal: a connection with an unanswered request is not kept.
"""

from __future__ import annotations

import collections
import os
import select
import socket
import threading
import time
from collections.abc import Callable

from adapters.local.frames import CHUNK_BYTES, frame, take_frames
from adapters.pipeline import Arrived, Pipeline
from domain.kernel.errors import AnsweredError, EsError, InvalidInput, MessageTooLarge, PartUnavailable
from domain.kernel.messages import Question


class _Waiting:
    """A request without a reply."""

    __slots__ = ("deadline", "frame", "number")

    def __init__(self, number: int, frame: bytes) -> None:
        self.number = number
        self.frame = frame
        self.deadline = 0.0  # in seconds of `_now`, from when it is first sent


class _Waker:
    """Ends the `select` of another thread."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self._lock = threading.Lock()  # otherwise `wake` could write to a file that took the closed number
        self._is_open = True

    def fileno(self) -> int:
        return self._read

    def wake(self) -> None:
        with self._lock:
            if self._is_open:
                os.write(self._write, b".")

    def clear(self) -> None:
        os.read(self._read, 4096)

    def close(self) -> None:
        with self._lock:
            self._is_open = False
            os.close(self._read)
            os.close(self._write)


class LocalPipeline(Pipeline):
    """Sends requests and receives their replies over one connection."""

    def __init__(
        self,
        connect: Callable[[float], socket.socket],
        connection: socket.socket | None,
        role: str,
        timeout_s: float,
    ) -> None:
        """`connect` opens a connection before a deadline in monotonic seconds, or raises PartUnavailable.

        `connection` is an open one, if there is one.
        """
        super().__init__()
        self._connect = connect
        self._role = role
        self._timeout_s = timeout_s
        # Added to by the feeder thread:
        self._new: collections.deque[_Waiting | Arrived] = collections.deque()
        self._count = 0
        self._waker: _Waker | None = None  # made by the caller's thread once it has to wait for the feeder
        # Of the caller's thread alone:
        self._waiting: dict[int, _Waiting] = {}  # by number, in order of their deadlines
        self._arrived: list[Arrived] = []
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._yielded_at: float | None = None
        self._paused_s = 0.0  # spent by the reader of the replies
        self._is_late = False  # a request was given up, so its reply may still arrive
        self._is_complete = False
        self.connection: socket.socket | None = None
        """The open connection; after `end` one that can serve other requests."""
        self._use(connection)

    # --- in the feeder thread, or for a single request in the caller's -------------------------

    def add(self, question: Question) -> None:
        number, self._count = self._count, self._count + 1
        if isinstance(question, EsError):
            self._new.append((number, question))
        else:
            kind, body = question
            try:
                raw = frame({"id": number, "kind": kind, "body": body})
            except (MessageTooLarge, InvalidInput) as error:
                self._new.append((number, error))
            else:
                self._new.append(_Waiting(number, raw))
        if len(self._new) <= 1:  # with more, the other thread was woken and has not looked yet
            self.wake()

    def wake(self) -> None:
        if self._waker is not None:
            self._waker.wake()

    def _now(self) -> float:
        """Monotonic seconds without those that the reader of the replies spent."""
        return time.monotonic() - self._paused_s

    # --- in the caller's thread ----------------------------------------------------------------

    def next_replies(self) -> list[Arrived]:
        if self._yielded_at is not None:
            self._paused_s += time.monotonic() - self._yielded_at
        while True:
            is_fed = self.is_fed  # before the look: requests are added before it is set
            self._take_new()
            if self._arrived or (is_fed and not self._waiting):
                arrived, self._arrived = self._arrived, []
                self._is_complete = not arrived
                self._yielded_at = time.monotonic()
                return arrived
            if not is_fed and self._waker is None:
                # Look again before waiting: requests that were added until now woke nothing.
                self._waker = _Waker()
                continue
            self._wait(next(iter(self._waiting.values()), None))

    def _take_new(self) -> None:
        """Add the new requests to what is sent. Their time runs from here."""
        if not self._new:
            return
        deadline = self._now() + self._timeout_s
        while self._new:
            new = self._new.popleft()
            if isinstance(new, tuple):
                self._arrived.append(new)
                continue
            new.deadline = deadline
            self._waiting[new.number] = new
            self._outgoing += new.frame

    def _wait(self, first: _Waiting | None) -> None:
        """Wait for a reply, a new request, room to send, a lost connection, or the deadline of the first."""
        if first is not None and self.connection is None:
            self._reconnect(first)
            return
        now = self._now()
        wait_ms = max(first.deadline - now, 0) * 1000 if first is not None else None
        poll = select.poll()  # not select(), which fails for a descriptor above 1023
        if self._waker is not None:
            poll.register(self._waker, select.POLLIN)
        connection_fd = -1
        if self.connection is not None:
            connection_fd = self.connection.fileno()
            poll.register(connection_fd, select.POLLIN | (select.POLLOUT if self._outgoing else 0))
        ready = dict(poll.poll(wait_ms))
        events = ready.pop(connection_fd, 0)
        if ready and self._waker is not None:
            self._waker.clear()
        if events & select.POLLOUT:
            self._send()
        if self.connection is not None and events & ~select.POLLOUT:
            self._receive()
        elif first is not None and now >= first.deadline:
            # Only if nothing was readable: a reply that is here, unread, was not late.
            self._give_up(first, self._no_reply())
            self._is_late = True

    def _give_up(self, waiting: _Waiting, error: EsError) -> None:
        del self._waiting[waiting.number]
        self._arrived.append((waiting.number, error))

    def _send(self) -> None:
        assert self.connection is not None
        try:
            sent = self.connection.send(memoryview(self._outgoing)[:CHUNK_BYTES])
        except BlockingIOError:
            return
        except OSError:
            self._disconnect()
            return
        del self._outgoing[:sent]

    def _receive(self) -> None:
        assert self.connection is not None
        try:
            chunk = self.connection.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            self._disconnect()
            return
        self._incoming += chunk
        for message, _ in take_frames(self._incoming):
            if self._waiting.pop(message["id"], None) is None:
                continue  # it was given up
            error = message.get("error")
            reply = AnsweredError.from_wire(error) if error is not None else message["ok"]
            self._arrived.append((message["id"], reply))

    def _reconnect(self, first: _Waiting) -> None:
        """Connect and send all unanswered requests again. If that fails, the first request gets the error."""
        try:
            self._use(self._connect(first.deadline + self._paused_s))
        except PartUnavailable as error:
            self._give_up(first, error)
            return
        for waiting in self._waiting.values():
            self._outgoing += waiting.frame

    def _use(self, connection: socket.socket | None) -> None:
        self.connection = connection
        self._incoming.clear()
        self._outgoing.clear()
        if connection is not None:
            connection.setblocking(False)

    def _disconnect(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()

    def end(self) -> None:
        if self._is_late or not self._is_complete:
            self._disconnect()  # a late reply must not meet another request
        if self._waker is not None:
            self._waker.close()

    def _no_reply(self) -> PartUnavailable:
        return PartUnavailable(
            f"the {self._role} worker",
            f"no reply within {self._timeout_s:g} s, so the outcome is unknown",
            "A retry is safe. See `es status` and `es logs`.",
        )
