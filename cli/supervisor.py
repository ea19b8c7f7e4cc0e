"""The supervisor as a client sees it: start it, send it a request."""

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing

from adapters.settings import Settings
from domain.kernel.errors import AnsweredError, PartUnavailable
from domain.kernel.messages import Body

POLL_S = 0.05


def start_supervisor(settings: Settings, *, roles: Sequence[str] = ()) -> bool:
    """Start a detached supervisor and wait until it listens; False if one was running. Raises PartUnavailable."""
    arguments = [sys.executable, "-P", "-m", "workers", "supervise", "--home", str(settings.home)]
    for role in roles:
        arguments += ["--role", role]
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",  # a daemon keeps its working directory in use: a user could not remove or unmount it
    )
    assert process.stdout is not None
    with process.stdout:
        said = process.stdout.readline()
    if not said:
        raise PartUnavailable(
            "the supervisor", "it ended at once", "Run `es workers run ids` to see its errors."
        )
    message = json.loads(said)
    if "error" in message:
        raise AnsweredError.from_wire(message["error"])
    return bool(message["state"] == "listening")


def ask_supervisor(settings: Settings, kind: str) -> Body | None:
    """The supervisor's reply, or None if no supervisor runs. Raises PartUnavailable if it does not reply."""
    from adapters.local.address import is_served, socket_path
    from adapters.wiring import open_local_caller

    path = socket_path(settings.run, "supervisor")
    if not is_served(path):
        return None
    with closing(open_local_caller(settings)) as connection:
        try:
            return connection.ask("supervisor", kind, {})
        except PartUnavailable:
            if is_served(path):
                raise
            return None  # it stopped in between


def name_of(worker: Body) -> str:
    """`users` for the first worker of a role, `users-2` for the second."""
    return worker["role"] if worker["instance"] == 1 else f"{worker['role']}-{worker['instance']}"
