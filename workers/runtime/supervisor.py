"""The supervisor: runs the workers of one home as child processes and keeps them running.

Promise: one supervisor per home, and it ends by a stop, by a signal, or with its home only. A crashed worker is restarted;
a stop drains the workers first. The supervisor holds the listening sockets, so a request that arrives during a restart waits
instead of failing; a socket whose file was removed is replaced.
Refusal: it opens no store and handles no command.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from functools import partial

from adapters.local.address import Listening
from adapters.local.home_lock import HomeLock, find_holder, stop_mark
from adapters.local.server import LocalServer
from adapters.log import Log
from adapters.settings import Settings, shared_by, without_password
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
_LOOK_INTERVAL_S = 0.5
"""The interval between two looks at the files of the lock and of the sockets."""


class AlreadyRunning(Exception):
    """Another supervisor serves this home."""


def take_lock(settings: Settings) -> HomeLock:
    """Take the lock of a home. Waits for a supervisor that is stopping; raises AlreadyRunning if another one runs."""
    deadline = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            return HomeLock(settings.home)
        except BlockingIOError:
            holder = find_holder(settings.home)
            if holder is not None and (holder.state == "listening" or time.monotonic() > deadline):
                raise AlreadyRunning from None
            time.sleep(_TICK_S / 2)


class Supervisor:
    def __init__(
        self,
        settings: Settings,
        lock: HomeLock,
        *,
        instances: Mapping[str, int],
        is_foreground: bool,
        log: Log,
    ) -> None:
        """`instances` is the number of workers per role. `lock` is that of the home."""
        self._settings = settings
        self._lock = lock
        self._instances = instances
        self._is_foreground = is_foreground
        self._log = log
        self._stopping = self._is_lost = False
        self._look_at_s = 0.0
        self._last_bug = ""
        self._started_at_s = time.time()
        # With a broker the workers need no sockets.
        self._sockets = (
            {role: Listening(settings.run, role) for role in instances} if settings.is_local else {}
        )
        self._children = [
            Child(role, number, settings=settings, listening=self._socket_of(role), log=log)
            for role, count in instances.items()
            for number in range(1, count + 1)
        ]
        self._listen()

    def _socket_of(self, role: str) -> socket.socket | None:
        return self._sockets[role].socket if role in self._sockets else None

    def stop(self) -> None:
        """Let `run` stop the workers and return."""
        self._stopping = True

    def run(self, on_listening: Callable[[], None]) -> bool:
        """Start the workers and keep them running until `stop` was called; false if the home was lost."""
        self._lock.tell("listening")
        on_listening()
        if self._lock.killed_pid is not None:
            self._log.warning("supervisor-was-killed", pid=self._lock.killed_pid)
        self._log.info("supervising", workers=[child.name for child in self._children])
        for broken in registry(self._settings.features).broken:
            self._log.error("feature-refused", broken.error, module=broken.module)
        while not self._stopping:
            # The home first: in another one at its path nothing may be created.
            if self._lock.folder.is_lost():
                self._log.warning("home-lost", home=str(self._settings.home))
                self._is_lost = True
                break
            now_s = time.monotonic()
            if now_s >= self._look_at_s:
                self._look_at_s = now_s + _LOOK_INTERVAL_S
                self._guarded(self._look)
            for child in self._children:
                self._guarded(partial(child.tend, now_s))
            self._guarded(self._serve)
        self._shut_down()
        return not self._is_lost

    def _guarded(self, step: Callable[[], None]) -> None:
        """Survive a failure: with the supervisor all workers would end."""
        try:
            step()
            return
        except Exception as error:
            if (bug := repr(error)) != self._last_bug:  # once, not in every turn
                self._last_bug = bug
                self._log.error("supervisor-step-failed", error)
        time.sleep(_TICK_S)

    # --- the home and its sockets --------------------------------------------------------------

    def _listen(self) -> None:
        self._control = Listening(self._settings.run, SUPERVISOR)
        self._server = LocalServer(self._control.socket)

    def _look(self) -> None:
        self._lock.keep_told()
        if self._server.has_no_descriptor or not self._control.is_reachable:
            # Idle connections are closed as well: they must not take the descriptors that a worker needs to start.
            self._log.warning(
                "socket-replaced", role=SUPERVISOR, no_descriptor=self._server.has_no_descriptor
            )
            self._server.close()
            self._control.close()
            self._listen()
        for role, listening in self._sockets.items():
            if not listening.is_reachable:
                self._log.warning("socket-replaced", role=role)
                listening.close()
                self._sockets[role] = Listening(self._settings.run, role)
                for child in self._children:
                    if child.role == role:
                        child.replace(self._sockets[role].socket)

    # --- requests ------------------------------------------------------------------------------

    def _serve(self) -> None:
        deliveries = self._server.receive(64, _TICK_S)
        self._server.answer([(delivery, self._reply(delivery.request)) for delivery in deliveries])

    def _reply(self, request: Request) -> Reply:
        match request.kind:
            case "supervisor.status":
                return self._status()
            case "supervisor.compare":
                return self._compare(request.body)
            case "supervisor.stop":
                self._stopping = True
                return {"pid": os.getpid(), "foreground": self._is_foreground}
        return UnknownRequest(request.kind)

    def _status(self) -> Body:
        now_s = time.monotonic()
        return {
            "pid": os.getpid(),
            "home": str(self._settings.home),
            "started_at": time_text(int(self._started_at_s * 1_000_000)),
            "workers": [child.describe(now_s) for child in self._children],
        }

    def _compare(self, body: Body) -> Body:
        """What differs from the settings and numbers of workers that `es up` asks for. Passwords are masked."""
        stop_mark(self._settings.home).unlink(missing_ok=True)  # an operator says `es up`
        pairs = [
            (name, own, str(body["settings"].get(name, "")))
            for name, own in shared_by(self._settings).items()
        ]
        pairs += [
            (f"the number of {role} workers", str(self._instances.get(role, 0)), str(number))
            for role, number in body["numbers"].items()
        ]
        return {
            "differences": [
                {"what": what, "running": without_password(own), "given": without_password(given)}
                for what, own, given in pairs
                if own != given
            ]
        }

    # --- the end -------------------------------------------------------------------------------

    def _shut_down(self) -> None:
        # First of all: who asks now learns that this supervisor is stopping, and waits for the lock.
        self._lock.tell("stopping")
        self._server.close()
        self._log.info("stopping")
        for group in registry(self._settings.features).stop_order:
            roles = {role.name for role in group}
            for role in self._sockets.keys() & roles:
                self._sockets[role].close()
            self._end([child for child in self._children if child.role in roles])
        self._control.close()
        self._log.info("stopped")
        self._lock.tell_end()

    def _end(self, children: list[Child]) -> None:
        for child in children:
            child.terminate()
        deadline = time.monotonic() + STOP_WAIT_S
        for child in children:
            child.end(max(deadline - time.monotonic(), 0))
