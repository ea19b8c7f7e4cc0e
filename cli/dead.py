"""`es dead …`: the dead letters. They may hold personal data, so their content is shown only with --values."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import render, session
from cli.completion import roles
from cli.lists import remark_on_more
from domain.features import registry
from domain.kernel.errors import InvalidInput

if TYPE_CHECKING:
    from adapters.rabbitmq.dead_letters import DeadLetter, DeadLetters

app = typer.Typer(no_args_is_help=True, epilog="Example: es dead list")

Role = Annotated[str, typer.Argument(metavar="ROLE", autocompletion=roles, help="For example users.")]
MessageIds = Annotated[
    list[str] | None,
    typer.Argument(metavar="[ID]...", help="The ids of dead letters; `es dead show` lists them."),
]
All = Annotated[bool, typer.Option("--all", help="All dead letters of the role.")]


@app.command("list", epilog="Example: es dead list")
def list_queues(as_json: render.Json = False) -> None:
    """Show the number of waiting requests, workers and dead letters of each role."""
    queues = [asdict(state) for state in _open().counts()]
    render.rows(queues, ["role", "waiting", "workers", "dead"], as_json=as_json)


@app.command(epilog="Example: es dead show users")
def show(
    context: typer.Context,
    role: Role,
    limit: render.Limit = 100,
    values: Annotated[
        bool, typer.Option("--values", help="Show the content of the requests too. It may be personal data.")
    ] = False,
    as_json: render.Json = False,
) -> None:
    """Show the dead letters of a role, oldest first. It changes nothing."""
    queues = _open(role)
    # Before they are shown: letters that were just held are back in their queue a moment later.
    dead = next((state.dead for state in queues.counts() if state.role == role), 0)
    letters = queues.show(role, limit=limit)
    if as_json:
        for letter in letters:
            render.json_line(_object(letter, values=values))
    else:
        columns = ["message", "died", "reason", "requests", "commands", *(["values"] if values else [])]
        render.table(columns, [_row(letter, values=values) for letter in letters])
    remark_on_more(context, len(letters), {"limit": min(dead, 1000)} if dead > len(letters) else None)


@app.command(epilog="Example: es dead retry users --all")
def retry(
    role: Role, message_ids: MessageIds = None, everything: All = False, as_json: render.Json = False
) -> None:
    """Send dead letters to their role again. A command that took effect before has no second effect."""
    count = _open(role).retry(role, _chosen(message_ids, everything))
    render.answer({"retried": count}, as_json=as_json, human=lambda: render.line(f"retried {count}"))


@app.command(epilog="Example: es dead drop users --all")
def drop(
    role: Role,
    message_ids: MessageIds = None,
    everything: All = False,
    yes: render.Yes = False,
    as_json: render.Json = False,
) -> None:
    """Remove dead letters for good."""
    chosen = _chosen(message_ids, everything)
    letters = _open(role)
    what = "all dead letters" if chosen is None else f"{len(chosen)} of the dead letters"
    session.ask_first(
        f"Remove {what} of {role} for good?", because="a removed dead letter cannot be restored", yes=yes
    )
    count = letters.drop(role, chosen)
    render.answer({"dropped": count}, as_json=as_json, human=lambda: render.line(f"dropped {count}"))


def _open(role: str | None = None) -> "DeadLetters":
    """The dead letters of the broker. Raises InvalidInput for an unknown role, InvalidSetting without a broker."""
    from adapters.wiring import open_dead_letters, usual_roles

    settings = session.settings()
    known = registry(settings.features)
    letters = open_dead_letters(settings, [role.name for role in usual_roles(settings)])
    if role is not None and role not in letters.roles:
        raise known.unknown(InvalidInput("role", f"must be one of {', '.join(letters.roles)}"))
    return letters


def _chosen(message_ids: list[str] | None, everything: bool) -> list[str] | None:
    """The named dead letters, or None for all of them. Raises InvalidInput."""
    if bool(message_ids) == everything:
        raise InvalidInput("ID", "must be given, or --all for all dead letters; not both")
    return None if everything else message_ids


def _object(letter: "DeadLetter", *, values: bool) -> dict[str, Any]:
    value: dict[str, Any] = {
        "message_id": letter.message_id,
        "died_at": letter.died_at,
        "reason": letter.reason,
        "requests": [
            {"kind": item.kind, "command_id": item.command_id, **({"body": item.body} if values else {})}
            for item in letter.requests
        ],
    }
    if values and letter.unreadable is not None:
        value["unreadable"] = letter.unreadable
    return value


def _row(letter: "DeadLetter", *, values: bool) -> list[object]:
    kinds = sorted({item.kind for item in letter.requests})
    commands = [item.command_id for item in letter.requests if item.command_id]
    shown = commands[0] + (f" and {len(commands) - 1} more" if len(commands) > 1 else "") if commands else ""
    row: list[object] = [letter.message_id, letter.died_at, letter.reason, " ".join(kinds), shown]
    if values:
        # As JSON: an unreadable message may contain control sequences, which a terminal would obey.
        bodies = [item.body for item in letter.requests]
        row.append(json.dumps(bodies if letter.unreadable is None else letter.unreadable))
    return row
