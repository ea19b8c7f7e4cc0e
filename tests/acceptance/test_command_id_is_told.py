"""After a command was sent, every failure tells its command id. A query has none and does not speak of one."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from tests.support.people import ndjson
from tests.support.processes import open_sockets, start_python
from tests.support.runs import ES, Ran, finish
from tests.support.system import System
from tests.support.waiting import DEADLINE_S, eventually

pytestmark = [
    pytest.mark.usually_over("embedded", because="it is about the command line"),
    pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full and /proc"),
]

NUMBERS = count()
OUTPUTS = {">/dev/full": 4, ">&-": 4, "> >(exec <&-)": 141}
"""How standard output fails, as bash says it, and the exit code. The last is a pipe that is not read."""


def run(system: System, output: str, *arguments: str, stdin: bytes = b"") -> Ran:
    """Run a command whose standard output fails."""
    wait = "sleep 0.2; " if "exec" in output else ""  # until the reader has closed the pipe
    script = f'exec {output}; {wait}exec "$0" "$@"'
    done = subprocess.run(
        ["bash", "-c", script, ES, *arguments],
        input=stdin,
        stderr=subprocess.PIPE,
        env=system.environment,
        timeout=DEADLINE_S,
    )
    return Ran(arguments, done.returncode, b"", done.stderr).without_traceback()


def told_id(said: str) -> str:
    (found,) = re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", said)
    return str(found)


def assert_repeatable(system: System, arguments: list[str], said: str) -> None:
    """Check that the id that was told, and only this id, gives the answer that was lost."""
    eventually(lambda: system.es(*arguments, "--command-id", told_id(said)).code == 0, "it is answered")
    assert "taken" in system.es(*arguments).err


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_an_answer_that_cannot_be_printed_tells_the_command_id(
    shared: System, output: str, options: list[str]
) -> None:
    email = f"lost-{next(NUMBERS)}@example.com"
    command = ["users", "create", "--email", email, "--name", "Lost", *options]

    ran = run(shared, output, *command)

    assert ran.code == OUTPUTS[output], ran
    assert_repeatable(shared, command, ran.err)


def test_a_bulk_tells_the_ids_of_answers_that_it_cannot_print(shared: System) -> None:
    people = [{"email": f"unprinted-{n}@example.com", "name": "Unprinted"} for n in range(3)]

    ran = run(shared, ">/dev/full", "users", "create", "--from", "-", stdin=ndjson(people))

    assert ran.code == 4
    told = [json.loads(line) for line in ran.err.splitlines() if line.startswith("{")]
    assert {each["error"]["code"] for each in told} == {"output-lost"}
    ids = {each["line"]: each["command_id"] for each in told}
    assert 1 in ids
    # A line that was not read before the output failed was not sent either.
    again = [
        {**person, **({"command_id": ids[line]} if line in ids else {})}
        for line, person in enumerate(people, start=1)
    ]
    assert len(shared.bulk("create", again).ok().objects) == len(people)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_a_command_waits_tells_the_command_id(shared: System, number: signal.Signals) -> None:
    command = ["users", "create", "--email", f"waits-{number}@example.com", "--name", "Waits"]
    with shared.paused("users"):
        client = shared.start(*command)

        def has_sent() -> bool:
            with suppress(OSError):
                return bool(open_sockets(client.pid))
            return False

        eventually(has_sent, "the command is sent")
        client.send_signal(number)
        ran = finish(client).without_traceback()

    assert ran.code == 128 + number
    assert number.name in ran.err
    assert_repeatable(shared, command, ran.err)


@pytest.mark.over("embedded", because="it waits for 8 s, and the texts are the same")
def test_a_failing_query_does_not_speak_of_a_command_id(shared: System) -> None:
    for output in OUTPUTS:
        assert "command id" not in run(shared, output, "users", "list").err
    with shared.paused("projections"):
        ran = shared.es("users", "list").failed(4)

    assert "outcome is unknown" in ran.err
    assert "command id" not in ran.err
    assert "command-id" not in ran.err


_HIDDEN = """
import os, signal, sys, typer
from cli import main, session
session.sending("0b5c")
try:
    with main._printed_failures():
        try:
            os.kill(os.getpid(), int(sys.argv[1]))
        except BaseException:
            raise ImportError("as CPython does for a module that another one needs")
except (SystemExit, typer.Exit) as end:
    print(getattr(end, "exit_code", None) or end.code)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_an_import_hides_ends_the_command_all_the_same(number: signal.Signals) -> None:
    out, err = start_python(_HIDDEN, str(int(number))).communicate(timeout=DEADLINE_S)

    assert out == f"{128 + number}\n", err
    assert f"ended by {number.name}" in err
    assert "0b5c" in err
