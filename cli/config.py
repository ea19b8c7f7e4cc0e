"""`es config …`: the settings."""

import typer

from adapters.settings import similar_setting, without_password
from cli import render, session

app = typer.Typer(no_args_is_help=True)


@app.command()
def show(as_json: render.Json = False) -> None:
    """Show every setting with its value and its source. Passwords are hidden."""
    settings = session.settings()
    for name in settings.unknown:
        if not similar_setting(name):  # the others were mentioned when the settings were read
            session.note(f"{name} is no setting of es")
    origins = settings.origins
    shown = {name: {"value": without_password(s.value), "source": s.source} for name, s in origins.items()}
    render.answer(
        shown,
        as_json=as_json,
        human=lambda: render.table(
            ["setting", "value", "from"], [[name, s["value"], s["source"]] for name, s in shown.items()]
        ),
    )
