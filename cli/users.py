"""`es users …`: create, read, change and delete user accounts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import render, session
from cli.lazy_group import command_group
from cli.times import parse_time_us
from domain.kernel.messages import Body

if TYPE_CHECKING:
    from domain.kernel.commands import Command

_PAGE = 500
_LIST_PAGE = 1000


def _commands() -> "Sequence[type[Command]]":
    from domain.users.commands import COMMANDS

    return COMMANDS


app = typer.Typer(cls=command_group("users", _commands), no_args_is_help=True)

UserId = Annotated[str, typer.Argument(metavar="ID", help="The user's id.")]


@app.command()
def get(
    user_id: UserId,
    after: render.After = None,
    fresh: render.Fresh = False,
    at: Annotated[
        str | None,
        typer.Option(
            "--at", metavar="TIME", help="The state at this time (RFC 3339), from the user's events."
        ),
    ] = None,
    version: Annotated[
        int | None,
        typer.Option("--version", min=0, help="The state at this version, from the user's events."),
    ] = None,
    as_json: render.Json = False,
) -> None:
    """Show a user. Right after `es users create` it waits for the projection."""
    body: dict[str, Any] = {"user_id": user_id, "after_position": after, "fresh": fresh, "version": version}
    if at is not None:
        body["at_us"] = parse_time_us(at, "--at")
    render.record(session.ask("projections", "users.get", body), as_json=as_json)


@app.command("list")
def list_users(
    after: Annotated[
        str | None, typer.Option("--after", metavar="ID", help="Only users after this id.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="The maximum number of results.")] = 100,
    status: Annotated[
        str | None, typer.Option("--status", help="Only users with this status: active, deleted or erased.")
    ] = None,
    fresh: render.Fresh = False,
    as_json: render.Json = False,
) -> None:
    """List users in order of id."""
    users: list[Body] = []
    while len(users) < limit:
        wanted = min(limit - len(users), _LIST_PAGE)
        body = {"after": after, "limit": wanted, "status": status, "fresh": fresh}
        page = session.ask("projections", "users.list", body)["users"]
        users += page
        if len(page) < wanted:
            break
        after = page[-1]["user_id"]
    render.rows(
        users,
        ["user_id", "email", "name", "status", "version", "registered_at"],
        as_json=as_json,
        first_dropped=["version", "registered_at", "name", "status"],
    )


@app.command()
def find(
    email: Annotated[str, typer.Option(help="E-mail address, or - to read it from standard input.")],
    as_json: render.Json = False,
) -> None:
    """Show the user who has an e-mail address."""
    user = session.ask("projections", "users.find", {"email": session.from_argument(email)})
    render.record(user, as_json=as_json)


@app.command()
def history(user_id: UserId, as_json: render.Json = False) -> None:
    """Show every event of a user, with its command and its actor."""
    events: list[Body] = []
    while True:
        body = {"user_id": user_id, "from_version": len(events), "limit": _PAGE}
        page = session.ask("projections", "users.history", body)["events"]
        events += page
        if len(page) < _PAGE:
            break
    if render.is_terminal():
        for event in events:
            render.event(event, as_json=as_json)
        return
    columns = ["version", "time", "event", "data", "command", "command id", "actor"]
    render.rows(events if as_json else map(_event_shown, events), columns, as_json=as_json)


def _event_shown(event: Body) -> Body:
    data = {name: "(erased)" if value is None else value for name, value in event["data"].items()}
    return {
        **event,
        "event": event["type"],
        "data": ", ".join(f"{name}={value}" for name, value in data.items()),
        "command id": event["command_id"],
    }
