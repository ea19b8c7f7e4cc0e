"""`es events …`: all events, in commit order, as they are stored. Personal fields stay sealed."""

import json
from typing import Annotated, Any

import typer

from cli import render, session
from domain.kernel.messages import Body

app = typer.Typer(no_args_is_help=True)

_SHOWN_CHARACTERS = 60


@app.callback()
def group() -> None:
    """Watch events as they are stored."""


@app.command()
def tail(
    type_: Annotated[str, typer.Option("--type", metavar="T", help="Only events whose type starts so.")] = "",
    stream: Annotated[
        str, typer.Option("--stream", metavar="S", help="Only streams whose name starts so.")
    ] = "",
    start: Annotated[
        int | None,
        typer.Option("--from", metavar="POSITION", min=0, help="Start after this position, not at the end."),
    ] = None,
    stop: Annotated[
        bool, typer.Option("--no-follow", help="Stop at the end instead of waiting for more.")
    ] = False,
    as_json: render.Json = False,
) -> None:
    """Print events as they are stored, until Ctrl-C."""
    position = start
    if position is None:
        position = session.ask("projections", "events.read", {"from_end": True})["position"]
    connection = session.caller()
    while True:
        body = {"after_position": position, "prefix": stream, "type": type_, "limit": 500, "wait": not stop}
        page = connection.ask("projections", "events.read", body, timeout_s=session.TIMEOUT_S)
        for event in page["events"]:
            show_event(event, as_json=as_json)
        if stop and page["position"] == position:
            return
        position = page["position"]


def show_event(event: Body, *, as_json: bool) -> None:
    if as_json:
        render.json_line(event)
        return
    data = json.dumps({name: _short(value) for name, value in event["data"].items()}, ensure_ascii=False)
    render.line(
        "\t".join(
            [
                str(event["position"]),
                event["time"],
                event["stream"],
                str(event["version"]),
                event["type"],
                data,
            ]
        )
    )


def _short(value: Any) -> Any:
    """A sealed value is long and tells nothing; show its beginning."""
    return (
        value[:_SHOWN_CHARACTERS] + "…"
        if isinstance(value, str) and len(value) > _SHOWN_CHARACTERS
        else value
    )
