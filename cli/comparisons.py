"""What a comparison of two generations found, for reading, and the exit code that says it."""

from __future__ import annotations

from functools import partial
from typing import Any

import typer

from cli import render
from domain.kernel.errors import EXIT_CODES, Kind
from domain.kernel.messages import Body

_EXITS = {"equal": 0, "differs": EXIT_CODES[Kind.REFUSED], "untrusted": EXIT_CODES[Kind.DAMAGED]}


def show(found: Body, *, as_json: bool) -> None:
    """Print a report. Raises typer.Exit: 0 for equal rows, 1 if they differ, 5 if they cannot be trusted."""
    render.answer(found, as_json=as_json, human=partial(_show, found))
    raise typer.Exit(_EXITS[found["result"]])


def _show(found: Body) -> None:
    name = found["projection"]
    first, second = found["generations"]
    rows = " and ".join(map(str, found["rows"]))
    speed = f"; {found['events']} events, {found['events_per_s']}/s" if "events" in found else ""
    render.sentence(
        f"{name}: generations {first} and {second} at position {found['position']}: {rows} rows{speed}"
    )
    for number, side in ((first, found["only_first"]), (second, found["only_second"])):
        _show_rows(f"only in generation {number}", side)
    _show_rows("different rows", found["differ"])
    for column, difference in found["columns"].items():
        _show_rows(f"different {column}", difference)
    for number, parked in zip((first, second), found["parked"], strict=True):
        if parked:
            render.sentence(f"generation {number} has {parked} parked events: its rows lack them")
    render.sentence(_verdict(found))


def _show_rows(what: str, difference: Any) -> None:
    if difference["rows"]:
        render.sentence(f"{what}: {difference['rows']}, for example {', '.join(difference['keys'])}")


def _verdict(found: Body) -> str:
    name, (_, second) = found["projection"], found["generations"]
    if found["result"] == "equal":
        return f"The rows are equal. `es projections switch {name} {second}` switches to generation {second}."
    if found["result"] == "differs":
        return (
            f"The rows differ. If those of generation {second} are right, `es projections switch {name} {second}` "
            "switches to it."
        )
    return f"The rows cannot be trusted. `es projections status {name}` counts the parked events; correct their cause."
