"""`es down`: stop the workers and wait until they have ended."""

import fcntl
import time

import typer

from adapters.settings import Settings
from cli import render, session
from cli.supervisor import POLL_S, ask_supervisor
from domain.kernel.errors import PartUnavailable

app = typer.Typer(add_completion=False)
DOWN_WAIT_S = 60.0


@app.command(epilog="Example: es down")
def down(as_json: render.Json = False) -> None:
    """Stop the workers. They first finish the requests that they have received."""
    settings = session.settings()
    stopping = ask_supervisor(settings, "supervisor.stop")
    if stopping is not None:
        wait_for_end(settings, stopping["pid"])
    elif not as_json:
        session.note(f"no workers are running in {settings.home}")
    value = {"stopped": stopping is not None, "home": str(settings.home)}
    render.answer(value, as_json=as_json, human=lambda: None)
    if stopping is not None and not as_json:
        render.on_terminal(f"stopped the workers in {settings.home}")


def wait_for_end(settings: Settings, pid: int) -> None:
    """Wait until the supervisor's lock is free: then it and all its workers have ended."""
    deadline = time.monotonic() + DOWN_WAIT_S
    with open(settings.run / "supervisor.lock", "a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                # A stopping supervisor has closed its socket: a reply now comes from the next supervisor.
                following = ask_supervisor(settings, "supervisor.status")
                if following is not None and following["pid"] != pid:
                    session.note("the workers were stopped, and another command has started them again")
                    return
                if time.monotonic() > deadline:
                    raise PartUnavailable(
                        "the supervisor", f"process {pid} is still stopping", "Look at `es logs supervisor`."
                    ) from None
                time.sleep(POLL_S)
