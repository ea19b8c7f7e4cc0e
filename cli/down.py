"""`es down`: stop the workers and wait until they have ended. Then no command starts them until the next `es up`."""

import errno
import time

import typer

from adapters.local.address import is_served, socket_path
from adapters.local.home_lock import find_holder, stop_mark
from adapters.settings import Settings
from cli import render, session
from domain.features import registry
from domain.kernel.errors import PartUnavailable
from es.supervisor import POLL_S, STOP, ask_supervisor

app = typer.Typer(add_completion=False)
DOWN_WAIT_S = 60.0
_ORPHANS_WAIT_S = 6.0
"""Longer than workers drain whose supervisor was killed."""


@app.command(epilog="Example: es down")
def down(as_json: render.Json = False) -> None:
    """Stop the workers until the next `es up`. They first finish the requests that they have received."""
    settings = session.settings()
    # Before the stop: a command that finds no workers must not start them again.
    unmarked = _mark(settings)
    stopping = ask_supervisor(settings, STOP)
    if stopping is not None:
        wait_for_end(settings, stopping["pid"])
        if stopping.get("foreground"):
            session.note(
                "they ran in the foreground: stop also what starts them again, such as a systemd unit"
            )
    _refuse_remaining(settings)
    if stopping is None and not as_json:
        session.note(f"no workers are running in {settings.home}")
    is_read_only = unmarked is not None and unmarked.errno in (errno.EROFS, errno.EACCES)
    if unmarked is not None and not (is_read_only and stopping is None):  # nothing starts in a read-only home
        raise PartUnavailable(
            "the home",
            f"no workers run now, but that they are stopped cannot be noted: {unmarked.strerror}",
            f"Make {stop_mark(settings.home)} writable, or set ES_AUTOSTART=0 for all commands.",
        )
    value = {"stopped": stopping is not None, "home": str(settings.home)}
    render.answer(value, as_json=as_json, human=lambda: None)
    if stopping is not None and not as_json:
        render.on_terminal(f"stopped the workers in {settings.home}")


def _refuse_remaining(settings: Settings) -> None:
    """Raise PartUnavailable if workers without a supervisor serve the home: they were started in the foreground."""
    deadline = time.monotonic() + _ORPHANS_WAIT_S
    while not find_holder(settings.home):
        served = [
            role
            for role in registry(settings.features).role_names
            if is_served(socket_path(settings.run, role))
        ]
        if not served:
            return
        if time.monotonic() > deadline:
            raise PartUnavailable(
                "the home",
                f"workers without a supervisor still serve {', '.join(served)}",
                "End them where they were started (`es workers run`, a systemd unit).",
            )
        time.sleep(POLL_S)


def _mark(settings: Settings) -> OSError | None:
    """Note in the home that it is stopped; the error if that fails. Without a home there is nothing to note."""
    if not settings.home.exists():
        return None
    try:
        stop_mark(settings.home).touch(mode=0o600)
    except OSError as error:
        return error
    return None


def wait_for_end(settings: Settings, pid: int | None) -> None:
    """Wait until the supervisor's lock is free: then it and all its workers have ended."""
    deadline = time.monotonic() + DOWN_WAIT_S
    while holder := find_holder(settings.home):
        if holder.pid is not None and holder.pid != pid:
            session.note("the workers were stopped, and another command has started them again")
            return
        if time.monotonic() > deadline:
            raise PartUnavailable(
                "the supervisor", f"process {pid} is still stopping", "Look at `es logs supervisor`."
            )
        time.sleep(POLL_S)
