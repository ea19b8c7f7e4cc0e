"""One port for gRPC and for the HTTP page `/info`, as the server has. gRPC is forwarded to a test node."""

from __future__ import annotations

import contextlib
import email.utils
import json
import math
import socket
import threading
import time
from collections.abc import Callable

from tests.support.proxy import Proxy

_LONGEST_REQUEST_BYTES = 65536


class Front(Proxy):
    """Answers `GET /info`. Its `Date` has whole seconds and is renewed once a second: up to 2 s late."""

    def __init__(
        self,
        to_port: int,
        *,
        version: str = "23.10.6",
        renewed_at_s: float = 0.999,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """`renewed_at_s`: the part of each second at which the date is renewed. Late by this and up to 1 s more."""
        self._version = version
        self._renewed_at_s = renewed_at_s
        self._now_s = now_s
        super().__init__(to_port)

    def date(self) -> str:
        renewed_s = math.floor(self._now_s() - self._renewed_at_s) + self._renewed_at_s
        return email.utils.formatdate(math.floor(renewed_s), usegmt=True)

    def _forward(self, near: socket.socket) -> None:
        threading.Thread(target=self._divide, args=(near,), daemon=True).start()

    def _divide(self, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if near.recv(4, socket.MSG_PEEK | socket.MSG_WAITALL) == b"GET ":
                with near:
                    near.sendall(self._answer(near.recv(_LONGEST_REQUEST_BYTES)))
            else:
                super()._forward(near)

    def _answer(self, request: bytes) -> bytes:
        is_info = request.split(b" ")[1] == b"/info"
        page = {"esVersion": f"{self._version}.0", "state": "leader"} if is_info else {}
        body = json.dumps(page).encode()
        lines = (
            "HTTP/1.1 200 OK" if is_info else "HTTP/1.1 404 Not Found",
            f"Date: {self.date()}",
            "Content-Type: application/json; charset=utf-8",
            f"Content-Length: {len(body)}",
            "Connection: close",
        )
        return "\r\n".join((*lines, "", "")).encode() + body
