"""`es users …`: accounts."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from cli import render, session
from cli.times import parse_time_us
from domain.kernel.errors import EsError, InvalidInput
from domain.kernel.messages import Body

app = typer.Typer(no_args_is_help=True)

_PAGE = 500

UserId = Annotated[str | None, typer.Argument(metavar="ID", help="The user's id.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Wait until all that is stored is included.")]
From = Annotated[
    str | None,
    typer.Option("--from", metavar="FILE|-", help="One JSON object per line from a file or standard input."),
]


def change(
    kind: str,
    fields: Mapping[str, str | None],
    source: str | None,
    command_id: str | None,
    as_json: bool,
    *,
    show: str,
) -> None:
    """Send one command, or with `source` one per line. `show` names what a person wants to see of the answer."""
    if source is not None:
        if command_id is not None or any(value is not None for value in fields.values()):
            raise InvalidInput("--from", "takes everything from its lines; leave the other arguments out")
        from cli.bulk import Bulk, open_input

        raise typer.Exit(Bulk(kind).run(open_input(source)))
    for name, value in fields.items():
        if value is None:
            raise InvalidInput(name.replace("_", "-"), "is missing; give it, or use --from")
    reply = send(kind, {name: _from_argument(value) for name, value in fields.items()}, command_id)
    render.answer(reply, as_json=as_json, human=lambda: render.line(str(reply[show])))


def send(kind: str, fields: Mapping[str, Any], command_id: str | None) -> Body:
    """Send one command; an error carries the command id that makes repeating it safe."""
    chosen = session.command_id(command_id)
    try:
        return session.ask(
            "users", kind, {"command_id": chosen, "actor": session.actor(), "input": dict(fields)}
        )
    except EsError as error:
        error.command_id = chosen
        raise


def _from_argument(value: str | None) -> str:
    """`-` stands for a line of standard input, so that personal values need not be in the process list."""
    if value != "-":
        return value or ""
    try:
        return session.standard_input().readline(64 * 1024).decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InvalidInput("standard input", "is not valid UTF-8") from error


@app.command()
def create(
    email: Annotated[
        str | None, typer.Option(help="E-mail address, or - to read it from standard input.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name, or - to read it from standard input.")] = None,
    source: From = None,
    command_id: render.CommandId = None,
    as_json: render.Json = False,
) -> None:
    """Register a user and print its id. With --from: lines of {"email", "name"}."""
    change("users.create", {"email": email, "name": name}, source, command_id, as_json, show="user_id")


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
    user = session.ask("projections", "users.find", {"email": _from_argument(email)})
    render.answer(user, as_json=as_json, human=lambda: render.fields(user))


@app.command()
def rename(
    user_id: UserId = None,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The new name, or - to read it from standard input.")
    ] = None,
    source: From = None,
    command_id: render.CommandId = None,
    as_json: render.Json = False,
) -> None:
    """Rename a user; prints the position of the change. With --from: lines of {"user_id", "name"}."""
    change("users.rename", {"user_id": user_id, "name": name}, source, command_id, as_json, show="position")


@app.command("change-email")
def change_email(
    user_id: UserId = None,
    email: Annotated[
        str | None,
        typer.Argument(metavar="EMAIL", help="The new address, or - to read it from standard input."),
    ] = None,
    source: From = None,
    command_id: render.CommandId = None,
    as_json: render.Json = False,
) -> None:
    """Change an e-mail address; prints the position of the change. With --from: lines of {"user_id", "email"}."""
    fields = {"user_id": user_id, "email": email}
    change("users.change-email", fields, source, command_id, as_json, show="position")


@app.command()
def delete(
    user_id: UserId = None,
    source: From = None,
    command_id: render.CommandId = None,
    as_json: render.Json = False,
) -> None:
    """Close an account; prints the position of the change. Its data stays until `es gdpr erase`."""
    change("users.delete", {"user_id": user_id}, source, command_id, as_json, show="position")


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
