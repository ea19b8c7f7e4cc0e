"""Runs of several machines against one system, merged into one.

Promise: histograms and counts are added, seconds are aligned by the clocks of the machines, and the thresholds are judged
again. The order of the runs does not matter. Refusal: other scenarios, other profiles, runs at different times, and the
same run twice. A merged ledger never claims what no ledger has checked: it names what is unproven. Only a ledger over all
journals proves that no id was given to two machines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from domain.kernel.errors import InvalidInput
from load.results import Ledger, Run, Second, ServerSide, add_operations, add_seconds
from load.thresholds import Seen, judge

_COUNTS = (
    "commands",
    "accepted",
    "refused",
    "unanswered",
    "unanswered_carried_out",
    "lost",
    "twice",
    "wrong",
    "ids",
    "shared_ids",
)
_MOST_FINDINGS = 100
IDS_NOT_COMPARED = "Ids that different machines received were not compared with each other: check a ledger over all journals."


def merge(runs: Sequence[Run]) -> Run:
    """One run from several. Raises InvalidInput for fewer than two, and for runs that do not belong together."""
    if len(runs) < 2:
        raise InvalidInput(
            "the list of runs", "has fewer than two", "Name the JSON files of two or more runs."
        )
    _check(runs)
    ordered = sorted(runs, key=lambda run: (_start(run), run.to_json()))
    first = _start(ordered[0])
    shifts = [round((_start(run) - first).total_seconds()) for run in ordered]
    merged = Run(
        scenario=_scenario(ordered),
        started_at=ordered[0].started_at,
        duration_s=(max(map(_end, ordered)) - first).total_seconds(),
        ended=_ended(ordered),
        machine={"machines": sum(len(run.machines) for run in ordered)},
        versions=_joined([run.versions for run in ordered]),
        profile=ordered[0].profile,
        seconds=add_seconds(
            Second(each.number + shift, each.operations, each.in_flight, each.warm_up)
            for run, shift in zip(ordered, shifts, strict=True)
            for each in run.seconds
        ),
        totals=add_operations(run.totals for run in ordered),
        server=_server(ordered, shifts),
        tool=_tool(ordered),
        ledger=_ledger(ordered),
        parts=sorted(
            (part for run in ordered for part in _parts(run)), key=lambda part: str(_identity(part))
        ),
    )
    merged.verdicts = judge(ordered[0].verdicts, Seen.of(merged))
    return merged


def _check(runs: Sequence[Run]) -> None:
    one = runs[0]
    for name, of in _MUST_AGREE.items():
        if other := next((run for run in runs if of(run) != of(one)), None):
            raise InvalidInput(
                name,
                f"differs between {_named(one)} and {_named(other)}",
                "Merge runs of one scenario against one system.",
            )
    seen = set()
    for part in (part for run in runs for part in _parts(run)):
        if _identity(part) in seen:
            reason = "occurs twice: its requests would count twice"
            raise InvalidInput(_label(part), reason, "Name each run once, and no run that is merged already.")
        seen.add(_identity(part))
    latest, earliest_end = max(runs, key=_start), min(runs, key=_end)
    if _start(latest) >= _end(earliest_end):
        raise InvalidInput(
            _named(latest),
            f"began after the end of {_named(earliest_end)}",
            "Merge runs that ran at the same time; compare others with `es load compare`.",
        )


_MUST_AGREE: Mapping[str, Callable[[Run], Any]] = {
    "the scenario": lambda run: (run.scenario.get("name"), run.scenario.get("text")),
    "the mode": lambda run: run.scenario.get("mode"),
    "the profile": lambda run: run.profile,
    "the list of thresholds": lambda run: [
        (each.operation, each.figure, each.limit) for each in run.verdicts
    ],
    "the list of phases": lambda run: [
        (each.get("name"), each.get("from_s"), each.get("to_s")) for each in run.scenario.get("phases", ())
    ],
}


def _parts(run: Run) -> list[Mapping[str, Any]]:
    own = {
        "started_at": run.started_at,
        "duration_s": run.duration_s,
        "ended": run.ended,
        "machine": run.machine,
        "tool": run.tool,
    }
    return run.parts or [own]


def _identity(part: Mapping[str, Any]) -> tuple[Any, ...]:
    return (
        part["started_at"],
        sorted((name, str(each)) for name, each in part["machine"].items()).__repr__(),
    )


def _label(part: Mapping[str, Any]) -> str:
    host = part["machine"].get("host")
    return f"the run of {part['started_at']}" + (f" on {host}" if host else "")


def _named(run: Run) -> str:
    return _label(_parts(run)[0])


def _start(run: Run) -> datetime:
    return datetime.fromisoformat(run.started_at)


def _end(run: Run) -> datetime:
    return _start(run) + timedelta(seconds=run.duration_s)


def _scenario(runs: Sequence[Run]) -> Mapping[str, Any]:
    """The scenario with the load of all: rates, processes and callers are added, seeds are listed."""
    phases = [
        {
            **same[0],
            "from_per_s": sum(each.get("from_per_s", 0) for each in same),
            "to_per_s": sum(each.get("to_per_s", 0) for each in same),
        }
        for same in zip(*(run.scenario.get("phases", ()) for run in runs), strict=True)
    ]
    seeds = sorted({seed for run in runs for seed in _listed(run.scenario.get("seed"))}, key=str)
    return {
        **runs[0].scenario,
        "seed": seeds[0] if len(seeds) == 1 else seeds,
        "phases": phases,
        **{name: sum(run.scenario.get(name, 0) for run in runs) for name in ("processes", "callers")},
    }


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _ended(runs: Iterable[Run]) -> str:
    """`done` if all runs are; otherwise the first of the others, aborted ones before interrupted ones."""
    return min((run.ended for run in runs if run.ended != "done"), default="done")


def _joined(parts: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """The values by name; different ones are listed."""
    found: dict[str, set[str]] = {}
    for name, value in ((name, value) for part in parts for name, value in part.items()):
        found.setdefault(name, set()).update(value.split(", "))
    return {name: ", ".join(sorted(values)) for name, values in found.items()}


def _server(runs: Sequence[Run], shifts: Sequence[int]) -> list[ServerSide]:
    """All machines look at one system: what several saw in one second is not added. The larger figure is kept."""
    by_number: dict[int, list[ServerSide]] = {}
    for run, shift in zip(runs, shifts, strict=True):
        for sample in run.server:
            by_number.setdefault(sample.number + shift, []).append(sample)
    return [
        ServerSide(
            number,
            _workers(worker for sample in samples for worker in sample.workers),
            _largest([sample.queues for sample in samples]),
            _largest([sample.lag for sample in samples]),
            max((sample.lag_ms for sample in samples if sample.lag_ms is not None), default=None),
        )
        for number, samples in sorted(by_number.items())
    ]


def _workers(seen: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Each worker once, with the figures of the machine that could read them."""
    found: dict[str, Mapping[str, Any]] = {}
    for worker in seen:
        key = repr([worker.get(name) for name in ("role", "instance", "host", "pid")])
        known = found.get(key)
        if known is None or _figures(worker) > _figures(known):
            found[key] = worker
    return [found[key] for key in sorted(found)]


def _figures(worker: Mapping[str, Any]) -> tuple[float, float]:
    return (worker.get("memory_mb") or -1.0, worker.get("cpu_percent") or -1.0)


def _largest(seen: Iterable[Mapping[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, value in ((name, value) for each in seen for name, value in each.items()):
        found[name] = max(value, found.get(name, value))
    return found


def _tool(runs: Sequence[Run]) -> dict[str, float]:
    """The cost of all load processes. That of one request is the mean over all requests."""
    names = dict.fromkeys(name for run in runs for name in run.tool)
    started = [sum(each.wanted - each.dropped for each in run.totals.values()) for run in runs]
    found = {}
    for name in names:
        values = [run.tool.get(name, 0.0) for run in runs]
        if name.endswith("_per_request"):
            weighted = sum(value * count for value, count in zip(values, started, strict=True))
            found[name] = weighted / sum(started) if sum(started) else max(values)
        else:
            found[name] = sum(values)
    return found


def _ledger(runs: Sequence[Run]) -> Ledger | None:
    """The counts of all ledgers, with what they cannot tell together.

    Lost, doubled and wrong ones are told by command id and by the streams of one journal, so they add up. That ids are
    unique is told within one journal only.
    """
    ledgers = [run.ledger for run in runs if run.ledger is not None]
    if not ledgers:
        return None
    unproven = [text for ledger in ledgers for text in ledger.unproven]
    unproven += [
        f"No ledger was checked for {_label(part)}."
        for run in runs
        if run.ledger is None
        for part in _parts(run)
    ]
    if sum(ledger.ids > 0 for ledger in ledgers) > 1:
        unproven.append(IDS_NOT_COMPARED)
    return Ledger(
        **{name: sum(getattr(ledger, name) for ledger in ledgers) for name in _COUNTS},
        findings=[finding for ledger in ledgers for finding in ledger.findings][:_MOST_FINDINGS],
        unproven=sorted(set(unproven)),
    )
