"""One worker as its supervisor sees it: a child process that is started, watched, restarted and ended.

Promise: a crashed worker, or one that cannot be started, is restarted with a back-off from 0.1 s to 10 s, and its last
words are in its log. Refusal: whether a worker should run is decided by the supervisor.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from typing import Any

from adapters.clock import now_us
from adapters.log import Log, open_log
from adapters.settings import Settings, shared_by
from domain.kernel.ids import time_text
from domain.kernel.messages import Body
from workers.runtime.control import worker_name

_BACKOFF_S = (0.1, 10.0)
_SOUND_AFTER_S = 30.0
"""A worker that ran for so long is restarted with the shortest back-off again."""
_SILENT_AFTER_S = 10.0
"""A worker that reports nothing for so long is suspended, or stuck in a call."""
_LAST_WORDS = 20
_LINE_LIMIT_BYTES = 65536


class Child:
    def __init__(
        self, role: str, instance: int, *, settings: Settings, listening: socket.socket | None, log: Log
    ) -> None:
        """`listening` is the socket from which the worker accepts its requests; None with a broker."""
        self.role = role
        self.name = worker_name(role, instance)
        self._instance = instance
        self._process: subprocess.Popen[bytes] | None = None
        self._settings = settings
        self._environment = {f"ES_{name.upper()}": value for name, value in shared_by(settings).items()}
        self._listening = listening
        self._log = log
        self._control: socket.socket | None = None
        self._reports = _Reports()
        self._is_replaced = False
        self._state = "stopped"
        self._restarts = 0
        self._started_at_s = self._restart_at_s = self._heard_at_s = 0.0
        self._backoff_s = _BACKOFF_S[0]
        self._last_error: Mapping[str, str] | None = None

    def describe(self, now_s: float) -> Body:
        return {
            "role": self.role,
            "instance": self._instance,
            "host": socket.gethostname(),
            "pid": self._process.pid if self._process else None,
            "state": "silent" if self._is_silent(now_s) else self._state,
            "uptime_s": round(now_s - self._started_at_s, 1) if self._process else 0.0,
            "restarts": self._restarts,
            "last_error": self._last_error,
        }

    def _is_silent(self, now_s: float) -> bool:
        """Whether a worker that served has stopped to report. A worker that starts loads its modules first."""
        return self._state in ("ready", "waiting") and now_s - self._heard_at_s > _SILENT_AFTER_S

    def tend(self, now_s: float) -> None:
        """Start the worker if it is due, else read its reports and notice its end."""
        if self._process is None:
            if now_s >= self._restart_at_s:
                try:
                    self._start(now_s)
                except OSError as error:
                    self._not_started(error, now_s)
            return
        if self._read_reports():
            self._heard_at_s = now_s
        code = self._process.poll()
        if code is not None:
            self._ended(code, now_s)

    def replace(self, listening: socket.socket) -> None:
        """Drain the worker, and start one that accepts from another socket."""
        self._listening = listening
        self._is_replaced = self._process is not None
        self.terminate()

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
        """Raises OSError if the system cannot start a process now."""
        ours, theirs = socket.socketpair()
        arguments = [
            *(sys.executable, "-P", "-m", "workers", "serve", self.role),
            *("--home", str(self._settings.home), "--instance", str(self._instance)),
            *("--control-fd", str(theirs.fileno())),
        ]
        inherited = [theirs.fileno()]
        if self._listening is not None:
            inherited.append(self._listening.fileno())
            arguments += ["--listen-fd", str(inherited[-1])]
        ours.setblocking(False)
        with ExitStack() as on_failure:
            on_failure.callback(ours.close)
            with theirs:
                self._process = subprocess.Popen(
                    arguments,
                    stdin=subprocess.DEVNULL,
                    stderr=theirs.fileno(),  # until the worker has its log
                    pass_fds=inherited,
                    # A changed es.toml must not part a restarted worker from its neighbours.
                    env={**os.environ, **self._environment},
                    # A Ctrl-C reaches a foreground supervisor alone, which then stops its workers in order.
                    start_new_session=True,
                )
            on_failure.pop_all()
        self._control, self._reports = ours, _Reports()
        self._state, self._started_at_s = "starting", now_s
        self._log.info("worker-started", role=self.name, pid=self._process.pid)

    def _not_started(self, error: OSError, now_s: float) -> None:
        message = f"cannot be started: {os.strerror(error.errno or 0)}"
        hint = "Correct that on this machine (`ulimit -a`, the Python of `es`); the supervisor retries."
        self._fails({"code": "worker-not-started", "message": message, "hint": hint})
        self._log.warning(
            "worker-not-started", role=self.name, reason=message, again_in_ms=self._back_off(now_s)
        )

    def _read_reports(self) -> bool:
        """Read what `Control` sends: a sign of life, a new state, the error that lasts; False if it sent nothing."""
        assert self._control is not None
        heard = False
        with suppress(BlockingIOError, ConnectionError):
            for report in self._reports.add(self._control.recv(65536)):
                heard = True
                self._state = report.get("state", self._state)
                # A worker that starts again has not overcome what ended it before.
                if report.get("error") or self._state == "ready":
                    self._last_error = report.get("error")
        return heard

    def _ended(self, code: int, now_s: float) -> None:
        self._read_reports()  # the last report names the cause
        if self._is_replaced:
            self._is_replaced, self._state = False, "restarting"
            self._forget()
            return
        if now_s - self._started_at_s > _SOUND_AFTER_S:
            self._backoff_s = _BACKOFF_S[0]
        self._restarts += 1
        how = f"killed by {_signal_name(-code)}" if code < 0 else f"ended with status {code}"
        last_words = self._reports.last_words
        if last_words and code not in (0, -signal.SIGTERM, -signal.SIGKILL):
            # It ended before it had a log.
            how = f"{how}: {last_words[-1]}"
            self._write_last_words(last_words)
            hint = f"See `es logs {self.role}`, and repair the installation."
            self._fails({"code": "worker-ended", "message": how, "hint": hint})
        elif self._state != "failing" or self._last_error is None:
            self._state = "restarting"
            self._last_error = _with_time({"code": "worker-ended", "message": how})
        self._log.warning(
            "worker-ended",
            role=self.name,
            how=how,
            restarts=self._restarts,
            again_in_ms=self._back_off(now_s),
        )
        self._forget()

    def _fails(self, error: Mapping[str, str]) -> None:
        self._state, self._last_error = "failing", _with_time(error)

    def _back_off(self, now_s: float) -> int:
        """Set the time of the next start; the delay in ms."""
        delay_s = self._backoff_s
        self._restart_at_s = now_s + delay_s
        self._backoff_s = min(delay_s * 2, _BACKOFF_S[1])
        return round(delay_s * 1000)

    def _write_last_words(self, lines: list[str]) -> None:
        with suppress(OSError), closing(open_log(self.name, self._settings.log / f"{self.name}.log")) as log:
            log.warning("worker-not-loaded", said=lines)

    def _forget(self) -> None:
        self._process = None
        if self._control is not None:
            self._control.close()
            self._control = None


class _Reports:
    """The lines of a worker: JSON of `Control`, and else what Python printed before the worker had a log."""

    def __init__(self) -> None:
        self._rest = b""
        self.last_words: list[str] = []

    def add(self, raw: bytes) -> list[dict[str, Any]]:
        """The whole reports that have arrived with `raw`."""
        *lines, self._rest = (self._rest + raw).split(b"\n")
        self._rest = self._rest[-_LINE_LIMIT_BYTES:]
        reports = []
        for line in lines:
            try:
                report = json.loads(line)
            except ValueError:
                report = None
            if isinstance(report, dict):
                reports.append(report)
            elif line.strip():
                self.last_words = [*self.last_words, line.decode("utf-8", "replace").strip()][-_LAST_WORDS:]
        return reports


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have no name
        return f"signal {number}"


def _with_time(error: Mapping[str, str]) -> Mapping[str, str]:
    return {**error, "at": time_text(now_us())}
