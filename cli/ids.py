"""`es ids …`: draw ids, read what they contain, and inspect the lanes that they come from.

Promise: memory stays the same for any number of ids. Refusal: no id is made here; they come from `ids` workers.
"""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from cli import render, session
from cli.times import parse_time_us
from domain.kernel.errors import EsError, Kind
from domain.kernel.ids import Range, ceil_id, decode, floor_id, parse_id, time_text
from domain.kernel.messages import Body
from domain.lanes.limits import CHECK_MAX, COUNT_MAX

app = typer.Typer(no_args_is_help=True)

Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Ids.")]
Time = Annotated[
    str, typer.Argument(metavar="TIME", help="RFC 3339, or a date; UTC unless it names a time zone.")
]
_PRINTED_COUNT = 1 << 20  # ids in one request if each is printed
_LANES_TIMEOUT_S = 60.0  # all lanes are read, which takes long in a large store


class ProofFailed(EsError):
    """The audit of the lanes found violations: grants may overlap."""

    problems: int
    code = "grants-not-disjoint"
    kind = Kind.REFUSED  # exit 1: a verification found something
    hint = "Stop the `ids` workers, restore the missing events, then run `es ids fence`."

    def __str__(self) -> str:
        return f"the grants of lanes have {self.problems} problems"


# --- drawing ---------------------------------------------------------------------------------


@app.command("next")
def next_ids(
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many.")] = 1,
    after: Annotated[
        str | None, typer.Option("--after", metavar="ID", help="Only ids greater than this one.")
    ] = None,
    ranges: Annotated[
        bool, typer.Option("--ranges", help="Print first, step and count of each range instead of its ids.")
    ] = False,
    as_json: render.Json = False,
) -> None:
    """Draw ids and print one per line. They are never issued to another caller, even if you do not use them."""
    if after is not None:
        after = str(parse_id(after, field="--after"))
    blocks = _draw(count, after, COUNT_MAX if ranges else _PRINTED_COUNT)
    if ranges:
        render.rows(
            ({"first": str(block.first), "step": block.step, "count": block.count} for block in blocks),
            ["first", "step", "count"],
            as_json=as_json,
        )
        return
    form = '{"id":"%d"}' if as_json else "%d"
    for block in blocks:
        for piece in _pieces(block):
            render.line("\n".join([form % id_ for id_ in piece]))


def _draw(count: int, after: str | None, block: int) -> Iterator[Range]:
    """Draw ids in requests of at most `block` ids, each when the one before it is used up."""
    connection = session.caller()
    try:
        while count:
            body: dict[str, Any] = {"count": min(count, block)}
            if after is not None:
                body["after"] = after
            reply = connection.ask("ids", "ids.next", body, timeout_s=session.TIMEOUT_S)
            for item in reply["ranges"]:
                yield Range(int(item["first"]), item["count"], item["step"])
            count -= body["count"]
    finally:
        connection.close()


def _pieces(block: Range, size: int = 4096) -> Iterator[range]:
    """The ids of a block in pieces: a whole block as text would fill the memory."""
    for start in range(0, block.count, size):
        end = min(start + size, block.count)
        yield range(block.first + start * block.step, block.first + end * block.step, block.step)


# --- reading ids -----------------------------------------------------------------------------


@app.command("decode")
def decode_ids(ids: Ids, as_json: render.Json = False) -> None:
    """Show the time, lane and position of ids. Needs no worker."""
    rows: list[Body] = []
    for text in ids:
        found = decode(parse_id(text))
        rows.append(
            {
                "id": str(found.id),
                "time": time_text(found.time_us),
                "lane": found.lane,
                "position": str(found.position),
            }
        )
    columns = ["id", "time", "lane", "position"]
    render.rows(rows, columns, as_json=as_json, whole_times=True)


@app.command()
def floor(at: Time, as_json: render.Json = False) -> None:
    """Print the smallest id of a time or later: ids of [A, B) are floor(A) <= id < floor(B). Needs no worker."""
    _show_id(floor_id(parse_time_us(at, "TIME")), as_json)


@app.command()
def ceil(at: Time, as_json: render.Json = False) -> None:
    """Print the largest id of a time or earlier. Needs no worker."""
    _show_id(ceil_id(parse_time_us(at, "TIME")), as_json)


def _show_id(id_: int, as_json: bool) -> None:
    render.answer({"id": str(id_)}, as_json=as_json, human=lambda: render.line(str(id_)))


# --- lanes -----------------------------------------------------------------------------------


@app.command()
def check(ids: Ids, as_json: render.Json = False) -> None:
    """Show the grant of each id: worker, host, process and time, or that it was never granted."""
    answers: list[Body] = []
    for start in range(0, len(ids), CHECK_MAX):
        part = [str(parse_id(text)) for text in ids[start : start + CHECK_MAX]]
        answers += session.ask("ids", "ids.check", {"ids": part}, timeout_s=_LANES_TIMEOUT_S)["ids"]
    columns = ["id", "status", "time", "lane", "worker", "host", "pid", "granted_at", "from", "until"]
    render.rows(answers, columns, as_json=as_json)
    if any(answer["status"] != "granted" for answer in answers):
        raise typer.Exit(1)


@app.command("lanes")
def show_lanes(as_json: render.Json = False) -> None:
    """Show every lane that was ever used, its worker, and the end of its grant."""
    lanes = session.ask("ids", "ids.lanes", {}, timeout_s=_LANES_TIMEOUT_S)["lanes"]
    render.rows(
        lanes,
        ["lane", "status", "from", "until", "worker", "host", "pid", "version", "quarantined"],
        as_json=as_json,
        first_dropped=["version", "host", "pid", "from", "worker", "until"],
    )


@app.command()
def verify(as_json: render.Json = False) -> None:
    """Prove from the streams of all lanes that no two grants overlap. Exit code 1 if they do not prove it."""
    proof = session.ask("ids", "ids.verify", {}, timeout_s=_LANES_TIMEOUT_S)
    summary = {name: value for name, value in proof.items() if name != "problems"}
    render.answer(proof, as_json=as_json, human=lambda: render.fields(summary))
    if not as_json:
        for problem in proof["problems"]:
            render.line(f"problem: {problem}")
    if not proof["ok"]:
        raise ProofFailed(len(proof["problems"]))


@app.command()
def fence(
    workers_stopped: Annotated[
        bool,
        typer.Option(
            "--workers-stopped",
            help="You vouch that no `ids` worker from before the restore runs: ids resume after 2 s, not 5 minutes.",
        ),
    ] = False,
    yes: render.Yes = False,
    command_id: render.CommandId = None,
    as_json: render.Json = False,
) -> None:
    """After an older copy of the event store was restored: raise every lane beyond all grants that may be lost.

    No id is issued until the time of the floor, which is printed. These five minutes cannot be undone.
    """
    chosen = session.command_id(command_id)
    session.ask_first(
        "Stop all ids until the lost time is over?", because="a fence stops all ids for minutes", yes=yes
    )
    body = {"command_id": chosen, "workers_stopped": workers_stopped}
    with session.errors_of(chosen):
        answer = session.ask("ids", "ids.fence", body, timeout_s=_LANES_TIMEOUT_S)
    render.record(answer, as_json=as_json)
