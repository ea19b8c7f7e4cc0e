"""The runs of a benchmark: bulks, rebuilds, rest, and the bare client beside them, in turns."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scripts.bench.bulks import GROUP, People, run_bulk
from scripts.bench.cpu import Meter
from scripts.bench.home import rebuilt
from scripts.bench.parts import FOLLOWERS, Parts
from scripts.bench.samples import Sample, Samples
from tests.support.processes import ROOT
from tests.support.waiting import eventually

ADDED_MS = 10.0
_PARTS = ("ES_BROKER", "ES_DATABASE", "ES_STORE")
_COMMANDS = ("create", "refuse", "rename", "change-email", "delete")


@dataclass(frozen=True)
class Sizes:
    rounds: int
    commands: int
    """The number of commands of each kind in a round whose CPU time is measured."""
    throughput: int
    """The number of creates in a round whose rate is measured."""
    idle_s: float


class Runs:
    def __init__(self, parts: Parts, sizes: Sizes, samples: Samples) -> None:
        self._parts = parts
        self._sizes = sizes
        self._samples = samples
        self._people = People()

    def all(self) -> None:
        self.warm_up()
        for number in range(self._sizes.rounds):
            self._say(f"round {number + 1} of {self._sizes.rounds}: commands")
            self._commands()
            self._say("bulk and bare client in turns")
            self._bare("append", self._sizes.throughput)
            self._rate("bulk create")
            self._say("rebuild and bare client in turns")
            events = self._bare("read", 1_000_000)
            self._samples.add("rebuild", self.rebuild())
            self._say(f"idle ({events} events)")
            self._idle()
        self._parts.restart(self._parts.through)
        self.warm_up()
        for number in range(self._sizes.rounds):
            self._say(f"round {number + 1} of {self._sizes.rounds}: a slow network")
            self._rate("bulk through proxies")
            self._parts.delay(ADDED_MS, *_PARTS)
            self._rate("bulk with delay")
            self._parts.delay(0)

    def warm_up(self) -> None:
        """Connections, caches and plans."""
        self._bulk("create", self._people.next(GROUP))

    # --- commands ------------------------------------------------------------------------------

    def _commands(self) -> None:
        people = self._people.next(self._sizes.commands)
        answers: list[dict[str, Any]] = []
        for command in _COMMANDS:
            if command == "create":
                lines = people
            elif command == "refuse":
                lines = self._people.named_again([person["email"] for person in people])
            else:
                lines = [self._change(command, each["user_id"], n) for n, each in enumerate(answers)]
            sample, replies = self._bulk("create" if command == "refuse" else command, lines)
            codes = {reply["error"]["code"] if "error" in reply else "" for reply in replies}
            assert codes == {"email-taken" if command == "refuse" else ""}, f"{command}: {codes}"
            if command == "create":
                answers = replies
            self._samples.add(command, sample)

    def _change(self, command: str, user_id: str, number: int) -> dict[str, str]:
        changed = {
            "rename": {"name": f"Grace Hopper {number}"},
            "change-email": {"email": f"grace-{user_id}@example.com"},
            "delete": {},
        }
        return {"user_id": user_id, **changed[command]}

    def _bulk(self, command: str, lines: Sequence[Mapping[str, str]]) -> tuple[Sample, list[dict[str, Any]]]:
        """One bulk and everything that follows from it: the followers have caught up at its end."""
        meter = self._meter()
        ran = run_bulk(self._parts.system, command, lines)
        assert len(ran.replies) == len(lines), f"{command}: {len(ran.replies)} of {len(lines)} answers"
        self._caught_up()
        cpu_s = meter.read() | {"client": ran.client_cpu_s}
        return Sample(len(lines), ran.seconds, cpu_s), list(ran.replies)

    def create(self) -> Sample:
        """One bulk of new people."""
        sample, replies = self._bulk("create", self._people.next(self._sizes.throughput))
        codes = {reply["error"]["code"] for reply in replies if "error" in reply}
        assert not codes, codes
        return sample

    def _rate(self, name: str) -> None:
        self._samples.add(name, self.create())

    # --- followers -----------------------------------------------------------------------------

    def _caught_up(self) -> None:
        def is_caught_up() -> bool:
            status = self._parts.system.status()
            lags = [each["lag"] for each in (*status["projections"], *status["followers"])]
            heads.update(each["head"] for each in status["followers"])
            return len(lags) >= len(FOLLOWERS) and not any(lags)

        heads: set[int] = set()
        eventually(is_caught_up, "the followers have caught up")
        # The status does not tell how far the claims are settled.
        settled = self._parts.claims_settled
        eventually(lambda: settled() >= max(heads), "the claims are settled")

    def rebuild(self) -> Sample:
        meter = self._meter()
        return Sample(*rebuilt(self._parts.system), meter.read())

    def _idle(self) -> None:
        self._caught_up()
        time.sleep(1.5)  # the last checkpoints are saved a second later
        meter = self._meter()
        time.sleep(self._sizes.idle_s)
        # For each second, so that the CPU time of one is a share of a core.
        self._samples.add("idle", Sample(self._sizes.idle_s, self._sizes.idle_s, meter.read()))

    # --- beside --------------------------------------------------------------------------------

    def _bare(self, what: str, count: int) -> int:
        meter = Meter(self._parts.servers)
        ran = subprocess.run(
            [sys.executable, "-m", "scripts.bench.bare", self._parts.urls["ES_STORE"], what, str(count)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            check=True,
            timeout=300,
        )
        found = json.loads(ran.stdout)
        cpu_s = meter.read() | {"client": found["cpu_s"]}
        self._samples.add(f"bare {what}", Sample(found["count"], found["seconds"], cpu_s))
        return int(found["count"])

    def _meter(self) -> Meter:
        return Meter({**self._parts.roles(), **self._parts.servers})

    def _say(self, what: str) -> None:
        print(what, file=sys.stderr, flush=True)
