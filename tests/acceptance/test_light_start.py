"""A request is started in shell loops: it loads none of the heavy parts but, over a broker, what speaks to it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.acceptance.conftest import DEADLINE_S, System

HEAVY = ("esdbclient", "grpc", "psycopg", "cryptography", "apsw", "tenacity", "rich.table", "msgspec")
CLIENT = "pika"
"""Of the broker."""

_SCRIPT = """
import sys
from cli.main import app
try:
    app()
finally:
    print(*sorted(sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ("users", "get", "ID"),
        ("users", "get", "ID", "--json"),
        ("users", "create", "--email", "light@example.com", "--name", "Light"),
        ("users", "create", "--email", "lighter@example.com", "--name", "Lighter", "--json"),
        ("users", "create", "--from", "-"),
        ("users", "rename", "ID", "Other"),
        ("ids", "next"),
        ("ids", "next", "-n", "1000"),
    ],
    ids=" ".join,
)
def test_a_local_request_loads_nothing_heavy(shared: System, arguments: tuple[str, ...]) -> None:
    found = shared.es("users", "find", "--email", "there@example.com", "--json")
    user_id = found.object["user_id"] if found.code == 0 else shared.create("there@example.com", "There")
    done = subprocess.run(
        [sys.executable, "-P", "-c", _SCRIPT, *(user_id if part == "ID" else part for part in arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=shared.environment,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done
    loaded = done.stderr.splitlines()[-1].split()
    assert "typer" in loaded, "the list of modules was printed"
    assert [module for module in loaded if module.startswith(HEAVY)] == []
    assert (CLIENT in loaded) == (not shared.settings.is_local)
    assert [module for module in loaded if module.split(".")[0] == "workers"] == []
