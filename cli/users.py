"""`es users …`: create, read, change and delete user accounts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import render, session
from cli.lazy_group import command_group
from cli.readable import need_readable, show_history
from cli.times import parse_time_us
from domain.kernel.errors import EsError, InvalidInput
from domain.kernel.messages import Body

if TYPE_CHECKING:
    from cli.confirm import Describe
    from domain.kernel.commands import Command


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


_TOTAL_WAIT_S = 0.5
_COUNTED = ("active", "deleted", "erased")


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
    with session.listing("users.list", body, "users", limit=limit) as users:
        render.rows(
            users,
            ["user_id", "email", "name", "status", "version", "registered_at"],
            as_json=as_json,
            first_dropped=["version", "registered_at", "name", "status"],
        )
    from cli.lists import remark_on_more

    remark_on_more(context, users.count, users.following, total=lambda: _total(status))


def _total(status: str | None) -> int | None:
    """The number of users with a status, or of all; None if it cannot be told at once."""
    try:
        counts = session.ask("projections", "users.count", {}, timeout_s=_TOTAL_WAIT_S)
    except EsError:
        return None
    return int(counts[status or "users"])


@app.command(epilog="Example: es users count --status active")
def count(
    status: Annotated[
        str | None,
        typer.Option(
            "--status",
            metavar="STATUS",
            autocompletion=_statuses,
            help="Only users with this status: active, deleted or erased.",
        ),
    ] = None,
    by_day: Annotated[
        bool, typer.Option("--by-day", help="A line for each day (UTC) on which users registered.")
    ] = False,
    after: render.After = None,
    fresh: render.Fresh = False,
    as_json: render.Json = False,
) -> None:
    """Show the number of users, exactly: all, or those with one status. Deleted and erased users count."""
    if status not in (None, *_COUNTED):
        raise InvalidInput("status", f"must be one of {', '.join(_COUNTED)}")
    body = {"after_position": after, "fresh": fresh}
    chosen = _COUNTED if status is None else (status,)
    if by_day:
        days = session.listed("users.registrations", body, "days")
        columns = ["day", *chosen]
        render.rows([{name: day[name] for name in columns} for day in days], columns, as_json=as_json)
        return
    counts = session.ask("projections", "users.count", body)
    found = counts if status is None else {status: counts[status]}
    render.answer(found, as_json=as_json, human=lambda: render.line(str(found[status or "users"])))


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
    events = session.listed("users.history", {"user_id": user_id}, "events")
    show_history(events, f"user {user_id}", as_json=as_json)


def _show(user: Body, *, as_json: bool) -> None:
    render.record(user, as_json=as_json)
    need_readable(user, f"user {user['user_id']}")
