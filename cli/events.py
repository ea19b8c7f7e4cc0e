"""`es events …`: all events in commit order, as they are stored. Personal fields stay sealed."""

from typing import Annotated

import typer

from cli import render, session
from cli.completion import event_types, streams
from cli.times import parse_since_us
from domain.kernel.ids import time_text

app = typer.Typer(no_args_is_help=True, epilog="Example: es events tail")

_PAGE = 500
Type = Annotated[
    str,
    typer.Option(
        "--type", metavar="TYPE", autocompletion=event_types, help="Only events whose type starts with this."
    ),
]
Stream = Annotated[
    str,
    typer.Option(
        "--stream", metavar="STREAM", autocompletion=streams, help="Only streams whose name starts with this."
    ),
]


@app.command(epilog="Example: es events tail --type user-renamed --since 10m")
def tail(
    type_: Type = "",
    stream: Stream = "",
    start: Annotated[
        int | None,
        typer.Option(
            "--from",
            metavar="POSITION",
            min=0,
            help="Start after this position. Without it start at the head, with --no-follow at the first event.",
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="TIME",
            help="Only events since a time (RFC 3339), or the last 10m, 2h, 1d. Reads all before them, from --from on.",
        ),
    ] = None,
    stop: Annotated[
        bool, typer.Option("--no-follow", help="Stop at the head instead of waiting for new events.")
    ] = False,
    as_json: render.Json = False,
) -> None:
    """Print events as they are stored, until Ctrl-C. --json shows all their fields."""
    first = "" if since is None else time_text(parse_since_us(since, "--since"))
    position = 0 if start is None and (since is not None or stop) else start
    if position is None:
        position = session.ask("projections", "events.read", {"from_end": True})["position"]
    connection = session.caller()
    while True:
        body = {"after_position": position, "prefix": stream, "type": type_, "limit": _PAGE, "wait": not stop}
        page = connection.ask("projections", "events.read", body, timeout_s=session.TIMEOUT_S)
        for event in page["events"]:
            if event["time"] >= first:
                render.event(event, as_json=as_json)
        if stop and page["position"] == position:
            return
        position = page["position"]
