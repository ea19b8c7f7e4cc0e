"""Load runs that were never run: phases with drops, errors and a slow spike, drawn from a seed.

A request takes a log-normal time. Above the capacity the queue grows by a second's surplus: waiting times, drops and
replies in time-out follow from it, as in a real system.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.support.servers import missing

try:
    from load.histograms import Histogram
except Exception:
    missing("load", "install the extra (pip install --editable '.[load]')")

from load.results import Ledger, Run, Second, ServerSide, Tally, Verdict, add_operations

MIX = {
    "create": (0.10, 6.0),
    "get": (0.40, 1.2),
    "find": (0.10, 1.6),
    "list": (0.05, 3.5),
    "rename": (0.12, 4.5),
    "change-email": (0.06, 7.0),
    "delete": (0.02, 5.0),
    "ids": (0.10, 0.8),
    "deposit": (0.05, 5.5),
}
"""The share of each operation, and its usual latency in ms."""

PHASES = (
    ("warm-up", 0.05, 0.3, 0.3),
    ("ramp", 0.25, 0.3, 1.0),
    ("steady", 0.30, 1.0, 1.0),
    ("spike", 0.10, 1.8, 1.8),
    ("pause", 0.05, 0.0, 0.0),
    ("recovery", 0.25, 0.8, 0.8),
)
"""The name, the share of the duration, and the rate at its begin and end as a share of `per_s`."""

TEXT = """\
name = "ramp"
seed = 7
start_within_ms = 100

[[phases]]   # the system warms up; nothing of it is measured
name = "warm-up"
"""


@dataclass
class Made:
    """How a run is made. `slower` multiplies all latencies; `capacity_per_s` is what the system carries."""

    duration_s: int = 60
    per_s: float = 100
    seed: int = 1
    slower: float = 1.0
    capacity_per_s: float = math.inf
    mix: Mapping[str, tuple[float, float]] | None = None
    phases: Sequence[tuple[str, float, float, float]] = PHASES
    errors: float = 0.0
    stalls: float = 0.0
    """The share of seconds in which everything takes 20 times as long, as while a disk is busy."""
    started_at: str = "2026-03-01T12:00:00.000001Z"
    host: str = "one"

    def run(self) -> Run:
        mix = self.mix or MIX
        chance = random.Random(self.seed)
        seconds, server, waiting_s = [], [], 0.0
        for number in range(self.duration_s):
            name, wanted = self._rate(number)
            waiting_s = min(
                max(waiting_s + (wanted - self.capacity_per_s) / self.capacity_per_s, 0.0)
                if math.isfinite(self.capacity_per_s)
                else 0.0,
                4.0,
            )
            drift = self.slower * math.exp(chance.gauss(0, 0.05))  # what else the machine does in this second
            if self.stalls and chance.random() < self.stalls:
                drift *= 20
            operations = {
                operation: self._tally(chance, wanted * share, usual_ms * drift, waiting_s)
                for operation, (share, usual_ms) in mix.items()
            }
            seconds.append(
                Second(number, operations, min(int(wanted * (0.004 + waiting_s)), 256), name == "warm-up")
            )
            server.append(self._server(chance, number, wanted, waiting_s))
        totals = add_operations(second.operations for second in seconds if not second.warm_up)
        return self._whole(seconds, totals, server)

    def _rate(self, number: int) -> tuple[str, float]:
        """The phase of a second, and its arrivals."""
        start = 0.0
        for name, share, first, last in self.phases:
            if number < round((start + share) * self.duration_s):
                part = (number - start * self.duration_s) / (share * self.duration_s)
                return name, self.per_s * (first + (last - first) * part)
            start += share
        return name, self.per_s * last

    def _tally(self, chance: random.Random, wanted: float, usual_ms: float, waiting_s: float) -> Tally:
        arrivals = int(wanted) + (chance.random() < wanted % 1)
        dropped = (
            sum(chance.random() < min(waiting_s / 8, 0.5) for _ in range(arrivals)) if waiting_s > 1 else 0
        )
        latencies = Histogram()
        errors: dict[str, int] = {}
        for _ in range(arrivals - dropped):
            latency_ms = chance.lognormvariate(math.log(usual_ms), 0.35) + chance.random() * waiting_s * 900
            latencies.record(int(latency_ms * 1000))
            code = (
                "unavailable"
                if latency_ms > 3000
                else "user-deleted"
                if chance.random() < self.errors
                else ""
            )
            if code:
                errors[code] = errors.get(code, 0) + 1
        return Tally(
            arrivals, dropped, arrivals - dropped - sum(errors.values()), errors, latencies.encoded()
        )

    def _server(self, chance: random.Random, number: int, wanted: float, waiting_s: float) -> ServerSide:
        workers: list[Mapping[str, Any]] = [
            {
                "role": role,
                "instance": f"{role}-{index}",
                "host": self.host,
                "pid": 4000 + index,
                "cpu_percent": round(min(share * wanted / self.per_s * 60, 100) + chance.random() * 3, 1),
                "memory_mb": round(45 + 8 * share + 0.01 * number + chance.random(), 1),
            }
            for index, (role, share) in enumerate(
                {"ids": 0.2, "users": 1.0, "projections": 0.7, "erasures": 0.05, "processes": 0.1}.items()
            )
        ]
        queues = {"users": int(wanted * waiting_s), "ids": 0, "projections": int(wanted * waiting_s / 4)}
        lag = {"users_1": int(wanted * (0.01 + waiting_s / 3)), "streams_1": int(wanted * 0.02)}
        lag_ms = round(8 + chance.random() * 6 + waiting_s * 250, 1) if number % 2 else None
        return ServerSide(number, workers, queues, lag, lag_ms)

    def _whole(self, seconds: list[Second], totals: dict[str, Tally], server: list[ServerSide]) -> Run:
        start, phases = 0.0, []
        for name, share, first, last in self.phases:
            end = start + share * self.duration_s
            phases.append(
                {
                    "name": name,
                    "from_s": round(start, 3),
                    "to_s": round(end, 3),
                    "from_per_s": first * self.per_s,
                    "to_per_s": last * self.per_s,
                }
            )
            start = end
        return Run(
            scenario=scenario(phases),
            started_at=self.started_at,
            duration_s=float(self.duration_s),
            ended="done",
            machine=machine(self.host),
            versions={"es": "0.1.0", "Python": "3.12.4", "SQLite": "3.51.3"},
            profile={"broker": "local", "store": "sqlite", "database": "sqlite", "vault": "sqlite"},
            seconds=seconds,
            totals=totals,
            server=server,
            tool={"cpu_s": 12.5, "cpu_us_per_request": 142.0, "memory_mb": 61.0},
            verdicts=[],
            ledger=Ledger(
                commands=900, accepted=880, refused=14, unanswered=6, unanswered_carried_out=4, ids=300
            ),
        )


def scenario(phases: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    return {
        "name": "ramp",
        "text": TEXT,
        "seed": 7,
        "mode": "client",
        "processes": 2,
        "callers": 256,
        "phases": list(phases),
    }


def machine(host: str = "one") -> dict[str, Any]:
    return {"host": host, "processor": "Xeon", "cores": 4, "memory_gb": 16, "system": "Linux 6.8"}


def tally(
    latencies_ms: Sequence[float], *, dropped: int = 0, errors: Mapping[str, int] | None = None
) -> Tally:
    """A tally of replies that took so long. Errors are among the replies."""
    latencies = Histogram()
    for latency_ms in latencies_ms:
        latencies.record(round(latency_ms * 1000))
    failed = dict(errors or {})
    replies = len(latencies_ms)
    return Tally(replies + dropped, dropped, replies - sum(failed.values()), failed, latencies.encoded())


def verdict(operation: str = "get", figure: str = "p99_ms", limit: float = 50) -> Verdict:
    return Verdict(operation, figure, limit, None, True)


__all__ = ["MIX", "Made", "machine", "scenario", "tally", "verdict"]
