"""A load run while it runs, on standard error: a screen that is drawn again each second, or a plain line every 10 s.

Promise: on a terminal of 80 columns no word is broken; what has no room is left out. Refusal: nothing is measured here.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cli import render, session
from cli.terminal import has_escapes, wrapped
from load.recent import WINDOW, Figures, Place, Recent

if TYPE_CHECKING:
    from threading import Event

    from rich.console import Group, RenderableType
    from rich.table import Table

    from load.results import Second, ServerSide
    from load.scenario import Scenario

_PLAIN_INTERVAL_S = 10
_NOTHING = "-"
STOPPING = "stopping; Ctrl-C again ends at once, without a report"


def view_of(scenario: Scenario, stop: Event) -> View:
    """The form that standard error can show. `stop` is set when the user has asked the run to end."""
    if sys.stderr.isatty() and has_escapes():
        return Screen(scenario, stop)
    return View(scenario, stop)


class View:
    """A plain line every 10 s."""

    def __init__(self, scenario: Scenario, stop: Event) -> None:
        self._scenario = scenario
        self._stop = stop
        self._recent = Recent(scenario)
        self._said = 0
        self._is_stopping = False

    def show(self, second: Second, server: ServerSide | None) -> None:
        """Show what is new. Called once a second."""
        self._recent.add(second, server)
        if self._stop.is_set() and not self._is_stopping:
            self._is_stopping = True
            _note(STOPPING)
        if self._recent.number // _PLAIN_INTERVAL_S > self._said:
            self._said = self._recent.number // _PLAIN_INTERVAL_S
            _note(plain_line(self._recent))

    def close(self) -> None:
        """Leave the terminal as it was."""


class Screen(View):
    """A table that replaces itself each second, and is removed at the end: the summary follows on standard output."""

    def __init__(self, scenario: Scenario, stop: Event) -> None:
        super().__init__(scenario, stop)
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
        self._live.start()

    def show(self, second: Second, server: ServerSide | None) -> None:
        self._recent.add(second, server)
        self._live.update(
            drawn(self._scenario.name, self._recent, stopping=self._stop.is_set()), refresh=True
        )

    def close(self) -> None:
        self._live.stop()


def _note(text: str) -> None:
    """Print a remark; a terminal without escape sequences gets it broken between words."""
    if not sys.stderr.isatty():
        session.note(text)
        return
    for line in wrapped(f"es: {text}", "    "):
        print(render.safe(line), file=sys.stderr)


# --- a plain line ----------------------------------------------------------------------------


def plain_line(recent: Recent) -> str:
    """The whole run in one line."""
    place, total = recent.place(), recent.figures()[-1]
    p50, p95, p99 = map(ms, total.percentiles_ms)
    texts = [
        f"{clock(place.elapsed_s)} {_phase(place)}: {rate(total.got_per_s)}/s of {rate(total.wanted_per_s)}/s",
        f"p50 {p50} p95 {p95} p99 {p99} ms",
        f"{recent.in_flight} in flight, {total.dropped} dropped, {total.errors} errors",
    ]
    if recent.server is not None:
        texts += filter(None, [_queues(recent.server), _lag(recent.server)])
    return "; ".join(texts)


def _queues(server: ServerSide) -> str:
    return ", ".join(f"{count} waiting for {role}" for role, count in server.queues.items() if count)


def _lag(server: ServerSide) -> str:
    behind = ", ".join(f"{name} {events} events behind" for name, events in server.lag.items() if events)
    readable = "" if server.lag_ms is None else f"events are readable after {ms(server.lag_ms)} ms"
    return ", ".join(filter(None, [readable, behind]))


# --- a screen --------------------------------------------------------------------------------


def drawn(name: str, recent: Recent, *, stopping: bool) -> Group:
    """The whole screen."""
    from rich.console import Group
    from rich.text import Text

    place = recent.place()
    parts: list[RenderableType] = [
        Text.assemble((name, "bold"), f"  {clock(place.elapsed_s)}, {clock(place.left_s)} left"),
        Text(f"{_phase(place)}{_phase_left(place)}; {recent.in_flight} in flight"),
        Text(""),
        _operations(recent),
    ]
    for operation, codes in recent.errors.items():
        said = ", ".join(f"{code} {count}" for code, count in codes.items())
        parts.append(Text(f"errors of {operation}: {said}", "red"))
    if recent.server is not None:
        parts += [Text(""), _roles(recent.server)]
        if lag := _lag(recent.server):
            parts.append(Text(lag))
    ending = STOPPING if stopping else "Ctrl-C ends the run with a report"
    parts += [Text(""), Text(f"rates and latencies of the last {WINDOW} s; {ending}", "dim")]
    return Group(*parts)


def _operations(recent: Recent) -> RenderableType:
    table = _table(
        ["wanted/s", "got/s", "p50 ms", "p95 ms", "p99 ms", "errors", "dropped"], first="operation"
    )
    for figures in recent.figures():
        table.add_row(*_cells(figures), style="bold" if figures.name == "all" else "")
    return table


def _cells(figures: Figures) -> list[Any]:
    from rich.text import Text

    counts = [Text(f"{count}", "red" if count else "") for count in (figures.errors, figures.dropped)]
    latencies = [ms(value) for value in figures.percentiles_ms]
    return [figures.name, rate(figures.wanted_per_s), rate(figures.got_per_s), *latencies, *counts]


def _roles(server: ServerSide) -> RenderableType:
    """CPU and memory of each role of this machine, and the requests that wait for it."""
    table = _table(["workers", "CPU %", "MB", *(["waiting"] if server.queues else [])], first="role")
    by_role: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for worker in server.workers:
        by_role[worker["role"]].append(worker)
    for role in dict.fromkeys([*by_role, *server.queues]):
        sums = [_sum(by_role[role], name) for name in ("cpu_percent", "memory_mb")]
        waiting = [str(server.queues.get(role, 0))] if server.queues else []
        table.add_row(role, str(len(by_role[role])), *sums, *waiting)
    return table


def _sum(workers: list[Mapping[str, Any]], name: str) -> str:
    known = [worker[name] for worker in workers if worker[name] is not None]
    return f"{sum(known):.0f}" if known else _NOTHING


def _table(columns: list[str], *, first: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(first, no_wrap=True, overflow="ellipsis")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


# --- texts -----------------------------------------------------------------------------------


def _phase(place: Place) -> str:
    return "waiting for replies" if place.phase is None else place.phase.name


def _phase_left(place: Place) -> str:
    if place.phase is None:
        return ""
    warm_up = " (warm-up)" if place.phase.is_warm_up else ""
    return f"{warm_up}, {clock(place.left_of_phase_s)} left of it"


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def rate(per_s: float) -> str:
    return f"{per_s:.0f}" if per_s >= 10 or per_s == 0 else f"{per_s:.1f}"


def ms(value: float | None) -> str:
    """With three digits."""
    if value is None:
        return _NOTHING
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
