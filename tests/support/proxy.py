"""A TCP proxy that loses or delays what passes through it, in the ways of a network, and counts the waits for replies."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from urllib.parse import urlsplit

HOST = "127.0.0.1"
_PREFACE_BYTES = 24
"""What a client of HTTP/2 sends before its first frame (RFC 9113, section 3.4)."""
_PORTS = {"amqp": 5672, "postgresql": 5432, "esdb": 2113}


class Proxy:
    """Forwards a port of its own to another. `freeze` makes its connections half-open, `cut` resets them."""

    def __init__(
        self, to_port: int, to_host: str = HOST, *, round_trip_s: float = 0.0, is_http2: bool = False
    ) -> None:
        """`round_trip_s` is added to each round trip, half of it in each direction. Throughput stays as it is.

        It can be changed at any time. With `is_http2` only frames that carry a part of a call count for a turn: no
        pings, settings and updates of windows.
        """
        self._is_http2 = is_http2
        self.round_trip_s = round_trip_s
        self._to = to_host, to_port
        self._drops_replies = False
        self.port = 0
        self._flowing = threading.Event()
        self._flowing.set()
        self._pairs: list[_Pair] = []
        self.open()

    def open(self) -> None:
        """Listen; after `close` on the same port as before."""
        self._listener = socket.create_server((HOST, self.port))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"esdb://{HOST}:{self.port}?tls=false"

    @property
    def connections(self) -> int:
        """The number of connections that were ever made through it."""
        return len(self._pairs)

    @property
    def turns(self) -> list[int]:
        """The turns of each connection, in the order in which the connections were made.

        A turn is a wait of the client: it sent something after a reply, and got the reply to that. What it sends
        together is one turn if `round_trip_s` is longer than it takes to send it.
        """
        return [pair.turns for pair in self._pairs]

    def freeze(self) -> None:
        """Forward nothing from now on. Neither side is notified."""
        self._flowing.clear()

    def drop_replies(self) -> None:
        """Drop what the server sends until `cut`. What the client sends is forwarded."""
        self._drops_replies = True

    def cut(self) -> None:
        """Reset all connections. New ones are accepted, and everything is forwarded on them."""
        for pair in list(self._pairs):
            for end in (pair.near, pair.far):
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
        self._drops_replies = False

    def close(self) -> None:
        """Reset all connections and refuse new ones."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._flowing.set()
        self.cut()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._forward(listener.accept()[0])

    def _forward(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(self._to)
        except OSError:
            near.close()
            return
        pair = _Pair(near, far, is_http2=self._is_http2)
        self._pairs.append(pair)
        for is_reply in (False, True):
            passing: _Passing = SimpleQueue()
            for carry in (self._receive, self._deliver):
                threading.Thread(target=carry, args=(pair, passing, is_reply), daemon=True).start()

    def _receive(self, pair: _Pair, passing: _Passing, is_reply: bool) -> None:
        source = pair.far if is_reply else pair.near
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not is_reply:
                    pair.ask(data)
                self._flowing.wait()
                passing.put((time.monotonic() + self.round_trip_s / 2, data))
        passing.put((0.0, b""))

    def _deliver(self, pair: _Pair, passing: _Passing, is_reply: bool) -> None:
        target = pair.near if is_reply else pair.far
        with contextlib.suppress(OSError):
            while (item := passing.get())[1]:
                due_s, data = item
                while (early_s := due_s - time.monotonic()) > 0:
                    time.sleep(early_s)
                self._flowing.wait()
                if is_reply and self._drops_replies:
                    continue
                if is_reply:
                    pair.reply(data)
                target.sendall(data)
        for end in (pair.near, pair.far):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def proxied(url: str, *, round_trip_s: float = 0.0) -> tuple[Proxy, str]:
    """A proxy in front of a server, and the server's URL through it. The URL names one host."""
    parts = urlsplit(url)
    proxy = Proxy(
        parts.port or _PORTS[parts.scheme],
        parts.hostname or HOST,
        round_trip_s=round_trip_s,
        is_http2=parts.scheme == "esdb",
    )
    credentials = "".join(parts.netloc.rpartition("@")[:2])
    return proxy, parts._replace(netloc=f"{credentials}{HOST}:{proxy.port}").geturl()


_Passing = SimpleQueue[tuple[float, bytes]]
"""When each piece is due, on the monotonic clock, and its bytes. No bytes end the connection."""


class _Pair:
    """The two ends of one connection, and how often the client has waited on it."""

    def __init__(self, near: socket.socket, far: socket.socket, *, is_http2: bool) -> None:
        self.near, self.far = near, far
        self.turns = 0
        self._asked: dict[int, int] = {}
        """The turn of the last request, by the stream of HTTP/2; another protocol has one stream."""
        self._requests: Callable[[bytes], Iterable[int]] = _only_stream
        self._replies: Callable[[bytes], Iterable[int]] = _only_stream
        if is_http2:
            self._requests = _Frames(after=_PREFACE_BYTES).streams
            self._replies = _Frames(after=0).streams
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, data: bytes) -> None:
        for stream in self._requests(data):
            self._asked[stream] = self.turns + 1

    def reply(self, data: bytes) -> None:
        for stream in self._replies(data):
            self.turns = max(self.turns, self._asked.get(stream, 0))


def _only_stream(data: bytes) -> Iterable[int]:
    return (0,)


class _Frames:
    """The frames of one direction of HTTP/2 (RFC 9113, section 4.1)."""

    def __init__(self, *, after: int) -> None:
        self._left = after
        self._header = b""

    def streams(self, data: bytes) -> Iterator[int]:
        """The streams of the frames that begin in these bytes and carry a part of a call: DATA and HEADERS."""
        while data:
            if self._left:
                skipped = min(self._left, len(data))
                self._left -= skipped
                data = data[skipped:]
                continue
            missing = 9 - len(self._header)
            self._header += data[:missing]
            data = data[missing:]
            if len(self._header) == 9:
                if self._header[3] in (0, 1):
                    yield int.from_bytes(self._header[5:], "big")
                self._left = int.from_bytes(self._header[:3], "big")
                self._header = b""
