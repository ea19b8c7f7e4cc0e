"""The supervisor: runs the roles as child processes and keeps them running.

Promise: one supervisor per home (a lock held by the kernel, not a pid file, so a `kill -9` or a reboot
leaves nothing to clean up); a crashed worker comes back with a back-off; on a stop workers drain first.
It holds the listening sockets, so a request that comes while a worker restarts waits instead of failing.
Refusal: it opens no store and handles no command.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from adapters.clock import now_us
from adapters.local.address import is_served, listen, socket_path
from adapters.local.server import LocalServer
from adapters.log import Log
from adapters.settings import Settings
from domain.features import registry
from domain.kernel.errors import UnknownRequest
from domain.kernel.ids import time_text
from domain.kernel.messages import Body, Reply, Request

SUPERVISOR = "supervisor"

_BACKOFF_S = (0.1, 10.0)
_SOUND_AFTER_S = 30.0
_STOP_WAIT_S = 10.0
_LOCK_WAIT_S = 20.0
_TICK_S = 0.1


class AlreadyRunning(Exception):
    """Another supervisor serves this home."""


@dataclass
class Worker:
    """One child process slot."""

    role: str
    instance: int
    process: subprocess.Popen[bytes] | None = None
    control: socket.socket | None = None
    state: str = "stopped"
    restarts: int = 0
    started_at_s: float = 0.0
    restart_at_s: float = 0.0
    backoff_s: float = _BACKOFF_S[0]
    last_error: Mapping[str, str] | None = None

    @property
    def name(self) -> str:
        return self.role if self.instance == 1 else f"{self.role}-{self.instance}"


def take_lock(settings: Settings) -> None:
    """Take the home's supervisor lock. The kernel frees it when this process has ended, and not a moment before.

    Raises AlreadyRunning when a supervisor that isn't stopping has it.
    """
    file = os.open(settings.run / "supervisor.lock", os.O_WRONLY | os.O_CREAT, 0o600)
    deadline = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            # One that is stopping has closed its socket and will let go of the lock soon; one that is just
            # starting has not opened it yet.
            if is_served(socket_path(settings.run, SUPERVISOR)) or time.monotonic() > deadline:
                os.close(file)
                raise AlreadyRunning from None
            time.sleep(_TICK_S / 2)


class Supervisor:
    def __init__(self, settings: Settings, *, instances: Mapping[str, int], log: Log) -> None:
        """`instances` says how many workers each role has; a role that isn't in it doesn't run."""
        self._settings = settings
        self._log = log
        self._stopping = False
        self._started_at_s = time.time()
        take_lock(settings)
        # Over a broker the workers need no sockets of ours.
        self._sockets = (
            {role: listen(socket_path(settings.run, role)) for role in instances} if settings.is_local else {}
        )
        self._workers = [
            Worker(role, number) for role, count in instances.items() for number in range(1, count + 1)
        ]
        self._server = LocalServer(listen(socket_path(settings.run, SUPERVISOR)))

    def stop(self) -> None:
        self._stopping = True

    def run(self, on_listening: Callable[[], None]) -> None:
        """Start the workers and keep them running until `stop` was called."""
        on_listening()
        self._log.info("supervising", workers=[worker.name for worker in self._workers])
        while not self._stopping:
            now_s = time.monotonic()
            for worker in self._workers:
                self._tend(worker, now_s)
            deliveries = self._server.receive(64, _TICK_S)
            self._server.answer([(d, self._answer(d.request)) for d in deliveries])
        self._shut_down()

    def _answer(self, request: Request) -> Reply:
        match request.kind:
            case "supervisor.status":
                return self._status()
            case "supervisor.stop":
                self._stopping = True
                return {"pid": os.getpid()}
        return UnknownRequest(request.kind)

    def _status(self) -> Body:
        now_s = time.monotonic()
        return {
            "pid": os.getpid(),
            "home": str(self._settings.home),
            "started_at": time_text(int(self._started_at_s * 1_000_000)),
            "workers": [
                {
                    "role": worker.role,
                    "instance": worker.instance,
                    "host": socket.gethostname(),
                    "pid": worker.process.pid if worker.process else None,
                    "state": worker.state,
                    "uptime_s": round(now_s - worker.started_at_s, 1) if worker.process else 0.0,
                    "restarts": worker.restarts,
                    "last_error": worker.last_error,
                }
                for worker in self._workers
            ],
        }

    # --- one worker ----------------------------------------------------------------------------

    def _tend(self, worker: Worker, now_s: float) -> None:
        if worker.process is None:
            if now_s >= worker.restart_at_s:
                self._start(worker, now_s)
            return
        self._listen_to(worker)
        code = worker.process.poll()
        if code is not None:
            self._lost(worker, code, now_s)

    def _start(self, worker: Worker, now_s: float) -> None:
        ours, theirs = socket.socketpair()
        arguments = [
            *(sys.executable, "-P", "-m", "workers", "serve", worker.role),
            *("--home", str(self._settings.home), "--instance", str(worker.instance)),
            *("--control-fd", str(theirs.fileno())),
        ]
        inherited = [theirs.fileno()]
        if worker.role in self._sockets:
            inherited.append(self._sockets[worker.role].fileno())
            arguments += ["--listen-fd", str(inherited[-1])]
        with theirs:
            worker.process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                pass_fds=inherited,
                # A Ctrl-C at a foreground supervisor is for the supervisor, which then stops its workers in order.
                start_new_session=True,
            )
        ours.setblocking(False)
        worker.control, worker.state, worker.started_at_s = ours, "starting", now_s
        self._log.info("worker-started", role=worker.name, pid=worker.process.pid)

    def _listen_to(self, worker: Worker) -> None:
        """What the worker says of itself: that it is ready, what it waits for, or why it gives up."""
        assert worker.control is not None
        with suppress(BlockingIOError, ConnectionError):
            for line in worker.control.recv(65536).splitlines():
                said: dict[str, Any] = json.loads(line)
                worker.state = said.get("state", worker.state)
                if "error" in said:
                    worker.last_error = _at_this_time(said["error"])

    def _lost(self, worker: Worker, code: int, now_s: float) -> None:
        self._listen_to(worker)
        sound = now_s - worker.started_at_s > _SOUND_AFTER_S
        worker.backoff_s = _BACKOFF_S[0] if sound else worker.backoff_s
        again_in_s = worker.backoff_s
        worker.restart_at_s = now_s + again_in_s
        worker.backoff_s = min(worker.backoff_s * 2, _BACKOFF_S[1])
        worker.restarts += 1
        worker.state = "failing" if worker.state == "failing" else "restarting"
        if worker.last_error is None or worker.state == "restarting":
            worker.last_error = _at_this_time({"code": "worker-ended", "message": _how_it_ended(code)})
        self._log.warning(
            "worker-ended",
            role=worker.name,
            how=_how_it_ended(code),
            restarts=worker.restarts,
            again_in_ms=round(again_in_s * 1000),
        )
        self._forget(worker)

    def _forget(self, worker: Worker) -> None:
        worker.process = None
        if worker.control is not None:
            worker.control.close()
            worker.control = None

    # --- stopping ------------------------------------------------------------------------------

    def _shut_down(self) -> None:
        # The control socket first: whoever starts a supervisor now sees that this one is on its way out.
        self._server.close()
        self._log.info("stopping")
        for roles in self._stop_order():
            for role in self._sockets.keys() & roles:
                self._sockets[role].close()
                with suppress(FileNotFoundError):
                    socket_path(self._settings.run, role).unlink()
            self._end([worker for worker in self._workers if worker.role in roles])
        own = socket_path(self._settings.run, SUPERVISOR)
        with suppress(FileNotFoundError):
            own.unlink()
        if own.parent != self._settings.run:  # the folder for the sockets of a home with a long path
            with suppress(OSError):
                own.parent.rmdir()
        self._log.info("stopped")

    def _stop_order(self) -> list[set[str]]:
        """Roles that stop together; those that others ask while they drain stop last."""
        roles = registry(self._settings.features).roles
        needed = {name for role in roles for name in role.needs}
        return [{role.name for role in roles} - needed, needed]

    def _end(self, workers: Sequence[Worker]) -> None:
        """Let workers drain; end by force those that don't."""
        running = [(worker, worker.process) for worker in workers if worker.process is not None]
        for _, process in running:
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_WAIT_S
        for worker, process in running:
            try:
                process.wait(max(deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                self._log.warning("worker-killed", role=worker.name)
                process.kill()
                process.wait()
            self._forget(worker)


def _at_this_time(error: Mapping[str, str]) -> Mapping[str, str]:
    return {**error, "at": time_text(now_us())}


def _how_it_ended(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
