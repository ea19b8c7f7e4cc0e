"""`es gdpr …`: erasing a person."""

import time
from contextlib import closing
from typing import Annotated

import typer

from cli import render, session
from cli.commands import send
from domain.kernel.errors import PartUnavailable

app = typer.Typer(no_args_is_help=True)

DEFAULT_BASIS = "GDPR Art. 17"
_WAIT_S = 6.0
_POLL_S = 0.03


@app.callback()
def group() -> None:
    """Erase a person for good."""


@app.command()
def erase(
    user_id: Annotated[str, typer.Argument(metavar="ID", help="The user's id.")],
    basis: Annotated[
        str, typer.Option("--basis", metavar="TEXT", help="Why; stored readable, so no personal data.")
    ] = DEFAULT_BASIS,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    command_id: render.CommandId = None,
    as_json: render.Json = False,
) -> None:
    """Destroy a person's key, so that nobody can read their data again, here or in any copy."""
    session.ask_first(f"Erase user {user_id} for good?", because="an erasure cannot be undone", yes=yes)
    reply = send("users", "users.erase", {"user_id": user_id, "basis": basis}, command_id)
    with session.errors_of(reply["command_id"]):
        reply["erasure"] = _wait(user_id)
    render.answer(
        reply,
        as_json=as_json,
        human=lambda: render.line("erased: the key is destroyed, the e-mail address is free"),
    )


def _wait(user_id: str) -> str:
    """Until the erasure is carried out. Raises PartUnavailable while it is still under way."""
    with closing(session.caller()) as connection:
        deadline = time.monotonic() + _WAIT_S
        while True:
            found = connection.ask("erasures", "erasures.status", {"user_id": user_id}, timeout_s=_WAIT_S)
            state: str = found["erasure"]
            if state == "completed":
                return state
            if time.monotonic() > deadline:
                why = found["waits_for"]
                raise PartUnavailable(
                    "the erasure",
                    "it is decided, and not carried out yet" + (f": {why['message']}" if why else ""),
                    "It goes on by itself; `es logs erasures` tells more. Repeating is safe.",
                )
            time.sleep(_POLL_S)
