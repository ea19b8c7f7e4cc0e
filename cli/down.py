"""`es down`: stop the workers and wait until they are gone."""

import time

import typer

from cli import render, session
from cli.supervisor import POLL_S, ask_supervisor
from domain.kernel.errors import PartUnavailable

app = typer.Typer(add_completion=False)
_DOWN_WAIT_S = 60.0


@app.command()
def down(as_json: render.Json = False) -> None:
    """Stop the workers; they finish what they have begun."""
    stopping = ask_supervisor(session.settings(), "supervisor.stop")
    if stopping is not None:
        _wait_for_end(stopping["pid"])
    elif not as_json:
        session.note(f"no workers are running in {session.settings().home}")
    value = {"stopped": stopping is not None, "home": str(session.settings().home)}
    render.answer(value, as_json=as_json, human=lambda: None)


def _wait_for_end(pid: int) -> None:
    """Until the supervisor's lock is free: then it and all its workers are gone."""
    import fcntl

    deadline = time.monotonic() + _DOWN_WAIT_S
    with open(session.settings().run / "supervisor.lock", "a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                # One that stops has closed its socket, so who answers now is the next one.
                following = ask_supervisor(session.settings(), "supervisor.status")
                if following is not None and following["pid"] != pid:
                    session.note("the workers were stopped, and another command has started them again")
                    return
                if time.monotonic() > deadline:
                    raise PartUnavailable(
                        "the supervisor", f"process {pid} is still stopping", "Look at `es logs supervisor`."
                    ) from None
                time.sleep(POLL_S)
