"""The server of one role on a Unix socket. Several workers of a role accept from one listening socket.

Promise: a caller receives the replies to its own requests only. Refusal: requests of a caller that has
disconnected are dropped, and a connection that sends anything but frames is closed.
"""

from __future__ import annotations

import collections
import contextlib
import select
import socket
from collections.abc import Sequence
from typing import Any

from adapters.local.frames import CHUNK_BYTES, frame, take_frames
from domain.kernel.errors import EsError, MessageTooLarge
from domain.kernel.messages import Body, Later, Reply, Request

_UNSENT_LIMIT_BYTES = 4 << 20
_READY_LIMIT = 4096


class _Peer:
    """One connection of a server."""

    __slots__ = ("incoming", "outgoing", "socket")

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.incoming = bytearray()
        self.outgoing = bytearray()


class Delivery:
    """A request, with the connection and the frame id for its reply."""

    __slots__ = ("frame_id", "peer", "request")

    def __init__(self, peer: _Peer, frame_id: Any, request: Request) -> None:
        self.peer = peer
        self.frame_id = frame_id
        self.request = request


class LocalServer:
    """A `Server` over Unix sockets, used by one thread that also does the work.

    Requests that arrive during the work wait in the sockets and become the next batch (group commit).
    """

    def __init__(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        self._listener: socket.socket | None = listener
        self._poll = select.poll()
        self._poll.register(listener, select.POLLIN)
        self._is_full = False
        self._peers: dict[int, _Peer] = {}
        self._ready: collections.deque[Delivery] = collections.deque()

    @property
    def is_full(self) -> bool:
        """Whether no descriptor is left for a further connection."""
        return self._is_full

    def receive(self, limit: int, wait_s: float) -> list[Delivery]:
        """Receive up to `limit` requests, as soon as there are any; none after `wait_s` seconds."""
        self._pump(0 if self._ready else wait_s)
        return [self._ready.popleft() for _ in range(min(limit, len(self._ready)))]

    def answer(self, replies: Sequence[tuple[Delivery, Reply]]) -> None:
        """Send replies. Replies to disconnected callers are dropped."""
        touched: dict[int, _Peer] = {}
        for delivery, reply in replies:
            assert not isinstance(reply, Later)
            message: Body = {"id": delivery.frame_id}
            message.update({"error": reply.to_wire()} if isinstance(reply, EsError) else {"ok": reply})
            try:
                raw = frame(message, what="the reply")
            except MessageTooLarge as error:
                raw = frame({"id": delivery.frame_id, "error": error.to_wire()})
            delivery.peer.outgoing += raw
            touched[delivery.peer.socket.fileno()] = delivery.peer
        for fd, peer in touched.items():
            if fd >= 0:
                self._send(fd, peer)

    def is_gone(self, delivery: Delivery) -> bool:
        """Whether the caller has disconnected."""
        return delivery.peer.socket.fileno() < 0

    def stop_listening(self) -> None:
        """Accept no new connections. Open ones continue."""
        if self._listener is not None:
            if not self._is_full:
                self._poll.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def close(self) -> None:
        """Send what can be sent within a second per connection, then close every connection."""
        self.stop_listening()
        for fd, peer in list(self._peers.items()):
            with contextlib.suppress(OSError):
                peer.socket.settimeout(1.0)
                peer.socket.sendall(peer.outgoing)
            self._drop(fd)

    def _pump(self, wait_s: float) -> None:
        for fd, events in self._poll.poll(wait_s * 1000):
            if self._listener is not None and fd == self._listener.fileno():
                self._accept()
            elif fd in self._peers:
                peer = self._peers[fd]
                if events & select.POLLOUT:
                    self._send(fd, peer)
                if fd in self._peers and events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                    self._read(fd, peer)

    def _accept(self) -> None:
        assert self._listener is not None
        while True:
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, ConnectionError):
                return  # another worker of the role accepted first, or the caller has disconnected
            except OSError:
                # No file descriptor is left: further callers wait in the backlog until one is closed.
                self._poll.unregister(self._listener)
                self._is_full = True
                return
            connection.setblocking(False)
            self._peers[connection.fileno()] = _Peer(connection)
            self._poll.register(connection, select.POLLIN)

    def _read(self, fd: int, peer: _Peer) -> None:
        if len(self._ready) >= _READY_LIMIT:
            return  # requests beyond the limit wait in the sockets, not in memory
        try:
            chunk = peer.socket.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            self._drop(fd)
            return
        peer.incoming += chunk
        try:
            for message in take_frames(peer.incoming):
                body = message.get("body")
                request = Request(str(message.get("kind")), body if isinstance(body, dict) else {})
                self._ready.append(Delivery(peer, message.get("id"), request))
        except (ValueError, RecursionError):
            self._drop(fd)

    def _send(self, fd: int, peer: _Peer) -> None:
        try:
            sent = peer.socket.send(peer.outgoing)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(fd)
            return
        del peer.outgoing[:sent]
        # Stop reading from a client that does not read its replies: they are buffered in memory.
        reading = select.POLLIN if len(peer.outgoing) < _UNSENT_LIMIT_BYTES else 0
        self._poll.modify(fd, reading | (select.POLLOUT if peer.outgoing else 0))

    def _drop(self, fd: int) -> None:
        self._poll.unregister(fd)
        peer = self._peers.pop(fd)
        peer.socket.close()
        if self._is_full and self._listener is not None:
            self._poll.register(self._listener, select.POLLIN)
            self._is_full = False
        # Requests of a disconnected caller that were not begun are dropped: it cannot receive a reply.
        self._ready = collections.deque(waiting for waiting in self._ready if waiting.peer is not peer)
