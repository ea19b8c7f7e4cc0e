"""The delaying proxy as a program: it ends by itself, and serves this machine only."""

from __future__ import annotations

import subprocess
import sys

import pytest

from scripts.bench.proxy import refuse_other_machines
from tests.support.processes import ROOT


def test_it_ends_with_its_input() -> None:
    program = [sys.executable, "-m", "scripts.bench.proxy", "amqp://127.0.0.1:1"]
    ran = subprocess.run(program, cwd=ROOT, input="5\n0\n", capture_output=True, text=True, timeout=60)

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("amqp://127.0.0.1:")


@pytest.mark.parametrize("url", ["amqp://192.0.2.1/", "esdb://192.0.2.1:2113?tls=false"])
def test_a_server_of_another_machine_is_refused(url: str) -> None:
    with pytest.raises(SystemExit, match=r"192\.0\.2\.1 is another machine"):
        refuse_other_machines(url)


def test_a_server_of_this_machine_is_accepted() -> None:
    refuse_other_machines("postgresql://es@localhost/es", "esdb://127.0.0.1:2113?tls=false")
