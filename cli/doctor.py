"""`es doctor`: examine every configured part."""

import json
import subprocess
import sys
from typing import Annotated

import typer

from cli import render, session
from domain.kernel.errors import EXIT_CODES, Kind, PartUnavailable
from domain.kernel.messages import Body

app = typer.Typer(add_completion=False)
_DAMAGE = {"damaged", "tampered", "unknown-event-type", "store-behind"}


@app.command()
def doctor(
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only problems.")] = False,
    as_json: render.Json = False,
) -> None:
    """Examine every configured part, and say for each problem what to do next. It needs no running workers."""
    home = ["--home", str(session.settings().home)]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "workers", "doctor", *home],
        stdout=subprocess.PIPE,
        stderr=None if session.options.debug else subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        raise PartUnavailable("the doctor", "it failed", "Run `es --debug doctor` and report its output.")
    findings = json.loads(done.stdout)["findings"]
    shown = [found for found in findings if not quiet or found["state"] != "ok"]
    rows = shown if as_json else [{**found, "detail": _detail(found)} for found in shown]
    if render.is_terminal() and not as_json:
        _show(rows)
    else:
        render.rows(rows, ["part", "state", "version", "detail", "next"], as_json=as_json)
    failed = {found["code"] for found in findings if found["state"] == "failed"}
    if failed:
        raise typer.Exit(EXIT_CODES[Kind.DAMAGED if failed & _DAMAGE else Kind.UNAVAILABLE])


def _show(rows: list[Body]) -> None:
    """A table, and below it each problem with its cure: whole, so that commands in it can be copied."""
    render.rows(rows, ["part", "state", "version", "detail"], as_json=False, first_dropped=["version"])
    for row in rows:
        if row["next"]:
            render.line(f"\n{row['part']}: {row['detail']}\n  next: {row['next']}")


def _detail(found: Body) -> str:
    texts = [found["detail"], found["licence"]]
    if found["schema_version"] is not None:
        texts.append(f"schema version {found['schema_version']}")
    if found["clock_offset_s"] is not None and found["state"] == "ok":
        texts.append(f"clock {found['clock_offset_s']:+.3f} s")
    return ", ".join(text for text in texts if text)
