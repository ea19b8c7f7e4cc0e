"""One load run from its scenario to its report: workers, requests, ledger, files, cleaning, exit code.

Promise: from the first request on, the first Ctrl-C ends the run with a report, and only the second without one. Places for
the results are checked before the run. Refusal: nothing is measured or judged here.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from threading import Event
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

import typer

from cli import load_text, render, session
from cli.load_view import view_of
from cli.progress import Progress
from domain.kernel.errors import EsError, InvalidInput, Kind, PartUnavailable
from es.state import state_of
from load.cleanup import cleanup
from load.journal import journals_of
from load.ledger import check
from load.report import html
from load.results import Run
from load.run import run as run_load
from load.scenario import Scenario
from load.scenario_file import read_scenario

if TYPE_CHECKING:
    from adapters.settings import Settings

_WORKERS_WAIT_S = 20.0
"""How long workers that are starting are waited for."""
_POLL_S = 0.2
STANDARD_OUTPUT = "-"
JSON_NAME = "run.json"
REPORT_NAME = "report.html"


class ThresholdsFailed(EsError):
    """A figure of a run is beyond its limit."""

    failed: str
    code = "threshold-failed"
    kind = Kind.REFUSED
    hint = "The report shows when. `es load compare` compares two runs."

    def __str__(self) -> str:
        return f"the run failed: {self.failed}"


class LedgerNotClean(EsError):
    """The system lost a command, did one twice, shows a wrong row, or gave an id twice."""

    found: str
    code = "ledger-not-clean"
    kind = Kind.DAMAGED
    hint = "The report lists it. Keep the run's folder and the store as they are."

    def __str__(self) -> str:
        return f"the system did not keep what it accepted: {self.found}"


@dataclass(frozen=True)
class Wanted:
    """The options of `es load run`."""

    scenario: Path
    json_file: str | None
    report: Path | None
    folder: Path | None
    erase: bool | None
    """Whether the run's users are erased or deleted at the end; None to keep them."""


def perform(wanted: Wanted) -> None:
    """Run a scenario and print what it found. Raises what makes the exit code other than 0, the worst first."""
    _tell_errors_for(wanted.json_file)
    settings = session.settings()
    scenario = read_scenario(wanted.scenario, features=settings.features)
    for option, path in (("--report", wanted.report), ("--json", _file(wanted.json_file))):
        if path is not None:
            need_writable(option, path)
    since = str(session.ask("projections", "events.read", {"from_end": True})["position"])
    need_workers(settings, {operation.role for operation in scenario.operations})
    folder = _made(wanted.folder, settings.home, scenario.name)
    with _Signals() as signals:
        run = _measured(scenario, settings, folder, signals)
        unproven = _examined(run, settings, folder, since, signals)
        signals.is_writing = True
        _write(run, wanted, folder)
        if wanted.json_file != STANDARD_OUTPUT:
            load_text.show(run)
        signals.is_writing = False
        uncleaned = _cleaned(wanted, settings, folder, since)
    if wanted.folder is None and run.ledger is not None and run.ledger.is_clean and not uncleaned:
        _forget_journals(folder)
    failure = _not_clean(run)
    if failure is None and signals.ended is not None:
        raise typer.Exit(signals.ended.exit_code)
    if failure := failure or unproven or failed_thresholds(run) or uncleaned:
        raise failure


def conclude_merged(run: Run, json_file: str | None, report: Path | None) -> None:
    """Write and print a merged run. Raises what makes the exit code other than 0."""
    _tell_errors_for(json_file)
    for option, path in (("--report", report), ("--json", _file(json_file))):
        if path is not None:
            need_writable(option, path)
    write_results(run.to_json(), html(run), json_file, report)
    if json_file != STANDARD_OUTPUT:
        load_text.show(run)
    if failure := _not_clean(run) or failed_thresholds(run):
        raise failure


def _tell_errors_for(json_file: str | None) -> None:
    """Errors are JSON if the result is printed as JSON, and not if it is written to a file."""
    session.options.as_json = json_file == STANDARD_OUTPUT


# --- before ----------------------------------------------------------------------------------


def need_writable(option: str, path: Path) -> None:
    """Raise InvalidInput now rather than lose a result later."""
    try:
        path.open("a").close()
    except OSError as error:
        raise InvalidInput(option, f"names a file that cannot be written: {error.strerror}") from error


def need_workers(settings: Settings, roles: set[str]) -> None:
    """Wait until every role has a worker that serves. Raises PartUnavailable after 20 s, or if none is starting."""
    deadline = time.monotonic() + _WORKERS_WAIT_S
    while missing := roles - _served(found := state_of(settings, session.ask)):
        starting = {worker["role"] for worker in found["workers"] if worker["state"] == "starting"}
        if not missing <= starting or time.monotonic() > deadline:
            hint = "Start the workers with `es up`; `es status` shows each of them."
            raise PartUnavailable(f"the role {min(missing)}", "no worker serves it", hint)
        time.sleep(_POLL_S)


def _served(found: dict[str, object]) -> set[str]:
    workers: Sequence[dict[str, str]] = found["workers"]  # type: ignore[assignment]
    return {worker["role"] for worker in workers if worker["state"] == "ready"}


def _made(given: Path | None, home: Path, scenario: str) -> Path:
    """The run's folder, for its owner alone: journals hold what was sent. Raises InvalidInput."""
    try:
        if given is None:
            return _new_folder(home / "load", scenario)
        given.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(given.iterdir()):
            raise InvalidInput("--folder", "names a folder that is not empty")
        given.chmod(0o700)
    except OSError as error:
        raise InvalidInput("--folder", f"cannot be made: {error.strerror}") from error
    return given


def _new_folder(parent: Path, scenario: str) -> Path:
    """A new folder, named by the scenario and the time. Of runs that begin at once each has its own."""
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = re.sub("[^A-Za-z0-9._-]+", "-", scenario)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for number in count(1):
        folder = parent / f"{name}-{stamp}{'' if number == 1 else f'-{number}'}"
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            break
    return folder


class _Signals:
    """Ctrl-C and SIGTERM. While requests are sent the first one sets `stop`; every other one raises `Ended`, but for one
    that comes while results are written: it is noted.
    """

    def __init__(self) -> None:
        self.stop = Event()
        self.ended: session.Ended | None = None
        self.is_sending = False
        self.is_writing = False

    def __enter__(self) -> _Signals:
        self._before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in self._before:
            signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        # Nothing is printed here: the signal may have interrupted a print.
        ended = session.Ended(number)
        if self.is_writing:  # it takes a moment, and half a result is none
            self.ended = ended
            return
        if self.is_sending and not self.stop.is_set():
            self.ended = ended
            self.stop.set()
            return
        raise ended


# --- the run ---------------------------------------------------------------------------------


def _measured(scenario: Scenario, settings: Settings, folder: Path, signals: _Signals) -> Run:
    session.note(f"{scenario.name}: {scenario.duration_s:g} s; results in {folder}")
    with closing(view_of(scenario, signals.stop)) as view:
        signals.is_sending = True  # until the ledger begins: before that, a signal would lose the figures
        return run_load(scenario, settings, folder=folder, on_second=view.show, stop=signals.stop)


def _examined(run: Run, settings: Settings, folder: Path, since: str, signals: _Signals) -> EsError | None:
    """Let the ledger examine the run. Returns the error of a ledger that could not end; Ctrl-C leaves it out as well."""
    progress = Progress()
    try:
        signals.is_sending = False
        session.note("checking what the system kept of it")
        run.ledger = check(settings, journals_of(folder), since_position=since, on_progress=_shown(progress))
        progress.close("the ledger is complete")
    except EsError as error:
        progress.close("the ledger could not be completed")
        return error
    except session.Ended as ended:
        progress.close("the ledger was interrupted")
        signals.ended = ended
    return None


def _shown(progress: Progress) -> Callable[[str, int], None]:
    return lambda step, done: progress.show(lambda: f"ledger: {done} {step} examined")


def _write(run: Run, wanted: Wanted, folder: Path) -> None:
    """Write the result and the report into the folder, and to the places that were asked for."""
    text, page = run.to_json(), html(run)
    (folder / JSON_NAME).write_text(text, "utf-8")
    (folder / REPORT_NAME).write_text(page, "utf-8")
    write_results(text, page, wanted.json_file, wanted.report)
    session.note(f"report: {wanted.report or folder / REPORT_NAME}")


def write_results(text: str, page: str, json_file: str | None, report: Path | None) -> None:
    """Write a run as JSON and as a page; `-` stands for standard output."""
    if json_file == STANDARD_OUTPUT:
        render.line(text)
    elif json_file is not None:
        Path(json_file).write_text(text, "utf-8")
    if report is not None:
        report.write_text(page, "utf-8")


def _file(json_file: str | None) -> Path | None:
    return None if json_file in (None, STANDARD_OUTPUT) else Path(str(json_file))


def _cleaned(wanted: Wanted, settings: Settings, folder: Path, since: str) -> EsError | None:
    """Delete or erase the users of the run, if that was asked for. Returns the error of what is left."""
    if wanted.erase is None:
        return None
    progress = Progress()
    verb = "erase" if wanted.erase else "delete"

    def show(step: str, done: int) -> None:
        progress.show(lambda: f"cleaning up: {done} {step}")

    try:
        journals = journals_of(folder)
        cleaned = cleanup(settings, journals, since_position=since, erase=wanted.erase, on_progress=show)
    except EsError as error:
        return error
    progress.close(f"{verb}d {cleaned.done} of {cleaned.users} users of the run")
    if cleaned.is_complete:
        return None
    left = [f"{code} {count}" for code, count in cleaned.errors.items()]
    left += [f"{cleaned.owed} erasures are owed"] if cleaned.owed else []
    hint = "`es gdpr status` lists owed erasures, `es users list` the users."
    return PartUnavailable("the clean-up", f"it is not complete: {', '.join(left)}", hint)


# --- the end ---------------------------------------------------------------------------------


def _not_clean(run: Run) -> EsError | None:
    """The error of a run whose ledger found something."""
    ledger = run.ledger
    if ledger is None or ledger.is_clean:
        return None
    return LedgerNotClean(
        f"{ledger.lost} lost, {ledger.twice} twice, {ledger.wrong} wrong rows, {ledger.shared_ids} ids given twice"
    )


def failed_thresholds(run: Run) -> EsError | None:
    """The error of a run that did not keep its limits."""
    failed = [load_text.threshold_text(verdict) for verdict in run.verdicts if not verdict.passed]
    return ThresholdsFailed("; ".join(failed)) if failed else None


def _forget_journals(folder: Path) -> None:
    """Remove what was sent: after a clean ledger it proves nothing more, and it names persons."""
    for journal in journals_of(folder):
        journal.unlink()
