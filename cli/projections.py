"""`es projections …`: the state of read models, and what changes or compares their generations."""

from typing import Annotated

import typer

from cli import comparisons, parked, render, session
from cli.completion import projections
from cli.watching import Work, asked, compared, states_of
from domain.features import registry
from domain.kernel.errors import InvalidInput, PartUnavailable
from domain.kernel.messages import Body

app = typer.Typer(no_args_is_help=True, epilog="Example: es projections rebuild users")
app.add_typer(parked.app, name="parked")

Name = Annotated[
    str, typer.Argument(metavar="NAME", autocompletion=projections, help="The projection, for example users.")
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Start the work and return at once.")]
Chosen = Annotated[
    int | None, typer.Argument(metavar="GENERATION", help="A stored one; by default the checked one.")
]
_COLUMNS = ["projection", "generation", "state", "position", "head", "lag", "events", "parked"]
_FIRST_DROPPED = ["events", "head", "position", "generation"]


@app.command("list", epilog="Example: es projections list")
def list_projections(as_json: render.Json = False) -> None:
    """List the names of the projections."""
    states = states_of(None)
    changed = {state["projection"] for state in states if _has_other_code(state)}
    for name in dict.fromkeys(state["projection"] for state in states):
        if as_json:
            render.json_line({"projection": name, "other_code": name in changed})
        else:
            render.line(name)
    _note_other_code(states)


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
    states = states_of(name)
    _show(states, as_json=as_json)
    _note_other_code(states)


@app.command(epilog="Example: es projections rebuild users --check")
def rebuild(
    name: Name,
    check: Annotated[
        bool,
        typer.Option("--check", help="Compare the new generation with the current one, and do not switch."),
    ] = False,
    no_wait: NoWait = False,
    as_json: render.Json = False,
) -> None:
    """Fill a new generation from all events beside the current one, then switch to it.

    Queries read the old generation until the switch. Ctrl-C leaves the rebuild running in its worker. With --check
    the exit code is 0 if the rows are equal, 1 if they differ, 5 if parked events make them untrustworthy.
    """
    request = {"check": check, "code": _present_code(name)}
    work = Work(name, "check" if check else "rebuild", "projections.rebuild", request)
    built = _done(work, no_wait=no_wait, as_json=as_json)
    if built is None:
        return
    if not check:
        _show([built], as_json=as_json)
        return
    if built["state"] == "current":
        raise PartUnavailable(
            "the check",
            "the event store was restored or replaced meanwhile, so the new rows replaced the old ones",
            "Nothing is left to compare with.",
        )
    comparisons.show(asked("projections.report", name, generation=built["generation"]), as_json=as_json)


@app.command(epilog="Example: es projections diff users 1 2")
def diff(
    name: Name,
    first: Annotated[
        int | None, typer.Argument(metavar="G1", help="A generation; by default the current one.")
    ] = None,
    second: Annotated[
        int | None, typer.Argument(metavar="G2", help="Another one; by default the newest other.")
    ] = None,
    as_json: render.Json = False,
) -> None:
    """Compare the rows of two stored generations at one position; the one that is behind catches up first.

    The exit code is 0 if the rows are equal, 1 if they differ, 5 if parked events make them untrustworthy.
    """
    if (first is None) != (second is None):
        raise InvalidInput("generation", "is needed twice: G1 and G2, or none")
    comparisons.show(compared(name, first, second), as_json=as_json)


@app.command(epilog="Example: es projections switch users")
def switch(
    name: Name, generation: Chosen = None, no_wait: NoWait = False, as_json: render.Json = False
) -> None:
    """Let queries read another stored generation, by default the checked one.

    It catches up with the current one first. Until then queries read the current one: they never see older rows.
    """
    _switch(Work(name, "switch", "projections.switch", {"generation": generation}), no_wait, as_json)


@app.command(epilog="Example: es projections rollback users")
def rollback(name: Name, no_wait: NoWait = False, as_json: render.Json = False) -> None:
    """Let queries read the generation again that was current before the last switch or rebuild.

    It catches up with the current one first. Until then queries read the current one: they never see older rows.
    """
    _switch(Work(name, "rollback", "projections.switch", {"rollback": True}), no_wait, as_json)


@app.command(epilog="Example: es projections cancel users")
def cancel(name: Name, as_json: render.Json = False) -> None:
    """End the rebuild, check, switch or rollback that runs. Queries read the current generation as before."""
    ended = asked("projections.cancel", name)
    said = f"the work on generation {ended['generation']} of {name} was cancelled"
    render.answer(ended, as_json=as_json, human=lambda: render.on_terminal(said))


@app.command(epilog="Example: es projections prune users --keep 1")
def prune(
    name: Name,
    keep: Annotated[int, typer.Option("--keep", metavar="N", min=0, help="Keep the newest N of them.")] = 0,
    yes: render.Yes = False,
    as_json: render.Json = False,
) -> None:
    """Remove the retired and checked generations. Then there is nothing to roll back to."""
    question = f"Remove the retired and checked generations of {name}"
    session.ask_first(question, because="only a rebuild makes them again", yes=yes)
    pruned = asked("projections.prune", name, keep=keep)
    removed = ", ".join(map(str, pruned["removed"])) or "none"
    render.answer(pruned, as_json=as_json, human=lambda: render.line(f"removed generations: {removed}"))


@app.command(epilog="Example: es projections history users")
def history(name: Name, limit: render.Limit = 100, as_json: render.Json = False) -> None:
    """List when generations were built and current: by which code, from when to when, rows, events a second, and why.

    The last 200 entries of each projection are kept.
    """
    phases = asked("projections.history", name, limit=limit)["phases"]
    columns = ["generation", "state", "why", "from", "to", "rows", "events", "events_per_s", "code", "now"]
    render.rows(phases, columns, as_json=as_json, first_dropped=["code", "events", "events_per_s", "to"])


def _present_code(name: str) -> str | None:
    """The behaviour of a projection in this program: a worker of another version may get the request."""
    from domain.kernel.behaviour import behaviour_of

    known = registry(session.settings().features)
    return next((behaviour_of(p, known.aggregates) for p in known.projections if p.name == name), None)


def _switch(work: Work, no_wait: bool, as_json: bool) -> None:
    current = _done(work, no_wait=no_wait, as_json=as_json)
    if current is not None:
        _show([current], as_json=as_json)


def _done(work: Work, *, no_wait: bool, as_json: bool) -> Body | None:
    """Begin work and wait for its end: the final state of its generation. None with `no_wait`."""
    begun = work.begin()
    if not no_wait:
        return work.wait(begun["generation"])
    said = f"the {work.what} of {work.name} runs, as generation {begun['generation']}: `es projections status {work.name}`"
    render.answer(begun, as_json=as_json, human=lambda: render.on_terminal(said))
    return None


def _has_other_code(state: Body) -> bool:
    return state["state"] == "current" and bool(state.get("other_code"))


def _note_other_code(states: list[Body]) -> None:
    for state in states:
        if _has_other_code(state):
            name = state["projection"]
            session.note(f"{name} was built by other code: `es projections rebuild {name} --check`")


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
