"""`es` runs in shell loops: a request loads no heavy module, and over a broker its client only."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.system import System
from tests.support.waiting import DEADLINE_S

HEAVY = ("esdbclient", "grpc", "psycopg", "cryptography", "apsw", "tenacity", "rich.table", "msgspec")
CLIENT = "pika"  # of the broker

_SCRIPT = """
import sys
from cli.main import app
try:
    app()
finally:
    print(*sorted(sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "command",
    [
        "users get ID",
        "users get ID --json",
        "users create --email light@example.com --name Light",
        "users create --email lighter@example.com --name Lighter --json",
        "users create --from -",
        "users rename ID Other",
        "ids next",
        "ids next -n 1000",
    ],
)
def test_a_local_request_loads_nothing_heavy(shared: System, command: str) -> None:
    found = shared.es("users", "find", "--email", "there@example.com", "--json")
    user_id = found.object["user_id"] if found.code == 0 else shared.create("there@example.com", "There")
    done = subprocess.run(
        [sys.executable, "-P", "-c", _SCRIPT, *command.replace("ID", user_id).split()],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=shared.environment,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr
    loaded = done.stderr.splitlines()[-1].split()
    assert "typer" in loaded, "the list of modules was printed"
    assert [module for module in loaded if module.startswith(HEAVY)] == []
    assert (CLIENT in loaded) == (not shared.settings.is_local)
    assert [module for module in loaded if module.split(".")[0] == "workers"] == []
