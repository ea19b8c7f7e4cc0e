"""Workers and supervisors that are killed, refused or terminated are started again, and the logs show it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest

from tests.support.runs import finish
from tests.support.system import ROLES, System
from tests.support.waiting import eventually

pytestmark = pytest.mark.usually_over("embedded", because="a supervisor is the same in every profile")


def test_workers_end_when_their_supervisor_is_killed(running: System) -> None:
    user_id = running.create()
    running.kill("supervisor")

    running.ended()
    assert running.es("status", "--json").exits(4).object["running"] is False
    assert running.up().get(user_id)["name"] == "Ada Lovelace"


def test_up_works_right_after_a_kill_of_the_supervisor(running: System) -> None:
    user_id = running.create()
    running.kill("supervisor")
    running.up()

    assert running.get(user_id)["name"] == "Ada Lovelace"
    running.alone()
    running.create("after@example.com")


def test_a_system_starts_beside_the_files_of_a_killed_one(running: System) -> None:
    user_id = running.create()
    running.kill_everything()
    assert list(running.home.rglob("*.sock")), "a kill leaves the sockets behind"

    assert running.es("status", "--json").exits(4).object["running"] is False
    running.es("users", "get", user_id, environment={"ES_AUTOSTART": "0"}).failed(4)
    assert running.up().get(user_id)["name"] == "Ada Lovelace"
    assert len(running.processes()) == 1 + len(running.roles)


def _restarts(workers: Sequence[dict[str, Any]]) -> dict[str, int]:
    return {worker["role"]: worker["restarts"] for worker in workers}


def _restarted_alone(system: System, role: str, number: signal.Signals) -> None:
    """Signal a role's worker; check that it, and no other, is started again."""
    before = _restarts(system.ready().status()["workers"])
    after = {**before, role: before[role] + 1}
    signalled = system.signal(role, number)

    eventually(lambda: _restarts(system.supervised()).get(role) == after[role], f"{role} was restarted")
    system.ready()
    assert system.worker(role)["pid"] != signalled
    assert _restarts(system.status()["workers"]) == after


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGKILL, "killed by SIGKILL"), (signal.SIGTERM, "ended with status 0")]
)
@pytest.mark.slow
def test_a_killed_or_terminated_worker_is_restarted_and_logged(
    shared: System, role: str, number: signal.Signals, said: str
) -> None:
    logged = len(shared.log("supervisor", "-n", "100000"))
    _restarted_alone(shared, role, number)

    added = shared.log("supervisor", "-n", "100000")[logged:]
    ended = [line for line in added if line["action"] == "worker-ended"]
    assert [(line["role"], line["how"]) for line in ended] == [(role, said)]
    assert shared.last_error(role) == "", "the error ends when the worker is ready again"
    shared.get(shared.create(f"{number.name}-{role}@example.com"))


def test_a_worker_that_crashes_repeatedly_is_restarted_with_back_off(running: System) -> None:
    killed: set[int] = set()
    for _ in range(4):  # immediately: a worker that has run for a while is restarted without delay
        (pid,) = eventually(lambda: set(running.processes("ids")) - killed, "it was started again")
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
    eventually(lambda: running.worker("ids")["restarts"] == 4, "it was restarted")
    running.ready()

    waits_s: list[float] = []
    ended_at: datetime | None = None
    for line in running.log("supervisor"):
        if line.get("role") == "ids":
            at = datetime.fromisoformat(line["time"])
            if line["action"] == "worker-ended":
                ended_at = at
            elif ended_at is not None:
                waits_s.append((at - ended_at).total_seconds())
    # Lower bounds only: a busy machine adds to each wait.
    assert [wait_s >= 0.09 * 2**n for n, wait_s in enumerate(waits_s)] == [True] * 4, waits_s
    running.create()


@pytest.mark.usually_over("embedded", "distributed", because="the parts differ")
def test_a_worker_with_a_bad_key_reports_it_and_starts_once_it_is_fixed(running: System) -> None:
    user_id = running.create()
    running.es("down").ok()
    kek = running.settings.kek_file
    key = kek.read_text()
    kek.write_text("not a key\n")

    assert "key-encryption key" in running.es("up").failed(4).err
    # `es up` ends with the first worker that reports it; the others follow.
    eventually(lambda: "key-encryption key" in running.last_error("users"), "the worker reports it")

    kek.write_text(key)
    running.ready()
    assert running.get(user_id)["name"] == "Ada Lovelace"


@pytest.mark.usually_over("embedded", "distributed", because="the parts differ")
def test_a_missing_key_file_is_never_replaced_by_a_new_key(running: System) -> None:
    running.create()
    running.es("down").ok()
    kek = running.settings.kek_file
    kept = kek.rename(running.root / "kept")

    running.es("up").failed(4)
    assert not kek.exists()
    kept.rename(kek)
    running.ready()


@pytest.mark.usually_over("embedded", "distributed", because="the parts differ")
@pytest.mark.slow
def test_a_command_with_an_unknown_outcome_is_safe_to_retry(running: System) -> None:
    command = ("users", "create", "--email", "unknown@example.com", "--name", "Unknown")
    with running.paused("users"):
        ran = running.es(*command).failed(4)

    assert "unknown" in ran.err
    (command_id,) = [line.split()[-1] for line in ran.err.splitlines() if "command id:" in line]
    again = [running.es(*command, "--command-id", command_id).ok().out for _ in range(2)]
    assert again[0] == again[1]
    assert len(running.registrations()) == 1


@pytest.mark.slow
def test_logs_are_json_lines_with_time_level_worker_and_action(shared: System) -> None:
    shared.create("logged@example.com")
    _restarted_alone(shared, "users", signal.SIGKILL)

    for role in (None, "supervisor", *ROLES):
        entries = [json.loads(line) for line in shared.es("logs", *([role] if role else [])).ok().lines]
        assert entries
        assert all({"time", "level", "worker", "action"} <= set(entry) for entry in entries)
        assert [entry["time"] for entry in entries] == sorted(entry["time"] for entry in entries)
        if role:
            assert {entry["worker"] for entry in entries} == {role}
    assert len(shared.es("logs", "-n", "1", "users").ok().lines) == 1


@pytest.mark.slow
def test_followed_logs_show_new_lines(shared: System) -> None:
    following = shared.ready().start("logs", "supervisor", "-f", "-n", "1")
    assert following.stdout is not None
    following.stdout.readline()
    shared.kill("ids")
    while json.loads(following.stdout.readline())["action"] != "worker-ended":
        pass
    shared.ready()  # before the next test of this system
    following.send_signal(signal.SIGINT)
    assert finish(following).without_traceback().code == 130
