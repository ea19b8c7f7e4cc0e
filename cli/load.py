"""`es load …`: run a scenario against the workers, and look at the results of runs.

Start-up: a load run loads much more than another command, and only when it is used.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from cli import render

app = typer.Typer(no_args_is_help=True, epilog="Example: es load run scripts/scenarios/smoke.toml")

RunFile = Annotated[Path, typer.Argument(metavar="RUN", help="The JSON of a run.")]
JsonFile = Annotated[
    str | None, typer.Option("--json", metavar="FILE|-", help="Write the whole result as JSON. -: print it.")
]
ReportFile = Annotated[
    Path | None, typer.Option("--report", metavar="FILE", help="Write the report, one HTML file, here.")
]


@app.command("run", epilog="Example: es load run scripts/scenarios/smoke.toml")
def run_scenario(
    scenario: Annotated[Path, typer.Argument(metavar="SCENARIO", help="A TOML file, see docs/load.md.")],
    json_file: JsonFile = None,
    report: ReportFile = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder",
            metavar="DIR",
            help="An empty folder for result, report and journals. Default: a new one in the home.",
        ),
    ] = None,
    cleanup: Annotated[
        Literal["delete", "erase"] | None,
        typer.Option(
            "--cleanup", metavar="delete|erase", help="Delete or erase the users of the run at its end."
        ),
    ] = None,
) -> None:
    """Send the requests of a scenario at its rates, and check afterwards that every command had its effect.

    Figures are shown meanwhile. Ctrl-C ends the run with a report. The exit code is 1 if a threshold of the scenario
    failed, and 5 if the ledger found a command that was lost or done twice, a wrong row, or an id that was given twice.
    """
    from cli.load_run import Wanted, perform

    perform(Wanted(scenario, json_file, report, folder, None if cleanup is None else cleanup == "erase"))


@app.command("compare", epilog="Example: es load compare before.json after.json")
def compare_runs(first: RunFile, second: RunFile, as_json: render.Json = False) -> None:
    """Say what got slower or faster between two runs, and what is within their noise."""
    from load.compare import compare
    from load.results import read_run

    found = compare(read_run(first), read_run(second))

    def human() -> None:
        for text in found.lines():
            render.sentence(text)

    render.answer(found.to_json(), as_json=as_json, human=human)


@app.command("merge", epilog="Example: es load merge one.json two.json --json both.json")
def merge_runs(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="The JSON of each machine's run.")],
    json_file: JsonFile = None,
    report: ReportFile = None,
) -> None:
    """Add the runs of one scenario that several machines did at the same time.

    The exit code is that of the whole run: 1 if a threshold of the scenario failed, 5 if the ledger found something.
    """
    from cli.load_run import conclude_merged
    from load.merge import merge
    from load.results import read_run

    conclude_merged(merge([read_run(path) for path in runs]), json_file, report)


@app.command("report", epilog="Example: es load report run.json --report run.html")
def report_of_run(run: RunFile, report: ReportFile = None, as_json: render.Json = False) -> None:
    """Write the report of a run again, as one HTML file. Its default name is that of the run, with .html."""
    from cli.load_run import need_writable
    from load.report import html
    from load.results import read_run

    path = report or run.with_suffix(".html")
    page = html(read_run(run))
    need_writable("--report", path)
    path.write_text(page, "utf-8")
    render.answer({"report": str(path)}, as_json=as_json, human=lambda: render.line(str(path)))
