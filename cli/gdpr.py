"""`es gdpr …`: erase a person's data."""

import time
from contextlib import closing
from typing import Annotated

import typer

from cli import render, session
from cli.completion import bases
from cli.confirm import introduce, person
from domain.kernel.errors import EXIT_CODES, EsError, Kind
from domain.kernel.messages import Body
from domain.users.commands import BASES, DEFAULT_BASIS, parse_basis

app = typer.Typer(no_args_is_help=True, epilog="Example: es gdpr erase 252562058352301107")

_WAIT_S = 6.0
_POLL_S = 0.03
_PAGE = 1000
_COMPLETED = "completed"
_KEY_DESTROYED = "key-destroyed"
_UNCONFIRMED = "unconfirmed"
_OPEN = ", so the outcome is unknown"
"""How a transport ends the reason of a request without a reply."""
_SAID = {
    "decided": "it is stored, but the key is not destroyed yet",
    _UNCONFIRMED: "it is stored, but no worker confirmed that the key is destroyed",
    _KEY_DESTROYED: "the key is destroyed and nothing opens the data any more, but the cleaning is not finished",
}


class ErasureOwed(EsError):
    """The erasure is stored, and is not completed yet as far as is known. The code is its state."""

    code: str
    reason: str
    hint: str = (
        "`erasures` goes on without you, and lists it in `es gdpr status`. `es gdpr resume` tries at once."
    )
    kind: Kind = Kind.UNAVAILABLE

    def __str__(self) -> str:
        said = _SAID.get(self.code, f"the erasure is {self.code}")
        return f"{said}: {self.reason}" if self.reason else said


@app.command(epilog="Example: es gdpr erase 252562058352301107")
def erase(
    user_id: Annotated[str, typer.Argument(metavar="ID", help="The user's id.")],
    basis: Annotated[
        str,
        typer.Option(
            "--basis", metavar="CODE", autocompletion=bases, help=f"The reason: {', '.join(BASES)}."
        ),
    ] = DEFAULT_BASIS,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what an erasure reaches. Nothing is changed.")
    ] = False,
    yes: render.Yes = False,
    command_id: render.CommandId = None,
    as_json: render.Json = False,
) -> None:
    """Destroy a person's data key, so that their data stays sealed for ever, here and in every copy.

    It reaches the person's own stream and all streams of other services with data of the person.
    """
    basis = parse_basis(basis)  # before anything is asked
    if dry_run:
        found = _reach(user_id)
        render.answer(found, as_json=as_json, human=lambda: render.line(_said_of(found)))
        return
    introduce(lambda: person({"user_id": user_id}), yes=yes)
    introduce(lambda: _said_of(_reach(user_id)), yes=yes)
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


@app.command(epilog="Example: es gdpr status")
def status(as_json: render.Json = False) -> None:
    """List erasures that are decided and not completed, and events of other programs that look like one.

    The exit code is 4 if an erasure is owed. In the state key-destroyed nothing opens the person's data any more, but
    dead letters, or bytes of destroyed keys in the files of the vault, may be left.
    """
    _show(_listed(), as_json=as_json)


@app.command(epilog="Example: es gdpr resume")
def resume(as_json: render.Json = False) -> None:
    """Try every erasure that is owed at once, and list what is left. The workers also do so every few seconds."""
    before = {row["user_id"]: row["attempts"] for row in _listed()["owed"]}
    session.ask("erasures", "erasures.resume", {})
    deadline = time.monotonic() + _WAIT_S
    while True:
        found = _listed()
        # A row that was tried again without an end has one more attempt.
        waiting = [row for row in found["owed"] if row["attempts"] <= before.get(row["user_id"], 0)]
        if not waiting or time.monotonic() > deadline:
            break
        time.sleep(_POLL_S)
    _show(found, as_json=as_json)


def _reach(user_id: str) -> Body:
    """What an erasure reaches. Raises EsError."""
    return session.ask("projections", "gdpr.reach", {"user_id": user_id}, timeout_s=_WAIT_S + 2)


def _said_of(found: Body) -> str:
    streams = f"{'more than ' if found['more'] else ''}{_counted(found['streams'], 'stream')}"
    state = "is erased already; the erasure covers" if found["erased"] else "can be erased, in"
    claims = [_counted(found["email_claims"], "e-mail address")]
    claims += [_counted(found["other_claims"], "other unique value")] if found["other_claims"] else []
    return f"user {found['user_id']} {state} {', '.join([streams, *claims])}"


def _counted(count: int, what: str) -> str:
    plural = "es" if what.endswith("s") else "s"
    return f"{count} {what}{'' if count == 1 else plural}"


def _wait(user_id: str) -> str:
    """Wait until the vault holds nothing of the person. Raises ErasureOwed if that takes longer than 6 s or is not told."""
    known: str = _UNCONFIRMED
    asked_again = False
    question, deadline = {"user_id": user_id}, time.monotonic() + _WAIT_S
    try:
        with closing(session.caller()) as connection:
            while True:
                found = connection.ask("erasures", "erasures.status", question, timeout_s=_WAIT_S)
                known = found["erasure"]
                if known == _COMPLETED and asked_again:
                    return known
                if known == _COMPLETED:
                    # Completed earlier: dead letters may have come since.
                    known = _KEY_DESTROYED
                    connection.ask("erasures", "erasures.resume", question, timeout_s=_WAIT_S)
                asked_again = True
                if time.monotonic() > deadline:
                    break
                time.sleep(_POLL_S)
    except EsError as error:
        # Its own text and exit code would leave open whether the erasure is stored.
        kind = Kind.DAMAGED if error.kind is Kind.DAMAGED else Kind.UNAVAILABLE
        raise ErasureOwed(known, str(error).removesuffix(_OPEN), error.hint, kind) from error
    raise ErasureOwed(known, found["reason"] or "")


def _listed() -> Body:
    """`{"owed", "quarantined"}`, all of them."""
    found: Body = {"owed": [], "quarantined": []}
    following: Body | None = {}
    with closing(session.caller()) as connection:
        while following is not None:
            question = {"limit": _PAGE, **following}
            page = connection.ask("erasures", "erasures.owed", question, timeout_s=session.TIMEOUT_S)
            found["owed"] += page["owed"]
            found["quarantined"] += page["quarantined"]
            following = page["next"]
    return found


def _show(found: Body, *, as_json: bool) -> None:
    """Print one row for each owed erasure and each quarantined event. Exits with 4 if an erasure is owed."""
    quarantined = [
        {**row, "erasure": "quarantined", "reason": f"{row['type']} in {row['stream']}: {row['error']}"}
        for row in found["quarantined"]
    ]
    rows = [*found["owed"], *quarantined]
    if rows or as_json:
        columns = ["user_id", "erasure", "position", "age_s", "attempts", "letters", "reason"]
        unknown = dict.fromkeys(columns)
        render.rows([{**unknown, **row} for row in rows], columns, as_json=as_json)
    else:
        render.line("no erasure is owed")
    if found["owed"]:
        raise typer.Exit(EXIT_CODES[Kind.UNAVAILABLE])
