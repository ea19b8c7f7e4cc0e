"""`es users …`: create, read, change and delete user accounts."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import render, session
from cli.lazy_group import command_group
from cli.times import parse_time_us
from domain.kernel.errors import EsError, Kind
from domain.kernel.messages import Body

if TYPE_CHECKING:
    from cli.confirm import Describe
    from domain.kernel.commands import Command


class Unreadable(EsError):
    """An answer about one user was printed with a value that cannot be read."""

    what: str
    field: str
    reason: str
    code = "unreadable"
    kind = Kind.DAMAGED
    hint = 'See "Unreadable data" in docs/operations.md. `es gdpr erase` works on such a user too.'

    def __str__(self) -> str:
        return f"{self.field} of {self.what} cannot be read: {self.reason}"


def _commands() -> "Sequence[type[Command]]":
    from domain.users.commands import COMMANDS

    return COMMANDS


def _describe() -> "Describe":
    from cli.confirm import person

    return person


app = typer.Typer(
    cls=command_group("users", _commands, _describe),
    no_args_is_help=True,
    epilog="Example: es users create --email ada@example.com --name 'Ada Lovelace'",
)


def _statuses(incomplete: str) -> list[str]:
    from cli.completion import statuses

    return statuses(incomplete)


UserId = Annotated[str, typer.Argument(metavar="ID", help="The user's id.")]


@app.command(epilog="Example: es users get 252562058352301107")
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
        typer.Option(
            "--version", metavar="N", min=0, help="The state at this version, from the user's events."
        ),
    ] = None,
    as_json: render.Json = False,
) -> None:
    """Show a user. Right after `es users create` it waits for the projection."""
    body: dict[str, Any] = {"user_id": user_id, "after_position": after, "fresh": fresh, "version": version}
    if at is not None:
        body["at_us"] = parse_time_us(at, "--at")
    _show(session.ask("projections", "users.get", body), as_json=as_json)


@app.command("list", epilog="Example: es users list --status active --limit 20")
def list_users(
    context: typer.Context,
    after: Annotated[
        str | None, typer.Option("--after", metavar="ID", help="Only users after this id.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, help="The maximum number of results.")
    ] = 100,
    status: Annotated[
        str | None,
        typer.Option(
            "--status",
            metavar="STATUS",
            autocompletion=_statuses,
            help="Only users with this status: active, deleted or erased.",
        ),
    ] = None,
    fresh: render.Fresh = False,
    as_json: render.Json = False,
) -> None:
    """List users in order of id."""
    body = {"after": after, "status": status, "fresh": fresh}
    users, following = session.listed("users.list", body, "users", limit=limit)
    render.rows(
        users,
        ["user_id", "email", "name", "status", "version", "registered_at"],
        as_json=as_json,
        first_dropped=["version", "registered_at", "name", "status"],
    )
    from cli.lists import remark_on_more

    remark_on_more(context, len(users), following)


@app.command(epilog="Example: es users find --email ada@example.com")
def find(
    email: Annotated[
        str, typer.Option(metavar="EMAIL", help="E-mail address, or - to read it from standard input.")
    ],
    as_json: render.Json = False,
) -> None:
    """Show the user who has an e-mail address."""
    user = session.ask("projections", "users.find", {"email": session.from_argument(email)})
    _show(user, as_json=as_json)


@app.command(epilog="Example: es users history 252562058352301107")
def history(user_id: UserId, as_json: render.Json = False) -> None:
    """Show every event of a user, with its command and its actor."""
    events, _ = session.listed("users.history", {"user_id": user_id}, "events", limit=sys.maxsize)
    if render.is_terminal():
        for event in events:
            render.event(event, as_json=as_json)
    else:
        columns = ["version", "time", "event", "data", "command", "command id", "actor"]
        render.rows(events if as_json else map(_event_shown, events), columns, as_json=as_json)
    for event in events:
        _need_readable(event, f"event {event['version']} of user {user_id}")


def _show(user: Body, *, as_json: bool) -> None:
    render.record(user, as_json=as_json)
    _need_readable(user, f"user {user['user_id']}")


def _need_readable(shown: Body, what: str) -> None:
    """Raise Unreadable if some of the answer could not be read. The answer was printed all the same."""
    for field, reason in (shown.get("unreadable") or {}).items():
        raise Unreadable(what, field, reason)


def _event_shown(event: Body) -> Body:
    data = {
        name: "(erased)" if value is None else value for name, value in render.with_reasons(event).items()
    }
    return {
        **event,
        "event": event["type"],
        "data": ", ".join(f"{name}={value}" for name, value in data.items()),
        "command id": event["command_id"],
    }
