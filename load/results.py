"""What a load run measured, as it is kept in JSON, merged, compared and shown.

Latencies are HdrHistograms in microseconds (1 µs to 1 h, 3 digits), encoded as their library does; so runs of several
machines can be added without loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


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
    format: int = 1
