"""Run what the system is compared with, each in a process of its own: bare loops, an echo, other libraries."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from scripts.bench.bulks import percentile
from scripts.bench.peers import PEERS
from tests.support.processes import ROOT

_LIMIT_S = 600
PEERS_PYTHON = ROOT / ".venv-bench/bin/python"
"""The environment of other libraries, which `make bench` makes."""


@dataclass(frozen=True)
class Bare:
    """What one bare loop has used. `ms` is the time of each group of commits."""

    count: int
    seconds: float
    ms: list[float]
    cpu_s: float
    written: float
    peak_mb: float

    @property
    def rate(self) -> float:
        return self.count / self.seconds


def bare(what: str, *arguments: object) -> Bare:
    """One run of scripts/bench/limits.py."""
    program = [sys.executable, "-m", "scripts.bench.limits", what, *map(str, arguments)]
    ran = subprocess.run(program, cwd=ROOT, stdout=subprocess.PIPE, check=True, timeout=_LIMIT_S)
    return Bare(**json.loads(ran.stdout))


class Echo:
    """One client of a bare server over a socket: it answers from a dictionary."""

    def __init__(self, path: Path) -> None:
        program = [sys.executable, "-m", "scripts.bench.limits", "echo", str(path)]
        self._server = subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == "listening\n"
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(str(path))
        self._stream = self._connection.makefile("rwb")

    def ask(self) -> object:
        self._stream.write(json.dumps({"kind": "users.get", "user_id": "7"}).encode() + b"\n")
        self._stream.flush()
        return json.loads(self._stream.readline())

    def close(self) -> None:
        """The server ends with its connection."""
        with suppress(OSError):
            self._stream.close()
        self._connection.close()
        with suppress(subprocess.TimeoutExpired):
            self._server.wait(5)
        self._server.kill()
        self._server.communicate()


def peers(folder: Path, count: int) -> dict[str, dict[str, float] | str]:
    """Their figures by name, or why there are none."""
    folder.mkdir()
    return {name: _peer(name, folder, count) for name in PEERS}


def _peer(name: str, folder: Path, count: int) -> dict[str, float] | str:
    if not PEERS_PYTHON.exists():
        return "not installed; `make bench` installs it into .venv-bench"
    program = [
        str(PEERS_PYTHON),
        str(ROOT / "scripts/bench/peers.py"),
        name,
        str(folder / f"{name}.db"),
        str(count),
    ]
    ran = subprocess.run(program, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    if ran.returncode:
        return f"failed: {ran.stderr.strip().splitlines()[-1:]}"
    found = json.loads(ran.stdout)
    if "missing" in found:
        return str(found["missing"])
    figures = {
        "create p50": percentile(found["create"], 0.5),
        "creates per second": 1000 * len(found["create"]) / sum(found["create"]),
        "get p50": percentile(found["get"], 0.5),
    }
    return figures | ({"replay": found["replay"]} if "replay" in found else {})
