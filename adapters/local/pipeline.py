"""The requests of one `pipeline` call over one local connection, which is replaced when it breaks.

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
from adapters.pipeline import Pipeline
from domain.kernel.errors import AnsweredError, EsError, InvalidInput, MessageTooLarge, PartUnavailable
from domain.kernel.messages import Body, Question


class _Waiting:
    """A request: its frame until it is answered, then its reply until that is yielded."""

    __slots__ = ("connection_number", "deadline", "frame", "reply")

    def __init__(self, frame: bytes, deadline: float, reply: EsError | None) -> None:
        self.frame = frame
        self.deadline = deadline
        self.reply: Body | EsError | None = reply
        self.connection_number = 0  # of the connection that it was last sent on; 0 before it was sent


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
        self._waiting: dict[int, _Waiting] = {}  # by number, in order of the requests
        self._new: collections.deque[_Waiting] = collections.deque()  # not yet in `_outgoing`
        self._count = 0
        self._waker: _Waker | None = None  # made by the caller's thread once it has to wait for the feeder
        # Of the caller's thread alone:
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._next_number = 0  # of the next reply
        self._connection_number = 1
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
        deadline = self._now() + self._timeout_s
        if isinstance(question, EsError):
            self._waiting[number] = _Waiting(b"", deadline, question)
        else:
            kind, body = question
            try:
                raw = frame({"id": number, "kind": kind, "body": body})
            except (MessageTooLarge, InvalidInput) as error:
                self._waiting[number] = _Waiting(b"", deadline, error)
            else:
                waiting = self._waiting[number] = _Waiting(raw, deadline, None)
                self._new.append(waiting)
        if len(self._new) <= 1:  # with more, the other thread was woken and has not looked yet
            self.wake()

    def wake(self) -> None:
        if self._waker is not None:
            self._waker.wake()

    def _now(self) -> float:
        """Monotonic seconds without those that the reader of the replies spent."""
        return time.monotonic() - self._paused_s

    # --- in the caller's thread ----------------------------------------------------------------

    def next_replies(self) -> list[Body | EsError]:
        if self._yielded_at is not None:
            self._paused_s += time.monotonic() - self._yielded_at
        while True:
            is_fed = self.is_fed  # before the look: requests are added before it is set
            replies: list[Body | EsError] = []
            while (first := self._waiting.get(self._next_number)) and first.reply is not None:
                replies.append(first.reply)
                del self._waiting[self._next_number]
                self._next_number += 1
            if replies or (is_fed and first is None):
                self._is_complete = not replies
                self._yielded_at = time.monotonic()
                return replies
            if not is_fed and self._waker is None:
                # Look again before waiting: requests that were added until now woke nothing.
                self._waker = _Waker()
                continue
            self._wait(first)

    def _wait(self, first: _Waiting | None) -> None:
        """Wait for a reply, a new request, room to send, a lost connection, or the deadline of the first."""
        while self._new:
            self._enqueue(self._new.popleft())
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
            first.reply = self._no_reply()
            self._is_late = True

    def _enqueue(self, waiting: _Waiting) -> None:
        """Add a request to what is sent, unless a reconnect has already done so."""
        if waiting.connection_number == 0:
            waiting.deadline = self._now() + self._timeout_s  # its time runs from here
        if waiting.connection_number != self._connection_number:
            waiting.connection_number = self._connection_number
            self._outgoing += waiting.frame

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
            waiting = self._waiting.get(message["id"])
            if waiting is None or waiting.reply is not None:
                continue  # it was given up
            error = message.get("error")
            waiting.reply = AnsweredError.from_wire(error) if error is not None else message["ok"]
            waiting.frame = b""

    def _reconnect(self, first: _Waiting) -> None:
        """Connect and send all unanswered requests again. If that fails, the first request gets the error."""
        try:
            self._use(self._connect(first.deadline + self._paused_s))
        except PartUnavailable as error:
            first.reply = error
            return
        self._connection_number += 1
        for waiting in list(self._waiting.values()):
            if waiting.reply is None:
                self._enqueue(waiting)

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
