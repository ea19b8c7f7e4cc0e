"""What a load run does: phases of arrivals, a mix of operations, data, thresholds. `load.scenario_file` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Phase:
    """A span of time with a rate of arrivals that changes linearly from one value to another; 0 is a pause."""

    name: str
    duration_s: float
    from_per_s: float
    to_per_s: float
    is_warm_up: bool = False
    """Its requests are sent and checked by the ledger, and left out of figures and thresholds."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One kind of request, and its share of all arrivals."""

    name: str
    """As in reports and thresholds: `create`, `get`, `deposit`."""
    kind: str
    """The kind of the request: `users.create`, `ids.next`, `wallets.deposit`."""
    role: str
    """The role that handles it: `users`, `projections`, `ids`, or that of a service."""
    weight: float
    """Its share of the arrivals. 0: it is sent only in place of an operation whose data does not exist yet."""
    input: Mapping[str, Any]
    """The input with placeholders, such as `{user}`, which the data of the run replaces: see `load.templates`."""

    @property
    def is_command(self) -> bool:
        return self.role not in ("projections", "ids")

    @property
    def is_journaled(self) -> bool:
        """Whether it may have an effect: commands, and requests for ids."""
        return self.role != "projections"


@dataclass(frozen=True, slots=True)
class Threshold:
    """A limit on a figure of one operation, or of all if `operation` is empty."""

    operation: str
    figure: str
    """`p50_ms`, `p95_ms`, `p99_ms`, `p999_ms`, `max_ms`, `error_rate`, `dropped`, `per_s`, `lag_ms`, …"""
    limit: float
    abort_on_fail: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    text: str
    """The file as it was read: the report contains it."""
    file: Path
    seed: int
    mode: str
    """`client`: the pipelined client; `process`: a real `es` for each request."""
    processes: int
    callers: int
    """How many requests may be in flight at once, over all processes, at most 512 for each. An arrival beyond it is dropped
    and counted."""
    timeout_s: float
    start_within_ms: float
    """An arrival that cannot be started so soon after its intended time is dropped and counted."""
    phases: tuple[Phase, ...]
    operations: tuple[Operation, ...]
    people: Path | None
    """A file of names and addresses (CSV with a header, or NDJSON); without it they are made from the seed."""
    thresholds: tuple[Threshold, ...]

    @property
    def duration_s(self) -> float:
        return sum(phase.duration_s for phase in self.phases)
