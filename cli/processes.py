"""`es processes …`: the open instances of process managers, and the way out of quarantine."""

from contextlib import closing
from typing import Annotated, Any

import typer

from cli import render, session
from cli.lists import remark_on_more
from domain.kernel.errors import EXIT_CODES, Kind
from domain.kernel.messages import Body

app = typer.Typer(no_args_is_help=True, epilog="Example: es processes list")

ROLE = "processes"
_RETRY_WAIT_S = 30.0
Process = Annotated[str, typer.Argument(metavar="PROCESS", help="The name of the process.")]
InstanceId = Annotated[str, typer.Argument(metavar="ID", help="The id of the instance.")]
_COLUMNS = ["process", "instance", "state", "opened_at", "due_at", "attempts", "held", "reason"]


@app.command("list", epilog="Example: es processes list --quarantined")
def list_instances(
    context: typer.Context,
    quarantined: Annotated[
        bool, typer.Option("--quarantined", help="Only those that wait for an operator.")
    ] = False,
    limit: render.Limit = 100,
    as_json: render.Json = False,
) -> None:
    """List the open instances of each process, in order of their ids: the oldest first."""
    rows, is_more = _listed(limit, quarantined=quarantined)
    render.rows(rows, _COLUMNS, as_json=as_json, first_dropped=["due_at", "held", "attempts", "opened_at"])
    remark_on_more(context, len(rows), {"limit": 1000} if is_more and limit < 1000 else None)


def _listed(limit: int, *, quarantined: bool) -> tuple[list[Body], bool]:
    rows: list[Body] = []
    following: Body | None = {}
    with closing(session.caller()) as connection:
        while following is not None and len(rows) < limit:
            body = {"quarantined": quarantined, "limit": limit - len(rows), **following}
            page = connection.ask(ROLE, "processes.list", body)
            rows += page["instances"]
            following = page["next"]
    return rows, following is not None


@app.command(epilog="Example: es processes show transfers 7")
def show(process: Process, instance: InstanceId, as_json: render.Json = False) -> None:
    """Show an instance: its state, its open commands and timers, what is held, and what happened."""
    found = session.ask(ROLE, "processes.show", {"process": process, "instance": instance})
    render.answer(found, as_json=as_json, human=lambda: _show(found))


def _show(found: Body) -> None:
    lists = ("commands", "timers", "history")
    render.fields({name: value for name, value in found.items() if name not in lists})
    for command in found["commands"]:
        cancelled = " (cancelled)" if command["cancelled"] else ""
        render.line(
            f"command {command['step']}{cancelled}: {command['request']} {command['input']} {command['command_id']}"
        )
    for timer in found["timers"]:
        render.line(f"timer {timer['timer']}: {timer['due_at']}")
    for event in found["history"]:
        render.line(f"{event['version']}  {event['time']}  {event['type']}  {_data(event['data'])}")


def _data(data: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in data.items())


@app.command(epilog="Example: es processes retry transfers 7")
def retry(process: Process, instance: InstanceId, as_json: render.Json = False) -> None:
    """Let an instance in quarantine go on, once its cause is fixed: it takes note of the held events in order.

    The exit code is 1 if it is in quarantine again.
    """
    body = {"process": process, "instance": instance}
    found = session.ask(ROLE, "processes.retry", body, timeout_s=_RETRY_WAIT_S)
    render.record(found, as_json=as_json)
    if found["state"] == "quarantined":
        raise typer.Exit(EXIT_CODES[Kind.REFUSED])
