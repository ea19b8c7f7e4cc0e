"""The server of one role on a Unix socket. Several workers of a role accept from one listening socket.

Promise: a caller receives the replies to its own requests only. Refusal: requests of a caller that has
disconnected are dropped, and a connection that sends anything but frames is closed.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import time
from collections.abc import Sequence
from typing import Any

from adapters.local.frames import CHUNK_BYTES, frame, has_frame, take_frames
from domain.kernel.errors import EsError, InvalidInput, MessageTooLarge
from domain.kernel.messages import MAX_MESSAGE_BYTES, Body, Later, Reply, Request, is_shallow, to_json

# Limits of one client. Beyond them it is not read from, so its requests wait in its own memory.
_UNSENT_LIMIT_BYTES = 1 << 18  # replies that it does not read, beside those in the socket
_HELD_LIMIT_BYTES = 4 << 20  # requests that were handed over and have no reply
_INCOMING_LIMIT_BYTES = MAX_MESSAGE_BYTES + 4  # requests that were not handed over; the largest frame fits
_REQUEST_COST_BYTES = 1024  # what a request takes in memory beside its text
# Every reply repeats the frame id, so it has to be small: otherwise not even an error would fit.
_ID_LIMIT = 4096  # characters of JSON
_ID_DEPTH = 8
_UNREAD_LIMIT_S = 60.0
"""How long replies may wait for a client that reads nothing. Then it is disconnected; a client that resumes reconnects."""
# While all clients together take more than `_CROWDED_BYTES`, each has less.
_CROWDED_BYTES = 16 << 20
_CROWDED_UNSENT_LIMIT_BYTES = 1
_CROWDED_HELD_LIMIT_BYTES = 16 << 10
_CROWDED_UNREAD_LIMIT_S = 1.0
_CLOSE_S = 1.0


class _Peer:
    """One connection of a server."""

    __slots__ = ("held_bytes", "incoming", "outgoing", "socket", "unread_since_s")

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.incoming = bytearray()  # requests that were not handed over, and the begin of the next
        self.outgoing = bytearray()
        self.held_bytes = 0
        self.unread_since_s = 0.0  # monotonic; meaningful while replies wait in `outgoing`


class Delivery:
    """A request, with the connection and the frame id for its reply."""

    __slots__ = ("frame_id", "held_bytes", "peer", "request")
    is_suspect = False  # the requests of a worker that ended are not delivered again

    def __init__(self, peer: _Peer, message: Body, size: int) -> None:
        """Raises ValueError if the frame id is too large to be repeated in a reply."""
        self.peer = peer
        self.frame_id: Any = message.get("id")
        if type(self.frame_id) is not int:
            id_text = to_json(self.frame_id)
            if len(id_text) > _ID_LIMIT or not is_shallow(id_text, levels=_ID_DEPTH):
                raise ValueError("oversized frame id")
        body = message.get("body")
        self.request = Request(str(message.get("kind")), body if isinstance(body, dict) else {})
        self.held_bytes = size + _REQUEST_COST_BYTES


class LocalServer:
    """A `Server` over Unix sockets.

    Requests that arrive during the work wait in the sockets and become the next batch (group commit).
    """

    def __init__(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        self._listener: socket.socket | None = listener
        self._poll = select.poll()
        self._poll.register(listener, select.POLLIN)
        self._has_no_descriptor = False
        self._woken, self._waker = socket.socketpair()
        for end in (self._woken, self._waker):
            end.setblocking(False)
        self._poll.register(self._woken, select.POLLIN)
        self._peers: dict[int, _Peer] = {}
        self._ready: dict[_Peer, None] = {}  # those with requests to hand over, in order of their turns
        self._unread: dict[int, _Peer] = {}  # those with replies that they have not read
        self._held_bytes = self._unsent_bytes = 0  # of all peers

    @property
    def has_no_descriptor(self) -> bool:
        """Whether no descriptor is left for a further connection."""
        return self._has_no_descriptor

    def receive(self, limit: int, wait_s: float) -> list[Delivery]:
        """Receive up to `limit` requests, as soon as there are any; none after `wait_s` seconds."""
        self._pump(0 if any(map(self._has_turn, self._ready)) else wait_s)
        peers = [peer for peer in self._ready if self._has_turn(peer)]
        # Each client in turn: one with many requests does not delay those with few.
        share = max(limit // max(len(peers), 1), 1)
        rounds = itertools.zip_longest(*(self._take(peer, share) for peer in peers[:limit]))
        return [delivery for each in rounds for delivery in each if delivery is not None]

    def _has_turn(self, peer: _Peer) -> bool:
        is_crowded = self._held_bytes >= _CROWDED_BYTES
        limit_bytes = _CROWDED_HELD_LIMIT_BYTES if is_crowded else _HELD_LIMIT_BYTES
        return not self._is_unread(peer) and peer.held_bytes < limit_bytes

    def _is_unread(self, peer: _Peer) -> bool:
        """Whether a client has too many replies that it does not read."""
        is_crowded = self._unsent_bytes >= _CROWDED_BYTES
        return len(peer.outgoing) >= (_CROWDED_UNSENT_LIMIT_BYTES if is_crowded else _UNSENT_LIMIT_BYTES)

    def _take(self, peer: _Peer, limit: int) -> list[Delivery]:
        """Take requests from a client that has some. Its next turn is after those of the others."""
        del self._ready[peer]
        fd = peer.socket.fileno()
        try:
            deliveries = [
                Delivery(peer, message, size) for message, size in take_frames(peer.incoming, limit)
            ]
            if has_frame(peer.incoming):
                self._ready[peer] = None
        except ValueError:
            self._drop(fd)
            return []
        self._hold(peer, sum(delivery.held_bytes for delivery in deliveries))
        self._watch(fd, peer)
        return deliveries

    def _hold(self, peer: _Peer, more_bytes: int) -> None:
        peer.held_bytes += more_bytes
        self._held_bytes += more_bytes

    def wake(self) -> None:
        """Let a `receive` that waits, or else the next one, return at once. Any thread may call it."""
        with contextlib.suppress(OSError):  # it is woken already, or closed
            self._waker.send(b"\0")

    def answer(self, replies: Sequence[tuple[Delivery, Reply]]) -> None:
        """Send replies. Replies to disconnected callers are dropped."""
        touched: dict[int, _Peer] = {}
        for delivery, reply in replies:
            assert not isinstance(reply, Later)
            message: Body = {"id": delivery.frame_id}
            message.update({"error": reply.to_wire()} if isinstance(reply, EsError) else {"ok": reply})
            try:
                raw = frame(message, what="the reply")
            except (MessageTooLarge, InvalidInput) as error:
                raw = frame({"id": delivery.frame_id, "error": error.to_wire()})
            if not self.is_gone(delivery):
                delivery.peer.outgoing += raw
                self._unsent_bytes += len(raw)
                self._hold(delivery.peer, -delivery.held_bytes)
                touched[delivery.peer.socket.fileno()] = delivery.peer
        for fd, peer in touched.items():
            self._send(fd, peer)

    def is_gone(self, delivery: Delivery) -> bool:
        """Whether the caller has disconnected."""
        return delivery.peer.socket.fileno() < 0

    def is_full(self, delivery: Delivery) -> bool:
        """Whether the caller has not read the replies that it was sent."""
        return self._is_unread(delivery.peer)

    def stop_listening(self) -> None:
        """Accept no new connections. Open ones continue."""
        if self._listener is not None:
            if not self._has_no_descriptor:
                self._poll.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def close(self) -> None:
        """Send what can be sent within a second, then close every connection."""
        self.stop_listening()
        deadline = time.monotonic() + _CLOSE_S
        for fd, peer in list(self._peers.items()):
            with contextlib.suppress(OSError):
                peer.socket.settimeout(max(deadline - time.monotonic(), 0.001))
                peer.socket.sendall(peer.outgoing)
            self._drop(fd)
        self._woken.close()
        self._waker.close()

    def _pump(self, wait_s: float) -> None:
        for fd, events in self._poll.poll(wait_s * 1000):
            if fd == self._woken.fileno():
                self._woken.recv(CHUNK_BYTES)
            elif self._listener is not None and fd == self._listener.fileno():
                self._accept()
            elif fd in self._peers:
                peer = self._peers[fd]
                if events & select.POLLOUT:
                    self._send(fd, peer)
                if fd in self._peers and events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                    self._read(fd, peer)
        if self._unread:
            self._drop_unread()

    def _drop_unread(self) -> None:
        """Disconnect clients that have read nothing for too long: their replies take our memory."""
        is_crowded = self._unsent_bytes >= _CROWDED_BYTES
        limit_s = _CROWDED_UNREAD_LIMIT_S if is_crowded else _UNREAD_LIMIT_S
        now_s = time.monotonic()
        for fd, peer in list(self._unread.items()):
            if now_s - peer.unread_since_s > limit_s:
                self._drop(fd)

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
                self._has_no_descriptor = True
                return
            connection.setblocking(False)
            self._peers[connection.fileno()] = _Peer(connection)
            self._poll.register(connection, select.POLLIN)

    def _read(self, fd: int, peer: _Peer) -> None:
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
            if has_frame(peer.incoming):
                self._ready[peer] = None
        except ValueError:
            self._drop(fd)
            return
        self._watch(fd, peer)

    def _send(self, fd: int, peer: _Peer) -> None:
        try:
            sent = peer.socket.send(peer.outgoing)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(fd)
            return
        del peer.outgoing[:sent]
        self._unsent_bytes -= sent
        if sent or fd not in self._unread:
            peer.unread_since_s = time.monotonic()
        if peer.outgoing:
            self._unread[fd] = peer
        else:
            self._unread.pop(fd, None)
        self._watch(fd, peer)

    def _watch(self, fd: int, peer: _Peer) -> None:
        """Read from a client as long as it reads its replies and its next request is not complete."""
        reading = 0 if self._is_unread(peer) or len(peer.incoming) >= _INCOMING_LIMIT_BYTES else select.POLLIN
        self._poll.modify(fd, reading | (select.POLLOUT if peer.outgoing else 0))

    def _drop(self, fd: int) -> None:
        self._poll.unregister(fd)
        self._unread.pop(fd, None)
        peer = self._peers.pop(fd)
        self._hold(peer, -peer.held_bytes)
        self._unsent_bytes -= len(peer.outgoing)
        # Requests of a disconnected caller that were not begun are dropped: it cannot receive a reply.
        self._ready.pop(peer, None)
        peer.socket.close()
        if self._has_no_descriptor and self._listener is not None:
            self._poll.register(self._listener, select.POLLIN)
            self._has_no_descriptor = False
