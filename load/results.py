"""What a load run measured, as it is kept in JSON, merged, compared and shown.

Latencies are HdrHistograms in microseconds (1 µs to 1 h, 3 digits), encoded as their library does; so runs of several
machines can be added without loss.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from domain.kernel.errors import Damaged, EsError, InvalidInput, Kind
from load import histograms
from load.records import build

FORMAT = 1
"""Of a run's JSON. A new field with a default does not change it; a new meaning of a field does."""


class NewerRun(EsError):
    """The file of a run has a format that this version of the program does not know."""

    name: str
    format: int
    code = "newer-run"
    kind = Kind.INVALID
    hint = "Upgrade `es` on this machine to the version that wrote the file (`es --version`)."

    def __str__(self) -> str:
        return f"{self.name} was written by a newer version of es: it has format {self.format}, and this one reads up to {FORMAT}"


@dataclass(slots=True)
class Tally:
    """One operation within one second, or over the run. Requests are counted at their intended start."""

    wanted: int = 0
    """Arrivals that the scenario asked for."""
    dropped: int = 0
    """Arrivals that could not be started in time."""
    succeeded: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    """Replies that are errors, by code. `unavailable` are those without a reply in time."""
    latency: str = ""
    """The encoded histogram of all replies, errors included, from the intended start. Empty without any."""


@dataclass(slots=True)
class Second:
    """One second of a run, counted from its start. A load process sends one each second; the run adds them."""

    number: int
    operations: dict[str, Tally]
    in_flight: int = 0
    warm_up: bool = False


@dataclass(slots=True)
class ServerSide:
    """What the workers and the broker showed in one second."""

    number: int
    workers: list[Mapping[str, Any]]
    """`{"role", "instance", "host", "pid", "cpu_percent", "memory_mb"}`; the figures are None for another machine's."""
    queues: Mapping[str, int]
    """Waiting requests by role; empty without a broker."""
    lag: Mapping[str, int]
    """Events behind the head of the store, by projection or follower."""
    lag_ms: float | None = None
    """How long a projection took to show an event that was just stored, if it was probed."""


@dataclass(slots=True)
class Verdict:
    """A threshold and what was measured."""

    operation: str
    figure: str
    limit: float
    measured: float | None
    passed: bool


@dataclass(slots=True)
class Ledger:
    """What the system kept of what was sent, by command id. `lost`, `twice`, `wrong` and `shared_ids` must be 0."""

    commands: int = 0
    accepted: int = 0
    refused: int = 0
    unanswered: int = 0
    """Commands without a reply: at most one effect each."""
    unanswered_carried_out: int = 0
    lost: int = 0
    """Accepted commands without their effect."""
    twice: int = 0
    """Commands with more than one effect, refused ones with any, and effects on the run's own streams without a command."""
    wrong: int = 0
    """Rows of the read models that disagree with the streams."""
    ids: int = 0
    shared_ids: int = 0
    """Ids that were given more than once."""
    findings: list[Mapping[str, Any]] = field(default_factory=list)
    """At most 100 examples: `{"kind": "lost", "command_id", "operation", "stream", "why"}`."""
    unproven: list[str] = field(default_factory=list)
    """What the ledger of a merged run cannot tell, in sentences. Empty for the ledger of one run."""

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.twice or self.wrong or self.shared_ids)


@dataclass(slots=True)
class Run:
    """A whole run. Its JSON is an object with these names."""

    scenario: Mapping[str, Any]
    """`{"name", "text", "seed", "mode", "processes", "callers", "phases": [{"name", "from_s", "to_s", "from_per_s", "to_per_s"}]}`"""
    started_at: str
    """RFC 3339, UTC, microseconds."""
    duration_s: float
    ended: str
    """`done`, `interrupted`, or `aborted: <threshold>`."""
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    profile: Mapping[str, str]
    """What the settings name: `{"broker": "rabbitmq", "store": "sqlite", "database": "postgresql", "vault": …}`, no URLs."""
    seconds: list[Second]
    totals: dict[str, Tally]
    """By operation, without the warm-up."""
    server: list[ServerSide]
    tool: Mapping[str, float]
    """The load processes' own cost: `{"cpu_s", "cpu_us_per_request", "memory_mb"}`."""
    verdicts: list[Verdict] = field(default_factory=list)
    ledger: Ledger | None = None
    parts: list[Mapping[str, Any]] = field(default_factory=list)
    """The runs of a merged one: `{"started_at", "duration_s", "ended", "machine", "tool"}`. Empty for a run of one machine."""
    format: int = FORMAT

    @property
    def machines(self) -> list[Mapping[str, Any]]:
        """The machines that sent requests."""
        return [part["machine"] for part in self.parts] or [self.machine]

    @property
    def measured(self) -> list[Second]:
        """The seconds without the warm-up."""
        return [second for second in self.seconds if not second.warm_up]

    def to_json(self) -> str:
        """The run on one line."""
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, name: str) -> Run:
        """The inverse of `to_json`. `name` is the file's, for the errors.

        Raises InvalidInput for JSON that is no run, NewerRun for an unknown format, and Damaged for everything else.
        """
        try:
            found = json.loads(text)
        except ValueError as error:
            raise _damaged(name, "it is no JSON, or only a part of it") from error
        if not isinstance(found, dict) or not isinstance(found.get("format"), int):
            raise InvalidInput(name, "holds no load run", "Name a file that `es load run --json` wrote.")
        if found["format"] > FORMAT:
            raise NewerRun(name, found["format"])
        try:
            run = build(cls, found)
            datetime.fromisoformat(run.started_at)
        except ValueError as error:
            raise _damaged(name, str(error)) from error
        tallies = [run.totals, *(second.operations for second in run.seconds)]
        for tally in (tally for operations in tallies for tally in operations.values()):
            if tally.latency and not histograms.is_sound(tally.latency):
                raise _damaged(name, "a histogram in it is incomplete or altered")
        return run


def read_run(path: Path) -> Run:
    """The run in a file. Raises as `Run.from_json` does, and InvalidInput if the file cannot be read."""
    try:
        return Run.from_json(path.read_text("utf-8"), str(path))
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
        raise InvalidInput(str(path), reason, "Name a file that `es load run --json` wrote.") from error
    except UnicodeDecodeError as error:
        raise _damaged(str(path), "it is no text") from error


def add_tallies(tallies: Iterable[Tally]) -> Tally:
    """The sum of tallies. Histograms are added; percentiles are never averaged."""
    total, latencies = Tally(), []
    for tally in tallies:
        total.wanted += tally.wanted
        total.dropped += tally.dropped
        total.succeeded += tally.succeeded
        for code, count in tally.errors.items():
            total.errors[code] = total.errors.get(code, 0) + count
        latencies.append(tally.latency)
    total.latency = histograms.add(latencies)
    return total


def add_operations(parts: Iterable[Mapping[str, Tally]]) -> dict[str, Tally]:
    """The sum of each operation's tallies, in the order in which the operations first occur."""
    by_name: dict[str, list[Tally]] = {}
    for part in parts:
        for name, tally in part.items():
            by_name.setdefault(name, []).append(tally)
    return {name: add_tallies(tallies) for name, tallies in by_name.items()}


def add_seconds(seconds: Iterable[Second]) -> list[Second]:
    """The sum of the seconds of several load processes, in order. A second is one of warm-up if any part of it is."""
    by_number: dict[int, list[Second]] = {}
    for second in seconds:
        by_number.setdefault(second.number, []).append(second)
    return [
        Second(
            number,
            add_operations(part.operations for part in parts),
            in_flight=sum(part.in_flight for part in parts),
            warm_up=any(part.warm_up for part in parts),
        )
        for number, parts in sorted(by_number.items())
    ]


def _damaged(name: str, reason: str) -> Damaged:
    return Damaged(name, reason, "Take another copy of the file, or run the scenario again.")
