"""`es status`: the workers, what waits for them, and how far the followers are."""

import sys
import time
from functools import partial
from typing import Annotated

import typer

from adapters.wiring import open_dead_letters, usual_roles, workers_everywhere
from cli import render, session
from cli.supervisor import ask_supervisor, name_of
from domain.features import registry
from domain.kernel.errors import EsError, Kind, PartUnavailable
from domain.kernel.messages import Body

app = typer.Typer(add_completion=False)
_PROGRESS_WAIT_S = 2.0
_ROLL_CALL_WAIT_S = 1.0


@app.command()
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every second until Ctrl-C.")] = False,
    as_json: render.Json = False,
) -> None:
    """Show every worker, what waits, and how far projections, erasures and relay are."""
    while True:
        found = _status()
        # Drawn once all is known: a screen that is cleared earlier stays empty meanwhile.
        if watch and sys.stdout is not None and sys.stdout.isatty():
            sys.stdout.write("\x1b[H\x1b[2J")
        render.answer(found, as_json=as_json, human=partial(_show_status, found))
        if not watch:
            return
        time.sleep(1.0)


def _status() -> Body:
    """`{"home", "running", "workers", "silent", "queues", "projections", "followers", …}`. Raises PartUnavailable.

    The supervisor knows the workers of this home; over a broker others may run anywhere, and are asked. `silent`
    is how many of them didn't answer.
    """
    settings = session.settings()
    supervised = ask_supervisor(settings, "supervisor.status")
    found: Body = {
        "home": str(settings.home),
        "running": supervised is not None,
        "workers": [],
        "silent": 0,
        "queues": [],
        "projections": [],
        "followers": [],
        **(supervised or {}),
    }
    if not settings.is_local:
        try:
            _add_everybody(found)
        except PartUnavailable as error:
            if supervised is None:
                raise  # whether any workers run isn't known then
            session.note(
                str(error)
            )  # the workers here may be shown all the same, but no request reaches them
            return found
    if found["running"]:
        found["projections"] = _progress("projections", "projections.status").get("projections", [])
        roles = [role.name for role in usual_roles(settings) if role.follows]
        found["followers"] = [{"role": role, **_progress(role, f"{role}.progress")} for role in roles]
    return found


def _add_everybody(found: Body) -> None:
    """Add what waits at the broker, who takes it, and the workers that aren't this home's."""
    settings = session.settings()
    counts = open_dead_letters(settings, [role.name for role in usual_roles(settings)]).counts()
    found["queues"] = [
        {"role": q.role, "waiting": q.waiting, "workers": q.workers, "dead": q.dead} for q in counts
    ]
    expected = sum(queue.workers for queue in counts)
    answers = workers_everywhere(settings, expected=expected, wait_s=_ROLL_CALL_WAIT_S) if expected else []
    ours = {(worker["host"], worker["pid"]) for worker in found["workers"]}
    others = [worker for worker in answers if (worker["host"], worker["pid"]) not in ours]
    order = registry(settings.features).role_names
    others.sort(key=lambda worker: (order.index(worker["role"]), worker["host"], worker["pid"]))
    found["workers"] += [{**worker, "restarts": None} for worker in others]
    found["silent"] = max(expected - len(answers), 0)
    found["running"] = found["running"] or expected > 0


def _progress(role: str, kind: str) -> Body:
    """What a worker says of how far it is; nothing when it can't say."""
    try:
        return session.ask(role, kind, {}, timeout_s=_PROGRESS_WAIT_S)
    except EsError as error:
        if error.kind is not Kind.UNAVAILABLE:
            raise
        return {}


def _show_status(found: Body) -> None:
    if not found["running"]:
        render.line("no workers are running; `es up` starts them")
    if found["workers"]:
        show_workers(found)
    if found["silent"]:
        render.line(f"{found['silent']} workers take requests from the broker, but don't say how they are")
    if found["queues"]:
        columns = ["role", "waiting", "workers", "dead"]
        render.table(columns, [[queue[column] for column in columns] for queue in found["queues"]])
    if not found["running"]:
        return
    if not found["projections"]:
        render.line("projections: no answer")
    for state in found["projections"]:
        if state["state"] != "retired":
            render.line(
                f"projection {state['projection']} (generation {state['generation']}, {state['state']}): "
                f"lag {state['lag']} (position {state['position']} of {state['head']}), {state['parked']} parked"
            )
    for follower in found["followers"]:
        reached = (
            f"lag {follower['lag']} (position {follower['position']} of {follower['head']})"
            if "lag" in follower
            else "no answer"
        )
        render.line(f"{follower['role']}: {reached}")


def show_workers(status: Body) -> None:
    if "pid" in status:
        render.line(f"supervisor {status['pid']} in {status['home']}")
    # On one machine there is nothing to tell apart by its name.
    hosts = {} if session.settings().is_local else {"host": [worker["host"] for worker in status["workers"]]}
    columns = {
        "role": [name_of(worker) for worker in status["workers"]],
        **hosts,
        "pid": [worker["pid"] for worker in status["workers"]],
        "state": [worker["state"] for worker in status["workers"]],
        "up (s)": [worker["uptime_s"] for worker in status["workers"]],
        "restarts": [worker["restarts"] for worker in status["workers"]],
        "last error": [_shown_error(worker) for worker in status["workers"]],
    }
    render.table([*columns], zip(*columns.values(), strict=True))


def _shown_error(worker: Body) -> str:
    error = worker["last_error"]
    return f"{error['at'][:19]}Z {error['message']}" if error else ""
