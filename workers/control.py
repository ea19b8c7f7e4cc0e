"""A worker's line to its supervisor: it says how it is, and notices when the supervisor is gone."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from typing import Any

from domain.errors import EsError


class Control:
    def __init__(self, fd: int | None) -> None:
        """`fd` is the supervisor's socket; None in the foreground, where nobody listens."""
        self._socket = None if fd is None else socket.socket(fileno=fd)

    def ready(self) -> None:
        self._say({"state": "ready"})

    def away(self, error: EsError) -> None:
        """No request can come until the broker is back; then the worker is `ready` again."""
        self._say({"state": "waiting", "error": error.to_wire()})

    def waits(self, error: EsError) -> None:
        """A part is down; the worker goes on by itself when it is back."""
        self._say({"error": error.to_wire()})

    def fails(self, error: EsError | Exception) -> None:
        """The worker is about to end. Of a bug only the name is told: its text may quote anything."""
        bug = {"code": "internal", "message": type(error).__name__}
        self._say({"state": "failing", "error": error.to_wire() if isinstance(error, EsError) else bug})

    @property
    def is_gone(self) -> bool:
        """Whether the supervisor has ended. It never writes here, so anything to read is the end."""
        if self._socket is None:
            return False
        try:
            return self._socket.recv(1, socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def _say(self, message: dict[str, Any]) -> None:
        if self._socket is not None:
            with suppress(OSError):  # without a supervisor there is nobody to tell
                self._socket.sendall(json.dumps(message).encode() + b"\n")
