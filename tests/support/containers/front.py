"""A port that serves gRPC and the health check, as the server's one port does."""

from __future__ import annotations

import contextlib
import socket
import threading

_HEALTHY = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"


class Front:
    """Forwards connections to a local port, which may change, and answers plain HTTP requests itself."""

    def __init__(self, port: int, to_port: int) -> None:
        self._to_port = to_port
        self._ends: list[socket.socket] = []
        self._listener = socket.create_server(("", port), backlog=100)
        threading.Thread(target=self._accept, daemon=True).start()

    def forward_to(self, port: int) -> None:
        """From now on forward to another port. Connections to the former one end."""
        self._to_port = port
        ends, self._ends = self._ends, []
        for end in ends:
            _shut(end)

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if near.recv(4, socket.MSG_PEEK) == b"GET ":
                near.recv(65536)
                near.sendall(_HEALTHY)
                _shut(near)
                return
            far = socket.create_connection(("127.0.0.1", self._to_port))
            self._ends += [near, far]
            for end in (
                near,
                far,
            ):  # otherwise each small message waits for the acknowledgement of the one before
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_pump, args=(far, near), daemon=True).start()
            _pump(near, far)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        _shut(end)


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
