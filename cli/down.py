"""`es down`: stop the workers and wait until they have ended. Then no command starts them until the next `es up`."""

import time

import typer

from adapters.local.home_lock import find_holder, stop_mark
from adapters.settings import Settings
from cli import render, session
from cli.supervisor import POLL_S, STOP, ask_supervisor
from domain.kernel.errors import PartUnavailable

app = typer.Typer(add_completion=False)
DOWN_WAIT_S = 60.0


@app.command()
def down(as_json: render.Json = False) -> None:
    """Stop the workers until the next `es up`. They first finish the requests that they have received."""
    settings = session.settings()
    # Before the stop: a command that finds no workers must not start them again.
    unmarked = _mark(settings)
    stopping = ask_supervisor(settings, STOP)
    if stopping is not None:
        wait_for_end(settings, stopping["pid"])
    elif not as_json:
        session.note(f"no workers are running in {settings.home}")
    if unmarked is not None:
        raise PartUnavailable(
            "the home",
            f"no workers run now, but that they are stopped cannot be noted: {unmarked.strerror}",
            f"Make {stop_mark(settings.home)} writable, or set ES_AUTOSTART=0 for all commands.",
        )
    value = {"stopped": stopping is not None, "home": str(settings.home)}
    render.answer(value, as_json=as_json, human=lambda: None)


def _mark(settings: Settings) -> OSError | None:
    """Note in the home that it is stopped; the error if that fails. Without a home there is nothing to note."""
    try:
        stop_mark(settings.home).touch(mode=0o600)
    except FileNotFoundError:
        return None
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
