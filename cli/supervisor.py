"""The supervisor as a shell sees it: start it, and wait until it listens."""

import json
import select
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from adapters.local.home_lock import find_holder
from adapters.settings import Settings, shared_by
from domain.kernel.errors import AnsweredError, EsError, Kind, PartUnavailable
from domain.kernel.messages import Body
from es.supervisor import ask_supervisor

_START_WAIT_S = 40.0
"""Longer than a new supervisor waits for the end of one that is stopping."""


class RunsOtherwise(EsError):
    """The workers run already, with other settings or in another number than `es up` asks for."""

    differences: str
    code = "runs-otherwise"
    kind = Kind.REFUSED
    hint = "Run `es down`, then repeat `es up`. `es config show` names the source of each setting."

    def __str__(self) -> str:
        return f"the workers run already, but not as asked: {self.differences}"


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


def refuse_differences(settings: Settings, numbers: Mapping[str, str], *, only: Collection[str] = ()) -> None:
    """Raise RunsOtherwise unless the running supervisor has these settings and numbers of workers.

    `only`: the names of the settings that count.
    """
    reply = ask_supervisor(
        settings, "supervisor.compare", {"settings": shared_by(settings), "numbers": numbers}
    )
    found = reply["differences"] if reply else []
    if differences := [_shown(each) for each in found if not only or each["what"] in only]:
        raise RunsOtherwise("; ".join(differences))


def _shown(difference: Body) -> str:
    what, running, given = (
        difference["what"],
        difference["running"] or "empty",
        difference["given"] or "empty",
    )
    if running == given:
        return f"{what} differs in its password"
    return f"{what} is {running} now, and {given} is asked for"


def lives(settings: Settings) -> bool:
    """Whether a supervisor starts or runs. One whose socket was removed binds another one."""
    holder = find_holder(settings.home)
    return holder is not None and holder.state != "stopping"


def name_of(worker: Body) -> str:
    """`users` for the first worker of a role, `users-2` for the second."""
    return worker["role"] if worker["instance"] == 1 else f"{worker['role']}-{worker['instance']}"
