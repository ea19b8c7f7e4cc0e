"""A TCP proxy that loses connections in the ways of a network: by a reset, or by silence of one side or both."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

HOST = "127.0.0.1"


class Proxy:
    """Forwards a port of its own to another. `freeze` makes its connections half-open, `cut` resets them."""

    def __init__(self, to_port: int, to_host: str = HOST) -> None:
        self._to = to_host, to_port
        self._drops_replies = False
        self.port = 0
        self._flowing = threading.Event()
        self._flowing.set()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
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

    def freeze(self) -> None:
        """Forward nothing from now on. Neither side is notified."""
        self._flowing.clear()

    def drop_replies(self) -> None:
        """Drop what the server sends until `cut`. What the client sends is forwarded."""
        self._drops_replies = True

    def cut(self) -> None:
        """Reset all connections. New ones are accepted, and everything is forwarded on them."""
        for pair in list(self._pairs):
            for end in pair:
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
                near, _ = listener.accept()
                far = socket.create_connection(self._to)
                self._pairs.append((near, far))
                for ends in ((near, far, False), (far, near, True)):
                    threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, is_reply: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._flowing.wait()
                if not (is_reply and self._drops_replies):
                    target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
