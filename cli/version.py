"""`es version`: the installed version."""

import typer

from cli import render

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: es version")
def show(as_json: render.Json = False) -> None:
    """Print the version."""
    render.answer({"version": installed()}, as_json=as_json, human=lambda: render.line(f"es {installed()}"))


def installed() -> str:
    from importlib.metadata import version

    return version("es")
