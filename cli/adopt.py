"""`es adopt`: make a copied or moved home, or exchanged parts, one system."""

import json
import subprocess
import sys
from typing import Annotated

import typer

from cli import render, session
from domain.kernel.errors import AnsweredError, PartUnavailable
from domain.kernel.messages import Body

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: es adopt --moved")
def adopt(
    moved: Annotated[
        bool,
        typer.Option("--moved", help="Keep all ids: the original is gone, or nothing was copied."),
    ] = False,
    named: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="PART",
            help="Also change a part outside the home: store, vault or database. Repeatable.",
        ),
    ] = None,
    yes: render.Yes = False,
    as_json: render.Json = False,
) -> None:
    """Give the parts of this home a new system id, so that a copy is a system of its own.

    Stop the workers first. A part outside the home keeps its id unless it is named, and then the workers refuse it. The
    broker keeps the id of its system: give a copy a virtual host of its own. Repeating is safe.
    """
    options = [*(["--moved"] if moved else []), *(f"--with={name}" for name in named or [])]
    _show(_run(options))
    question = "Record that the home lies here?" if moved else "Make these parts one system?"
    session.ask_first(question, because="the parts may belong to another system", yes=yes)
    done = _run([*options, "--apply"])
    render.answer(done, as_json=as_json, human=lambda: render.line(f"system {done['system']}"))


def _run(options: list[str]) -> Body:
    """Run it in a process that may import everything. Raises the error that the process reports."""
    process = subprocess.run(
        [sys.executable, "-P", "-m", "workers", "adopt", "--home", str(session.settings().home), *options],
        stdout=subprocess.PIPE,
        stderr=None if session.options.debug else subprocess.DEVNULL,
        check=False,
    )
    if not process.stdout.strip():
        raise PartUnavailable(
            "the command", "it failed", "Run `es --debug adopt` and report its output. Repeating is safe."
        )
    said = json.loads(process.stdout)
    if "error" in said:
        raise AnsweredError.from_wire(said["error"])
    done: Body = said["done"]
    return done


def _show(plan: Body) -> None:
    """Say on standard error what the command finds and what it will change."""
    if plan["original"]:
        session.note(f"the store was made or adopted at {plan['original']}")
    for part in plan["parts"]:
        has = f"system {part['system']}" if part["system"] else "no system id"
        becomes = f"becomes {part['becomes']}" if part["becomes"] else "stays as it is"
        where = ", outside the home" if part["outside"] else ""
        session.note(f"{part['part']} {part['place']}{where}: {has}, {becomes}")
