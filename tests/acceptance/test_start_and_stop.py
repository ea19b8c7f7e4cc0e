"""The workers are started once, by `es up` or a first command, run side by side, and stop without loss."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import effort
from tests.support.people import confirmed, errors, people
from tests.support.runs import finish
from tests.support.servers import free_port
from tests.support.system import ROLES, System
from tests.support.waiting import eventually

pytestmark = pytest.mark.usually_over("embedded", because="a supervisor is the same in every profile")

NO_AUTOSTART = {"ES_AUTOSTART": "0"}
no_autostart_over_a_broker = pytest.mark.over(
    "embedded", because="with a broker the workers may run on other machines, so a command starts none"
)
two_systems_at_once = pytest.mark.own_store("its systems are up at the same time")


def test_several_ups_at_once_start_one_supervisor(system: System) -> None:
    starting = [system.start("up", "--json") for _ in range(5)]

    assert len({finish(up).ok().object["pid"] for up in starting}) == 1
    system.alone()


@two_systems_at_once
def test_new_homes_start_at_once_on_a_busy_machine(systems: Callable[[], System]) -> None:
    for _ in range(2):
        first = systems()
        fresh = [first, *(systems() for _ in range(5 if first.settings.is_local else 2))]
        ended = [finish(up) for up in [system.start("up") for system in fresh]]
        for system in fresh:
            system.close()
        assert [ran.code for ran in ended] == [0] * len(fresh), ended


@pytest.mark.slow
def test_up_changes_nothing_while_everything_runs(shared: System) -> None:
    before = set(shared.ready().processes())

    assert shared.es("up", "--json").ok().object["pid"] in before
    # The supervisor that `up` started may still be about to end.
    eventually(lambda: set(shared.processes()) <= before, "no further process is running")
    assert set(shared.processes()) == before


@no_autostart_over_a_broker
def test_several_first_commands_at_once_start_one_supervisor(system: System) -> None:
    create = ("users", "create", "--name", "First", "--email")
    creating = [system.start(*create, f"first-{n}@example.com") for n in range(5)]

    assert len({finish(create).ok().out for create in creating}) == 5
    system.alone()


@no_autostart_over_a_broker
def test_the_first_command_starts_the_workers_and_reports_it(system: System) -> None:
    made = system.register().ok()

    assert made.out.strip().isdigit()
    assert f"started the workers in {system.home}" in made.err
    assert "ES_AUTOSTART=0" in made.err
    system.caught_up()  # which may take long beside events of other systems
    assert system.es("users", "get", made.out.strip()).ok().err == ""


@pytest.mark.parametrize("how", ["environment", "es.toml"])
def test_without_autostart_a_command_names_es_up(system: System, how: str) -> None:
    if how == "es.toml":
        system.home.mkdir(exist_ok=True)
        (system.home / "es.toml").write_text("autostart = false\n")

    assert (
        "es up" in system.register(environment=NO_AUTOSTART if how == "environment" else None).failed(4).err
    )
    assert system.processes() == []
    assert system.es("users", "get", "5", "--json", environment=NO_AUTOSTART).error["code"] == "unavailable"


def test_status_logs_config_and_down_start_nothing(system: System) -> None:
    status = system.es("status", "--json").exits(4).object
    assert (status["running"], status["problems"][0]["detail"]) == (False, "no workers are running")
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
def test_status_and_doctor_name_each_worker_and_find_no_problem(shared: System) -> None:
    status = shared.ready().es("status", "--json").ok().object

    assert {worker["role"] for worker in status["workers"]} == set(shared.roles)
    assert any(projection["state"] == "current" for projection in status["projections"])
    assert status["problems"] == []
    found = {finding["part"]: finding for finding in shared.es("doctor", "--json").ok().objects}
    assert found.keys() > {f"worker {role}" for role in shared.roles}
    assert {finding["state"] for finding in found.values()} == {"ok"}, found


@pytest.mark.slow
def test_a_suspended_worker_is_named_by_status_and_doctor(running: System) -> None:
    with running.paused("users") as pid:
        named = eventually(lambda: running.es("status", "--json").object["problems"], "status names it")
        examined = running.es("doctor", "--quiet").exits(4)
        running.es("status").exits(4)

    assert [(problem["part"], problem["detail"]) for problem in named] == [("worker users", "silent")]
    assert f"kill -CONT {pid}" in named[0]["next"]
    assert "worker users" in examined.out
    eventually(lambda: running.es("status").code == 0, "it is ready again")


def test_a_doctor_without_workers_says_how_to_start_them(system: System) -> None:
    (finding,) = system.es("doctor", "--quiet", "--json").exits(4).objects

    assert (finding["part"], finding["next"]) == ("workers", "Start them with `es up`.")


@pytest.mark.usually_over("distributed", because="it is about workers on a broker")
@pytest.mark.over("rabbitmq", "distributed", because="the workers of an embedded system are all in one home")
def test_status_of_another_home_shows_all_workers_and_errors(running: System) -> None:
    pids = {worker["role"]: worker["pid"] for worker in running.status()["workers"]}
    elsewhere = {"ES_HOME": str(running.root / "elsewhere")}

    def status() -> dict[str, Any]:
        return running.es("status", "--json", environment=elsewhere).object

    found = status()
    assert found["silent"] == 0
    assert {worker["role"]: worker["pid"] for worker in found["workers"]} == pids
    assert {(each["host"], each["state"]) for each in found["workers"]} == {(socket.gethostname(), "ready")}

    with running.paused("ids"):
        assert status()["silent"] == 1
        running.register().failed(4)
        last = {worker["role"]: worker["last_error"] for worker in status()["workers"]}
        assert "ids worker" in last["users"]["message"]


@pytest.mark.usually_over("distributed", because="it is about workers on a broker")
@pytest.mark.over("rabbitmq", "distributed", because="an embedded system needs no broker")
def test_status_without_its_broker_is_unavailable_and_not_empty(system: System) -> None:
    nowhere = {"ES_BROKER": f"amqp://guest:guest@127.0.0.1:{free_port()}/"}

    assert "RabbitMQ" in system.es("status", environment=nowhere).failed(4).err


@two_systems_at_once
def test_two_homes_are_independent(systems: Callable[[], System]) -> None:
    one, other = systems().up(), systems().up()
    user_id = one.create("same@example.com", "One")
    other.create("same@example.com", "Other")

    other.es("users", "get", user_id).failed(3)
    assert not set(one.processes()) & set(other.processes())
    other.es("down").ok()
    assert other.processes() == []
    assert one.get(user_id)["name"] == "One"


def test_down_stops_everything_and_leaves_no_sockets(running: System) -> None:
    running.create()

    assert running.es("down", "--json").ok().object["stopped"] is True
    assert running.processes() == []
    assert list(running.root.rglob("*.sock")) == []


def test_a_terminated_supervisor_stops_its_workers_first(running: System) -> None:
    running.signal("supervisor", signal.SIGTERM)
    running.ended()

    for name in ("supervisor", *ROLES):
        log = running.log(name)
        assert log[-1]["action"] == "stopped", (name, log[-5:])


def test_a_bulk_continues_after_down_and_up_without_loss(running: System) -> None:
    bulk = running.start_bulk("create", people(3 * effort.BULK))
    bulk.reached(200)
    running.es("down").ok()
    assert running.processes() == []
    running.up()
    ran = bulk.assert_exactly_once()

    assert ran.code == (4 if errors(ran.objects) else 0)


@no_autostart_over_a_broker
def test_after_down_no_command_starts_the_workers_until_up(running: System) -> None:
    following = running.start("events", "tail")
    user_id = running.create()
    running.es("down").ok()

    assert "stopped by `es down`" in finish(following).failed(4).err
    shutil.rmtree(running.home / "run")
    for command in (("users", "list"), ("events", "tail"), ("users", "create", "--from", "-")):
        ran = running.es(*command, stdin='{"email": "b@example.com", "name": "B"}')
        assert (ran.code, "stopped by `es down`" in ran.err + ran.out) == (4, True), ran
    running.ended()  # the process that refused to start may still be about to end

    running.up()
    running.kill_everything()
    assert running.get(user_id)["name"] == "Ada Lovelace", "a killed system is started again"


def test_a_stop_that_cannot_be_noted_is_an_error(running: System) -> None:
    (running.home / "stopped").symlink_to("stopped")

    assert "cannot be noted" in running.es("down").failed(4).err
    assert running.processes() == []


WRONG, RIGHT = (f"postgresql://es:{password}@127.0.0.1:1/es" for password in ("wrong", "right"))


@pytest.mark.over("embedded", because="it replaces a setting of the embedded profile")
def test_up_with_another_password_or_number_says_so_and_does_nothing(system: System) -> None:
    system.environment["ES_DATABASE"] = WRONG
    system.start("up")  # it waits for PostgreSQL
    eventually(system.supervised, "the workers are started")

    system.environment["ES_DATABASE"] = RIGHT
    ran = system.es("up", "--scale", "ids=2").failed(1).err
    assert "database differs in its password" in ran
    assert "ids workers is 1 now, and 2 is asked for" in ran
    assert "`es down`" in ran
    assert "wrong" not in ran
    assert "right" not in ran
    del system.environment["ES_DATABASE"]
    assert f"sqlite:{system.home}/read.db is asked for" in system.es("up").failed(1).err

    system.es("down").ok()
    system.up().es("up").ok()


@pytest.mark.over("embedded", because="es.toml names no parts of the other profiles")
def test_a_restarted_worker_has_the_settings_of_its_supervisor(running: System) -> None:
    (running.home / "es.toml").write_text('database = "sqlite:other.db"\n')
    running.kill("projections")
    eventually(lambda: running.worker("projections")["restarts"] == 1, "it was restarted")
    running.ready()

    assert not (running.home / "other.db").exists()
    running.es("up").failed(1)


_BROKEN = """
import sys
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise RuntimeError("broken for this test")
if {{"serve", "users"}} <= set(sys.orig_argv):
    sys.meta_path.insert(0, Broken())
"""


@pytest.mark.parametrize("module", ["workers.users.service", "workers.runtime.control"])
@pytest.mark.over("embedded", because="a worker is started in the same way in every profile")
def test_a_worker_that_fails_while_importing_is_named_with_the_cause(system: System, module: str) -> None:
    (system.root / "sitecustomize.py").write_text(_BROKEN.format(module=module))

    ran = system.es("up", environment={"PYTHONPATH": str(system.root)}).failed(4)

    assert "users worker" in ran.err
    assert "RuntimeError: broken for this test" in ran.err
    assert "worker-not-loaded" in [line["action"] for line in system.log("users")]


def _foreground(system: System, *roles: str) -> subprocess.Popen[bytes]:
    return system.start("workers", "run", *roles, environment=NO_AUTOSTART)


def test_a_role_runs_in_the_foreground_until_it_is_terminated(system: System) -> None:
    worker = _foreground(system, "ids")
    drawn = eventually(lambda: system.es("ids", "next", environment=NO_AUTOSTART).out.strip(), "an id")
    worker.send_signal(signal.SIGTERM)
    ran = finish(worker).ok()

    assert drawn.isdigit()
    assert ran.out == ""
    actions = [json.loads(line)["action"] for line in ran.err.splitlines()]
    assert "ready" in actions
    assert actions[-1] == "stopped"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_several_roles_in_the_foreground_stop_together(system: System, number: signal.Signals) -> None:
    workers = _foreground(system, *ROLES)
    eventually(lambda: system.register(environment=NO_AUTOSTART).code in (0, 1), "the workers serve")
    workers.send_signal(number)

    assert all(json.loads(line)["action"] for line in finish(workers).ok().err.splitlines())
    assert system.processes() == []


@pytest.mark.over("embedded", because="over a broker any number of workers may serve a role")
@pytest.mark.parametrize("roles", [("ids",), ("ids", "users")], ids=len)
def test_a_second_worker_in_the_foreground_is_refused(shared: System, roles: tuple[str, ...]) -> None:
    ran = finish(_foreground(shared.ready(), *roles)).without_traceback()
    assert (ran.code, "another one serves" in ran.err) == (4, True), ran
    shared.create(f"second{len(roles)}@example.com")
