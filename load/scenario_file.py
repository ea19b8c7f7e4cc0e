"""Read the scenario of a load run from a TOML file: docs/load.md describes it.

Promise: everything that can be checked without a worker is checked before the first request. Refusal: an unknown key, a
command that no feature has, or a field that the command does not have.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from load.keys import InvalidScenario, Keys
from load.operations import operations_of
from load.people import read_people
from load.scenario import Operation, Phase, Scenario, Threshold
from load.thresholds import FIGURES, SERVER_SIDE

CALLERS_LIMIT = 512
"""Callers of one process: as many requests of one role a client keeps in flight."""
_CALLERS = {"client": 256, "process": 16}
"""Callers of one load process by default. In the mode `process` each may be a process of `es`."""
_KEYS = (
    "name",
    "seed",
    "mode",
    "processes",
    "callers",
    "timeout",
    "start_within",
    "people",
    "phases",
    "mix",
    "operations",
    "thresholds",
)
_RATE_MAX = 1_000_000.0
_LIST_LIMIT = 1000
_SIZE_LIMIT_BYTES = 1 << 20


def read_scenario(path: Path, *, features: tuple[str, ...] = ()) -> Scenario:
    """The scenario in a file. `features` are the modules of outside services (`Settings.features`).

    Raises InvalidScenario, whose text names the file and the place.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
        raise InvalidScenario(
            str(path), "", reason, "Name a scenario file, such as scripts/scenarios/smoke.toml."
        ) from error
    if len(raw) > _SIZE_LIMIT_BYTES:
        raise InvalidScenario(str(path), "", "is larger than 1 MiB", "Name a scenario file.")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidScenario(str(path), "", "is not UTF-8", "Save it as UTF-8.") from error
    return parse_scenario(text, path, features=features)


def parse_scenario(text: str, path: Path, *, features: tuple[str, ...] = ()) -> Scenario:
    """The scenario of a text that was read from `path`, as `read_scenario`."""
    file = str(path)
    try:
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidScenario(file, "", f"is no TOML: {error}", "Correct the line.") from error
    keys = Keys(file, "", found, _KEYS)
    processes = keys.whole("processes", 1, 1, 64)
    mode = keys.one_of("mode", "client", ("client", "process"))
    callers = keys.whole("callers", _CALLERS[mode] * processes, processes, CALLERS_LIMIT * processes)
    operations = operations_of(keys, file, features)
    return Scenario(
        name=keys.text("name", path.stem or "scenario"),
        text=text,
        file=path,
        seed=keys.whole("seed", 1, 0, (1 << 63) - 1),
        mode=mode,
        processes=processes,
        callers=callers,
        timeout_s=keys.duration_s("timeout", "8s", least_s=0.1),
        start_within_ms=keys.duration_s("start_within", "100ms") * 1000,
        phases=_phases(keys, file),
        operations=operations,
        people=_people(keys, path),
        thresholds=_thresholds(keys, file, operations),
    )


def _people(keys: Keys, path: Path) -> Path | None:
    if "people" not in keys:
        return None
    file = path.parent / keys.text("people")
    read_people(file)  # each line is checked now
    return file


def _listed(keys: Keys, name: str, limit: int) -> list[Any]:
    """The tables under `[[name]]`."""
    found = keys.get(name) or []
    if not isinstance(found, list):
        raise keys.wrong(name, "is no list of tables", f"Write [[{name}]] before each.")
    if len(found) > limit:
        raise keys.wrong(name, f"has more than {limit} entries", "Leave some out.")
    return found


def _phases(keys: Keys, file: str) -> tuple[Phase, ...]:
    phases = tuple(
        _phase(
            Keys(file, f"phases[{number}]", each, ("name", "duration", "rate", "pause", "warm_up")), number
        )
        for number, each in enumerate(_listed(keys, "phases", _LIST_LIMIT), 1)
    )
    if not any(phase.from_per_s or phase.to_per_s for phase in phases):
        raise keys.wrong(
            "phases",
            "has no phase with requests",
            'Add one: [[phases]] with duration = "30s" and rate = 50 (requests per second) or rate = [50, 500].',
        )
    return phases


def _phase(keys: Keys, number: int) -> Phase:
    is_warm_up = keys.yes_or_no("warm_up")
    if "pause" in keys:
        for other in ("duration", "rate"):
            if other in keys:
                raise keys.wrong(
                    other, "cannot be beside pause", "A pause has its duration as its value, and no requests."
                )
        return Phase(keys.text("name", f"pause {number}"), keys.duration_s("pause"), 0.0, 0.0, is_warm_up)
    duration_s, rate = keys.duration_s("duration"), keys.get("rate")
    if rate is None:
        raise keys.wrong(
            "rate", "is missing", "Give requests per second: rate = 50, or rate = [50, 500] for a ramp."
        )
    ends = rate if isinstance(rate, list) else [rate, rate]
    if len(ends) != 2:
        raise keys.wrong("rate", "must be one number, or two for a ramp", "For example: rate = [50, 500].")
    first, last = (keys.number("rate", each, 0.0, _RATE_MAX) for each in ends)
    return Phase(keys.text("name", f"phase {number}"), duration_s, first, last, is_warm_up)


# --- thresholds ----------------------------------------------------------------------------------


def _thresholds(keys: Keys, file: str, operations: tuple[Operation, ...]) -> tuple[Threshold, ...]:
    found = keys.get("thresholds") or {}
    names = tuple(operation.name for operation in operations)
    if not isinstance(found, dict):
        raise keys.wrong(
            "thresholds", "is no table", "Write [thresholds] and lines such as error_rate = 0.01."
        )
    thresholds = []
    for key, value in found.items():
        if key in names and isinstance(value, dict):  # create.p99_ms without quotation marks is a table
            each = Keys(file, f"thresholds.{key}", value, FIGURES)
            thresholds += [_threshold(each, file, key, figure, value[figure]) for figure in value]
            continue
        operation, _, figure = key.rpartition(".")
        each = Keys(file, "thresholds", found, found)
        if operation and operation not in names:
            raise each.wrong(
                key, "names no operation of this scenario", f"The operations are {', '.join(names)}."
            )
        if figure not in FIGURES:
            raise each.wrong(
                key,
                "is no figure",
                f"The figures are {', '.join(FIGURES)}, alone or after an operation: create.p99_ms.",
            )
        thresholds.append(_threshold(each, file, operation, figure, value, key))
    return tuple(thresholds)


def _threshold(
    keys: Keys, file: str, operation: str, figure: str, value: object, key: str | None = None
) -> Threshold:
    key = key or figure
    if operation and figure in SERVER_SIDE:
        raise keys.wrong(key, "is a figure of the whole system", f"Write {figure} without an operation.")
    bound = "above" if figure == "per_s" else "below"
    abort_on_fail = False
    if isinstance(value, dict):
        inner = Keys(file, keys.at(key), value, (bound, "abort_on_fail"))
        abort_on_fail = inner.yes_or_no("abort_on_fail")
        if abort_on_fail and figure == "per_s":
            raise inner.wrong("abort_on_fail", "cannot be with per_s", "It is judged at the end alone.")
        if bound not in inner:
            raise inner.wrong(
                bound, "is missing", f"Write {key} = {{ {bound} = 50, abort_on_fail = true }}, for example."
            )
        value, keys, key = inner.get(bound), inner, bound
    most = 1.0 if figure.endswith("_rate") else 1e12
    return Threshold(operation, figure, keys.number(key, value, 0.0, most), abort_on_fail)
