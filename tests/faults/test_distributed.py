"""Past one machine's parts: workers killed, RabbitMQ and PostgreSQL gone for a while, and nothing lost or doubled.

The servers that are stopped here are private ones. The victims are drawn from a seed, which is printed:
ES_TEST_SEED repeats a run, ES_TEST_BULK makes it larger.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

import pytest

from adapters.rabbitmq.connection import open_channel
from adapters.rabbitmq.messages import PERSISTENT, Properties, queue_of
from tests.acceptance.conftest import (
    DEADLINE_S,
    Bulk,
    Ran,
    System,
    a_system,
    assert_exact,
    confirmed,
    errors,
    people,
    wait_until,
)
from tests.support.postgres import Server, private_server
from tests.support.servers import RabbitMQ

BULK = int(os.environ.get("ES_TEST_BULK", "6000"))
SEED = int(os.environ.get("ES_TEST_SEED", random.randrange(1 << 32)))
LONG_S = max(120.0, BULK / 20)
"""For whatever grows with the bulk; a guard, not a measure."""
DOWN_S = 10.0
"""How long a command may take to say that a part is down."""
SLACK_S = 30.0
"""For the start of a process on a busy machine, which is no part of that."""

pytestmark = pytest.mark.slow


class Broker:
    """The private RabbitMQ and the virtual host of one system on it."""

    def __init__(self, server: RabbitMQ) -> None:
        self._server = server
        self._pid = server.pid()
        self._is_killed = False

    def stop(self) -> None:
        self._server.ctl("stop_app")

    def kill(self) -> None:
        self._server.kill(self._pid)
        self._is_killed = True

    def start(self) -> None:
        if self._is_killed:  # without rabbitmqctl, in whose time much would be done before the next strike
            self._server.start_again()
            self._is_killed = False
        else:
            self._server.ctl("start_app")
            self._server.ctl("await_startup")

    @contextmanager
    def alarm(self) -> Iterator[None]:
        """It uses more memory than it may, so it takes no messages."""
        self._server.ctl("set_vm_memory_high_watermark", "absolute", "1")
        try:
            wait_until(
                lambda: "memory" in self._server.ctl("eval", "rabbit_alarm:get_alarms()."), "the alarm"
            )
            yield
        finally:
            self._server.ctl("set_vm_memory_high_watermark", "0.6")

    def cut(self, system: System) -> None:
        """Close every connection of the system."""
        vhost = system.environment["ES_BROKER"].rpartition("/")[2]
        self._server.ctl("close_all_connections", "--vhost", vhost, "cut by a test")


@pytest.fixture
def broker(private_rabbitmq: RabbitMQ) -> Broker:
    return Broker(private_rabbitmq)


@pytest.fixture
def system(private_rabbitmq: RabbitMQ, broker: Broker, request: pytest.FixtureRequest) -> Iterator[System]:
    """RabbitMQ of our own, PostgreSQL and the test node."""
    with a_system("distributed", request, broker=private_rabbitmq) as made:
        try:
            yield made
        finally:
            broker.start()  # whatever happened: the virtual host has to be removed


@pytest.fixture
def postgres() -> Iterator[Server]:
    with private_server() as server:
        yield server


@pytest.fixture
def on_postgres(postgres: Server, request: pytest.FixtureRequest) -> Iterator[System]:
    """PostgreSQL of our own, RabbitMQ and the test node."""
    with a_system("distributed", request, database=postgres.url) as made:
        try:
            yield made.up()
        finally:
            postgres.ensure_running()


# --- everything at once ----------------------------------------------------------------------


def _kill_some(system: System, chosen: random.Random, count: int) -> None:
    victims = [*system.processes("users"), *system.processes("ids")]
    for pid in chosen.sample(victims, min(count, len(victims))):
        with suppress(ProcessLookupError):  # it may just have ended by itself
            os.kill(pid, signal.SIGKILL)


def _strike(system: System, broker: Broker, bulks: Sequence[Bulk], count: int) -> None:
    """Kill workers, kill and restart the broker, kill workers again, cut the connections: all while the bulks run.

    `count` is how many lines the first of them has.
    """
    chosen = random.Random(f"{SEED} {count}")
    strikes: list[tuple[str, Callable[[], None]]] = [
        ("kill 2", lambda: _kill_some(system, chosen, 2)),
        ("kill the broker", broker.kill),
        ("start the broker", broker.start),
        ("kill 3", lambda: _kill_some(system, chosen, 3)),
        ("cut", lambda: broker.cut(system)),
    ]
    for number, (what, strike) in enumerate(strikes):
        if what != "start the broker":
            bulks[0].reached(count * number // 8)
        before = [len(bulk.answers()) for bulk in bulks]
        strike()
        after = [len(bulk.answers()) for bulk in bulks]
        print(f"{what}: {before} were answered before, {after} after")
        assert what != "kill the broker" or before[0] < count, "there was nothing left to interrupt"


def _repeated(system: System, command: str, inputs: list[dict[str, str]]) -> list[dict[str, Any]]:
    """The answers of a bulk that is repeated, which is safe, as long as any of them is that a part is away."""

    def whole() -> list[dict[str, Any]] | None:
        ran = system.start_bulk(command, inputs).end(LONG_S).without_traceback()
        assert set(errors(ran.objects)) <= {"unavailable"}, ran
        return ran.objects if ran.code == 0 else None

    answers: list[dict[str, Any]] = wait_until(whole, "every line has its answer", deadline_s=LONG_S)
    return answers


def _settled(system: System, command: str, inputs: list[dict[str, str]], first: Ran) -> list[dict[str, Any]]:
    """The answers once the bulk is repeated; they hold every confirmed answer of the first run, unchanged."""
    assert set(errors(first.without_traceback().objects)) <= {"unavailable"}, first
    again = _repeated(system, command, inputs)
    for before, after in zip(first.objects, again, strict=True):
        assert "error" in before or before == after, (before, after)
    return again


def _events(system: System, type_: str) -> list[dict[str, Any]]:
    """What the store holds, asked for until it can be told: so soon after the strikes a part may still be away."""
    question = ("events", "tail", "--from", "0", "--no-follow", "--json", "--type", type_)

    def told() -> Ran | None:
        ran = system.es(*question).without_traceback()
        assert ran.code in (0, 4), ran
        return ran if ran.code == 0 else None

    answer: Ran = wait_until(told, "the store tells what it holds")
    return answer.objects


def _assert_true(answers: list[dict[str, Any]], events: list[dict[str, Any]]) -> None:
    """Every command has one event, and its answer names just that one."""
    assert set(Counter(event["command_id"] for event in events).values()) == {1}
    stored: Mapping[str, dict[str, Any]] = {event["command_id"]: event for event in events}
    assert stored.keys() == {answer["command_id"] for answer in answers}
    for answer in answers:
        event = stored[answer["command_id"]]
        told = (f"user-{answer['user_id']}", str(answer["position"]))
        assert told == (event["stream"], str(event["position"])), (answer, event)


def test_every_command_has_exactly_one_effect_whatever_is_killed_and_interrupted(
    system: System, broker: Broker
) -> None:
    print(f"ES_TEST_SEED={SEED} ES_TEST_BULK={BULK}")
    system.es("up", "--scale", "users=4", "--scale", "ids=2").ok()
    inputs = people(BULK)
    there = _repeated(system, "create", inputs[: BULK // 4])
    renames = [
        {
            "user_id": answer["user_id"],
            "name": f"Renamed {n}",
            "command_id": str(uuid5(NAMESPACE_URL, f"rename {n}")),
        }
        for n, answer in enumerate(there)
    ]

    begun_s = time.monotonic()
    creating = system.start_bulk("create", inputs[BULK // 4 :])
    renaming = system.start_bulk("rename", renames)
    _strike(system, broker, (creating, renaming), BULK - len(there))
    first_created, first_renamed = creating.end(LONG_S), renaming.end(LONG_S)
    at_once = [len(confirmed(ran.objects)) for ran in (first_created, first_renamed)]
    print(f"{at_once} creates and renames confirmed at once, in {time.monotonic() - begun_s:.1f} s")
    system.ready()
    created = there + _settled(system, "create", inputs[BULK // 4 :], first_created)
    _assert_true(created, _events(system, "user-registered"))
    _assert_true(_settled(system, "rename", renames, first_renamed), _events(system, "user-renamed"))

    new_names = {rename["user_id"]: rename["name"] for rename in renames}
    wanted = {
        answer["user_id"]: (person["email"], new_names.get(answer["user_id"], person["name"]))
        for answer, person in zip(created, inputs, strict=True)
    }
    assert {user["user_id"]: (user["email"], user["name"]) for user in system.users()} == wanted
    assert len(wanted) == BULK
    wait_until(
        lambda: all(queue["waiting"] == 0 for queue in system.es("dead", "list", "--json").ok().objects),
        "nothing waits any more",
    )
    assert [queue["dead"] for queue in system.es("dead", "list", "--json").ok().objects] == [0] * 5


def test_what_nobody_repeats_is_carried_out_once_though_its_workers_are_killed(
    system: System, broker: Broker
) -> None:
    system.es("up", "--scale", "users=2").ok()
    command_ids = [str(uuid4()) for _ in range(1500)]
    with open_channel(system.environment["ES_BROKER"]) as channel:
        for n, command_id in enumerate(command_ids):
            given = {"email": f"nobody{n}@example.com", "name": f"Nobody {n}"}
            body = {"command_id": command_id, "actor": "a test", "input": given}
            request = json.dumps({"kind": "users.create", "body": body}).encode()
            # Without an address for the answer: whoever sent it has gone.
            channel.basic_publish(
                "", queue_of("users"), request, Properties(delivery_mode=PERSISTENT), mandatory=True
            )
            if n % 300 == 200:
                _kill_all(system, "users")

    # What a worker holds isn't counted as waiting, so only the events tell.
    wait_until(
        lambda: {event["command_id"] for event in system.registrations()} >= set(command_ids),
        "all of them are carried out",
        deadline_s=LONG_S,
    )

    assert Counter(event["command_id"] for event in system.registrations()) == Counter(command_ids)
    assert _queue(system, "users")["dead"] == 0


def _kill_all(system: System, role: str) -> None:
    for pid in system.processes(role):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _queue(system: System, role: str) -> dict[str, Any]:
    queues = {queue["role"]: queue for queue in system.es("dead", "list", "--json").ok().objects}
    found: dict[str, Any] = queues[role]
    return found


# --- a part is down --------------------------------------------------------------------------


def _refused(system: System, part: str) -> str:
    """A create while a part is down: it says which one, and the command id to repeat it with; that id."""
    command_id = str(uuid4())
    ran = system.es(
        *("users", "create", "--email", "down@example.com", "--name", "Down", "--command-id", command_id),
        deadline_s=DOWN_S + SLACK_S,
    ).failed(4)
    assert part in ran.err, ran
    assert command_id in ran.err, ran
    generated = system.es("users", "create", "--email", "down2@example.com", "--name", "D", "--json")
    assert (generated.code, generated.error["code"]) == (4, "unavailable"), generated
    assert part in generated.error["message"], generated
    assert UUID(json.loads(generated.err.splitlines()[-1])["command_id"]), generated
    return command_id


def _waits_for(system: System, role: str, part: str) -> bool:
    """Whether the status names a part as what a worker had trouble with last."""
    return part in ((system.worker(role)["last_error"] or {}).get("message", ""))


def _came_back(system: System, supervisor: int, command_id: str) -> None:
    """Repeating the command succeeds after a while; nobody started anything, and it had one effect."""
    create = ("users", "create", "--email", "down@example.com", "--name", "Down", "--command-id", command_id)
    deadline_s = time.monotonic() + DEADLINE_S
    while (ran := system.es(*create)).code == 4 and time.monotonic() < deadline_s:
        pass
    ran.ok()
    system.ready()
    assert system.pid_of("supervisor") == supervisor
    assert system.get(ran.out.strip())["name"] == "Down"
    assert [event["command_id"] for event in system.registrations()].count(command_id) == 1
    assert all(queue["dead"] == 0 for queue in system.es("dead", "list", "--json").ok().objects)


def test_without_rabbitmq_commands_say_so_and_workers_come_back_when_it_does(
    system: System, broker: Broker
) -> None:
    system.up()
    supervisor = system.pid_of("supervisor")
    before = {worker["role"]: (worker["pid"], worker["restarts"]) for worker in system.status()["workers"]}
    broker.stop()
    command_id = _refused(system, "RabbitMQ")
    for role in before:
        wait_until(lambda role=role: system.worker(role)["state"] == "waiting", f"the {role} worker waits")
        assert _waits_for(system, role, "RabbitMQ")
    broker.start()
    _came_back(system, supervisor, command_id)
    after = {worker["role"]: (worker["pid"], worker["restarts"]) for worker in system.status()["workers"]}
    assert after == before, "they waited, and were not even restarted by their supervisor"


def test_a_rabbitmq_with_an_alarm_is_named_and_everything_goes_on_when_it_is_over(
    system: System, broker: Broker
) -> None:
    supervisor = system.up().pid_of("supervisor")
    with broker.alarm():
        command_id = _refused(system, "RabbitMQ")
        status = system.es("status", deadline_s=DOWN_S + SLACK_S).ok()
        examined = system.es("doctor", "--quiet", deadline_s=DOWN_S + SLACK_S).without_traceback()
    assert "memory or disk alarm" in status.err, status
    assert "memory or disk alarm" in examined.out, examined
    assert examined.code == 4, examined
    _came_back(system, supervisor, command_id)


def test_without_postgresql_commands_say_so_and_workers_come_back_when_it_does(
    on_postgres: System, postgres: Server
) -> None:
    there, leaving = on_postgres.create(), on_postgres.create("leaving@example.com")
    supervisor = on_postgres.pid_of("supervisor")
    postgres.stop()
    command_id = _refused(on_postgres, "PostgreSQL")
    erased = on_postgres.es("gdpr", "erase", leaving, "--yes", deadline_s=DOWN_S + SLACK_S).failed(4)
    assert "PostgreSQL" in erased.err, erased
    on_postgres.es("users", "get", there, deadline_s=DOWN_S + SLACK_S).failed(4)
    wait_until(lambda: _waits_for(on_postgres, "projections", "PostgreSQL"), "the status says what is away")
    postgres.start()
    _came_back(on_postgres, supervisor, command_id)
    assert on_postgres.get(there)["name"] == "Ada Lovelace"
    on_postgres.es("gdpr", "erase", leaving, "--yes").ok()


def test_a_postgresql_that_hangs_is_named_like_one_that_is_down(
    on_postgres: System, postgres: Server
) -> None:
    there = on_postgres.create()
    supervisor = on_postgres.pid_of("supervisor")
    with postgres.hanging():
        command_id = _refused(on_postgres, "PostgreSQL")
        got = on_postgres.es("users", "get", there, deadline_s=DOWN_S + SLACK_S).failed(4)
        assert "PostgreSQL" in got.err, got
    _came_back(on_postgres, supervisor, command_id)
    assert on_postgres.get(there)["name"] == "Ada Lovelace"


def test_workers_that_start_without_postgresql_say_so_and_begin_when_it_is_there(
    on_postgres: System, postgres: Server
) -> None:
    there = on_postgres.create()
    supervisor = on_postgres.pid_of("supervisor")
    postgres.stop()
    killed = {role: on_postgres.pid_of(role) for role in ("users", "projections", "erasures", "relay")}
    for pid in killed.values():
        os.kill(pid, signal.SIGKILL)
    for role in killed:
        wait_until(lambda role=role: on_postgres.worker(role)["state"] == "waiting", f"{role} waits")
        assert _waits_for(on_postgres, role, "PostgreSQL")
    started = {role: on_postgres.pid_of(role) for role in killed}
    command_id = _refused(on_postgres, "PostgreSQL")
    got = on_postgres.es("users", "get", there, deadline_s=DOWN_S + SLACK_S).failed(4)
    assert "PostgreSQL" in got.err, got
    postgres.start()
    _came_back(on_postgres, supervisor, command_id)
    assert on_postgres.get(there)["name"] == "Ada Lovelace"
    assert {role: on_postgres.pid_of(role) for role in killed} == started, (
        "they waited, and were not restarted"
    )


def test_the_start_of_a_system_waits_for_postgresql(request: pytest.FixtureRequest, postgres: Server) -> None:
    with a_system("distributed", request, database=postgres.url) as system:
        postgres.stop()
        try:
            up = system.start("up")
            assert up.stderr is not None
            said = up.stderr.readline().decode()  # or the end of the command, which waits for 30 s
        finally:
            postgres.ensure_running()
        _, rest = up.communicate(timeout=DEADLINE_S)
        assert "waits" in said, (said, rest)
        assert "PostgreSQL" in said, (said, rest)
        assert up.returncode == 0, (said, rest)
        assert system.get(system.create())["name"] == "Ada Lovelace"


def test_a_bulk_waits_for_postgresql_and_repeating_it_makes_it_whole(
    on_postgres: System, postgres: Server
) -> None:
    inputs = people(600)
    bulk = on_postgres.start_bulk("create", inputs)
    bulk.reached(100)
    postgres.stop()
    postgres.start()
    first = bulk.end(LONG_S).without_traceback().objects
    on_postgres.ready()
    assert_exact(on_postgres, inputs, first)
