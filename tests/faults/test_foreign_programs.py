"""Programs that open and copy the databases of running workers, beside kills and a load.

Each opens a file in a process of its own, as `sqlite3` at a shell does. Python's own SQLite stands in for that program.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import effort
from tests.support.people import confirmed, people
from tests.support.processes import start_python
from tests.support.system import System
from tests.support.waiting import DEADLINE_S, eventually

pytestmark = pytest.mark.slow

READ = """
import sqlite3, sys
other = sqlite3.connect(sys.argv[1])
other.execute("SELECT count(*) FROM sqlite_schema").fetchone()
other.close()
"""
BACK_UP = """
import sqlite3, sys
other = sqlite3.connect(sys.argv[1])
other.execute("VACUUM INTO ?", (sys.argv[2],))
(found,) = sqlite3.connect(sys.argv[2]).execute("PRAGMA integrity_check").fetchone()
assert found == "ok", found
"""


def _run(code: str, *arguments: Path) -> None:
    process = start_python(code, *map(str, arguments))
    _, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, said


@contextmanager
def _foreign_programs(system: System) -> Iterator[list[Path]]:
    """Read each database and back it up in turns until the block ends; yields the backups made so far."""
    stop, backups, failed = threading.Event(), list[Path](), list[BaseException]()

    def come_and_go() -> None:
        try:
            for n in itertools.count():
                for name in ("read.db", "vault.db", "events.db"):
                    if stop.is_set():
                        return
                    _run(READ, system.home / name)
                backups.append(system.root / f"backup-{n}.db")
                _run(BACK_UP, system.home / ("vault.db" if n % 2 else "events.db"), backups[-1])
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        yield backups
    finally:
        stop.set()
        thread.join()
    assert not failed, failed


def test_readers_backups_and_kills_beside_a_load_lose_nothing(running: System) -> None:
    inputs = people(effort.KILLED_BULK)
    choice = random.Random(f"{effort.SEED} foreign programs")
    with _foreign_programs(running) as backups:
        bulk = running.start_bulk("create", inputs)
        for _ in bulk.moments("foreign programs", 4):
            running.kill(choice.choice(["users", "projections"]))
        erased = confirmed(bulk.assert_exactly_once().objects)[inputs[0]["command_id"]]
        running.retry("gdpr", "erase", erased, "--yes")
        running.kill("erasures")
        eventually(lambda: len(backups) >= 4, "each database was backed up twice", within_s=DEADLINE_S * 2)
        running.retry("projections", "rebuild", "users")

    running.ready()
    running.retry("projections", "rebuild", "users")
    assert running.get(erased)["status"] == "erased"
    assert len(running.users()) == len(inputs)
    running.es("down").ok()
    running.up().ready()
    assert len(confirmed(running.bulk("create", inputs).ok().objects)) == len(inputs)
    running.es("doctor").ok()
