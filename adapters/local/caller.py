"""Requests over Unix sockets, one per role: the embedded transport.

A frame is its length in 4 bytes, big-endian, then a JSON object: `{"id", "kind", "body"}` one way,
`{"id", "ok"}` or `{"id", "error": {"code", "kind", "message", "hint"}}` the other. Frames are pipelined;
an id belongs to its connection. Several workers of a role accept from one listening socket.

Promise: a caller gets the answer of the connection it asked on, or asks again. Refusal: nothing outside
the standard library is imported here, because every short-lived command pays for it.
"""

from __future__ import annotations

import collections
import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from adapters.local.address import refuse_shared, socket_path
from adapters.local.frames import frame, take_frames
from domain.kernel.errors import AnsweredError, EsError, MessageTooLarge, PartUnavailable
from domain.kernel.messages import Body, Question

CHUNK_BYTES = 1 << 18
_RECONNECT_S = 0.02


class LocalCaller:
    """Asks over one connection per role, opened when first needed and again when lost."""

    def __init__(self, run: Path, *, on_absent: Callable[[], bool] | None = None) -> None:
        """`on_absent` is called once when nobody listens; true means that it started somebody."""
        self._run = run
        self._on_absent = on_absent
        self._connections: dict[str, socket.socket] = {}
        self._expected: set[str] = set()

    def ask(self, role: str, kind: str, body: Mapping[str, Any], *, timeout_s: float = 10.0) -> Body:
        (reply,) = self.pipeline(role, [(kind, body)], timeout_s=timeout_s)
        if isinstance(reply, EsError):
            raise reply
        return reply

    def pipeline(
        self,
        role: str,
        requests: Iterable[Question],
        *,
        window: int = 512,
        timeout_s: float = 10.0,
    ) -> Iterator[Body | EsError]:
        run = _Pipeline(lambda deadline: self._connect(role, deadline), role, window, timeout_s)
        connection = self._connections.pop(role, None)
        if isinstance(requests, list) and len(requests) == 1:
            replies = run.single(requests[0], connection)
        else:
            replies = run.stream(requests, connection)
        yield from replies
        # Kept only after a clean end: a connection with answers under way must not serve another question.
        if run.connection is not None:
            self._connections[role] = run.connection

    def _connect(self, role: str, deadline: float) -> socket.socket:
        path = socket_path(self._run, role)
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                refuse_shared(path.parent)
                connection.connect(str(path))
                self._expected.add(role)
                return connection
            except (FileNotFoundError, ConnectionRefusedError) as error:
                connection.close()
                if self._on_absent is not None:
                    # Once for a caller: whoever stops the workers meanwhile meant it.
                    start, self._on_absent = self._on_absent, None
                    if start():
                        self._expected.add(role)
                # Where somebody was, or is being started, somebody will be again.
                if role not in self._expected or time.monotonic() >= deadline:
                    self._expected.discard(role)  # enough waited: the next question learns it at once
                    raise _not_running(role) from error
                time.sleep(_RECONNECT_S)
            except OSError as error:
                connection.close()
                if isinstance(error, TimeoutError | BlockingIOError) and time.monotonic() < deadline:
                    time.sleep(_RECONNECT_S)  # the backlog is full
                    continue
                raise PartUnavailable(
                    f"the {role} worker", f"{path}: {error.strerror or 'no answer'}"
                ) from error

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()


def _not_running(role: str) -> PartUnavailable:
    return PartUnavailable(
        f"the {role} worker", "it is not running", "Start the workers with `es up`; repeating is safe."
    )


def no_answer(role: str, timeout_s: float) -> PartUnavailable:
    return PartUnavailable(
        f"the {role} worker",
        f"no answer within {timeout_s:g} s, so the outcome is unknown",
        "Repeat with the same command id; `es status` and `es logs` tell what the worker is doing.",
    )


class _Waiting:
    """A request of a pipeline: its frame until it is answered, then its reply until that is yielded."""

    __slots__ = ("connection_number", "deadline", "frame", "reply")

    def __init__(self, frame: bytes, deadline: float, reply: Body | EsError | None) -> None:
        self.frame = frame
        self.deadline = deadline
        self.reply = reply
        self.connection_number = 0  # on which it was sent last


class _Pipeline:
    """One run of requests over one connection, which is replaced when it breaks.

    One thread does all sending and receiving, and never blocks in either: whoever only sends while the
    other end waits for its own sending to be taken waits for ever.
    """

    def __init__(
        self, connect: Callable[[float], socket.socket], role: str, window: int, timeout_s: float
    ) -> None:
        self._connect = connect
        self._role = role
        self._timeout_s = timeout_s
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._waiting: dict[int, _Waiting] = {}  # in order of the requests
        self._new: collections.deque[_Waiting] = (
            collections.deque()
        )  # from the feeder, not yet in `_outgoing`
        self._room = threading.Semaphore(window)
        self._fed = threading.Event()
        self._feed_error: BaseException | None = None
        self._wake_read, self._wake_write = -1, -1
        self._connection_number = 1
        self._kept_s = 0.0  # by the reader, while nothing was sent or received
        self._gave_up = False
        self.connection: socket.socket | None = None

    def single(self, request: Question, connection: socket.socket | None) -> Iterator[Body | EsError]:
        """The common case, one question: no second thread."""
        self._take(connection)
        self._add(0, request)
        self._fed.set()
        yield from self._drain()

    def stream(
        self, requests: Iterable[Question], connection: socket.socket | None
    ) -> Iterator[Body | EsError]:
        """Many questions. A thread of its own reads them: standard input may make us wait while answers come."""
        self._take(connection)
        self._wake_read, self._wake_write = os.pipe()
        feeder = threading.Thread(target=self._feed, args=(iter(requests),), name="feeder", daemon=True)
        feeder.start()
        clean = False
        try:
            yield from self._drain()
            clean = True
        finally:
            if not clean:
                self._let_go()  # the feeder may still be reading, so its pipe stays open
        feeder.join()
        os.close(self._wake_read)
        os.close(self._wake_write)
        if self._feed_error is not None:
            raise self._feed_error

    # --- the feeder's thread -------------------------------------------------------------------

    def _feed(self, requests: Iterator[Question]) -> None:
        try:
            for number, request in enumerate(requests):
                self._room.acquire()
                self._add(number, request)
                if len(self._new) <= 1:  # with more, the other thread has been woken and not yet looked
                    os.write(self._wake_write, b".")
        except BaseException as error:
            self._feed_error = error
        finally:
            self._fed.set()
            with contextlib.suppress(OSError):
                os.write(self._wake_write, b".")

    def _add(self, number: int, request: Question) -> None:
        deadline = self._now() + self._timeout_s
        if isinstance(request, EsError):
            self._waiting[number] = _Waiting(b"", deadline, request)
            return
        kind, body = request
        try:
            raw = frame({"id": number, "kind": kind, "body": body})
        except MessageTooLarge as error:
            self._waiting[number] = _Waiting(b"", deadline, error)
            return
        waiting = self._waiting[number] = _Waiting(raw, deadline, None)
        self._new.append(waiting)

    def _now(self) -> float:
        """Monotonic seconds, without those that the reader kept us: the time of requests doesn't run meanwhile."""
        return time.monotonic() - self._kept_s

    # --- the thread that yields ----------------------------------------------------------------

    def _drain(self) -> Iterator[Body | EsError]:
        """Yield replies in order until every request has one."""
        next_number = 0
        while True:
            while (first := self._waiting.get(next_number)) is not None and first.reply is not None:
                reply = first.reply
                del self._waiting[next_number]
                next_number += 1
                self._room.release()
                left_at = time.monotonic()
                yield reply
                self._kept_s += time.monotonic() - left_at
            if first is None and self._fed.is_set() and next_number not in self._waiting:
                if self._gave_up:
                    self._let_go()  # an answer that comes late must not meet another question
                return
            self._wait(first)

    def _wait(self, first: _Waiting | None) -> None:
        """Until something happens: an answer, a new request, room to send, a broken connection, a deadline."""
        while self._new:
            self._send_later(self._new.popleft())
        if first is not None and self.connection is None:
            self._reconnect(first)
            return
        now = self._now()
        reading: list[Any] = [self._wake_read] if self._wake_read >= 0 else []
        reading += [self.connection] if self.connection is not None else []
        writing = [self.connection] if self.connection is not None and self._outgoing else []
        wait_s = max(first.deadline - now, 0) if first is not None else None
        readable, writable, _ = select.select(reading, writing, [], wait_s)
        if self._wake_read in readable:
            os.read(self._wake_read, 4096)
        if writable:
            self._send()
        if self.connection is not None and self.connection in readable:
            self._receive()
        elif first is not None and now >= first.deadline:
            # Nothing lay here unread, so it was the worker that took its time, and not our reader.
            first.reply = no_answer(self._role, self._timeout_s)
            self._gave_up = True

    def _send_later(self, waiting: _Waiting) -> None:
        if waiting.connection_number == 0:
            waiting.deadline = self._now() + self._timeout_s  # its time runs from here
        if waiting.connection_number != self._connection_number:  # else a reconnect has taken it along
            waiting.connection_number = self._connection_number
            self._outgoing += waiting.frame

    def _send(self) -> None:
        assert self.connection is not None
        try:
            sent = self.connection.send(memoryview(self._outgoing)[:CHUNK_BYTES])
        except BlockingIOError:
            return
        except OSError:
            self._let_go()
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
            self._let_go()
            return
        self._incoming += chunk
        for message in take_frames(self._incoming):
            waiting = self._waiting.get(message["id"])
            if waiting is None or waiting.reply is not None:
                continue  # given up already
            error = message.get("error")
            waiting.reply = AnsweredError.from_wire(error) if error is not None else message["ok"]
            waiting.frame = b""

    def _reconnect(self, first: _Waiting) -> None:
        """Open a new connection and ask everything again that has no answer. Whoever can't connect is told."""
        try:
            self._take(self._connect(first.deadline + self._kept_s))
        except PartUnavailable as error:
            first.reply = error
            return
        self._connection_number += 1
        for waiting in list(self._waiting.values()):
            if waiting.reply is None:
                self._send_later(waiting)

    def _take(self, connection: socket.socket | None) -> None:
        self.connection = connection
        self._incoming.clear()
        self._outgoing.clear()
        if connection is not None:
            connection.setblocking(False)

    def _let_go(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()
