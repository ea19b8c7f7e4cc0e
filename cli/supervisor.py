"""The supervisor as a shell sees it: start it, and wait until it listens."""

import json
import select
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from adapters.local.home_lock import find_holder
from adapters.settings import Settings
from domain.kernel.errors import AnsweredError, PartUnavailable
from domain.kernel.messages import Body

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


def name_of(worker: Body) -> str:
    """`users` for the first worker of a role, `users-2` for the second."""
    return worker["role"] if worker["instance"] == 1 else f"{worker['role']}-{worker['instance']}"
