"""One worker as its supervisor sees it: a child process that is started, watched, restarted and ended.

Promise: a crashed worker is restarted with a back-off from 0.1 s to 10 s. Refusal: whether a worker should run is
decided by the supervisor.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from adapters.clock import now_us
from adapters.log import Log
from domain.kernel.ids import time_text
from domain.kernel.messages import Body
from workers.runtime.control import worker_name

_BACKOFF_S = (0.1, 10.0)
_SOUND_AFTER_S = 30.0
"""A worker that ran for so long is restarted with the shortest back-off again."""


class Child:
    def __init__(
        self, role: str, instance: int, *, home: Path, listening: socket.socket | None, log: Log
    ) -> None:
        """`listening` is the socket from which the worker accepts its requests; None with a broker."""
        self.role = role
        self.name = worker_name(role, instance)
        self._instance = instance
        self._process: subprocess.Popen[bytes] | None = None
        self._home = home
        self._listening = listening
        self._log = log
        self._control: socket.socket | None = None
        self._state = "stopped"
        self._restarts = 0
        self._started_at_s = self._restart_at_s = 0.0
        self._backoff_s = _BACKOFF_S[0]
        self._last_error: Mapping[str, str] | None = None

    def describe(self, now_s: float) -> Body:
        return {
            "role": self.role,
            "instance": self._instance,
            "host": socket.gethostname(),
            "pid": self._process.pid if self._process else None,
            "state": self._state,
            "uptime_s": round(now_s - self._started_at_s, 1) if self._process else 0.0,
            "restarts": self._restarts,
            "last_error": self._last_error,
        }

    def tend(self, now_s: float) -> None:
        """Start the worker if it is due, else read its reports and notice its end."""
        if self._process is None:
            if now_s >= self._restart_at_s:
                self._start(now_s)
            return
        self._read_reports()
        code = self._process.poll()
        if code is not None:
            self._ended(code, now_s)

    def terminate(self) -> None:
        """Ask the worker to drain and stop."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    def end(self, wait_s: float) -> None:
        """Wait for the end of the worker. Kill it after `wait_s` seconds."""
        if self._process is None:
            return
        try:
            self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            self._log.warning("worker-killed", role=self.name)
            self._process.kill()
            self._process.wait()
        self._forget()

    def _start(self, now_s: float) -> None:
        ours, theirs = socket.socketpair()
        arguments = [
            *(sys.executable, "-P", "-m", "workers", "serve", self.role),
            *("--home", str(self._home), "--instance", str(self._instance)),
            *("--control-fd", str(theirs.fileno())),
        ]
        inherited = [theirs.fileno()]
        if self._listening is not None:
            inherited.append(self._listening.fileno())
            arguments += ["--listen-fd", str(inherited[-1])]
        with theirs:
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                pass_fds=inherited,
                # A Ctrl-C reaches a foreground supervisor alone, which then stops its workers in order.
                start_new_session=True,
            )
        ours.setblocking(False)
        self._control, self._state, self._started_at_s = ours, "starting", now_s
        self._log.info("worker-started", role=self.name, pid=self._process.pid)

    def _read_reports(self) -> None:
        """Read what `Control` sends: a new state, an error, or both."""
        assert self._control is not None
        with suppress(BlockingIOError, ConnectionError):
            for line in self._control.recv(65536).splitlines():
                report: dict[str, Any] = json.loads(line)
                self._state = report.get("state", self._state)
                if "error" in report:
                    self._last_error = _with_time(report["error"])

    def _ended(self, code: int, now_s: float) -> None:
        self._read_reports()  # the last report names the cause
        if now_s - self._started_at_s > _SOUND_AFTER_S:
            self._backoff_s = _BACKOFF_S[0]
        delay_s = self._backoff_s
        self._restart_at_s = now_s + delay_s
        self._backoff_s = min(delay_s * 2, _BACKOFF_S[1])
        self._restarts += 1
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        if self._state != "failing":
            self._state = "restarting"
        if self._last_error is None or self._state == "restarting":
            self._last_error = _with_time({"code": "worker-ended", "message": how})
        self._log.warning(
            "worker-ended",
            role=self.name,
            how=how,
            restarts=self._restarts,
            again_in_ms=round(delay_s * 1000),
        )
        self._forget()

    def _forget(self) -> None:
        self._process = None
        if self._control is not None:
            self._control.close()
            self._control = None


def _with_time(error: Mapping[str, str]) -> Mapping[str, str]:
    return {**error, "at": time_text(now_us())}
