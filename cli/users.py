"""`es users …`: accounts."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from cli import render, session
from cli.commands import command_group, commands_in, from_argument
from cli.times import parse_time_us
from domain.kernel.messages import Body

app = typer.Typer(cls=command_group("users", commands_in("domain.users.commands")), no_args_is_help=True)

_PAGE = 500

Fresh = Annotated[bool, typer.Option("--fresh", help="Wait until all that is stored is included.")]


@app.command()
def get(
    user_id: Annotated[str, typer.Argument(metavar="ID", help="The user's id.")],
    after: Annotated[
        int | None, typer.Option("--after", metavar="POSITION", help="Wait until this position is included.")
    ] = None,
    fresh: Fresh = False,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="As it was then (RFC 3339), from its events.")
    ] = None,
    version: Annotated[
        int | None, typer.Option("--version", min=0, help="As it was at this version, from its events.")
    ] = None,
    as_json: render.Json = False,
) -> None:
    """Show a user. Right after its create this waits for the projection."""
    body: dict[str, Any] = {"user_id": user_id, "after_position": after, "fresh": fresh, "version": version}
    if at is not None:
        body["at_us"] = parse_time_us(at, "--at")
    user = session.ask("projections", "users.get", body)
    render.answer(user, as_json=as_json, human=lambda: render.fields(user))


@app.command("list")
def list_users(
    after: Annotated[
        str | None, typer.Option("--after", metavar="ID", help="Only users after this id.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many.")] = 100,
    status: Annotated[str | None, typer.Option("--status", help="active, deleted or erased.")] = None,
    fresh: Fresh = False,
    as_json: render.Json = False,
) -> None:
    """List users in order of id."""
    users: list[Body] = []
    while len(users) < limit:
        wanted = min(limit - len(users), 1000)
        body = {"after": after, "limit": wanted, "status": status, "fresh": fresh}
        page = session.ask("projections", "users.list", body)["users"]
        users += page
        if len(page) < wanted:
            break
        after = page[-1]["user_id"]
    if as_json:
        for user in users:
            render.json_line(user)
        return
    columns = ["user_id", "email", "name", "status", "version", "registered_at"]
    render.table(columns, [[user[column] for column in columns] for user in users])


@app.command()
def find(
    email: Annotated[str, typer.Option(help="E-mail address, or - to read it from standard input.")],
    as_json: render.Json = False,
) -> None:
    """Show the user that has an e-mail address."""
    user = session.ask("projections", "users.find", {"email": from_argument(email)})
    render.answer(user, as_json=as_json, human=lambda: render.fields(user))


@app.command()
def history(
    user_id: Annotated[str, typer.Argument(metavar="ID", help="The user's id.")],
    as_json: render.Json = False,
) -> None:
    """Show every event of a user: when, what, by which command, by whom."""
    events: list[Body] = []
    while True:
        body = {"user_id": user_id, "from_version": len(events), "limit": _PAGE}
        page = session.ask("projections", "users.history", body)["events"]
        events += page
        if len(page) < _PAGE:
            break
    if as_json:
        for event in events:
            render.json_line(event)
        return
    render.table(
        ["version", "time", "event", "data", "command", "command id", "actor"],
        [
            [e["version"], e["time"], e["type"], _data(e["data"]), e["command"], e["command_id"], e["actor"]]
            for e in events
        ],
    )


def _data(data: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={'(erased)' if value is None else value}" for name, value in data.items())
