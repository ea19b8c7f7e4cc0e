"""The supervisor as the command line sees it: start it, ask it."""

import json
import subprocess
import sys

from adapters.settings import Settings
from domain.kernel.errors import (
    AnsweredError,
    EsError,
    PartUnavailable,
)
from domain.kernel.messages import Body

POLL_S = 0.05


def start_supervisor(settings: Settings, *, roles: list[str] | None = None) -> bool:
    """Start a detached supervisor and wait until it listens; False if one was running. Raises PartUnavailable."""
    arguments = [sys.executable, "-P", "-m", "workers", "supervise", "--home", str(settings.home)]
    for role in roles or []:
        arguments += ["--role", role]
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",  # a daemon must not hold somebody's working directory
    )
    assert process.stdout is not None
    with process.stdout:
        said = process.stdout.readline()
    message = json.loads(said) if said else {"error": None}
    if "error" in message:
        raise _from_wire(message["error"])
    return bool(message["state"] == "listening")


def _from_wire(error: dict[str, str] | None) -> EsError:
    if error is None:
        return PartUnavailable(
            "the supervisor", "it ended at once", "Run `es workers run ids` to see its errors."
        )
    return AnsweredError.from_wire(error)


def name_of(worker: Body) -> str:
    """`users` for the first worker of a role, `users-2` for the second."""
    return worker["role"] if worker["instance"] == 1 else f"{worker['role']}-{worker['instance']}"


def ask_supervisor(settings: Settings, kind: str) -> Body | None:
    """Ask the supervisor; None when none runs."""
    from adapters.local.address import is_served, socket_path
    from adapters.wiring import open_local_caller

    if not is_served(socket_path(settings.run, "supervisor")):
        return None
    connection = open_local_caller(settings)
    try:
        return connection.ask("supervisor", kind, {})
    except PartUnavailable:
        if is_served(socket_path(settings.run, "supervisor")):
            raise  # it is there and doesn't answer
        return None  # it was just going
    finally:
        connection.close()
