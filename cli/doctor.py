"""`es doctor`: examine every configured part."""

import json
import subprocess
import sys
from typing import Annotated

import typer

from cli import render, session
from domain.kernel.errors import (
    EXIT_CODES,
    Kind,
    PartUnavailable,
)
from domain.kernel.messages import Body

app = typer.Typer(add_completion=False)
_DAMAGE = {"damaged", "tampered", "unknown-event-type", "store-behind"}


@app.command()
def doctor(
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but problems.")] = False,
    as_json: render.Json = False,
) -> None:
    """Examine every configured part; for each problem it says what to do next. Works while the workers are down."""
    home = ["--home", str(session.settings().home)]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "workers", "doctor", *home],
        stdout=subprocess.PIPE,
        stderr=None if session.options.debug else subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        raise PartUnavailable("the doctor", "it failed itself", "Run `es --debug doctor`, and report it.")
    findings = json.loads(done.stdout)["findings"]
    shown = [found for found in findings if not quiet or found["state"] != "ok"]
    if as_json:
        for found in shown:
            render.json_line(found)
    else:
        columns = ["part", "state", "version", "detail", "next"]
        rows = [{**found, "detail": _doctor_detail(found)} for found in shown]
        render.table(columns, [[row[column] for column in columns] for row in rows])
    failed = {found["code"] for found in findings if found["state"] == "failed"}
    if failed:
        raise typer.Exit(EXIT_CODES[Kind.DAMAGED if failed & _DAMAGE else Kind.UNAVAILABLE])


def _doctor_detail(found: Body) -> str:
    said = [found["detail"], found["licence"]]
    if found["schema_version"] is not None:
        said.append(f"schema version {found['schema_version']}")
    if found["clock_offset_s"] is not None and found["state"] == "ok":
        said.append(f"clock {found['clock_offset_s']:+.3f} s")
    return ", ".join(part for part in said if part)
