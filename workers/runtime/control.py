"""How a worker is: it tells its supervisor and whoever asks, and notices when the supervisor is gone."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from typing import Any

from adapters.clock import now_us
from domain.kernel.errors import EsError
from domain.kernel.ids import time_text
from domain.kernel.messages import Body

_REPEAT_S = 1.0
"""The same trouble is told again only after so long: a worker may meet it with every request."""


class Control:
    def __init__(self, fd: int | None, *, role: str, instance: int) -> None:
        """`fd` is the supervisor's socket; None in the foreground, where nobody listens."""
        self._socket = None if fd is None else socket.socket(fileno=fd)
        self._identity = {
            "role": role,
            "instance": instance,
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        self._started_s = time.monotonic()
        self._state = "starting"
        self._missing = {"requests", "service"}
        self._last_error: Body | None = None
        self._told: tuple[float, Body] = (0.0, {})

    def describe(self) -> Body:
        """`{"role", "instance", "host", "pid", "state", "uptime_s", "last_error"}`. From any thread."""
        return {
            **self._identity,
            "state": self._state,
            "uptime_s": round(time.monotonic() - self._started_s, 1),
            "last_error": self._last_error,
        }

    def serving(self) -> None:
        """Requests can come. With its service open too the worker is `ready`."""
        self._has("requests")

    def away(self, error: EsError) -> None:
        """No request can come until the broker is back."""
        self._lacks("requests", error)

    def opened(self) -> None:
        """The service has all its parts."""
        self._has("service")

    def cannot_open(self, error: EsError) -> None:
        """The service can't begin until a part is back; until then that is the answer to every request."""
        self._lacks("service", error)

    def waits(self, error: EsError) -> None:
        """A part is down; the worker goes on by itself when it is back."""
        message, now_s = {"error": error.to_wire()}, time.monotonic()
        told_s, told = self._told
        if told != message or now_s - told_s > _REPEAT_S:
            self._told = (now_s, message)
            self._say(message)

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

    def _has(self, what: str) -> None:
        self._missing.discard(what)
        if not self._missing:
            self._say({"state": "ready"})

    def _lacks(self, what: str, error: EsError) -> None:
        self._missing.add(what)
        self._say({"state": "waiting", "error": error.to_wire()})

    def _say(self, message: dict[str, Any]) -> None:
        self._state = message.get("state", self._state)
        if "error" in message:
            self._last_error = {**message["error"], "at": time_text(now_us())}
        if self._socket is not None:
            with suppress(OSError):  # without a supervisor there is nobody to tell
                self._socket.sendall(json.dumps(message).encode() + b"\n")
