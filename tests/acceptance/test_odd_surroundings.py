"""Odd streams, locales, folders and limits: never a traceback, the wrong stream or the wrong exit code."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import typer

from cli.main import app
from tests.support import effort
from tests.support.runs import ES, Ran
from tests.support.system import System
from tests.support.waiting import DEADLINE_S

pytestmark = [
    pytest.mark.usually_over("embedded", because="it is about the command line"),
    pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full and /proc"),
]
only_embedded = pytest.mark.over(
    "embedded", because="what `es` does before it connects is the same over any part"
)


def shell(system: System, script: str) -> Ran:
    """Run a script of bash, in a folder of its own, in which `$0` is `es`."""
    done = subprocess.run(
        ["bash", "-c", script, ES],
        capture_output=True,
        env={**system.environment, "EMPTY": ""},
        cwd=system.root,
        timeout=DEADLINE_S,
    )
    return Ran((script,), done.returncode, done.stdout, done.stderr).without_traceback()


@pytest.fixture(scope="module")
def odd(shared: System) -> System:
    """A running system with one user, whose name no small charset holds."""
    shared.create("odd@example.com", "Zoë 家")
    (shared.root / "line.ndjson").write_text('{"name": "no address"}\n')
    shadows = (
        "json",
        "typer",
        "rich",
        "logging",
        "apsw",
        "pika",
        "psycopg",
        "esdbclient",
        "tenacity",
        "domain/__init__",
        "adapters/__init__",
        "workers/__init__",
    )
    for module in shadows:
        path = shared.root / "shadow" / f"{module}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("raise SystemExit('a module of another program was imported')\n")
    return shared


NEXT = '"$0" ids next'
FIND = '"$0" users find --email odd@example.com'
# A script, its exit code, a text of its standard output, a text of its standard error.
CASES: dict[str, tuple[str, int, str, str]] = {
    # locales
    "C": (f"LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 {FIND}", 0, "Zoë 家", ""),
    "POSIX": (f"LC_ALL=POSIX PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 {FIND} --json", 0, "Zoë 家", ""),
    "ascii": (f"PYTHONIOENCODING=ascii:strict {FIND}", 0, "Zoë 家", ""),
    "latin-1": (f"PYTHONIOENCODING=latin-1 {FIND}", 0, "Zoë 家", ""),
    "unknown locale": (f"LC_ALL=xx_YY {NEXT}", 0, "", ""),
    "an argument in ascii": (
        'LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 "$0" users get Zoë', 2, "", "is not an id"
    ),
    # standard streams
    "closed input": (f"{NEXT} <&-", 0, "", ""),
    "closed input that is read": ('"$0" users find --email - <&-', 2, "", "is closed"),
    "input that cannot be read": ('"$0" users find --email - 0>/dev/null', 2, "", "cannot be read"),
    "a bulk that cannot be read": ('"$0" users create --from - 0>/dev/null', 2, "", "cannot be read"),
    "an answer to yes or no": ('"$0" gdpr erase 1 <&-', 2, "", "--yes"),
    "closed output": (f"{NEXT} >&-", 4, "", "it is closed"),
    "closed error": (f"{NEXT} 2>&-", 0, "", ""),
    "all closed": (f"{NEXT} <&- >&- 2>&-", 4, "", ""),
    "an error to a closed stream": ('"$0" users get x 2>&-', 2, "", ""),
    "a full error stream": ('"$0" users get x 2>/dev/full', 2, "", ""),
    "a bulk with a full error stream": ('"$0" users create --from line.ndjson 2>/dev/full', 2, "invalid", ""),
    "full output": (f"{FIND} >/dev/full", 4, "", "No space left"),
    "a full output of json": (f"{FIND} --json >/dev/full", 4, "", "No space left"),
    "a full help": ('"$0" users --help >/dev/full', 4, "", "No space left"),
    "a full usage": ('"$0" users >/dev/full', 4, "", "No space left"),
    "a full version": ('"$0" --version >/dev/full', 4, "", "No space left"),
    # where the home is
    "empty HOME": ('env -u ES_HOME HOME= "$0" config show', 2, "", "HOME is empty or relative"),
    "relative HOME": ('env -u ES_HOME HOME=x "$0" config show', 2, "", "HOME is empty or relative"),
    "no HOME": ('env -u ES_HOME -u HOME "$0" config show', 0, "/.local/share/es", ""),
    "relative data folder": ('env -u ES_HOME HOME=/h XDG_DATA_HOME=x "$0" config show', 0, "/h/.local/share/es", ""),
    "a home of no user": ("ES_HOME='~nobody-here/x' \"$0\" config show", 2, "", "~nobody-here"),
    "a home that is no folder": (f"ES_HOME=/dev/null {NEXT}", 2, "", "not a folder"),
    "a home in /proc": (f"ES_HOME=/proc/1/x {NEXT}", 4, "", "--home"),
    "a working folder that is gone": (f'mkdir gone; cd gone; rmdir ../gone; {NEXT} && "$0" doctor', 0, "", ""),
    "a relative home in it": (f"mkdir gone; cd gone; rmdir ../gone; ES_HOME=x {NEXT}", 2, "", "is relative"),
    # other folders and modules
    "no temporary folder": (f"TMPDIR=/none {NEXT}", 0, "", ""),
    "a relative runtime folder": (f"XDG_RUNTIME_DIR=x {NEXT}", 0, "", ""),
    "modules on PYTHONPATH": (f'PYTHONPATH=shadow {NEXT} && PYTHONPATH=shadow "$0" doctor', 0, "", ""),
    "modules in the working folder": (f'cd shadow; {NEXT} && PYTHONPATH=: "$0" ids next', 0, "", ""),
    # descriptors
    "few descriptors": (f"ulimit -n 12; {NEXT}", 0, "", ""),
    "a log that is a folder": ('mkdir $ES_HOME/log/x.log; "$0" logs x', 4, "", "refused: Is a directory"),
    "high descriptors": (
        f'for n in $(seq 3 1100); do eval "exec $n<."; done; {NEXT} && "$0" users create --from line.ndjson',
        2, "invalid", "",
    ),
    # inputs
    "a folder": ('"$0" users create --from .', 2, "", "Is a directory"),
    "no file": ('"$0" users create --from none', 2, "", "No such file"),
    "an unreadable file": ('"$0" users create --from /proc/self/mem', 2, "", "cannot be read: Input/output"),
    "a name of odd bytes": ('"$0" users create --from $\'a\\xff\'', 2, "", "a\\udcff"),
    "an id of odd bytes": ('"$0" users get $\'\\xff\'', 2, "", "is not an id"),
    "a role of odd bytes": ('"$0" logs $\'\\xff\'', 2, "", "ROLE must be one of"),
    "a home of odd bytes": ('ES_HOME=$PWD/$\'h\\xff\' "$0" config show --json', 0, "h\\udcff", ""),
}  # fmt: skip


SENDING = (
    "C",
    "ascii",
    "closed input",
    "closed output",
    "closed error",
    "all closed",
    "a bulk with a full error stream",
    "full output",
    "a working folder that is gone",
    "no temporary folder",
    "modules on PYTHONPATH",
    "few descriptors",
    "high descriptors",
)
"""Cases in which clients of servers take part: descriptors of their sockets, modules that they import, their text."""


@only_embedded
@pytest.mark.parametrize("case", [case for case in CASES if case not in SENDING])
def test_odd_surroundings_are_handled_before_a_request_is_sent(odd: System, case: str) -> None:
    check(odd, case)


@pytest.mark.parametrize("case", SENDING)
def test_odd_surroundings_are_handled(odd: System, case: str) -> None:
    check(odd, case)


def check(odd: System, case: str) -> None:
    script, code, out, err = CASES[case]

    ran = shell(odd, script)

    assert ran.code == code, ran
    assert out in ran.out, ran
    assert err in ran.err, ran
    assert code or not err, "a success says nothing"


@only_embedded
def test_with_a_closed_error_stream_only_the_answer_is_printed(system: System) -> None:
    """The note that workers were started has no place to go: not into standard output, and not into a socket."""
    ran = shell(system, 'ID=$("$0" users create --email a@example.com --name A 2>&-); echo "$ID"')

    assert system.get(ran.out.strip())["email"] == "a@example.com"


@only_embedded
def test_workers_start_beside_modules_on_pythonpath(odd: System, system: System) -> None:
    ran = shell(system, f'PYTHONPATH={odd.root}/shadow "$0" up && "$0" ids next')

    assert (ran.code, len(ran.lines)) == (0, 2 + len(system.roles)), ran


def _commands(words: list[str], command: Any) -> Iterator[list[str]]:
    yield words
    for name in getattr(command, "list_commands", lambda _: [])(None):
        yield from _commands([*words, name], command.get_command(None, name))


@only_embedded
def test_the_help_of_every_command_may_stay_unread(odd: System) -> None:
    def unread(words: list[str]) -> tuple[list[str], int, bytes]:
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "wb") as output:
            done = subprocess.run(
                [ES, *words, "--help"],
                stdout=output,
                stderr=subprocess.PIPE,
                env=odd.environment,
                timeout=DEADLINE_S,
            )
        return words, done.returncode, done.stderr

    commands = list(_commands([], typer.main.get_command(app)))
    assert len(commands) > 40
    with ThreadPoolExecutor(2) as pool:
        ran = list(pool.map(unread, effort.some(commands, 0)))

    assert [each for each in ran if each[1:] != (141, b"")] == []
