"""The supervisor: runs the workers of one home as child processes and keeps them running.

Promise: one supervisor per home. The kernel holds its lock, so nothing has to be removed after a `kill -9` or a reboot.
A crashed worker is restarted; a stop drains the workers first. The supervisor holds the listening sockets, so a request
that arrives during a restart waits instead of failing.
Refusal: it opens no store and handles no command.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from adapters.local.address import is_served, listen, socket_path
from adapters.local.server import LocalServer
from adapters.log import Log
from adapters.settings import Settings
from domain.features import registry
from domain.kernel.errors import UnknownRequest
from domain.kernel.ids import time_text
from domain.kernel.messages import Body, Reply, Request
from workers.runtime.child import Child

SUPERVISOR = "supervisor"
STOP_WAIT_S = 10.0
"""How long the workers that stop together may drain; then they are killed."""

_LOCK_WAIT_S = 20.0
_TICK_S = 0.1


class AlreadyRunning(Exception):
    """Another supervisor serves this home."""


def take_lock(settings: Settings) -> None:
    """Take the supervisor's lock of a home. The kernel releases it when this process has ended, and not before.

    Waits for a supervisor that is stopping. Raises AlreadyRunning if another one serves the home.
    """
    file = os.open(settings.run / "supervisor.lock", os.O_WRONLY | os.O_CREAT, 0o600)
    deadline = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            # A stopping supervisor has closed its socket and releases the lock soon. A starting one has not opened
            # its socket yet.
            if is_served(socket_path(settings.run, SUPERVISOR)) or time.monotonic() > deadline:
                os.close(file)
                raise AlreadyRunning from None
            time.sleep(_TICK_S / 2)


class Supervisor:
    def __init__(self, settings: Settings, *, instances: Mapping[str, int], log: Log) -> None:
        """`instances` is the number of workers per role. Raises AlreadyRunning."""
        self._settings = settings
        self._log = log
        self._stopping = False
        self._started_at_s = time.time()
        take_lock(settings)
        # With a broker the workers need no sockets.
        self._sockets = (
            {role: listen(socket_path(settings.run, role)) for role in instances} if settings.is_local else {}
        )
        self._children = [
            Child(role, number, home=settings.home, listening=self._sockets.get(role), log=log)
            for role, count in instances.items()
            for number in range(1, count + 1)
        ]
        self._server = LocalServer(listen(socket_path(settings.run, SUPERVISOR)))

    def stop(self) -> None:
        """Let `run` stop the workers and return."""
        self._stopping = True

    def run(self, on_listening: Callable[[], None]) -> None:
        """Start the workers and keep them running until `stop` was called."""
        on_listening()
        self._log.info("supervising", workers=[child.name for child in self._children])
        while not self._stopping:
            now_s = time.monotonic()
            for child in self._children:
                child.tend(now_s)
            deliveries = self._server.receive(64, _TICK_S)
            self._server.answer([(delivery, self._reply(delivery.request)) for delivery in deliveries])
        self._shut_down()

    def _reply(self, request: Request) -> Reply:
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
            "workers": [child.describe(now_s) for child in self._children],
        }

    def _shut_down(self) -> None:
        # The control socket first: a supervisor that starts now sees that this one is stopping.
        self._server.close()
        self._log.info("stopping")
        for group in registry(self._settings.features).stop_order:
            roles = {role.name for role in group}
            for role in self._sockets.keys() & roles:
                self._sockets[role].close()
                with suppress(FileNotFoundError):
                    socket_path(self._settings.run, role).unlink()
            self._end([child for child in self._children if child.role in roles])
        own = socket_path(self._settings.run, SUPERVISOR)
        with suppress(FileNotFoundError):
            own.unlink()
        if own.parent != self._settings.run:  # the folder for the sockets of a home with a long path
            with suppress(OSError):
                own.parent.rmdir()
        self._log.info("stopped")

    def _end(self, children: list[Child]) -> None:
        for child in children:
            child.terminate()
        deadline = time.monotonic() + STOP_WAIT_S
        for child in children:
            child.end(max(deadline - time.monotonic(), 0))
