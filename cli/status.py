"""`es status`: the workers, their waiting requests, and the lag of projections and other followers."""

import sys
import time
from functools import partial
from typing import Annotated

import typer

from cli import render, session
from cli.problems import is_sound, problems, unavailable
from cli.supervisor import name_of
from domain.features import registry
from domain.kernel.errors import EXIT_CODES, Kind
from domain.kernel.messages import Body
from domain.kernel.person_streams import NAME as PERSON_STREAMS
from es.state import state_of

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: es status --watch")
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Repeat every second until Ctrl-C.")] = False,
    as_json: render.Json = False,
) -> None:
    """Show every worker, the waiting requests, and the lag of projections, erasures and relay.

    The exit code is 4 if something does not work: a worker, a queue without workers, a follower that does not reply. It is 1 if
    all requests are served and something waits for an operator: parked events, dead letters.
    """
    while True:
        found = ask_status()
        # Clear the screen only now: it would stay empty while the workers are asked.
        if watch and sys.stdout.isatty():
            sys.stdout.write("\x1b[H\x1b[2J")
        render.answer(found, as_json=as_json, human=partial(_show_status, found))
        if not watch:
            break
        time.sleep(1.0)
    states = {problem["state"] for problem in found["problems"]}
    if "failed" in states:
        raise typer.Exit(EXIT_CODES[Kind.UNAVAILABLE])
    if states:
        raise typer.Exit(EXIT_CODES[Kind.REFUSED])


def ask_status() -> Body:
    """`es.state.state_of` with `problems`, see `cli.problems`. Raises PartUnavailable."""
    settings = session.settings()
    found = state_of(settings, session.ask)
    broken = registry(settings.features).broken
    found["problems"] = [
        *problems(found),
        *(unavailable(f"feature {each.module}", each.error) for each in broken),
    ]
    found.pop("outage", None)
    return found


def _show_status(found: Body) -> None:
    _show_parts(found)
    for problem in found["problems"]:
        render.line(f"{problem['part']}: {problem['detail']}. {problem['next']}")


def _show_parts(found: Body) -> None:
    if found["workers"]:
        show_workers(found)
    if found["queues"]:
        render.rows(found["queues"], ["role", "waiting", "workers", "dead"], as_json=False)
    if not found["running"]:
        return
    if render.is_terminal():
        _show_progress(found)
        return
    for state in found["projections"]:
        if _is_shown(state):
            render.line(
                f"projection {state['projection']} (generation {state['generation']}, {state['state']}): "
                f"lag {state['lag']} (position {state['position']} of {state['head']}), {state['parked']} parked"
                + _speed(state)
                + (f", last error {error}" if (error := render.last_error(state)) else "")
            )
    for follower in found["followers"]:
        reached = (
            f"lag {follower['lag']} (position {follower['position']} of {follower['head']})"
            if "lag" in follower
            else "no reply"
        )
        owed = "".join(f", {count} {state}" for state, count in follower.get("owed", {}).items())
        render.line(f"{follower['role']}: {reached}{owed}")


def _is_shown(state: Body) -> bool:
    """Whether a person wants to see it: an index of each aggregate is of interest only if it falls behind."""
    if state["projection"].startswith(PERSON_STREAMS) and state["state"] == "current":
        return bool(state["lag"] or state["parked"] or state.get("last_error"))
    return state["state"] in ("current", "building")


def _speed(state: Body) -> str:
    """What runs on a building generation, how fast, and for how long."""
    if state["state"] != "building":
        return ""
    left = f", {state['left_s']:.0f} s left" if state.get("left_s") is not None else ""
    rate = f" {state['events_per_s']}/s" if state.get("events_per_s") is not None else ""
    return f", {state.get('why') or 'rebuild'}{rate}{left}"


def _show_progress(found: Body) -> None:
    """The lag of projections and followers as a table."""
    reached = [
        {
            **state,
            "follower": f"{state['projection']} (generation {state['generation']})",
            "state": state["state"] + _speed(state),
        }
        for state in found["projections"]
        if _is_shown(state)
    ] or [{"follower": "projections", "state": "no reply"}]
    reached += [
        {"state": "" if "lag" in follower else "no reply", **follower, "follower": follower["role"]}
        for follower in found["followers"]
    ]
    columns = ["follower", "state", "lag", "position", "head", "parked"]
    render.rows(reached, columns, as_json=False, first_dropped=["head", "position"])


def show_workers(status: Body) -> None:
    if "pid" in status:
        render.line(f"supervisor {status['pid']} in {status['home']}")
    # Without a broker all workers run on one machine.
    hosts = {} if session.settings().is_local else {"host": [worker["host"] for worker in status["workers"]]}
    errors = [render.last_error(worker) for worker in status["workers"]]
    columns = {
        "role": [name_of(worker) for worker in status["workers"]],
        **hosts,
        "pid": [worker["pid"] for worker in status["workers"]],
        "state": [worker["state"] for worker in status["workers"]],
        "up (s)": [worker["uptime_s"] for worker in status["workers"]],
        "restarts": [worker["restarts"] for worker in status["workers"]],
        **({} if render.is_terminal() else {"last error": errors}),
    }
    render.table(
        [*columns], zip(*columns.values(), strict=True), first_dropped=["restarts", "up (s)", "host"]
    )
    if render.is_terminal():  # whole, below the table: an error often names a file or a command
        for worker, error in zip(status["workers"], errors, strict=True):
            if error and is_sound(worker):  # else it is among the problems
                render.line(f"{name_of(worker)}: last error {error}")
