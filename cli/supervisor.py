"""The supervisor as a client sees it: start it, send it a request."""

import json
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from adapters.local.caller import ask_once
from adapters.local.home_lock import find_holder
from adapters.settings import Settings
from domain.kernel.errors import AnsweredError, PartUnavailable
from domain.kernel.messages import Body

POLL_S = 0.05
STOP = "supervisor.stop"
_REPLY_WAIT_S = 8.0
"""Longer than a supervisor needs to notice that its socket was removed, and to listen again."""
_START_WAIT_S = 40.0
"""Longer than a new supervisor waits for the end of one that is stopping."""


def start_supervisor(settings: Settings, *, roles: Sequence[str] = (), by_itself: bool = False) -> bool:
    """Start a detached supervisor and wait until it listens; False if one was running.

    `by_itself`: no operator asked for it, so it is not started after `es down`. Raises PartUnavailable.
    """
    arguments = [sys.executable, "-P", "-m", "workers", "supervise", "--home", str(settings.home)]
    arguments += ["--unless-stopped"] if by_itself else []
    for role in roles:
        arguments += ["--role", role]
    try:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            cwd="/",  # a daemon keeps its working directory in use: a user could not remove or unmount it
        )
    except OSError as error:
        raise PartUnavailable(
            "the supervisor", f"cannot be started: {error.strerror}", "Correct that, then retry."
        ) from error
    message = _first_words(process)
    if "error" in message:
        raise AnsweredError.from_wire(message["error"])
    if message["state"] == "stopped":
        raise PartUnavailable(
            "the system", "stopped by `es down`", "Start it with `es up`; then a retry is safe."
        )
    return bool(message["state"] == "listening")


def _first_words(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """The line that a supervisor prints once it listens. Raises PartUnavailable if it prints none."""
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        if not select.select([process.stdout], [], [], _START_WAIT_S)[0]:
            raise PartUnavailable(
                "the supervisor", f"process {process.pid} does not start", "Look at `es logs supervisor`."
            )
        if said := process.stdout.readline():
            message: dict[str, Any] = json.loads(said)
            return message
        # It ended before it had a log.
        lines = process.stderr.read().decode("utf-8", "replace").strip().splitlines()
        why = f"it ended at once: {lines[-1].strip()}" if lines else "it ended at once"
        raise PartUnavailable("the supervisor", why, "Repair the installation of `es`, then retry.")


def lives(settings: Settings) -> bool:
    """Whether a supervisor starts or runs. One whose socket was removed binds another one."""
    holder = find_holder(settings.home)
    return holder is not None and holder.state != "stopping"


def ask_supervisor(settings: Settings, kind: str, body: Mapping[str, Any] | None = None) -> Body | None:
    """The supervisor's reply, or None if no supervisor lives.

    Raises PartUnavailable with its process id if it is stopping, or does not reply in time. A stop of one that is stopping
    succeeds.
    """
    deadline = time.monotonic() + _REPLY_WAIT_S
    while holder := find_holder(settings.home):
        if holder.state == "stopping":
            if kind == STOP:
                return {"pid": holder.pid}
            raise PartUnavailable(
                "the supervisor",
                f"process {holder.pid} is stopping",
                "`es down` waits for its end; then retry.",
            )
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise PartUnavailable(
                "the supervisor",
                f"process {holder.pid or 'unknown'} lives and does not reply",
                f"If it is suspended, continue it (`kill -CONT {holder.pid or 'PID'}`); else look at `es logs supervisor`.",
            )
        try:
            return ask_once(settings.run, "supervisor", kind, body or {}, timeout_s=left_s)
        except OSError:
            # It is starting, stopping, or its socket was removed: then it binds another one.
            time.sleep(POLL_S)
    return None


def name_of(worker: Body) -> str:
    """`users` for the first worker of a role, `users-2` for the second."""
    return worker["role"] if worker["instance"] == 1 else f"{worker['role']}-{worker['instance']}"
