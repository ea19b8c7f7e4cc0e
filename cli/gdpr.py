"""`es gdpr …`: erase a person's data."""

import time
from contextlib import closing
from typing import Annotated

import typer

from cli import render, session
from cli.completion import bases
from cli.confirm import introduce, person
from domain.kernel.errors import PartUnavailable
from domain.users.commands import BASES, DEFAULT_BASIS, parse_basis

app = typer.Typer(no_args_is_help=True, epilog="Example: es gdpr erase 252562058352301107")

_WAIT_S = 6.0
_POLL_S = 0.03


@app.command(epilog="Example: es gdpr erase 252562058352301107")
def erase(
    user_id: Annotated[str, typer.Argument(metavar="ID", help="The user's id.")],
    basis: Annotated[
        str,
        typer.Option(
            "--basis", metavar="CODE", autocompletion=bases, help=f"The reason: {', '.join(BASES)}."
        ),
    ] = DEFAULT_BASIS,
    yes: render.Yes = False,
    command_id: render.CommandId = None,
    as_json: render.Json = False,
) -> None:
    """Destroy a person's data key, so that their data stays sealed for ever, here and in every copy."""
    basis = parse_basis(basis)  # before anything is asked
    introduce(lambda: person({"user_id": user_id}), yes=yes)
    session.ask_first("Erase this person for good?", because="an erasure cannot be undone", yes=yes)
    reply = session.send("users", "users.erase", {"user_id": user_id, "basis": basis}, given_id=command_id)
    reply["erasure"] = _wait(user_id)
    if reply.get("key") == "missing":
        session.note(
            "the vault had lost the key of this person; a copy of the vault that has it can still open them"
        )
    render.answer(
        reply,
        as_json=as_json,
        human=lambda: render.line("erased: the key is destroyed, the e-mail address is free"),
    )


def _wait(user_id: str) -> str:
    """Wait until the erasure is completed. Raises PartUnavailable if that takes longer than 6 s."""
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
                    "it is stored, but the key is not destroyed yet" + (f": {why['message']}" if why else ""),
                    "`erasures` continues without you. See `es logs erasures`. Retrying is safe.",
                )
            time.sleep(_POLL_S)
