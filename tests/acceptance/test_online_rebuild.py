"""A read model is rebuilt while it is written and read: readers never see less, a kill only delays it."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import pytest

from adapters.settings import load_settings
from adapters.wiring import open_caller
from domain.kernel.errors import EsError
from domain.kernel.ports.transport import Caller
from tests.acceptance.conftest import System, confirmed, people, wait_until

pytestmark = pytest.mark.slow


def _caller(system: System) -> Caller:
    """The transport that the command line uses, without the start of a process for every question."""
    return open_caller(load_settings(environment=system.environment))


def _generations(system: System) -> list[dict[str, Any]]:
    return system.es("projections", "status", "users", "--json").ok().objects


def _current(system: System) -> dict[str, Any]:
    (found,) = [generation for generation in _generations(system) if generation["state"] == "current"]
    return found


class Reader(threading.Thread):
    """Gets one user after the other until told to stop, and remembers every miss."""

    def __init__(self, system: System, ids: Sequence[str]) -> None:
        super().__init__(name="reader")
        self._system = system
        self._ids = ids
        self._ended = threading.Event()
        self.reads = 0
        self.misses: list[str] = []

    def run(self) -> None:
        chosen = random.Random(7)
        with closing(_caller(self._system)) as caller:
            while not self._ended.is_set():
                user_id = chosen.choice(self._ids)
                try:
                    user = caller.ask("projections", "users.get", {"user_id": user_id})
                    if user["user_id"] != user_id or user["status"] != "active":
                        self.misses.append(f"{user_id}: {user}")
                except EsError as error:
                    self.misses.append(f"{user_id}: {error}")
                self.reads += 1

    def end(self) -> None:
        self._ended.set()
        self.join()


def test_gets_never_miss_while_a_bulk_writes_and_rebuilds_run(running: System) -> None:
    there = list(confirmed(running.bulk("create", people(2000)).ok().objects).values())
    running.caught_up()
    reader = Reader(running, there)
    reader.start()
    try:
        bulk = running.start_bulk("create", people(4000, prefix="w"))
        rebuilt = [running.es("projections", "rebuild", "users", "--json").ok().object for _ in range(3)]
        written = confirmed(bulk.end().ok().objects)
        last = running.es("projections", "rebuild", "users", "--json").ok().object
    finally:
        reader.end()

    assert reader.misses == []
    assert reader.reads > 100
    assert [generation["generation"] for generation in (*rebuilt, last)] == [2, 3, 4, 5]
    assert _current(running)["generation"] == 5
    shown = running.users()
    assert [user["user_id"] for user in shown] == sorted([*there, *written.values()], key=int)
    assert all(generation["parked"] == 0 for generation in _generations(running))


def test_a_get_right_after_its_create_never_misses_while_rebuilds_run(running: System) -> None:
    running.bulk("create", people(3000)).ok()
    ended = threading.Event()

    def rebuild() -> None:
        while not ended.is_set():
            running.es("projections", "rebuild", "users").ok()

    rebuilding = threading.Thread(target=rebuild)
    rebuilding.start()
    misses = []
    try:
        with closing(_caller(running)) as caller:
            for n, person in enumerate(people(300, prefix="now")):
                fields = {"email": person["email"], "name": person["name"]}
                body = {"command_id": person["command_id"], "actor": "test", "input": fields}
                user_id = caller.ask("users", "users.create", body)["user_id"]
                try:
                    caller.ask("projections", "users.get", {"user_id": user_id})
                except EsError as error:
                    misses.append(f"{n}: {error}")
    finally:
        ended.set()
        rebuilding.join()
    assert misses == []
    assert _current(running)["generation"] > 2


def test_a_rebuild_is_resumed_after_kills_of_its_worker_and_rows_are_equal(running: System) -> None:
    running.bulk("create", people(7000)).ok()
    first = running.users()
    running.bulk("rename", [{"user_id": u["user_id"], "name": "Renamed"} for u in first[:500]]).ok()
    before = running.users()
    first_pid = running.pid_of("projections")
    with closing(_caller(running)) as caller:
        begun = caller.ask("projections", "projections.rebuild", {"name": "users"})["generation"]
        os.kill(first_pid, signal.SIGKILL)
    cut = [generation for generation in _generations(running) if generation["generation"] == begun]
    wait_until(lambda: running.worker("projections")["pid"] not in (None, first_pid), "it was restarted")
    running.signal("projections", signal.SIGKILL)
    running.ready()

    assert [generation["state"] for generation in cut] in (["building"], ["current"])
    wait_until(lambda: _current(running)["generation"] == begun, "the rebuild was resumed and finished")
    assert running.users() == before
    assert [generation["generation"] for generation in _generations(running)].count(begun) == 1
    assert len(before) == 7000


def test_reads_go_on_from_the_old_rows_while_a_rebuild_is_cut_off(running: System) -> None:
    user_id = running.create()
    running.bulk("create", people(8000)).ok()
    running.caught_up()
    pid = running.pid_of("projections")
    with closing(_caller(running)) as caller:
        caller.ask("projections", "projections.rebuild", {"name": "users"})
    os.kill(pid, signal.SIGKILL)
    # The question waits for the restarted worker; the answer comes from whole rows, old or new.
    assert running.get(user_id)["name"] == "Ada Lovelace"
    assert len(running.users()) == 8001
