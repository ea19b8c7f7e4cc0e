"""`es dead …`: messages that no worker could carry out. They may hold personal data, so values are shown only on request."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import render, session
from domain.features import registry
from domain.kernel.errors import InvalidInput

if TYPE_CHECKING:
    from adapters.rabbitmq.dead_letters import DeadLetter, DeadLetters

app = typer.Typer(no_args_is_help=True)

Role = Annotated[str, typer.Argument(metavar="ROLE", help="For example users.")]
MessageIds = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="Which; `es dead show` names them.")
]
All = Annotated[bool, typer.Option("--all", help="All of the role's dead letters.")]


@app.command("list")
def list_queues(as_json: render.Json = False) -> None:
    """Show for each role how many requests wait, how many workers take them, and how many are dead letters."""
    states = _open().counts()
    if as_json:
        for state in states:
            render.json_line(
                {
                    "role": state.role,
                    "waiting": state.waiting,
                    "workers": state.workers,
                    "dead": state.dead,
                }
            )
        return
    render.table(
        ["role", "waiting", "workers", "dead"],
        [[state.role, state.waiting, state.workers, state.dead] for state in states],
    )


@app.command()
def show(
    role: Role,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most this many.")] = 100,
    values: Annotated[
        bool, typer.Option("--values", help="Show the requests' content too; it may be personal data.")
    ] = False,
    as_json: render.Json = False,
) -> None:
    """Show a role's dead letters, the oldest first. They stay where they are."""
    letters = _open(role).show(role, limit=limit)
    if as_json:
        for letter in letters:
            render.json_line(_object(letter, values=values))
        return
    columns = ["message", "died", "reason", "requests", "commands", *(["values"] if values else [])]
    render.table(columns, [_row(letter, values=values) for letter in letters])


@app.command()
def retry(
    role: Role, message_ids: MessageIds = None, everything: All = False, as_json: render.Json = False
) -> None:
    """Send dead letters to their role again. Commands that were carried out before have no second effect."""
    count = _open(role).retry(role, _chosen(message_ids, everything))
    render.answer({"retried": count}, as_json=as_json, human=lambda: render.line(f"retried {count}"))


@app.command()
def drop(
    role: Role,
    message_ids: MessageIds = None,
    everything: All = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    as_json: render.Json = False,
) -> None:
    """Remove dead letters for good."""
    chosen = _chosen(message_ids, everything)
    letters = _open(role)
    what = "all dead letters" if chosen is None else f"{len(chosen)} of the dead letters"
    session.ask_first(f"Remove {what} of {role} for good?", because="what is dropped is gone", yes=yes)
    count = letters.drop(role, chosen)
    render.answer({"dropped": count}, as_json=as_json, human=lambda: render.line(f"dropped {count}"))


def _open(role: str | None = None) -> DeadLetters:
    """The dead letters of the configured transport. Raises InvalidInput for a role that there isn't."""
    from adapters.wiring import open_dead_letters

    settings = session.settings()
    letters = open_dead_letters(settings, registry(settings.features).role_names)
    if role is not None and role not in letters.roles:
        raise InvalidInput("role", f"must be one of {', '.join(letters.roles)}")
    return letters


def _chosen(message_ids: list[str] | None, everything: bool) -> list[str] | None:
    if bool(message_ids) == everything:
        raise InvalidInput("the dead letters", "are either named, or all of them with --all")
    return None if everything else message_ids


def _object(letter: DeadLetter, *, values: bool) -> dict[str, Any]:
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


def _row(letter: DeadLetter, *, values: bool) -> list[object]:
    kinds = sorted({item.kind for item in letter.requests})
    commands = [item.command_id for item in letter.requests if item.command_id]
    shown = commands[0] + (f" and {len(commands) - 1} more" if len(commands) > 1 else "") if commands else ""
    row: list[object] = [letter.message_id, letter.died_at, letter.reason, " ".join(kinds), shown]
    if values:
        # As JSON: what is in a dead letter may be anything, also what a terminal would obey.
        bodies = [item.body for item in letter.requests]
        row.append(json.dumps(bodies if letter.unreadable is None else letter.unreadable))
    return row
