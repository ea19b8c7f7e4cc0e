"""`es up | down | status | logs`: the workers as a whole."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from adapters.settings import Settings
from adapters.wiring import open_dead_letters, usual_roles, workers_everywhere
from cli import render, session
from domain.errors import (
    EXIT_CODES,
    AnsweredError,
    EsError,
    InvalidInput,
    KeyUnavailable,
    Kind,
    PartUnavailable,
)
from domain.ids import time_text
from domain.messages import ROLES, Body

app = typer.Typer(no_args_is_help=True)

_READY_WAIT_S = 30.0
_DOWN_WAIT_S = 60.0
_POLL_S = 0.05
_PROGRESS_WAIT_S = 2.0
_ROLL_CALL_WAIT_S = 1.0
_DAMAGE = {"damaged", "tampered", "unknown-event-type", "store-behind"}


def start_supervisor(settings: Settings, *, roles: list[str] | None = None) -> bool:
    """Start a detached supervisor and wait until it listens; False if one was running. Raises PartUnavailable."""
    arguments = [sys.executable, "-P", "-m", "workers", "supervise", "--home", str(settings.home)]
    for role in roles or []:
        arguments += ["--role", role]
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",  # a daemon must not hold somebody's working directory
    )
    assert process.stdout is not None
    with process.stdout:
        said = process.stdout.readline()
    message = json.loads(said) if said else {"error": None}
    if "error" in message:
        raise _from_wire(message["error"])
    return bool(message["state"] == "listening")


def _from_wire(error: dict[str, str] | None) -> EsError:
    if error is None:
        return PartUnavailable(
            "the supervisor", "it ended at once", "Run `es workers run ids` to see its errors."
        )
    return AnsweredError.from_wire(error)


def _supervisor(kind: str) -> Body | None:
    """Ask the supervisor; None when none runs."""
    from adapters.local import is_served, socket_path
    from adapters.wiring import open_local_caller

    settings = session.settings()
    if not is_served(socket_path(settings.run, "supervisor")):
        return None
    connection = open_local_caller(settings)
    try:
        return connection.ask("supervisor", kind, {})
    except PartUnavailable:
        if is_served(socket_path(settings.run, "supervisor")):
            raise  # it is there and doesn't answer
        return None  # it was just going
    finally:
        connection.close()


@app.command()
def up(
    scale: Annotated[
        list[str] | None,
        typer.Option("--scale", metavar="ROLE=N", help="Run N workers of a role; repeatable."),
    ] = None,
    as_json: render.Json = False,
) -> None:
    """Start the workers in the background and wait until they are ready."""
    settings = session.settings()
    began = time_text(time.time_ns() // 1000)
    started = start_supervisor(settings, roles=[_scaled(item) for item in scale or []])
    if not started and scale:
        session.note("the workers were running already; `es down` first to change how many there are")
    status = _until_ready(began)
    render.answer(status, as_json=as_json, human=lambda: _show_workers(status))


def _until_ready(began: str) -> Body:
    """The status once every worker is ready; raises PartUnavailable for one that fails or when it takes too long.

    What failed before `began`, a time, may have been mended since, and counts only once it has failed again.
    """
    deadline = time.monotonic() + _READY_WAIT_S
    told = False
    while True:
        status = _supervisor("supervisor.status")
        workers = status["workers"] if status else []
        late = [worker for worker in workers if worker["state"] != "ready"]
        if status is not None and workers and not late:
            return status
        for worker in late:
            if _needs_somebody(worker):
                if worker["last_error"]["at"] > began:
                    raise _not_ready([worker])
            elif worker["state"] == "waiting" and not told:
                session.note(f"the {_name_of(worker)} worker waits: {worker['last_error']['message']}")
                told = True
        if time.monotonic() > deadline:
            raise _not_ready(late)
        time.sleep(_POLL_S)


def _needs_somebody(worker: Body) -> bool:
    """Whether there is no use in waiting: a part may come back by itself, a key doesn't."""
    if worker["state"] == "waiting":
        return bool(worker["last_error"]["code"] == KeyUnavailable.code)
    return bool(worker["state"] == "failing")


def _name_of(worker: Body) -> str:
    return worker["role"] if worker["instance"] == 1 else f"{worker['role']}-{worker['instance']}"


def _scaled(item: str) -> str:
    role, _, count = item.partition("=")
    if role not in ROLES or not (count.isascii() and count.isdecimal()) or not 1 <= int(count) <= 64:
        raise InvalidInput("--scale", "must look like users=2, with a role and a number from 1 to 64")
    return item


def _not_ready(late: list[Body]) -> EsError:
    for worker in late:
        if error := worker["last_error"]:
            hint = error.get("hint") or "Look at `es logs`."
            return PartUnavailable(f"the {_name_of(worker)} worker", error["message"], hint)
    names = ", ".join(map(_name_of, late)) or "supervisor"
    return PartUnavailable(
        f"the {names} worker", f"not ready after {_READY_WAIT_S:g} s", "Look at `es logs`."
    )


@app.command()
def down(as_json: render.Json = False) -> None:
    """Stop the workers; they finish what they have begun."""
    stopping = _supervisor("supervisor.stop")
    if stopping is not None:
        _wait_for_end(stopping["pid"])
    elif not as_json:
        session.note(f"no workers are running in {session.settings().home}")
    value = {"stopped": stopping is not None, "home": str(session.settings().home)}
    render.answer(value, as_json=as_json, human=lambda: None)


def _wait_for_end(pid: int) -> None:
    """Until the supervisor's lock is free: then it and all its workers are gone."""
    import fcntl

    deadline = time.monotonic() + _DOWN_WAIT_S
    with open(session.settings().run / "supervisor.lock", "a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                # One that stops has closed its socket, so who answers now is the next one.
                following = _supervisor("supervisor.status")
                if following is not None and following["pid"] != pid:
                    session.note("the workers were stopped, and another command has started them again")
                    return
                if time.monotonic() > deadline:
                    raise PartUnavailable(
                        "the supervisor", f"process {pid} is still stopping", "Look at `es logs supervisor`."
                    ) from None
                time.sleep(_POLL_S)


@app.command()
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every second until Ctrl-C.")] = False,
    as_json: render.Json = False,
) -> None:
    """Show every worker, what waits, and how far projections, erasures and relay are."""
    while True:
        found = _status()
        # Drawn once all is known: a screen that is cleared earlier stays empty meanwhile.
        if watch and sys.stdout is not None and sys.stdout.isatty():
            sys.stdout.write("\x1b[H\x1b[2J")
        render.answer(found, as_json=as_json, human=partial(_show_status, found))
        if not watch:
            return
        time.sleep(1.0)


def _status() -> Body:
    """`{"home", "running", "workers", "silent", "queues", "projections", "followers", …}`. Raises PartUnavailable.

    The supervisor knows the workers of this home; over a broker others may run anywhere, and are asked. `silent`
    is how many of them didn't answer.
    """
    settings = session.settings()
    supervised = _supervisor("supervisor.status")
    found: Body = {
        "home": str(settings.home),
        "running": supervised is not None,
        "workers": [],
        "silent": 0,
        "queues": [],
        "projections": [],
        "followers": [],
        **(supervised or {}),
    }
    if not settings.is_local:
        try:
            _add_everybody(found)
        except PartUnavailable as error:
            if supervised is None:
                raise  # whether any workers run isn't known then
            session.note(
                str(error)
            )  # the workers here may be shown all the same, but no request reaches them
            return found
    if found["running"]:
        found["projections"] = _progress("projections", "projections.status").get("projections", [])
        roles = [role for role in usual_roles(settings) if role in ("erasures", "relay")]
        found["followers"] = [{"role": role, **_progress(role, f"{role}.progress")} for role in roles]
    return found


def _add_everybody(found: Body) -> None:
    """Add what waits at the broker, who takes it, and the workers that aren't this home's."""
    settings = session.settings()
    counts = open_dead_letters(settings, usual_roles(settings)).counts()
    found["queues"] = [
        {"role": q.role, "waiting": q.waiting, "workers": q.workers, "dead": q.dead} for q in counts
    ]
    expected = sum(queue.workers for queue in counts)
    answers = workers_everywhere(settings, expected=expected, wait_s=_ROLL_CALL_WAIT_S) if expected else []
    ours = {(worker["host"], worker["pid"]) for worker in found["workers"]}
    others = [worker for worker in answers if (worker["host"], worker["pid"]) not in ours]
    others.sort(key=lambda worker: (ROLES.index(worker["role"]), worker["host"], worker["pid"]))
    found["workers"] += [{**worker, "restarts": None} for worker in others]
    found["silent"] = max(expected - len(answers), 0)
    found["running"] = found["running"] or expected > 0


def _progress(role: str, kind: str) -> Body:
    """What a worker says of how far it is; nothing when it can't say."""
    try:
        return session.ask(role, kind, {}, timeout_s=_PROGRESS_WAIT_S)
    except EsError as error:
        if error.kind is not Kind.UNAVAILABLE:
            raise
        return {}


def _show_status(found: Body) -> None:
    if not found["running"]:
        render.line("no workers are running; `es up` starts them")
    if found["workers"]:
        _show_workers(found)
    if found["silent"]:
        render.line(f"{found['silent']} workers take requests from the broker, but don't say how they are")
    if found["queues"]:
        columns = ["role", "waiting", "workers", "dead"]
        render.table(columns, [[queue[column] for column in columns] for queue in found["queues"]])
    if not found["running"]:
        return
    if not found["projections"]:
        render.line("projections: no answer")
    for state in found["projections"]:
        if state["state"] != "retired":
            render.line(
                f"projection {state['projection']} (generation {state['generation']}, {state['state']}): "
                f"lag {state['lag']} (position {state['position']} of {state['head']}), {state['parked']} parked"
            )
    for follower in found["followers"]:
        reached = (
            f"lag {follower['lag']} (position {follower['position']} of {follower['head']})"
            if "lag" in follower
            else "no answer"
        )
        render.line(f"{follower['role']}: {reached}")


def _show_workers(status: Body) -> None:
    if "pid" in status:
        render.line(f"supervisor {status['pid']} in {status['home']}")
    # On one machine there is nothing to tell apart by its name.
    hosts = {} if session.settings().is_local else {"host": [worker["host"] for worker in status["workers"]]}
    columns = {
        "role": [_name_of(worker) for worker in status["workers"]],
        **hosts,
        "pid": [worker["pid"] for worker in status["workers"]],
        "state": [worker["state"] for worker in status["workers"]],
        "up (s)": [worker["uptime_s"] for worker in status["workers"]],
        "restarts": [worker["restarts"] for worker in status["workers"]],
        "last error": [_shown_error(worker) for worker in status["workers"]],
    }
    render.table([*columns], zip(*columns.values(), strict=True))


def _shown_error(worker: Body) -> str:
    error = worker["last_error"]
    return f"{error['at'][:19]}Z {error['message']}" if error else ""


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


@app.command()
def logs(
    role: Annotated[str | None, typer.Argument(help="One role, for example users; all if left out.")] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on printing what is added.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="How many lines of each log.")] = 200,
) -> None:
    """Print the workers' logs: one JSON object a line, oldest first."""
    folder = session.settings().log
    paths = [path for path in sorted(folder.glob("*.log")) if role is None or _role_of(path) == role]
    if not paths:
        known = ", ".join(sorted({_role_of(path) for path in folder.glob("*.log")})) or "none yet"
        raise InvalidInput("role", f"has no log in {folder}", f"Roles with a log: {known}.")
    for entry in sorted(entry for path in paths for entry in _last_lines(path, lines)):
        render.line(entry)
    if follow:
        for entry in _added(paths):
            render.line(entry)


def _role_of(log: Path) -> str:
    """`users` for the logs of every worker of that role: users.log, users-2.log."""
    return log.stem.partition("-")[0]


def _last_lines(path: Path, count: int) -> list[str]:
    return path.read_text("utf-8", "replace").splitlines()[-count:] if count else []


def _added(paths: list[Path]) -> Iterator[str]:
    """Lines as they are added; a rotated file is opened anew."""
    files = {path: path.open("rb") for path in paths}
    for file in files.values():
        file.seek(0, os.SEEK_END)
    rest = dict.fromkeys(paths, b"")
    while True:
        quiet = True
        for path, file in files.items():
            rest[path] += file.read()
            *whole, rest[path] = rest[path].split(b"\n")
            quiet = quiet and not whole
            yield from (entry.decode("utf-8", "replace") for entry in whole)
            if path.exists() and path.stat().st_ino != os.fstat(file.fileno()).st_ino:
                file.close()
                files[path] = path.open("rb")
        if quiet:
            time.sleep(_POLL_S * 4)
