"""A read model is rebuilt while it is written and read: readers never miss a row, and a killed rebuild resumes."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

import pytest

from adapters.wiring import open_caller
from domain.kernel.errors import EsError
from domain.kernel.ports.transport import Caller
from tests.support import effort
from tests.support.people import confirmed, people
from tests.support.system import System
from tests.support.waiting import eventually

ROWS = effort.REBUILT_ROWS

pytestmark = pytest.mark.slow


@contextmanager
def _meanwhile(step: Callable[[], object]) -> Iterator[None]:
    """Repeat a step in a thread until the block ends."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.is_set():
            step()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class Reader:
    """Gets one random user after the other and remembers every miss."""

    def __init__(self, caller: Caller, ids: Sequence[str]) -> None:
        self._caller = caller
        self._ids = ids
        self._chance = random.Random(7)
        self.reads = 0
        self.misses: list[str] = []

    def get_one(self) -> None:
        user_id = self._chance.choice(self._ids)
        try:
            user = self._caller.ask("projections", "users.get", {"user_id": user_id})
            if user["user_id"] != user_id or user["status"] != "active":
                self.misses.append(f"{user_id}: {user}")
        except EsError as error:
            self.misses.append(f"{user_id}: {error}")
        self.reads += 1


def _kill_in_rebuild(system: System) -> tuple[int, int]:
    """Begin a rebuild and kill its worker at once; the generation and the killed process."""
    pid = system.pid_of("projections")
    with closing(open_caller(system.settings)) as caller:
        begun = caller.ask("projections", "projections.rebuild", {"name": "users"})["generation"]
        os.kill(pid, signal.SIGKILL)
    return begun, pid


def test_gets_never_miss_while_a_bulk_writes_and_rebuilds_run(running: System) -> None:
    there = list(confirmed(running.bulk("create", people(ROWS // 3)).ok().objects).values())
    running.caught_up()
    with closing(open_caller(running.settings)) as caller:
        reader = Reader(caller, there)
        with _meanwhile(reader.get_one):
            bulk = running.start_bulk("create", people(ROWS // 2, prefix="w"))
            rebuilt = [running.es("projections", "rebuild", "users", "--json").ok().object for _ in range(3)]
            written = confirmed(bulk.end().ok().objects)
            rebuilt.append(running.es("projections", "rebuild", "users", "--json").ok().object)

    assert reader.misses == []
    assert reader.reads > 100
    assert [generation["generation"] for generation in rebuilt] == [2, 3, 4, 5]
    assert running.generation()["generation"] == 5
    shown = running.users()
    assert [user["user_id"] for user in shown] == sorted([*there, *written.values()], key=int)
    assert all(generation["parked"] == 0 for generation in running.generations())


@pytest.mark.usually_over("embedded", because="gets beside a bulk cover the parts")
def test_a_get_right_after_its_create_never_misses_while_rebuilds_run(running: System) -> None:
    running.bulk("create", people(ROWS // 2)).ok()
    created = people(effort.GETS if running.settings.is_local else effort.GETS // 3, prefix="now")
    with _meanwhile(lambda: running.es("projections", "rebuild", "users").ok()):
        assert running.misses(created) == []
        eventually(lambda: running.generation()["generation"] > 2, "two rebuilds have run")


def test_a_killed_rebuild_resumes_and_its_rows_are_equal(running: System) -> None:
    running.bulk("create", people(ROWS)).ok()
    first = running.users()
    running.bulk("rename", [{"user_id": u["user_id"], "name": "Renamed"} for u in first[:500]]).ok()
    before = running.users()
    begun, killed = _kill_in_rebuild(running)
    cut = [generation for generation in running.generations() if generation["generation"] == begun]
    eventually(lambda: running.worker("projections")["pid"] not in (None, killed), "it was restarted")
    running.signal("projections", signal.SIGKILL)
    running.ready()

    assert [generation["state"] for generation in cut] in (["building"], ["current"])
    eventually(lambda: running.generation()["generation"] == begun, "the rebuild was resumed and finished")
    assert running.users() == before
    assert [generation["generation"] for generation in running.generations()].count(begun) == 1
    assert len(before) == ROWS


@pytest.mark.usually_over("embedded", because="gets beside a bulk cover the parts")
def test_reads_continue_from_the_old_rows_while_a_rebuild_is_killed(running: System) -> None:
    user_id = running.create()
    running.bulk("create", people(ROWS)).ok()
    running.caught_up()
    _kill_in_rebuild(running)
    # The query waits for the restarted worker and reads complete rows, old or new.
    assert running.get(user_id)["name"] == "Ada Lovelace"
    assert len(running.users()) == ROWS + 1


def test_a_generation_is_checked_then_switched_to_and_rolled_back_at_the_shell(running: System) -> None:
    running.create()
    running.caught_up()
    checked = running.es("projections", "rebuild", "users", "--check", "--json").ok().object
    assert (checked["result"], checked["generations"], checked["rows"]) == ("equal", [1, 2], [1, 1])
    assert running.generation()["generation"] == 1
    late = running.create("late@example.com")

    assert running.es("projections", "switch", "users", "--json").ok().object["generation"] == 2
    assert running.get(late)["status"] == "active"
    assert running.es("projections", "rollback", "users", "--json").ok().object["generation"] == 1
    assert running.get(late)["status"] == "active"
    compared = running.es("projections", "diff", "users", "--json").ok().object
    assert (compared["result"], compared["generations"], compared["rows"]) == ("equal", [1, 2], [2, 2])

    history = running.es("projections", "history", "users", "--json").ok().objects
    assert [each["why"] for each in history if each["state"] == "current"] == [
        "first-use",
        "switch",
        "rollback",
    ]
    assert running.es("projections", "prune", "users", "--yes", "--json").ok().object["removed"] == [2]
    assert running.es("projections", "rollback", "users").code == 3
    assert running.es("projections", "cancel", "users").code == 3


def test_a_check_whose_worker_is_killed_is_finished_by_the_next_one(running: System) -> None:
    running.bulk("create", people(1000)).ok()
    running.caught_up()
    begun = running.es("projections", "rebuild", "users", "--check", "--no-wait", "--json").ok().object
    running.signal("projections", signal.SIGKILL)
    attached = running.es("projections", "rebuild", "users", "--check", "--json").ok().object

    assert attached["result"] == "equal"
    assert attached["rows"] == [1000, 1000]
    assert attached["generations"][1] >= begun["generation"]
    assert running.generation()["generation"] == 1
