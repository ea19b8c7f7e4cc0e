"""`es streams …`: the events of one stream, as they are stored. Personal fields stay sealed."""

from typing import Annotated

import typer

from cli import render, session
from cli.completion import streams
from cli.lists import remark_on_more
from domain.kernel.errors import EsError, Kind

app = typer.Typer(no_args_is_help=True, epilog="Example: es streams list --prefix user-")

Prefix = Annotated[
    str,
    typer.Option(
        "--prefix", metavar="PREFIX", autocompletion=streams, help="Only streams whose name starts with this."
    ),
]

ShowAll = Annotated[
    bool,
    typer.Option("--all", help="Also streams that only hold which id a command was given: created-…."),
]


class StreamNotFound(EsError):
    code = "stream-not-found"
    kind = Kind.NOT_FOUND
    hint = "List the streams with `es streams list`."

    def __str__(self) -> str:
        return "the stream has no such events"


@app.command("list", epilog="Example: es streams list --prefix user-")
def list_streams(
    context: typer.Context,
    prefix: Prefix = "",
    after: Annotated[
        str, typer.Option("--after", metavar="STREAM", help="Only streams after this name.")
    ] = "",
    limit: render.Limit = 100,
    person: Annotated[
        str | None,
        typer.Option(
            "--person", metavar="ID", help="Only streams with data of this user, and the user's own."
        ),
    ] = None,
    show_all: ShowAll = False,
    as_json: render.Json = False,
) -> None:
    """List streams in order of name, each with its version. It waits until every stored event is included.

    With --person the version is that of the last event that names the user.
    """
    body = {"prefix": prefix, "after": after, "person": person, "all": show_all}
    with session.listing("streams.list", body, "streams", limit=limit) as found:
        render.rows(found, ["stream", "version"], as_json=as_json)
    remark_on_more(context, found.count, found.following)


@app.command(epilog="Example: es streams count --prefix user-")
def count(
    prefix: Prefix = "",
    show_all: ShowAll = False,
    as_json: render.Json = False,
) -> None:
    """Show the number of streams. It waits until every stored event is included, and counts at most 1,000,000."""
    counted = session.ask("projections", "streams.count", {"prefix": prefix, "all": show_all})
    render.answer(counted, as_json=as_json, human=lambda: render.line(str(counted["streams"])))
    if counted["more"]:
        session.note(f"there are more than these {counted['streams']}; give a longer prefix")


@app.command(epilog="Example: es streams read user-252562058352301107")
def read(
    context: typer.Context,
    stream: Annotated[
        str, typer.Argument(metavar="STREAM", autocompletion=streams, help="For example user-123.")
    ],
    from_version: Annotated[
        int, typer.Option("--from", metavar="VERSION", min=0, help="The first version to show.")
    ] = 0,
    limit: render.Limit = 1000,
    backwards: Annotated[bool, typer.Option("--backwards", help="Show the last event first.")] = False,
    as_json: render.Json = False,
) -> None:
    """Show the events of a stream."""
    body = {"stream": stream, "from_version": from_version, "backwards": backwards}
    with session.listing("streams.read", body, "events", limit=limit) as events:
        for event in events:
            render.event(event, as_json=as_json)
    if not events.count:
        raise StreamNotFound
    # Backwards there is no option for the earlier events: the others are those from the beginning.
    is_backwards = bool(events.following) and backwards
    remark_on_more(context, events.count, {"backwards": False} if is_backwards else events.following)
