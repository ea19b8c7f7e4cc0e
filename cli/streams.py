"""`es streams …`: the events of one stream, as they are stored. Personal fields stay sealed."""

from typing import Annotated

import typer

from cli import render, session
from domain.kernel.errors import EsError, Kind

app = typer.Typer(no_args_is_help=True)


class StreamNotFound(EsError):
    code = "stream-not-found"
    kind = Kind.NOT_FOUND
    hint = "List the streams with `es streams list`."

    def __str__(self) -> str:
        return "the stream has no such events"


@app.command("list")
def list_streams(
    prefix: Annotated[str, typer.Option("--prefix", help="Only streams whose name starts with this.")] = "",
    after: Annotated[
        str, typer.Option("--after", metavar="STREAM", help="Only streams after this name.")
    ] = "",
    limit: render.Limit = 100,
    as_json: render.Json = False,
) -> None:
    """List streams in order of name, each with its version."""
    body = {"prefix": prefix, "after": after}
    streams, _ = session.listed("streams.list", body, "streams", limit=limit)
    render.rows(streams, ["stream", "version"], as_json=as_json)


@app.command()
def read(
    stream: Annotated[str, typer.Argument(metavar="STREAM", help="For example user-123.")],
    from_version: Annotated[
        int, typer.Option("--from", metavar="VERSION", min=0, help="The first version to show.")
    ] = 0,
    limit: render.Limit = 1000,
    backwards: Annotated[bool, typer.Option("--backwards", help="Show the last event first.")] = False,
    as_json: render.Json = False,
) -> None:
    """Show the events of a stream."""
    body = {"stream": stream, "from_version": from_version, "backwards": backwards}
    events, _ = session.listed("streams.read", body, "events", limit=limit)
    if not events:
        raise StreamNotFound
    for event in events:
        render.event(event, as_json=as_json)
