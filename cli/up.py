"""`es up`: start the workers and wait until they are ready."""

import time
from typing import Annotated

import typer

from adapters.clock import now_us
from adapters.settings import Settings
from cli import render, session
from cli.completion import scales
from cli.status import show_workers
from cli.supervisor import name_of, refuse_differences, start_supervisor
from domain.features import registry
from domain.kernel.errors import (
    AnsweredError,
    EsError,
    InvalidInput,
    KeyUnavailable,
    Kind,
    PartUnavailable,
)
from domain.kernel.ids import time_text
from domain.kernel.messages import Body
from es.supervisor import POLL_S, ask_supervisor

app = typer.Typer(add_completion=False)

_READY_WAIT_S = 30.0


@app.command(epilog="Example: es up --scale users=2")
def up(
    scale: Annotated[
        list[str] | None,
        typer.Option(
            "--scale", metavar="ROLE=N", autocompletion=scales, help="Run N workers of a role. Repeatable."
        ),
    ] = None,
    as_json: render.Json = False,
) -> None:
    """Start the workers in the background and wait until they are ready."""
    settings = session.settings()
    began = time_text(now_us())
    scaled = [_scaled(item, settings) for item in scale or []]
    if not start_supervisor(settings, roles=scaled):
        refuse_differences(settings, dict(item.split("=") for item in scaled))
    status = _wait_until_ready(settings, began)
    render.answer(status, as_json=as_json, human=lambda: show_workers(status))
    features = registry(settings.features)
    if features.broken:  # the others run
        raise features.unknown(features.broken[0].error)


def _wait_until_ready(settings: Settings, began: str) -> Body:
    """The status once every worker is ready. Raises PartUnavailable for a worker that needs an operator, or after 30 s.

    An error from before the time `began` may have been fixed, so it counts only if it occurs again.
    """
    deadline = time.monotonic() + _READY_WAIT_S
    noted = False
    while True:
        status = ask_supervisor(settings, "supervisor.status")
        if status is None:
            raise PartUnavailable("the supervisor", "it has ended", "Look at `es logs supervisor`.")
        late = [worker for worker in status["workers"] if worker["state"] != "ready"]
        if not late:
            return status
        for worker in late:
            if _needs_operator(worker):
                if worker["last_error"]["at"] > began:
                    raise _not_ready([worker])
            elif worker["state"] == "waiting" and not noted:
                session.note(f"the {name_of(worker)} worker waits: {worker['last_error']['message']}")
                noted = True
        if time.monotonic() > deadline:
            raise _not_ready(late)
        time.sleep(POLL_S)


def _needs_operator(worker: Body) -> bool:
    """Whether waiting does not help: an unavailable part may recover, a missing key or a damaged part does not."""
    if worker["state"] == "waiting":
        error = worker["last_error"]
        return bool(error["code"] == KeyUnavailable.code or error["kind"] == Kind.DAMAGED)
    return bool(worker["state"] == "failing")


def _scaled(item: str, settings: Settings) -> str:
    role, _, count = item.partition("=")
    known = registry(settings.features)
    wrong = InvalidInput("--scale", "must look like users=2, with a role and a number from 1 to 64")
    if not (count.isascii() and count.isdecimal()) or not 1 <= int(count) <= 64:
        raise wrong
    if known.role(role) is None:
        raise known.unknown(wrong)
    return item


def _not_ready(late: list[Body]) -> EsError:
    for worker in late:
        if error := worker["last_error"]:
            if error.get("kind") == Kind.DAMAGED:
                return AnsweredError.from_wire(error)
            hint = error.get("hint") or "Look at `es logs`."
            return PartUnavailable(f"the {name_of(worker)} worker", error["message"], hint)
    names = ", ".join(map(name_of, late))
    return PartUnavailable(
        f"the {names} worker", f"not ready after {_READY_WAIT_S:g} s", "Look at `es logs`."
    )
