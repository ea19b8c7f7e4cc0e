"""The workers as a whole: started once, kept running, stopped without loss, found again after anything."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import (
    DEADLINE_S,
    ROLES,
    System,
    confirmed,
    errors,
    people,
    wait_until,
)
from tests.support.servers import free_port

NO_AUTOSTART = {"ES_AUTOSTART": "0"}


def _supervisors(system: System) -> list[int]:
    return [
        pid
        for pid in system.processes()
        if b"supervise" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    ]


# --- starting ----------------------------------------------------------------------------------------


def test_several_ups_at_once_start_one_supervisor(system: System) -> None:
    starting = [system.start("up", "--json") for _ in range(5)]
    said = [(*starter.communicate(timeout=DEADLINE_S), starter.returncode) for starter in starting]

    assert [code for _, _, code in said] == [0] * 5, said
    assert len({json.loads(out)["pid"] for out, _, _ in said}) == 1
    wait_until(lambda: len(system.processes()) == 1 + len(system.roles), "the others have gone again")


@pytest.mark.own_store("its systems are up at the same time")
def test_fresh_homes_come_up_every_time_also_on_a_busy_machine(systems: Callable[[], System]) -> None:
    for _ in range(2):
        first = systems()
        count = 6 if first.settings.is_local else 3
        fresh = [first, *(systems() for _ in range(count - 1))]
        starting = [system.start("up") for system in fresh]
        said = [(*starter.communicate(timeout=DEADLINE_S), starter.returncode) for starter in starting]
        for system in fresh:
            system.close()
        assert [code for _, _, code in said] == [0] * len(fresh), [err for _, err, _ in said]


@pytest.mark.slow
def test_up_when_everything_runs_changes_nothing(shared: System) -> None:
    before = set(shared.ready().processes())
    assert shared.es("up", "--json").ok().object["pid"] in before
    # What `up` started may still be about to end: it found that it isn't needed.
    wait_until(lambda: set(shared.processes()) <= before, "nothing more is running")
    assert set(shared.processes()) == before


@pytest.mark.over("embedded", because="with a broker the workers may be anywhere, so a command starts none")
def test_several_first_commands_at_once_start_one_supervisor(system: System) -> None:
    creating = [
        system.start("users", "create", "--email", f"first-{n}@example.com", "--name", "First")
        for n in range(5)
    ]
    said = [(*creator.communicate(timeout=DEADLINE_S), creator.returncode) for creator in creating]

    assert [code for _, _, code in said] == [0] * 5, said
    assert len({out for out, _, _ in said}) == 5
    wait_until(lambda: len(system.processes()) == 1 + len(system.roles), "the others have gone again")


@pytest.mark.over("embedded", because="with a broker the workers may be anywhere, so a command starts none")
def test_the_first_command_starts_the_workers_and_says_so_on_standard_error(system: System) -> None:
    made = system.es("users", "create", "--email", "auto@example.com", "--name", "Auto").ok()

    assert made.out.strip().isdigit()
    assert f"started the workers in {system.home}" in made.err
    assert "ES_AUTOSTART=0" in made.err
    system.caught_up()  # a store that others have used may take it a while
    assert system.es("users", "get", made.out.strip()).ok().err == ""


@pytest.mark.parametrize("how", ["environment", "es.toml"])
def test_without_autostart_a_command_says_how_to_start_the_workers(system: System, how: str) -> None:
    if how == "es.toml":
        system.home.mkdir(exist_ok=True)
        (system.home / "es.toml").write_text("autostart = false\n")
    ran = system.es(
        *("users", "create", "--email", "a@example.com", "--name", "A"),
        environment=NO_AUTOSTART if how == "environment" else None,
    ).failed(4)

    assert "es up" in ran.err
    assert system.processes() == []
    assert system.es("users", "get", "5", "--json", environment=NO_AUTOSTART).error["code"] == "unavailable"


def test_status_logs_config_and_down_start_nothing(system: System) -> None:
    assert system.es("status", "--json").ok().object["running"] is False
    assert system.es("down", "--json").ok().object["stopped"] is False
    system.es("config", "show").ok()
    system.es("logs").failed(2)
    assert system.processes() == []


def test_roles_can_be_scaled(system: System) -> None:
    system.es("up", "--scale", "users=2").ok()
    running = [(worker["role"], worker["instance"]) for worker in system.status()["workers"]]

    assert sorted(running) == sorted([(role, 1) for role in system.roles] + [("users", 2)])
    answers = system.bulk("create", people(500)).ok().objects
    assert len(set(confirmed(answers).values())) == 500


@pytest.mark.slow
def test_status_shows_every_worker_ready_and_doctor_has_no_complaint(shared: System) -> None:
    shared.ready()
    status = shared.status()
    assert {worker["role"] for worker in status["workers"]} == set(shared.roles)
    assert any(projection["state"] == "current" for projection in status["projections"])
    found = shared.es("doctor", "--json").ok().objects
    assert found
    assert all(finding["state"] != "failed" for finding in found), found


# --- side by side --------------------------------------------------------------------------------------


@pytest.mark.over("rabbitmq", "distributed", because="the workers of an embedded system are all in one home")
def test_status_from_elsewhere_shows_every_worker_and_its_last_error(running: System) -> None:
    workers = {worker["role"]: worker for worker in running.status()["workers"]}
    elsewhere = {"ES_HOME": str(running.root / "elsewhere")}

    def status() -> dict[str, Any]:
        return running.es("status", "--json", environment=elsewhere).ok().object

    found = status()
    assert found["silent"] == 0
    assert {worker["role"]: worker["pid"] for worker in found["workers"]} == {
        role: worker["pid"] for role, worker in workers.items()
    }
    assert {(worker["host"], worker["state"]) for worker in found["workers"]} == {
        (socket.gethostname(), "ready")
    }

    os.kill(workers["ids"]["pid"], signal.SIGSTOP)
    try:
        assert status()["silent"] == 1
        running.es("users", "create", "--email", "late@example.com", "--name", "Late").failed(4)
        errors = {worker["role"]: worker["last_error"] for worker in status()["workers"]}
        assert "ids worker" in errors["users"]["message"]
    finally:
        os.kill(workers["ids"]["pid"], signal.SIGCONT)


@pytest.mark.over("rabbitmq", "distributed", because="an embedded system needs no broker")
def test_status_does_not_call_workers_absent_when_it_cannot_know(system: System) -> None:
    nowhere = {"ES_BROKER": f"amqp://guest:guest@127.0.0.1:{free_port()}/"}

    assert "RabbitMQ" in system.es("status", environment=nowhere).failed(4).err


@pytest.mark.own_store("its systems are up at the same time")
def test_two_homes_live_side_by_side(systems: Callable[[], System]) -> None:
    one, other = systems().up(), systems().up()
    user_id = one.create("same@example.com", "One")
    other.create("same@example.com", "Other")

    other.es("users", "get", user_id).failed(3)
    assert not set(one.processes()) & set(other.processes())
    other.es("down").ok()
    assert other.processes() == []
    assert one.get(user_id)["name"] == "One"


# --- after kills ---------------------------------------------------------------------------------------


def test_workers_end_by_themselves_when_the_supervisor_is_killed(running: System) -> None:
    user_id = running.create()
    running.signal("supervisor", signal.SIGKILL)

    wait_until(lambda: not running.processes(), "the workers ended without their supervisor")
    assert running.es("status", "--json").ok().object["running"] is False
    assert running.up().get(user_id)["name"] == "Ada Lovelace"


def test_up_right_after_the_supervisor_was_killed_works(running: System) -> None:
    user_id = running.create()
    running.signal("supervisor", signal.SIGKILL)
    running.up()

    assert running.get(user_id)["name"] == "Ada Lovelace"
    wait_until(lambda: len(running.processes()) == 1 + len(running.roles), "only the new workers are left")
    running.create("after@example.com")


def test_files_left_behind_by_a_kill_of_everything_are_no_obstacle(running: System) -> None:
    user_id = running.create()
    for pid in running.processes():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not running.processes(), "everything is dead")
    assert list(running.home.rglob("*.sock")), "a kill leaves the sockets behind"

    assert running.es("status", "--json").ok().object["running"] is False
    running.es("users", "get", user_id, environment=NO_AUTOSTART).failed(4)
    assert running.up().get(user_id)["name"] == "Ada Lovelace"
    assert len(running.processes()) == 1 + len(running.roles)


def _restarts(system: System) -> dict[str, int]:
    return {worker["role"]: worker["restarts"] for worker in system.status()["workers"]}


def _restarted_alone(system: System, role: str, number: signal.Signals) -> None:
    """Signal a role's worker, and see it, and no other, started again."""
    before = _restarts(system.ready())
    signalled = system.signal(role, number)

    def restarts() -> list[int]:
        return [worker["restarts"] for worker in system.supervised() if worker["role"] == role]

    wait_until(lambda: restarts() == [before[role] + 1], f"the {role} worker was started again")
    system.ready()
    assert system.worker(role)["pid"] != signalled
    assert _restarts(system) == {**before, role: before[role] + 1}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.slow
def test_a_killed_worker_is_restarted_and_the_status_tells(shared: System, role: str) -> None:
    told = len(shared.es("logs", "supervisor", "-n", "100000").ok().lines)
    _restarted_alone(shared, role, signal.SIGKILL)

    assert shared.worker(role)["last_error"]["message"] == "killed by SIGKILL"
    lines = shared.es("logs", "supervisor", "-n", "100000").ok().lines
    ended = [json.loads(line) for line in lines[told:]]
    assert [line["role"] for line in ended if line["action"] == "worker-ended"] == [role]
    shared.get(shared.create(f"killed-{role}@example.com"))


def test_a_worker_that_dies_again_and_again_is_restarted_ever_more_slowly(running: System) -> None:
    killed: set[int] = set()
    for _ in range(4):  # at once, each time: a worker that has run for a while starts again without delay
        (pid,) = wait_until(lambda: set(running.processes("ids")) - killed, "it was started again")
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
    wait_until(lambda: running.worker("ids")["restarts"] == 4, "it was restarted")
    running.ready()

    waits_s: list[float] = []
    ended_at: datetime | None = None
    for line in map(json.loads, running.es("logs", "supervisor").ok().lines):
        if line.get("role") == "ids":
            at = datetime.fromisoformat(line["time"])
            if line["action"] == "worker-ended":
                ended_at = at
            elif ended_at is not None:
                waits_s.append((at - ended_at).total_seconds())
    # At least so long: a busy machine only adds to it.
    assert [wait_s >= 0.09 * 2**n for n, wait_s in enumerate(waits_s)] == [True] * 4, waits_s
    running.create()


def test_a_worker_that_cannot_start_says_why_and_comes_back_when_it_can(running: System) -> None:
    user_id = running.create()
    running.es("down").ok()
    kek = running.settings.kek_file
    key = kek.read_text()
    kek.write_text("not a key\n")

    refused = running.es("up").failed(4)
    assert "key-encryption key" in refused.err
    assert "key-encryption key" in (running.worker("users")["last_error"] or {}).get("message", "")

    kek.write_text(key)
    running.ready()
    assert running.get(user_id)["name"] == "Ada Lovelace"


def test_a_lost_key_file_is_never_replaced_by_a_new_key(running: System) -> None:
    running.create()
    running.es("down").ok()
    kek = running.settings.kek_file
    kept = kek.rename(running.root / "kept")

    running.es("up").failed(4)
    assert not kek.exists()
    kept.rename(kek)
    running.ready()


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.slow
def test_a_terminated_worker_drains_and_is_started_again(shared: System, role: str) -> None:
    _restarted_alone(shared, role, signal.SIGTERM)
    assert shared.worker(role)["last_error"]["message"] == "ended with status 0"
    shared.get(shared.create(f"terminated-{role}@example.com"))


# --- stopping ------------------------------------------------------------------------------------------


def test_down_stops_everything_and_leaves_no_sockets(running: System) -> None:
    running.create()
    assert running.es("down", "--json").ok().object["stopped"] is True
    assert running.processes() == []
    assert list(running.root.rglob("*.sock")) == []


def test_a_terminated_supervisor_stops_its_workers_first(running: System) -> None:
    running.signal("supervisor", signal.SIGTERM)
    wait_until(lambda: not running.processes(), "everything has stopped")
    last = json.loads(running.es("logs", "supervisor").ok().lines[-1])
    assert last["action"] == "stopped"
    for role in ROLES:
        assert json.loads(running.es("logs", role).ok().lines[-1])["action"] == "stopped"


def test_a_bulk_under_way_at_down_loses_nothing_and_goes_on_after_up(running: System) -> None:
    inputs = people(3000)
    bulk = running.start_bulk("create", inputs)
    bulk.reached(200)
    running.es("down").ok()
    assert running.processes() == []
    running.up()
    ran = bulk.end().without_traceback()

    assert [answer["command_id"] for answer in ran.objects] == [person["command_id"] for person in inputs]
    assert set(errors(ran.objects)) <= {"unavailable"}
    assert ran.code == (4 if errors(ran.objects) else 0)
    settled = confirmed(running.bulk("create", inputs).ok().objects)
    assert confirmed(ran.objects).items() <= settled.items()
    assert len(running.registrations()) == len(running.users()) == len(inputs)


@pytest.mark.slow
def test_without_an_answer_the_outcome_is_unknown_and_repeating_with_the_command_id_is_safe(
    running: System,
) -> None:
    command = ("users", "create", "--email", "unknown@example.com", "--name", "Unknown")
    stopped = running.signal("users", signal.SIGSTOP)
    try:
        ran = running.es(*command)
    finally:
        os.kill(stopped, signal.SIGCONT)

    ran.failed(4)
    assert "unknown" in ran.err
    (command_id,) = [line.split()[-1] for line in ran.err.splitlines() if "command id:" in line]
    again = [running.es(*command, "--command-id", command_id).ok().out for _ in range(2)]
    assert again[0] == again[1]
    assert len(running.registrations()) == 1


# --- in the foreground -----------------------------------------------------------------------------------


def _foreground(system: System, *roles: str) -> subprocess.Popen[bytes]:
    return system.start("workers", "run", *roles, environment=NO_AUTOSTART)


def test_a_role_runs_in_the_foreground_until_it_is_terminated(system: System) -> None:
    worker = _foreground(system, "ids")
    drawn = wait_until(
        lambda: system.es("ids", "next", environment=NO_AUTOSTART).out.strip(), "the worker gives ids"
    )
    worker.send_signal(signal.SIGTERM)
    out, err = worker.communicate(timeout=DEADLINE_S)

    assert drawn.isdigit()
    assert (worker.returncode, out) == (0, b"")
    actions = [json.loads(line)["action"] for line in err.splitlines()]
    assert "ready" in actions
    assert actions[-1] == "stopped"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_several_roles_run_in_the_foreground_and_stop_together(
    system: System, number: signal.Signals
) -> None:
    workers = _foreground(system, *ROLES)
    arguments = ("users", "create", "--email", "fore@example.com", "--name", "Fore")
    wait_until(lambda: system.es(*arguments, environment=NO_AUTOSTART).code in (0, 1), "the workers serve")
    workers.send_signal(number)
    _, err = workers.communicate(timeout=DEADLINE_S)

    assert workers.returncode == 0, err
    assert all(json.loads(line)["action"] for line in err.splitlines())
    assert system.processes() == []


@pytest.mark.over("embedded", because="over a broker any number of workers may serve a role")
def test_a_second_worker_in_the_foreground_is_refused(shared: System) -> None:
    worker = _foreground(shared.ready(), "ids")
    _, err = worker.communicate(timeout=DEADLINE_S)
    assert b"another one serves" in err
    assert worker.returncode == 4, err
    assert b"Traceback" not in err
    shared.create("second@example.com")


# --- logs ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_logs_are_json_lines_with_a_time_a_level_a_worker_and_an_action(shared: System) -> None:
    shared.create("logged@example.com")
    _restarted_alone(shared, "users", signal.SIGKILL)

    for role in (None, "supervisor", *ROLES):
        ran = shared.es("logs", *([role] if role else [])).ok()
        entries = [json.loads(line) for line in ran.lines]
        assert entries
        assert all({"time", "level", "worker", "action"} <= set(entry) for entry in entries)
        assert [entry["time"] for entry in entries] == sorted(entry["time"] for entry in entries)
        if role:
            assert {entry["worker"] for entry in entries} == {role}
    assert len(shared.es("logs", "-n", "1", "users").ok().lines) == 1


@pytest.mark.slow
def test_followed_logs_show_what_is_added(shared: System) -> None:
    following = shared.ready().start("logs", "supervisor", "-f", "-n", "1")
    assert following.stdout is not None
    following.stdout.readline()
    shared.signal("ids", signal.SIGKILL)
    while json.loads(following.stdout.readline())["action"] != "worker-ended":
        pass
    shared.ready()  # for whoever comes next
    following.send_signal(signal.SIGINT)
    out, err = following.communicate(timeout=DEADLINE_S)
    assert following.returncode == 130
    assert b"Traceback" not in out + err
