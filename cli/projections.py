"""`es projections …`: the state of read models, and rebuilds."""

import time
from typing import Annotated

import typer

from cli import render, session
from cli.completion import projections
from cli.progress import Progress
from domain.kernel.errors import PartUnavailable
from domain.kernel.messages import Body

app = typer.Typer(no_args_is_help=True, epilog="Example: es projections rebuild users")

Name = Annotated[
    str, typer.Argument(metavar="NAME", autocompletion=projections, help="The projection, for example users.")
]
POLL_S = 0.1
STALLED_S = 5.0
"""A rebuild that makes no progress for so long is requested again."""
_COLUMNS = ["projection", "generation", "state", "position", "head", "lag", "events", "parked"]
_FIRST_DROPPED = ["events", "head", "position", "generation"]
FAILING_S = 10.0
"""A rebuild that makes no progress for so long and has an error fails. A shorter outage is waited out."""
SILENT_S = 60.0
"""A rebuild that makes no progress for so long fails also without an error."""


def _states(name: str | None) -> list[Body]:
    states: list[Body] = session.ask("projections", "projections.status", {"name": name})["projections"]
    return states


@app.command("list", epilog="Example: es projections list")
def list_projections(as_json: render.Json = False) -> None:
    """List the names of the projections."""
    for name in dict.fromkeys(state["projection"] for state in _states(None)):
        if as_json:
            render.json_line({"projection": name})
        else:
            render.line(name)


@app.command(epilog="Example: es projections status users")
def status(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", autocompletion=projections, help="One projection; without it all of them."
        ),
    ] = None,
    as_json: render.Json = False,
) -> None:
    """Show each generation of each projection: its position, its lag, and its number of parked events."""
    _show(_states(name), as_json=as_json)


@app.command(epilog="Example: es projections rebuild users")
def rebuild(
    name: Name,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Start the rebuild and return at once.")] = False,
    as_json: render.Json = False,
) -> None:
    """Fill a new generation from all events beside the current one, then switch to it.

    Queries read the old generation until the switch. Ctrl-C leaves the rebuild running in its worker.
    """
    begun = session.ask("projections", "projections.rebuild", {"name": name})
    if no_wait:
        said = f"the rebuild of {name} began, as generation {begun['generation']}: `es projections status {name}`"
        render.answer(begun, as_json=as_json, human=lambda: render.on_terminal(said))
        return
    try:
        current = _wait_until_current(name, begun["generation"])
    except KeyboardInterrupt:
        session.note(f"the rebuild continues in its worker; `es projections status {name}` shows it")
        raise
    _show([current], as_json=as_json)


def _show(states: list[Body], *, as_json: bool) -> None:
    """The states with their last errors: on a terminal below the table, because an error names a file or a command."""
    shown = states if as_json else [{**state, "last error": render.last_error(state)} for state in states]
    if as_json or not render.is_terminal():
        render.rows(shown, [*_COLUMNS, "last error"], as_json=as_json)
        return
    render.rows(shown, _COLUMNS, as_json=False, first_dropped=_FIRST_DROPPED)
    for state in shown:
        if state["last error"]:
            render.line(f"{state['projection']} {state['generation']}: last error {state['last error']}")


def _wait_until_current(name: str, generation: int) -> Body:
    """Show progress until the generation is current; its final state."""
    progress = Progress()
    position, moved_s, requested_s = 0, 0.0, 0.0
    error: Body | None = None
    while True:
        state = next((state for state in _states(name) if state["generation"] == generation), None)
        if state is None:
            raise PartUnavailable("the rebuild", "its generation is missing", "Another rebuild replaced it.")
        elapsed_s = progress.elapsed_s
        if state["state"] != "building":
            rate = state["events"] / elapsed_s
            progress.close(
                f"rebuilt {name} from {state['events']} events, {rate:.0f}/s; generation {generation}"
            )
            return state
        if state["position"] != position:
            position, moved_s, requested_s, error = state["position"], elapsed_s, elapsed_s, None
        # Another worker than the one that rebuilds may have replied: it knows no error.
        error = state.get("last_error") or error
        _need_hope(name, error, elapsed_s - moved_s)
        if elapsed_s - requested_s > STALLED_S:
            # Its worker may have ended. The worker that gets this request resumes the rebuild.
            session.ask("projections", "projections.rebuild", {"name": name})
            requested_s = elapsed_s
        _show_progress(progress, state, error)
        time.sleep(POLL_S)


def _need_hope(name: str, error: Body | None, stalled_s: float) -> None:
    """Raise PartUnavailable after a long time without progress."""
    if stalled_s > (SILENT_S if error is None else FAILING_S):
        why = f"it makes no progress: {error['message']}" if error else f"no progress for {SILENT_S:.0f} s"
        raise PartUnavailable(
            "the rebuild",
            why,
            f"Fix the cause (`es logs projections`); the rebuild then continues. `es projections status {name}` shows it.",
        )


def _show_progress(progress: Progress, state: Body, error: Body | None) -> None:
    share = state["position"] / max(state["head"], 1)

    def text() -> str:
        shown = f"{share:6.1%}  {state['events']} events  {state['events'] / progress.elapsed_s:.0f}/s"
        if error:
            return f"{shown}  waits: {error['message']}"
        return f"{shown}  {progress.elapsed_s * (1 - share) / share:.0f} s left" if share else shown

    progress.show(text)
