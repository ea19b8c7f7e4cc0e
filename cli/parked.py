"""`es projections parked …`: the events that a projection could not apply. Personal values stay sealed."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from cli import render, session
from cli.completion import projections
from cli.lists import remark_on_more
from domain.kernel.errors import EsError, InvalidInput, Kind
from domain.kernel.messages import Body

app = typer.Typer(
    help="Look at the events that a projection could not apply; retry or drop them.",
    no_args_is_help=True,
    epilog="Example: es projections parked list users",
)

Name = Annotated[
    str, typer.Argument(metavar="NAME", autocompletion=projections, help="The projection, for example users.")
]
Position = Annotated[int, typer.Argument(metavar="POSITION", min=0, help="The position of the event.")]


class StillParked(EsError):
    """Some events could not be applied this time either."""

    projection: str
    count: int
    code = "still-parked"
    kind = Kind.REFUSED
    hint = (
        "Correct the cause that is shown, then retry; or give an event up with `es projections parked drop`."
    )

    def __str__(self) -> str:
        return f"{self.count} events of {self.projection} are still parked"


@app.command("list", epilog="Example: es projections parked list")
def list_parked(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", autocompletion=projections, help="The projection. Default: all."),
    ] = None,
    after: Annotated[
        int, typer.Option("--after", metavar="POSITION", min=0, help="Only events after this position.")
    ] = 0,
    limit: render.Limit = 100,
    as_json: render.Json = False,
) -> None:
    """List the first parked event of each stream, with the number of later events parked behind it.

    Without NAME, those of all projections. The rows of these streams lack everything since the time of that event. Other streams are not affected.
    """
    if name is None and after:
        raise InvalidInput("--after", "needs the NAME of a projection")
    found: list[Body] = []
    following: Mapping[str, Any] | None = None
    for each in _with_parked() if name is None else [name]:
        body = {"name": each, "after": after}
        with session.listing("projections.parked.list", body, "parked", limit=limit - len(found)) as rows:
            found += [{"projection": each, **row} for row in rows]
        if rows.following is not None:
            following = {"name": each, **rows.following}
            break
    columns = ["projection", "position", "stream", "type", "error", "behind", "since"]
    render.rows(found, columns, as_json=as_json, first_dropped=["since", "type", "behind"])
    remark_on_more(context, len(found), following)


@app.command(epilog="Example: es projections parked show users 42")
def show(name: Name, position: Position, as_json: render.Json = False) -> None:
    """Show a parked event as it is stored, and its error. Sealed values stay sealed; others are not shown."""
    found = _ask("show", name, position=position)
    if as_json:
        render.json_line(found)
        return
    shown = {field: value for field, value in found.items() if field not in ("data", "unreadable")}
    render.fields(shown)
    for field, value in render.with_reasons({"data": {}, **found}).items():
        render.line(f"data.{field}  {value}")


@app.command(epilog="Example: es projections parked retry users --all")
def retry(
    name: Name,
    position: Annotated[
        int | None,
        typer.Argument(metavar="[POSITION]", min=0, help="A parked event: all of its stream are retried."),
    ] = None,
    stream: Annotated[
        str | None, typer.Option("--stream", metavar="STREAM", help="The stream of which all are retried.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="The parked events of every stream.")] = False,
    as_json: render.Json = False,
) -> None:
    """Apply the parked events of a stream in their order, up to one that cannot be applied.

    An event is taken off the list in the transaction that applies it. The exit code is 1 if some are still parked.
    """
    if (position is not None) + (stream is not None) + everything != 1:
        raise InvalidInput("POSITION", "must be given, or --stream, or --all; one of them")
    left = 0
    after: Body | None = {}
    while after is not None:
        reply = _ask("retry", name, position=position, stream=stream or "", all=everything, **after)
        left += sum(each["left"] for each in reply["retried"])
        _show_retried(reply["retried"], as_json=as_json)
        after = reply["next"]
    if left:
        raise StillParked(name, left)


@app.command(epilog="Example: es projections parked drop users 42")
def drop(name: Name, position: Position, yes: render.Yes = False, as_json: render.Json = False) -> None:
    """Give up an event: take it off the list without applying it.

    The rows of its stream may be wrong until a rebuild, which reads the event again and parks it if it still cannot be applied.
    """
    event = _ask("show", name, position=position)
    if not yes and session.is_interactive():
        session.note(f"event {position} of {event['stream']}, parked for: {event['error']}")
    session.ask_first(
        f"Give it up? Rows of {event['stream']} may be wrong until `es projections rebuild {name}`.",
        because="a dropped event is missing in the rows until a rebuild",
        yes=yes,
    )
    dropped = _ask("drop", name, position=position)
    said = f"dropped event {position} of {dropped['stream']}"
    render.answer(dropped, as_json=as_json, human=lambda: render.line(said))
    if dropped["left"]:
        session.note(
            f"{dropped['left']} events of {dropped['stream']} are still parked: "
            f"`es projections parked retry {name} --stream {dropped['stream']}` applies them"
        )


def _with_parked() -> list[str]:
    """The projections with parked events in the generation that is read."""
    states = session.ask("projections", "projections.status", {})["projections"]
    return [each["projection"] for each in states if each["state"] == "current" and each["parked"]]


def _ask(what: str, name: str, **fields: Any) -> Body:
    return session.ask("projections", f"projections.parked.{what}", {"name": name, **fields})


def _show_retried(retried: list[Body], *, as_json: bool) -> None:
    for each in retried:
        if as_json:
            render.json_line(each)
            continue
        left = f"; {each['left']} still parked: {each['error']}" if each["left"] else ""
        render.line(f"{each['stream']}: {each['applied']} applied{left}")
