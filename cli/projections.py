"""`es projections …`: the state of read models, and rebuilds."""

import time
from typing import Annotated

import typer

from cli import render, session
from cli.progress import Progress
from domain.kernel.errors import PartUnavailable
from domain.kernel.messages import Body

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The projection, for example users.")]
POLL_S = 0.1
STALLED_S = 5.0
"""A rebuild that makes no progress for so long is requested again."""
_COLUMNS = ["projection", "generation", "state", "position", "head", "lag", "events", "parked"]
_FIRST_DROPPED = ["events", "head", "position", "generation"]


def _states(name: str | None) -> list[Body]:
    states: list[Body] = session.ask("projections", "projections.status", {"name": name})["projections"]
    return states


@app.command("list")
def list_projections(as_json: render.Json = False) -> None:
    """List the names of the projections."""
    for name in dict.fromkeys(state["projection"] for state in _states(None)):
        if as_json:
            render.json_line({"projection": name})
        else:
            render.line(name)


@app.command()
def status(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One projection; without it all of them.")
    ] = None,
    as_json: render.Json = False,
) -> None:
    """Show each generation of each projection: its position, its lag, and its number of parked events."""
    render.rows(_states(name), _COLUMNS, as_json=as_json, first_dropped=_FIRST_DROPPED)


@app.command()
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
        render.answer(begun, as_json=as_json, human=lambda: None)
        return
    try:
        current = _wait_until_current(name, begun["generation"])
    except KeyboardInterrupt:
        session.note(f"the rebuild continues in its worker; `es projections status {name}` shows it")
        raise
    render.rows([current], _COLUMNS, as_json=as_json, first_dropped=_FIRST_DROPPED)


def _wait_until_current(name: str, generation: int) -> Body:
    """Show progress until the generation is current; its final state."""
    progress = Progress()
    position, moved_s = 0, 0.0
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
            position, moved_s = state["position"], elapsed_s
        elif elapsed_s - moved_s > STALLED_S:
            # Its worker may have ended. The worker that gets this request resumes the rebuild.
            session.ask("projections", "projections.rebuild", {"name": name})
            moved_s = elapsed_s
        _show_progress(progress, state)
        time.sleep(POLL_S)


def _show_progress(progress: Progress, state: Body) -> None:
    share = state["position"] / max(state["head"], 1)

    def text() -> str:
        shown = f"{share:6.1%}  {state['events']} events  {state['events'] / progress.elapsed_s:.0f}/s"
        return f"{shown}  {progress.elapsed_s * (1 - share) / share:.0f} s left" if share else shown

    progress.show(text)
