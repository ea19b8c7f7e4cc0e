"""The state of a worker, reported to its supervisor and in roll calls; and whether the supervisor has ended."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from contextlib import suppress

from adapters.clock import now_us
from domain.kernel.errors import EsError
from domain.kernel.ids import time_text
from domain.kernel.messages import Body

_REPEAT_S = 1.0
"""The minimum interval between two reports of the same error: a worker may meet it with every request."""
ALIVE_INTERVAL_S = 1.0
"""How often a worker tells its supervisor that its loop runs."""


def worker_name(role: str, instance: int) -> str:
    """`users` for the first worker of a role, `users-2` for the second."""
    return role if instance == 1 else f"{role}-{instance}"


class Control:
    def __init__(self, fd: int | None, *, role: str, instance: int) -> None:
        """`fd` is the supervisor's socket; None for a worker without a supervisor."""
        self.instance = instance
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
        self._errors: dict[str, Body] = {}
        """The errors that last, by source; the newest is the last one."""
        self._last_error: Body | None = None
        self._reported: tuple[float, Body] = (0.0, {})
        self._told_alive_s = 0.0
        self._lock = threading.Lock()

    def describe(self) -> Body:
        """`{"role", "instance", "host", "pid", "state", "uptime_s", "last_error"}`. Any thread may call it."""
        return {
            **self._identity,
            "state": self._state,
            "uptime_s": round(time.monotonic() - self._started_s, 1),
            "last_error": self._last_error,
        }

    def alive(self) -> None:
        """The loop of the worker runs. A worker that no longer says so is `silent`: suspended, or stuck in a call."""
        now_s = time.monotonic()
        if now_s - self._told_alive_s > ALIVE_INTERVAL_S:
            self._told_alive_s = now_s
            with self._lock:
                self._send()

    def serving(self) -> None:
        """Requests can arrive. With its service open too the worker is `ready`."""
        self._has("requests")

    def not_serving(self, error: EsError) -> None:
        """The broker is unavailable: no request can arrive."""
        self._lacks("requests", error)

    def opened(self) -> None:
        """The service has all its parts."""
        self._has("service")

    def cannot_open(self, error: EsError) -> None:
        """A part is unavailable, so the service cannot be opened; every request is answered with this error."""
        self._lacks("service", error)

    def waits(self, source: str, error: EsError) -> None:
        """A part that `source` needs is unavailable; the worker recovers when the part does."""
        message, now_s = {source: error.to_wire()}, time.monotonic()
        reported_s, reported = self._reported
        if reported != message or now_s - reported_s > _REPEAT_S:
            self._reported = (now_s, message)
            self._report(source, error.to_wire())

    def replied(self, unavailable: EsError | None) -> None:
        """A batch of requests was answered, with this error or without one."""
        if unavailable is None:
            self.works("replies")
        else:
            self.waits("replies", unavailable)

    def works(self, source: str) -> None:
        """What `source` waited for is available again, if it waited."""
        if source in self._errors:
            self._reported = (0.0, {})
            self._report(source, None)

    def fails(self, error: EsError | Exception) -> None:
        """The worker is about to end. Of a bug only the class is reported: its text may hold personal data."""
        bug = {"code": "internal", "message": type(error).__name__}
        self._state = "failing"
        self._report("worker", error.to_wire() if isinstance(error, EsError) else bug)

    @property
    def supervisor_ended(self) -> bool:
        """Whether the supervisor has ended. It never writes to the socket, so anything to read is its end."""
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
        self._state = (
            ("waiting" if self._missing & self._errors.keys() else "starting") if self._missing else "ready"
        )
        self._report(what, None)

    def _lacks(self, what: str, error: EsError) -> None:
        self._missing.add(what)
        self._state = "waiting"
        self._report(what, error.to_wire())

    def _report(self, source: str, error: Body | None) -> None:
        """Note the error of a source, or its end, and tell the supervisor."""
        with self._lock:  # followers and the loop report from threads of their own
            self._errors.pop(source, None)
            if error is not None:
                self._errors[source] = {**error, "at": time_text(now_us())}
            self._last_error = next(reversed(self._errors.values()), None)
            self._send()

    def _send(self) -> None:
        """Send the state as it is now. A report that finds no room is dropped; a later one says the same.

        It never waits: a supervisor that is suspended reads nothing, and the worker has to go on without it.
        """
        if self._socket is not None:
            report = json.dumps({"state": self._state, "error": self._last_error}).encode() + b"\n"
            with suppress(OSError):  # also when the supervisor has ended: this worker is about to stop
                self._socket.send(report, socket.MSG_DONTWAIT)
