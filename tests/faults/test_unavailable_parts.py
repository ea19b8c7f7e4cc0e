"""While RabbitMQ or PostgreSQL is unavailable, commands name it, workers wait, and all recover without an operator."""

from __future__ import annotations

import json
import os
import signal
from uuid import UUID, uuid4

import pytest

from tests.support.breakable import Broker
from tests.support.people import people
from tests.support.postgres import Server, execute
from tests.support.profiles import a_system
from tests.support.runs import Ran, finish
from tests.support.system import System
from tests.support.waiting import eventually

REPORT_S = 10.0  # the longest time in which a command must report an unavailable part
SLACK_S = 30.0  # for the start of a process on a busy machine

pytestmark = pytest.mark.slow


def _in_time(system: System, *arguments: str) -> Ran:
    return system.es(*arguments, deadline_s=REPORT_S + SLACK_S)


def _create(command_id: str) -> tuple[str, ...]:
    return ("users", "create", "--email", "down@example.com", "--name", "Down", "--command-id", command_id)


def _refused(system: System, part: str) -> str:
    """Check that creates name the unavailable part and a command id to retry with; one of these ids."""
    command_id = str(uuid4())
    ran = _in_time(system, *_create(command_id)).failed(4)
    assert part in ran.err, ran
    assert command_id in ran.err, ran
    generated = system.register("down2@example.com", "D", "--json").refused("unavailable", 4)
    assert part in generated.error["message"], generated
    assert UUID(json.loads(generated.err.splitlines()[-1])["command_id"]), generated
    return command_id


def _recovered(system: System, supervisor: int, command_id: str) -> None:
    """Retry the command until it succeeds; check that it took effect once and that no operator was needed."""
    ran = system.retry(*_create(command_id))
    system.ready()
    assert system.pid_of("supervisor") == supervisor
    assert system.get(ran.out.strip())["name"] == "Down"
    assert [event["command_id"] for event in system.registrations()].count(command_id) == 1
    assert all(queue["dead"] == 0 for queue in system.queues().values())


def test_without_rabbitmq_commands_report_it_and_workers_recover(on_rabbitmq: System, broker: Broker) -> None:
    def workers() -> dict[str, tuple[int, int]]:
        return {each["role"]: (each["pid"], each["restarts"]) for each in on_rabbitmq.status()["workers"]}

    supervisor, before = on_rabbitmq.up().pid_of("supervisor"), workers()
    broker.stop()
    command_id = _refused(on_rabbitmq, "RabbitMQ")
    for role in before:
        eventually(lambda: on_rabbitmq.worker(role)["state"] == "waiting", f"{role} waits")  # noqa: B023
        assert "RabbitMQ" in on_rabbitmq.last_error(role)
    broker.start()
    _recovered(on_rabbitmq, supervisor, command_id)
    assert workers() == before, "they waited and were not restarted"


def test_a_rabbitmq_with_an_alarm_is_reported_until_it_is_over(on_rabbitmq: System, broker: Broker) -> None:
    supervisor = on_rabbitmq.up().pid_of("supervisor")
    with broker.alarm():
        command_id = _refused(on_rabbitmq, "RabbitMQ")
        status = _in_time(on_rabbitmq, "status").exits(4)
        examined = _in_time(on_rabbitmq, "doctor", "--quiet").without_traceback()
    assert "memory or disk alarm" in status.out, status
    assert "memory or disk alarm" in examined.out, examined
    assert examined.code == 4, examined
    _recovered(on_rabbitmq, supervisor, command_id)


def test_without_postgresql_commands_report_it_and_workers_recover(
    on_postgres: System, postgres: Server
) -> None:
    there, leaving = on_postgres.create(), on_postgres.create("leaving@example.com")
    supervisor = on_postgres.pid_of("supervisor")
    postgres.stop()
    command_id = _refused(on_postgres, "PostgreSQL")
    assert "PostgreSQL" in _in_time(on_postgres, "gdpr", "erase", leaving, "--yes").failed(4).err
    _in_time(on_postgres, "users", "get", there).failed(4)
    eventually(lambda: "PostgreSQL" in on_postgres.last_error("projections"), "the status names it")
    postgres.start()
    _recovered(on_postgres, supervisor, command_id)
    assert on_postgres.get(there)["name"] == "Ada Lovelace"
    on_postgres.erase(leaving)


def test_a_postgresql_that_hangs_is_reported_like_one_that_is_down(
    on_postgres: System, postgres: Server
) -> None:
    there, supervisor = on_postgres.create(), on_postgres.pid_of("supervisor")
    with postgres.hanging():
        command_id = _refused(on_postgres, "PostgreSQL")
        assert "PostgreSQL" in _in_time(on_postgres, "users", "get", there).failed(4).err
    _recovered(on_postgres, supervisor, command_id)
    assert on_postgres.get(there)["name"] == "Ada Lovelace"


def test_workers_that_start_without_postgresql_report_it_and_wait(
    on_postgres: System, postgres: Server
) -> None:
    there, supervisor = on_postgres.create(), on_postgres.pid_of("supervisor")
    roles = ("users", "projections", "erasures", "relay")
    postgres.stop()
    for pid in [on_postgres.pid_of(role) for role in roles]:
        os.kill(pid, signal.SIGKILL)
    for role in roles:
        eventually(lambda: on_postgres.worker(role)["state"] == "waiting", f"{role} waits")  # noqa: B023
        assert "PostgreSQL" in on_postgres.last_error(role)
    started = [on_postgres.pid_of(role) for role in roles]
    command_id = _refused(on_postgres, "PostgreSQL")
    assert "PostgreSQL" in _in_time(on_postgres, "users", "get", there).failed(4).err
    postgres.start()
    _recovered(on_postgres, supervisor, command_id)
    assert on_postgres.get(there)["name"] == "Ada Lovelace"
    assert [on_postgres.pid_of(role) for role in roles] == started, "they waited and were not restarted"


def test_the_start_of_a_system_waits_for_postgresql(request: pytest.FixtureRequest, postgres: Server) -> None:
    with a_system("distributed", request, database=postgres.url) as system:
        postgres.stop()
        try:
            up = system.start("up")
            assert up.stderr is not None
            said = up.stderr.readline().decode()  # or the end of the command, which waits for 30 s
        finally:
            postgres.ensure_running()
        ran = finish(up)
        assert "waits" in said, (said, ran)
        assert "PostgreSQL" in said, (said, ran)
        assert ran.code == 0, (said, ran)
        assert system.get(system.create())["name"] == "Ada Lovelace"


def test_a_bulk_waits_for_postgresql_and_is_complete_after_a_retry(
    on_postgres: System, postgres: Server
) -> None:
    bulk = on_postgres.start_bulk("create", people(600))
    bulk.reached(100)
    postgres.stop()
    postgres.start()
    bulk.assert_exactly_once()


def test_a_rebuild_over_a_read_only_postgresql_tells_its_error(on_postgres: System, postgres: Server) -> None:
    user_id = on_postgres.create()
    on_postgres.caught_up()
    _set_read_only(postgres, "on")

    refused = _in_time(on_postgres, "projections", "rebuild", "users").failed(4)

    assert "read-only" in refused.err, refused
    _set_read_only(postgres, "off")
    on_postgres.retry("projections", "rebuild", "users")
    eventually(lambda: on_postgres.generation()["generation"] > 1, "the rebuild goes on")
    assert on_postgres.get(user_id)["status"] == "active"


def _set_read_only(postgres: Server, value: str) -> None:
    execute(postgres.url, f"ALTER SYSTEM SET default_transaction_read_only = {value}")
    execute(postgres.url, "SELECT pg_reload_conf()")
    eventually(
        lambda: execute(postgres.url, "SHOW default_transaction_read_only") == [(value,)],
        "the setting is read",
    )
