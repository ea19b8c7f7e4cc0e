"""`es projections …`: read models and their rebuilding."""

import sys
import time
from typing import Annotated, Any

import typer

from cli import render, session
from domain.kernel.errors import PartUnavailable
from domain.kernel.messages import Body

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The projection, for example users.")]
_POLL_S = 0.1
_PLAIN_S = 5.0
_STALLED_S = 5.0
"""How long a rebuild may stand still before it is asked for again."""
_COLUMNS = ["projection", "generation", "state", "position", "head", "lag", "events", "parked"]


def _states(name: str | None) -> list[Body]:
    states: list[Body] = session.ask("projections", "projections.status", {"name": name})["projections"]
    return states


def _show(states: list[Body], as_json: bool) -> None:
    if as_json:
        for state in states:
            render.json_line(state)
        return
    render.table(_COLUMNS, [[state[column] for column in _COLUMNS] for state in states])


@app.command("list")
def list_projections(as_json: render.Json = False) -> None:
    """Name the projections."""
    names = list(dict.fromkeys(state["projection"] for state in _states(None)))
    for name in names:
        render.answer({"projection": name}, as_json=as_json, human=lambda name=name: render.line(name))  # type: ignore[misc]


@app.command()
def status(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One projection; all if left out.")
    ] = None,
    as_json: render.Json = False,
) -> None:
    """Show each generation of each projection: how far it is and what is parked."""
    _show(_states(name), as_json)


@app.command()
def rebuild(
    name: Name,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Start it and return at once.")] = False,
    as_json: render.Json = False,
) -> None:
    """Replay all events into a new generation beside the live one, then switch to it.

    Readers see the old generation until the switch. Ctrl-C leaves the rebuild running in its worker.
    """
    begun = session.ask("projections", "projections.rebuild", {"name": name})
    if not no_wait:
        try:
            begun = _watch(name, begun)
        except KeyboardInterrupt:
            session.note(f"the rebuild goes on in its worker; `es projections status {name}` shows it")
            raise
    render.answer(
        begun, as_json=as_json, human=lambda: _show([begun], as_json=False) if not no_wait else None
    )


def _watch(name: str, begun: Body) -> Body:
    """Show progress until the generation is current; its final state."""
    started_s = shown_s = moved_s = time.monotonic()
    position = 0
    terminal = sys.stderr.isatty()
    while True:
        found = [s for s in _states(name) if s["generation"] == begun["generation"]]
        if not found:
            raise PartUnavailable("the rebuild", "its generation is gone", "Another rebuild replaced it.")
        (state,) = found
        now_s = time.monotonic()
        if state["state"] != "building":
            if terminal:
                print("\r\x1b[K", end="", file=sys.stderr)
            rate = state["events"] / max(now_s - started_s, 1e-9)
            session.note(
                f"rebuilt {name} from {state['events']} events, {rate:.0f}/s; generation {state['generation']}"
            )
            return state
        if state["position"] != position:
            position, moved_s = state["position"], now_s
        elif now_s - moved_s > _STALLED_S:
            # Its worker may have ended for good. Whoever gets this goes on where that one was.
            session.ask("projections", "projections.rebuild", {"name": name})
            moved_s = now_s
        if now_s - shown_s > (_POLL_S if terminal else _PLAIN_S):
            shown_s = now_s
            _print_progress(state, now_s - started_s, terminal)
        time.sleep(_POLL_S)


def _print_progress(state: dict[str, Any], elapsed_s: float, terminal: bool) -> None:
    share = state["position"] / max(state["head"], 1)
    rate = state["events"] / elapsed_s
    text = f"{share:6.1%}  {state['events']} events  {rate:.0f}/s"
    if share:
        text += f"  {elapsed_s * (1 - share) / share:.0f} s left"
    print(
        f"\r\x1b[K{text}" if terminal else f"es: {text}",
        end="" if terminal else "\n",
        file=sys.stderr,
        flush=True,
    )
