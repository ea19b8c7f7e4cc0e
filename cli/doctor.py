"""`es doctor`: examine every configured part."""

import json
import subprocess
import sys
from functools import partial
from typing import Annotated

import typer

from cli import render, session
from cli.problems import unavailable, workers
from cli.progress import Progress
from cli.status import ask_status
from domain.kernel.errors import EXIT_CODES, Kind, PartUnavailable
from domain.kernel.messages import Body

app = typer.Typer(add_completion=False)
_UNKNOWN: Body = {
    "version": "",
    "licence": "",
    "schema_version": None,
    "clock_offset_s": None,
    "code": "",
}
"""The fields of a finding that a worker has not."""
_DAMAGE = {
    "damaged",
    "tampered",
    "unknown-event-type",
    "sealed-by-newer",
    "store-behind",
    "foreign-part",
    "copied-store",
}


@app.command(epilog="Example: es doctor --quiet")
def doctor(
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only problems.")] = False,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Also read and compare everything that is stored. This takes minutes."),
    ] = False,
    as_json: render.Json = False,
) -> None:
    """Examine every configured part and every worker, and say for each problem what to do next.

    The exit code is 5 if a part is damaged, 4 if a part or a worker is unavailable, 1 if there are warnings only.
    """
    findings = _findings(["--deep"] if deep else [])
    findings += _of_workers({(found["part"], found["state"]) for found in findings})
    shown = [found for found in findings if not quiet or found["state"] != "ok"]
    rows = shown if as_json else [{**found, "detail": _detail(found)} for found in shown]
    if render.is_terminal() and not as_json:
        _show(rows)
    else:
        render.rows(rows, ["part", "state", "version", "detail", "next"], as_json=as_json)
    failed = {found["code"] for found in findings if found["state"] == "failed"}
    if failed:
        raise typer.Exit(EXIT_CODES[Kind.DAMAGED if failed & _DAMAGE else Kind.UNAVAILABLE])
    if any(found["state"] == "warning" for found in findings):
        raise typer.Exit(EXIT_CODES[Kind.REFUSED])


def _of_workers(reported: set[tuple[str, str]]) -> list[Body]:
    """The findings about workers; not those of parts that failed, or that have such a finding already."""
    try:
        found = ask_status()
        findings = [*workers(found), *found["problems"]]
    except PartUnavailable as error:
        findings = [unavailable("workers", error)]
    return [
        _UNKNOWN | finding
        for finding in findings
        if not reported & {(finding["part"], "failed"), (finding["part"], finding["state"])}
    ]


def _findings(options: list[str]) -> list[Body]:
    """Run the checks in a process that may import everything, and show their progress."""
    home = ["--home", str(session.settings().home)]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "workers", "doctor", *home, *options],
        stdout=subprocess.PIPE,
        stderr=None if session.options.debug else subprocess.DEVNULL,
    )
    findings: list[Body] | None = None
    progress = Progress()
    with process as running:
        assert running.stdout is not None
        for line in running.stdout:
            said = json.loads(line)
            findings = said.get("findings", findings)
            progress.show(partial(said.get, "progress", ""))
    if options:
        progress.close(f"compared everything in {progress.elapsed_s:.0f} s")
    if process.returncode or findings is None:
        raise PartUnavailable("the doctor", "it failed", "Run `es --debug doctor` and report its output.")
    return findings


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
